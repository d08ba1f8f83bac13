//! The functions as requests see them: a coherent map in memory, fed by the store's watch. No request reads the store.
//!
//! One task applies changes in revision order. A writer waits for its own revision before it answers, so that whoever
//! has an answer also sees its effect.

use std::sync::{
    Arc, OnceLock, PoisonError, RwLock, Weak,
    atomic::{AtomicU32, Ordering},
};

use cluster_store::{Entry, Event, KeyRange, Revision, Store, StoreError, Watch, WatchError};
use tokio::{sync::watch, task::AbortHandle};

mod tree;

pub(crate) use self::tree::{Kept, key_of};
use self::tree::{Map, Record, Tree, claimed, put, remove};
use super::{
    aliases,
    attached::Attached,
    keys::{Key, PREFIX},
    model::{Alias, FunctionConfig, FunctionId},
    provisioned::Claim,
};
use crate::{code::CodeStore, invoke::CodeImage};

impl Drop for View {
    fn drop(&mut self) {
        if let Some(task) = self.follower.get() {
            task.abort();
        }
    }
}

/// Applies changes until the store closes or the view is gone.
async fn run(view: Weak<View>, store: Arc<dyn Store>, mut events: Watch) {
    loop {
        let next = events.next().await;
        let Some(view) = view.upgrade() else { return };
        let followed = match next {
            Ok(changes) => view.apply(changes).await.map(|()| None),
            Err(WatchError::Closed) => return,
            Err(WatchError::Lagged) => view.watch_again(&*store).await.map(Some),
        };
        match followed {
            Ok(None) => {}
            Ok(Some(again)) => events = again,
            Err(error) => {
                // Writers would wait for ever on a view that stands still: better to be started again.
                tracing::error!("the functions cannot be followed any more: {error}");
                std::process::exit(1);
            }
        }
    }
}

/// Why functions cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ViewError {
    /// The store's error.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record that is no function's; another version's, as checksums were verified.
    #[error("the record `{key}` is no function: {problem}")]
    Record {
        /// Its key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// A function's `$LATEST`, or a version, as it is now.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    /// Settings and state.
    pub(crate) config: Arc<FunctionConfig>,
    /// Code; held here, so that it is not collected.
    pub(crate) code: Arc<CodeImage>,
    /// The store's revision of the record.
    pub(crate) revision: Revision,
}

/// An alias as it is now.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// What it says.
    pub(crate) alias: Arc<Alias>,
    /// The store's revision of the record.
    pub(crate) revision: Revision,
}

/// The map and how far it has come.
pub(crate) struct View {
    map: RwLock<Map>,
    applied: watch::Sender<Revision>,
    code: Arc<CodeStore>,
    /// What functions have of the account's concurrency, reserved or provisioned.
    claimed: AtomicU32,
    /// The task that follows the store; ends with the view.
    follower: OnceLock<AbortHandle>,
}

impl View {
    /// Reads every record and keeps following the store until it closes.
    ///
    /// # Errors
    /// The store's, and a record that this version cannot read.
    pub(crate) async fn follow(store: Arc<dyn Store>, code: Arc<CodeStore>) -> Result<Arc<Self>, ViewError> {
        let view = Arc::new(Self {
            map: RwLock::default(),
            applied: watch::Sender::new(0),
            code,
            claimed: AtomicU32::new(0),
            follower: OnceLock::new(),
        });
        let first = store.watch(KeyRange::prefix(PREFIX)).await?;
        let events = view.start_over(first).await?;
        let task = tokio::spawn(run(Arc::downgrade(&view), store, events));
        // Set once, here.
        let _ = view.follower.set(task.abort_handle());
        Ok(view)
    }

    /// `$LATEST` of a function, if it exists.
    pub(crate) fn get(&self, id: &FunctionId) -> Option<Function> {
        self.read().get(id).map(|tree| tree.latest.clone())
    }

    /// What a qualifier names: `$LATEST`, a version, or the version that an alias names.
    pub(crate) fn named(&self, id: &FunctionId, qualifier: &str) -> Option<Function> {
        let map = self.read();
        let tree = map.get(id)?;
        let version = tree.aliases.get(qualifier).map_or(qualifier, |named| named.alias.version.as_str());
        tree.version(version).cloned()
    }

    /// As [`Self::named`], but an alias routes: `roll`, from 0.0 up to 1.0, chooses among its versions.
    pub(crate) fn serving(&self, id: &FunctionId, qualifier: &str, roll: f64) -> Option<Function> {
        let map = self.read();
        let tree = map.get(id)?;
        let route =
            |named: &Named| aliases::route(&named.alias, roll, |version| tree.serves(version)).to_owned();
        let version = tree.aliases.get(qualifier).map(route);
        tree.version(version.as_deref().unwrap_or(qualifier)).cloned()
    }

