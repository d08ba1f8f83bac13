//! Published versions: copies of `$LATEST` that no update changes, each with its own life.
//!
//! ```text
//!  publish ──► Active                      nothing to prepare
//!        └───► Pending ──prepared──► Active
//!                      └──failed───► Failed        its function could not be initialised or snapshotted
//! ```

use std::sync::Arc;

use cluster_store::{Compare, Op, Txn};

use super::{
    ChangeError, Functions, MAX_TRIES,
    keys::Key,
    model::{Failure, FunctionConfig, FunctionId, Published, RecursiveLoop, StartKind, State, UpdateStatus},
    new_id, now_ms,
    runtime_management::RuntimeManagement,
};
use crate::{
    code::image::Description,
    functions::view::Function,
    invoke::{NODE_FAILED, PrepareError, Retired},
};

/// What a client wants published.
#[derive(Clone, Debug, Default)]
pub(crate) struct Publication {
    /// In place of the function's description.
    pub(crate) description: Option<String>,
    /// SHA-256 that the code must have, as lower-case hexadecimal.
    pub(crate) code_sha256: Option<String>,
    /// Revision that `$LATEST` must have.
    pub(crate) revision_id: Option<String>,
}

/// Why a version was not published or deleted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VersionError {
    /// The code is not the one that was named; carries the SHA-256 that it has.
    #[error("the code is {0}")]
    OtherCode(String),
    /// No such version.
    #[error("the version does not exist")]
    Absent,
    /// Aliases name it.
    #[error("aliases name it: {0:?}")]
    InUse(Vec<String>),
    /// As for functions.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// Whether a version is finished when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// Unless it needs a snapshot.
    AtOnce,
    /// After the answer, as AWS does when a version comes with a function's creation or update.
    Later,
}

/// A version to be written together with a change of `$LATEST`.
pub(super) struct Draft {
    pub(super) config: FunctionConfig,
    pub(super) compare: Compare,
    pub(super) op: Op,
}

/// The version that publishing `latest` makes: notes it there and drafts its record. `None` if the last version is the
/// same, unless it failed by no fault of the function: then whoever publishes again means another try.
pub(super) fn draft(
    latest: &mut FunctionConfig,
    last: Option<&Function>,
    description: Option<String>,
    finish: Finish,
) -> Result<Option<Draft>, serde_json::Error> {
    let content = latest.content();
    let published = latest.published.as_ref();
    let stands = last.is_some_and(|last| !is_nodes_failure(&last.config.state));
    if stands && published.is_some_and(|published| published.content == content) {
        return Ok(None);
    }
    let number = published.map_or(0, |published| published.version) + 1;
    latest.published = Some(Published { version: number, content });
    let mut config = latest.clone();
    config.version = number.to_string();
    config.description = description.unwrap_or(config.description);
    config.tags.clear();
    config.published = None;
    config.reserved_concurrency = None;
    config.recursive_loop = RecursiveLoop::default();
    // A version is pinned by its own name, not by what `$LATEST` was.
    config.runtime_management = RuntimeManagement::Auto;
    config.revision_id = new_id();
    config.deployment_id = new_id();
    config.last_modified_ms = now_ms();
    let pending = finish == Finish::Later || config.start_kind() == StartKind::Snapshot;
    config.state = if pending { State::Pending } else { State::Active };
    config.last_update = (!pending).then_some(UpdateStatus::Successful);
    let key = Key::Version(config.id.clone(), number).bytes();
    let op = Op::Put { key: key.clone(), value: serde_json::to_vec(&config)?, lease: None };
    Ok(Some(Draft { config, compare: Compare::Absent(key), op }))
}

/// Nothing is done to a function that waits for its image, or has none.
pub(super) fn refuse_unfinished(config: &FunctionConfig) -> Result<(), ChangeError> {
    match &config.state {
        State::Pending if config.awaits_image() => Err(ChangeError::Unfinished("Pending")),
        State::Failed(_) if config.awaits_image() => Err(ChangeError::Unfinished("Failed")),
        _ if config.incoming.is_some() => Err(ChangeError::Busy),
        _ => Ok(()),
    }
}

/// Whether a version could not be finished for want of luck or room, and another one of the same content may be.
fn is_nodes_failure(state: &State) -> bool {
    matches!(state, State::Failed(failure) if failure.code == NODE_FAILED)
}

impl Functions {
    /// Publishes `$LATEST`. The last version is the answer if nothing has changed since and the node did not fail it.
    pub(crate) async fn publish(
        self: &Arc<Self>,
        id: &FunctionId,
        publication: &Publication,
    ) -> Result<Arc<FunctionConfig>, VersionError> {
        for _ in 0..MAX_TRIES {
            let current = self.view.get(id).ok_or(ChangeError::Absent)?;
            let Publication { description, code_sha256, revision_id } = publication;
            if revision_id.as_ref().is_some_and(|expected| *expected != current.config.revision_id) {
                return Err(ChangeError::Stale.into());
            }
            if code_sha256.as_ref().is_some_and(|expected| *expected != current.config.code.sha256) {
                return Err(VersionError::OtherCode(current.config.code.sha256.clone()));
            }
            refuse_unfinished(&current.config)?;
            let last = self.last_version(&current.config);
            let mut latest = FunctionConfig::clone(&current.config);
            let drafted = draft(&mut latest, last.as_ref(), description.clone(), Finish::AtOnce);
            let Some(draft) = drafted.map_err(ChangeError::from)? else {
                return last.map(|last| last.config).ok_or(VersionError::Absent);
            };
            let latest_key = Key::Latest(id.clone()).bytes();
            let value = serde_json::to_vec(&latest).map_err(ChangeError::from)?;
            let note = Op::Put { key: latest_key.clone(), value, lease: None };
            let compares = vec![Compare::Modified(latest_key, current.revision), draft.compare];
            if self.commit(Txn { compares, ops: vec![note, draft.op] }).await? {
                let config = Arc::new(draft.config);
                self.settle(Arc::clone(&config));
                return Ok(config);
            }
        }
        Err(ChangeError::Busy.into())
    }

