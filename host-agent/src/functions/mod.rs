//! The node's functions: their record, their store and the view of it that requests read.
//!
//! Every change is one transaction that compares the record's revision: durable before it is answered, visible in the
//! view before it is answered, and never lost to another change in between.
//!
//! ```text
//!  create ──► Pending ──settle──► Active ◄──settle── Active, update InProgress
//!                                   └────── update ─────────▲
//! ```
//!
//! That is `$LATEST`; `versions` has the published ones, `aliases` the names for them.

pub(crate) mod aliases;
pub(crate) mod attached;
pub(crate) mod concurrency;
mod errors;
pub(crate) mod images;
mod keys;
pub(crate) mod layers;
pub(crate) mod model;
pub(crate) mod provisioned;
pub(crate) mod pulls;
mod recursion;
pub(crate) mod runtime_management;
pub(crate) mod runtimes;
pub(crate) mod tags;
pub(crate) mod urls;
pub(crate) mod versions;
mod view;

use std::sync::Arc;

use bytes::Bytes;
use cluster_store::{Compare, KeyRange, MAX_TXN_OPS, Op, Store, StoreError, Txn};
use futures_util::Stream;

pub(crate) use self::{
    errors::{ChangeError, OpenError},
    provisioned::Claim,
    view::{Function, View},
};
use self::{
    images::Images,
    keys::Key,
    layers::Layers,
    model::{CodeRef, FunctionConfig, FunctionId, Incoming, LayerRef, State, UpdateStatus},
    pulls::Pulls,
    versions::{Finish, draft, refuse_unfinished},
    view::key_of,
};
use crate::{
    code::{CodeError, CodeStore, uploads::Uploads},
    invoke::{CodeImage, Invoker, Retired},
    registry::Registries,
};

/// How often a change is tried again when others change the same function in between.
const MAX_TRIES: usize = 16;

/// Whether a creation or an update publishes a version, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Publish {
    /// `$LATEST` only.
    No,
    /// Both, in one transaction.
    Yes,
}

impl From<Option<bool>> for Publish {
    fn from(asked: Option<bool>) -> Self {
        if asked == Some(true) { Self::Yes } else { Self::No }
    }
}

/// What a client has asked for, when there may be a version beside `$LATEST`.
#[derive(Clone, Debug)]
pub(crate) struct Changed {
    /// `$LATEST` as it was written.
    pub(crate) latest: Arc<FunctionConfig>,
    /// The version that was published, or the last one if it is the same.
    pub(crate) version: Option<Arc<FunctionConfig>>,
}

/// The node's functions.
pub(crate) struct Functions {
    store: Arc<dyn Store>,
    view: Arc<View>,
    code: Arc<CodeStore>,
    invoker: Arc<dyn Invoker>,
    layers: Layers,
    images: Images,
    pulls: Pulls,
    /// One reservation of concurrency at a time.
    reserving: tokio::sync::Mutex<()>,
    /// The invoker is told of one function's provisions at a time.
    providing: std::sync::Mutex<()>,
}