    /// An alias, if it exists.
    pub(crate) fn alias(&self, id: &FunctionId, name: &str) -> Option<Named> {
        self.read().get(id)?.aliases.get(name).cloned()
    }

    /// The aliases of a function, by name.
    pub(crate) fn aliases(&self, id: &FunctionId) -> Vec<Arc<Alias>> {
        let map = self.read();
        map.get(id)
            .map(|tree| tree.aliases.values().map(|named| Arc::clone(&named.alias)).collect())
            .unwrap_or_default()
    }

    /// What is attached to a version or an alias, if anything is.
    pub(crate) fn attached(&self, id: &FunctionId, qualifier: &str) -> Option<Kept> {
        self.read().get(id)?.attached.get(qualifier).cloned()
    }

    /// What is attached to versions and aliases of a function, by their names.
    pub(crate) fn all_attached(&self, id: &FunctionId) -> Vec<Arc<Attached>> {
        let map = self.read();
        let all = |kept: &Kept| Arc::clone(&kept.attached);
        map.get(id).map(|tree| tree.attached.values().map(all).collect()).unwrap_or_default()
    }

    /// The function that has the URL of that name, and what the URL is attached to.
    pub(crate) fn url(&self, id: &str) -> Option<(FunctionId, Arc<Attached>)> {
        let map = self.read();
        let (function, qualifier) = map.url(id)?;
        let kept = map.get(function)?.attached.get(qualifier)?;
        Some((function.clone(), Arc::clone(&kept.attached)))
    }

    /// `$LATEST` and the versions of a function, by number; nothing if it does not exist.
    pub(crate) fn versions(&self, id: &FunctionId) -> Vec<Function> {
        let map = self.read();
        let all =
            |tree: &Tree| std::iter::once(&tree.latest).chain(tree.versions.values()).cloned().collect();
        map.get(id).map(all).unwrap_or_default()
    }

    /// At most `limit` functions of a region whose names come after `after`, in name order.
    pub(crate) fn list(&self, region: &str, after: Option<&str>, limit: usize) -> Vec<Arc<FunctionConfig>> {
        let start = FunctionId { region: region.into(), name: after.unwrap_or_default().into() };
        self.read()
            .range(start..)
            .take_while(|(id, _)| id.region == region)
            .filter(|(id, _)| after.is_none_or(|after| id.name.as_str() > after))
            .take(limit)
            .map(|(_, tree)| Arc::clone(&tree.latest.config))
            .collect()
    }

    /// At most `limit` versions, `$LATEST` first, of a region's functions that come after the named one and its version.
    pub(crate) fn list_versions(
        &self,
        region: &str,
        after: Option<(&str, &str)>,
        limit: usize,
    ) -> Vec<Arc<FunctionConfig>> {
        let (name, version) = after.unwrap_or_default();
        // `$LATEST` comes before every number.
        let place = |version: &str| version.parse::<u64>().unwrap_or(0);
        let start = FunctionId { region: region.into(), name: name.into() };
        self.read()
            .range(start..)
            .take_while(|(id, _)| id.region == region)
            .flat_map(|(_, tree)| std::iter::once(&tree.latest).chain(tree.versions.values()))
            .map(|function| &function.config)
            .filter(|config| {
                after.is_none() || config.id.name != name || place(&config.version) > place(version)
            })
            .take(limit)
            .cloned()
            .collect()
    }

    /// What `visit` makes of every function's `$LATEST` and of every version.
    pub(crate) fn collect<T>(&self, visit: impl FnMut(&Function) -> Option<T>) -> Vec<T> {
        let map = self.read();
        map.values()
            .flat_map(|tree| std::iter::once(&tree.latest).chain(tree.versions.values()))
            .filter_map(visit)
            .collect()
    }

    /// Keys, and their revisions, that belong to no function any more: it was deleted, or it is another one of the same name.
    pub(crate) fn orphans(&self, entries: &[Entry]) -> Vec<(Vec<u8>, Revision)> {
        let map = self.read();
        let belongs = |entry: &Entry| match Key::parse(&entry.key) {
            Some(Key::Latest(_)) => true,
            Some(Key::Version(id, number)) => {
                map.get(&id).is_some_and(|tree| tree.versions.contains_key(&number))
            }
            Some(Key::Alias(id, name)) => map.get(&id).is_some_and(|tree| tree.aliases.contains_key(&name)),
            Some(Key::Attached(id, qualifier)) => {
                map.get(&id).is_some_and(|tree| tree.attached.contains_key(&qualifier))
            }
            None => false,
        };
        entries
            .iter()
            .filter(|entry| !belongs(entry))
            .map(|entry| (entry.key.clone(), entry.modified))
            .collect()
    }