    /// Deletes a version that no alias names.
    pub(crate) async fn delete_version(
        self: &Arc<Self>,
        id: &FunctionId,
        version: &str,
    ) -> Result<(), VersionError> {
        for _ in 0..MAX_TRIES {
            let number: u64 = version.parse().map_err(|_| VersionError::Absent)?;
            let current = self.view.named(id, version).ok_or(VersionError::Absent)?;
            let aliases = self.view.aliases(id);
            let names = aliases.iter().filter(|alias| {
                alias.version == version
                    || alias.fallback.as_deref() == Some(version)
                    || alias.second.as_ref().is_some_and(|(second, _)| second == version)
            });
            let names: Vec<_> = names.map(|alias| alias.name.clone()).collect();
            if !names.is_empty() {
                return Err(VersionError::InUse(names));
            }
            let key = Key::Version(id.clone(), number).bytes();
            let compares = vec![Compare::Modified(key.clone(), current.revision)];
            let attached = Op::Delete(Key::Attached(id.clone(), number.to_string()).bytes());
            if self.commit(Txn { compares, ops: vec![Op::Delete(key), attached] }).await? {
                self.invoker.retire(id, Retired::Version(version));
                self.provide(id);
                self.sweep_later();
                return Ok(());
            }
        }
        Err(ChangeError::Busy.into())
    }

    /// The version that was published last, if it still exists.
    pub(super) fn last_version(&self, latest: &FunctionConfig) -> Option<Function> {
        let published = latest.published.as_ref()?;
        self.view.named(&latest.id, &published.version.to_string())
    }

    /// Finishes a creation, an update or a publication after its answer, as AWS does: clients see the state in between.
    pub(super) fn settle(self: &Arc<Self>, config: Arc<FunctionConfig>) {
        let functions = Arc::clone(self);
        tokio::spawn(async move { functions.settle_now(&config).await });
    }

    pub(super) async fn settle_now(self: &Arc<Self>, config: &FunctionConfig) {
        if let Some(incoming) = &config.incoming {
            self.await_incoming(config, incoming).await;
            return;
        }
        let state = match config.state {
            State::Failed(_) => return,
            State::Pending if config.awaits_image() => {
                let Some(pulled) = self.await_image(config).await else { return };
                let (state, description) = match pulled {
                    Ok(here) => (State::Active, Some(here)),
                    Err(failure) => (State::Failed(failure), None),
                };
                self.enter(config, state, description.as_ref().map(|here| &here.description)).await;
                self.provide(&config.id);
                return;
            }
            State::Active
                if matches!(config.last_update, Some(UpdateStatus::Successful | UpdateStatus::Failed(_))) =>
            {
                // It serves; whether its snapshot is there and current is seen to beside that.
                self.prepare(config).await;
                return;
            }
            State::Active => State::Active,
            State::Pending if config.start_kind() == StartKind::Snapshot => {
                match self.prepare(config).await {
                    Some(state) => state,
                    None => return,
                }
            }
            State::Pending => State::Active,
        };
        self.enter(config, state, None).await;
        if config.start_kind() == StartKind::SnapshotWhenReady {
            self.prepare(config).await;
        }
    }

    /// Writes the state that a record has come to, and what is known of its image now, unless somebody else changed it since.
    async fn enter(&self, config: &FunctionConfig, state: State, image: Option<&Description>) {
        let unchanged = |now: &Function| now.config.deployment_id == config.deployment_id;
        for _ in 0..MAX_TRIES {
            let Some(current) = self.view.named(&config.id, &config.version).filter(unchanged) else {
                return;
            };
            let mut settled = FunctionConfig::clone(&current.config);
            settled.state = state.clone();
            if let (Some(its), Some(description)) = (&mut settled.image, image) {
                *its = its.known(description, its.instead.clone());
            }
            settled.last_update = (state == State::Active).then_some(UpdateStatus::Successful);
            match self.replace(&current, &mut settled).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(function = config.version_arn(), "its state cannot be written: {error}");
                    return;
                }
            }
        }
    }

    /// Has a snapshot made, if the version is one that starts from it; the state that it comes to, `None` when that is
    /// not known before the next start of the agent.
    async fn prepare(&self, config: &FunctionConfig) -> Option<State> {
        if config.start_kind() == StartKind::Boot {
            return Some(State::Active);
        }
        let function = self.view.named(&config.id, &config.version)?;
        if function.config.deployment_id != config.deployment_id {
            return None;
        }
        let preparing = self.invoker.prepare(function.config, function.code);
        // Whoever takes it away from here on finds it with the invoker; whoever did a moment ago did not.
        let now = self.view.named(&config.id, &config.version);
        if now.is_none_or(|now| now.config.deployment_id != config.deployment_id) {
            self.invoker.retire(&config.id, Retired::Deployment(&config.deployment_id));
        }
        match preparing.await {
            Ok(()) => Some(State::Active),
            Err(PrepareError::ShuttingDown | PrepareError::Superseded) => None,
            Err(error) => {
                tracing::warn!(function = config.version_arn(), "it cannot be snapshotted: {error}");
                Some(State::Failed(Failure { code: error.code().into(), reason: error.to_string() }))
            }
        }
    }
}