impl Functions {
    /// Opens the functions of a node: reads them, finishes what was under way when the agent ended, makes missing
    /// images, deletes code that no function names.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        code: Arc<CodeStore>,
        invoker: Arc<dyn Invoker>,
        registries: Registries,
    ) -> Result<Arc<Self>, OpenError> {
        // Before anything is swept: what has a handle stays.
        let layers = Layers::open(Arc::clone(&store), Arc::clone(&code)).await?;
        let images = Images::open(Arc::clone(&store), &code).await?;
        let view = View::follow(Arc::clone(&store), Arc::clone(&code)).await?;
        let (reserving, providing) = Default::default();
        let pulls = Pulls::new(registries);
        let functions =
            Arc::new(Self { store, view, code, invoker, layers, images, pulls, reserving, providing });
        functions.delete_orphans().await?;
        let all = functions.view.collect(|function| Some(Arc::clone(&function.config)));
        functions.invoker.keep(all.iter().map(|config| config.deployment_id.clone()).collect());
        for config in all {
            // One that waits for its image goes on with that.
            if !config.awaits_image()
                && let Err(error) = functions.code.restore(&config.package()).await
            {
                tracing::error!(function = config.version_arn(), "its code image cannot be made: {error}");
                functions.pull_again(&config);
            }
            functions.settle(config);
        }
        // When all have their images.
        let latest = |function: &Function| function.config.version == model::LATEST;
        let ids = functions.view.collect(|function| latest(function).then(|| function.config.id.clone()));
        ids.iter().for_each(|id| functions.provide(id));
        functions.sweep().await;
        Ok(functions)
    }

    /// `$LATEST` of a function, if it exists.
    pub(crate) fn get(&self, id: &FunctionId) -> Option<Function> {
        self.view.get(id)
    }

    /// The view, for listings and totals.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// The layers.
    pub(crate) fn layers(&self) -> &Layers {
        &self.layers
    }

    /// The container images.
    pub(crate) fn images(&self) -> &Images {
        &self.images
    }

    /// Archives of images that are on their way.
    pub(crate) fn uploads(&self) -> &Uploads {
        self.code.uploads()
    }

    /// Checks and stores an uploaded zip, for a function with these layers.
    pub(crate) async fn ingest(
        &self,
        zip: Bytes,
        layers: &[LayerRef],
    ) -> Result<(CodeRef, Arc<CodeImage>), CodeError> {
        self.code.ingest(zip, layers.iter().map(|layer| layer.code.sha256.clone()).collect()).await
    }

    /// The zip of some code, as [`CodeStore::pieces`] has it.
    pub(crate) async fn zip(
        &self,
        sha256: &str,
    ) -> Result<(u64, impl Stream<Item = Result<Bytes, object_store::Error>> + Send + use<>), CodeError> {
        self.code.pieces(sha256).await
    }

    /// Creates a function, in state Pending; it becomes Active by itself.
    pub(crate) async fn create(
        self: &Arc<Self>,
        mut config: FunctionConfig,
        publish: Publish,
    ) -> Result<Changed, ChangeError> {
        let key = Key::Latest(config.id.clone()).bytes();
        let version = match publish {
            Publish::Yes => draft(&mut config, None, None, Finish::Later)?,
            Publish::No => None,
        };
        let put = Op::Put { key: key.clone(), value: serde_json::to_vec(&config)?, lease: None };
        let (mut compares, mut ops) = (vec![Compare::Absent(key)], vec![put]);
        let version = version.map(|version| {
            compares.push(version.compare);
            ops.push(version.op);
            Arc::new(version.config)
        });
        if !self.commit(Txn { compares, ops }).await? {
            return Err(ChangeError::Exists);
        }
        let latest = Arc::new(config);
        self.settle(Arc::clone(&latest));
        version.iter().cloned().for_each(|version| self.settle(version));
        Ok(Changed { latest, version })
    }

    /// Changes `$LATEST`: `change` is applied to the record as it is, again if it was changed in between.
    pub(crate) async fn update(
        self: &Arc<Self>,
        id: &FunctionId,
        expected: Option<&str>,
        publish: Publish,
        change: impl Fn(&mut FunctionConfig) + Send,
    ) -> Result<Changed, ChangeError> {
        for _ in 0..MAX_TRIES {
            let Some(current) = self.view.get(id) else { return Err(ChangeError::Absent) };
            if expected.is_some_and(|expected| expected != current.config.revision_id) {
                return Err(ChangeError::Stale);
            }
            let mut config = FunctionConfig::clone(&current.config);
            change(&mut config);
            self.update_runtime(&mut config).await;
            // A function that has no image may be given one, and nothing else.
            let given = !config.awaits_image() || config.state == State::Pending;
            if !(given && matches!(current.config.state, State::Failed(_))) {
                refuse_unfinished(&current.config)?;
            }
            if config.awaits_image() {
                if let Some(changed) = self.update_later(&current, config, publish).await? {
                    return Ok(changed);
                }
                continue;
            }
            let package = config.package();
            // Held until the view holds it.
            let _image = self.code.image(&package).await;
            if package != current.config.package() {
                self.code.assemble(&package).await?;
            }
            config.deployment_id = new_id();
            config.last_update = Some(UpdateStatus::InProgress);
            config.state = State::Active;
            config.last_modified_ms = now_ms();
            config.revision_id = new_id();
            let last = self.last_version(&config);
            let drafted = match publish {
                Publish::Yes => draft(&mut config, last.as_ref(), None, Finish::Later)?,
                Publish::No => None,
            };
            let key = Key::Latest(id.clone()).bytes();
            let put = Op::Put { key: key.clone(), value: serde_json::to_vec(&config)?, lease: None };
            let (mut compares, mut ops) = (vec![Compare::Modified(key, current.revision)], vec![put]);
            let version = drafted.map(|version| {
                compares.push(version.compare);
                ops.push(version.op);
                Arc::new(version.config)
            });
            if self.commit(Txn { compares, ops }).await? {
                // That one and no other: a later update may have come in between.
                self.invoker.retire(id, Retired::Deployment(&current.config.deployment_id));
                let latest = Arc::new(config);
                self.settle(Arc::clone(&latest));
                version.iter().cloned().for_each(|version| self.settle(version));
                self.sweep_later();
                let last = last.map(|last| last.config).filter(|_| publish == Publish::Yes);
                return Ok(Changed { latest, version: version.or(last) });
            }
        }
        Err(ChangeError::Busy)
    }

    /// The same of an update to an image that is not here: it is the function's when it is. `None` if somebody else was faster.
    async fn update_later(
        self: &Arc<Self>,
        current: &Function,
        mut updated: FunctionConfig,
        publish: Publish,
    ) -> Result<Option<Changed>, ChangeError> {
        (updated.last_modified_ms, updated.revision_id) = (now_ms(), new_id());
        let last = self.last_version(&updated);
        let drafted = match publish {
            Publish::Yes => draft(&mut updated, last.as_ref(), None, Finish::Later)?,
            Publish::No => None,
        };
        let mut config = updated;
        if current.config.awaits_image() {
            // It has never had one.
            (config.state, config.last_update, config.deployment_id) = (State::Pending, None, new_id());
        } else if let Some(image) = config.image.take() {
            let code = std::mem::replace(&mut config.code, current.config.code.clone());
            config.incoming = Some(Incoming { code, image });
            config.image = current.config.image.clone();
            config.state = current.config.state.clone();
            config.last_update = Some(UpdateStatus::InProgress);
        }
        let key = Key::Latest(config.id.clone()).bytes();
        let put = Op::Put { key: key.clone(), value: serde_json::to_vec(&config)?, lease: None };
        let (mut compares, mut ops) = (vec![Compare::Modified(key, current.revision)], vec![put]);
        let version = drafted.map(|version| {
            compares.push(version.compare);
            ops.push(version.op);
            Arc::new(version.config)
        });
        if !self.commit(Txn { compares, ops }).await? {
            return Ok(None);
        }
        let latest = Arc::new(config);
        self.settle(Arc::clone(&latest));
        version.iter().cloned().for_each(|version| self.settle(version));
        let last = last.map(|last| last.config).filter(|_| publish == Publish::Yes);
        Ok(Some(Changed { latest, version: version.or(last) }))
    }

    /// Deletes a function with its versions and aliases: gone at once, the last of its records a moment later if they
    /// are more than fit into one transaction.
    pub(crate) async fn delete(self: &Arc<Self>, id: &FunctionId) -> Result<(), ChangeError> {
        if self.view.get(id).is_none() {
            return Err(ChangeError::Absent);
        }
        let below = self.view.versions(id).into_iter().filter_map(|function| key_of(&function.config));
        let aliases =
            self.view.aliases(id).into_iter().map(|alias| Key::Alias(id.clone(), alias.name.clone()));
        let attached = self.view.all_attached(id).into_iter();
        let attached = attached.map(|attached| Key::Attached(id.clone(), attached.qualifier.clone()));
        let key = Key::Latest(id.clone()).bytes();
        let mut ops: Vec<_> =
            below.chain(aliases).chain(attached).map(|key| Op::Delete(key.bytes())).collect();
        // The function's own record comes first: without it, whatever is left is nobody's.
        let whole = ops.len() <= MAX_TXN_OPS;
        ops.truncate(MAX_TXN_OPS);
        if !self.commit(Txn { compares: vec![Compare::Exists(key)], ops }).await? {
            return Err(ChangeError::Absent);
        }
        self.invoker.retire(id, Retired::Function);
        self.provide(id);
        if !whole {
            self.delete_orphans().await?;
        }
        self.sweep_later();
        Ok(())
    }

    /// Deletes records below functions that are gone.
    async fn delete_orphans(&self) -> Result<(), StoreError> {
        let (entries, _) = self.store.range(KeyRange::prefix(keys::PREFIX), usize::MAX).await?;
        for batch in self.view.orphans(&entries).chunks(MAX_TXN_OPS) {
            let compares = batch.iter().map(|(key, revision)| Compare::Modified(key.clone(), *revision));
            let ops = batch.iter().map(|(key, _)| Op::Delete(key.clone())).collect();
            // Refused when a new function of the name has just written there: that is no orphan then.
            self.store.txn(Txn { compares: compares.collect(), ops }).await?;
        }
        Ok(())
    }

    /// Writes `config` if the record still is `current`; gives it its revision's id. `false` if it is not.
    async fn replace(&self, current: &Function, config: &mut FunctionConfig) -> Result<bool, ChangeError> {
        config.revision_id = new_id();
        let Some(key) = key_of(config).map(|key| key.bytes()) else { return Ok(false) };
        let put = Op::Put { key: key.clone(), value: serde_json::to_vec(&config)?, lease: None };
        self.commit(Txn { compares: vec![Compare::Modified(key, current.revision)], ops: vec![put] }).await
    }

    /// Deletes code that nothing names, a moment later.
    pub(crate) fn sweep_later(self: &Arc<Self>) {
        let functions = Arc::clone(self);
        tokio::spawn(async move { functions.sweep().await });
    }

    async fn sweep(&self) {
        if let Err(error) = self.code.sweep().await {
            tracing::error!("code that nothing names is left: {error}");
        }
    }
}

/// A fresh id: a revision's or a deployment's.
pub(crate) fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The wall clock in milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