    /// What functions together have of the account's concurrency, reserved or provisioned.
    pub(crate) fn claimed(&self) -> u32 {
        self.claimed.load(Ordering::Acquire)
    }

    /// What a function has of it, and what one of its versions has.
    pub(crate) fn claim(&self, id: &FunctionId, version: &str) -> Claim {
        self.read().get(id).map(|tree| tree.claim(version)).unwrap_or_default()
    }

    /// What is to be kept ready of a function's versions, and how many of each.
    pub(crate) fn provisions(&self, id: &FunctionId) -> Vec<(Function, u32)> {
        self.read().get(id).map(Tree::provisions).unwrap_or_default()
    }

    /// What has something provisioned that is for a version: itself, or aliases.
    pub(crate) fn provisioned_by(&self, id: &FunctionId, version: &str) -> Vec<String> {
        self.read().get(id).map(|tree| tree.provisioned_by(version)).unwrap_or_default()
    }

    /// Waits until the view has come to `revision`.
    pub(crate) async fn reach(&self, revision: Revision) {
        // The sender lives in `self`: this cannot fail.
        let _ = self.applied.subscribe().wait_for(|applied| *applied >= revision).await;
    }

    async fn watch_again(&self, store: &dyn Store) -> Result<Watch, ViewError> {
        let begun = store.watch(KeyRange::prefix(PREFIX)).await?;
        self.start_over(begun).await
    }

    async fn start_over(&self, mut begun: Watch) -> Result<Watch, ViewError> {
        let mut records = Vec::new();
        for entry in std::mem::take(&mut begun.snapshot) {
            records.push(self.read_record(&entry).await?);
        }
        let mut map = Map::default();
        records.into_iter().for_each(|record| put(&mut map, record));
        let sum = map.keys().map(|id| claimed(&map, id)).sum();
        *self.write() = map;
        self.claimed.store(sum, Ordering::Release);
        self.applied.send_replace(begun.revision);
        Ok(begun)
    }

    /// What one transaction changed becomes visible at once.
    async fn apply(&self, changes: Vec<Event>) -> Result<(), ViewError> {
        let Some(revision) = changes.last().map(Event::revision) else { return Ok(()) };
        let mut steps = Vec::with_capacity(changes.len());
        for change in changes {
            steps.push(match change {
                Event::Put(entry) => Ok(self.read_record(&entry).await?),
                Event::Delete { key, .. } => Err(key),
            });
        }
        {
            let mut map = self.write();
            for step in steps {
                let changed = match &step {
                    Ok(Record::Function(function)) => Some(function.config.id.clone()),
                    Ok(Record::Attached(id, _)) => Some(id.clone()),
                    Err(key) => match Key::parse(key) {
                        Some(Key::Latest(id) | Key::Attached(id, _)) => Some(id),
                        _ => None,
                    },
                    Ok(Record::Alias(..)) => None,
                };
                let before = changed.as_ref().map_or(0, |id| claimed(&map, id));
                match step {
                    Ok(record) => put(&mut map, record),
                    Err(key) => remove(&mut map, &key),
                }
                let after = changed.as_ref().map_or(0, |id| claimed(&map, id));
                let sum = self.claimed.load(Ordering::Acquire) + after - before;
                self.claimed.store(sum, Ordering::Release);
            }
        }
        self.applied.send_replace(revision);
        Ok(())
    }

    async fn read_record(&self, entry: &Entry) -> Result<Record, ViewError> {
        let unreadable =
            |problem| ViewError::Record { key: String::from_utf8_lossy(&entry.key).into_owned(), problem };
        let parsed = |error: serde_json::Error| unreadable(error.to_string());
        let key = Key::parse(&entry.key).ok_or_else(|| unreadable("its key has no meaning".into()))?;
        let revision = entry.modified;
        if let Key::Alias(id, name) = key {
            let alias: Alias = serde_json::from_slice(&entry.value).map_err(parsed)?;
            if alias.name != name {
                return Err(unreadable(format!("holds the alias `{}`", alias.name)));
            }
            return Ok(Record::Alias(id, Named { alias: Arc::new(alias), revision }));
        }
        if let Key::Attached(id, qualifier) = key {
            let attached: Attached = serde_json::from_slice(&entry.value).map_err(parsed)?;
            if attached.qualifier != qualifier {
                return Err(unreadable(format!("holds what `{}` has", attached.qualifier)));
            }
            return Ok(Record::Attached(id, Kept { attached: Arc::new(attached), revision }));
        }
        let config: FunctionConfig = serde_json::from_slice(&entry.value).map_err(parsed)?;
        if key_of(&config) != Some(key) {
            return Err(unreadable(format!("holds `{}`", config.version_arn())));
        }
        let code = self.code.image(&config.package()).await;
        Ok(Record::Function(Function { code, revision, config: Arc::new(config) }))
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Map> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }
}
