//! The functions as requests see them: a coherent map in memory, fed by the store's watch. No request reads the store.
//!
//! One task applies changes in revision order. A writer waits for its own revision before it answers, so that whoever
//! has an answer also sees its effect.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, PoisonError, RwLock, Weak},
};

use cluster_store::{Entry, Event, KeyRange, Revision, Store, StoreError, Watch, WatchError};
use tokio::{sync::watch, task::AbortHandle};

use super::model::{FunctionConfig, FunctionId};
use crate::{code::CodeStore, invoke::CodeImage};

/// Where function records are in the store. The region cannot hold a `/`, so that a key has one meaning.
const PREFIX: &[u8] = b"functions/";

/// Key of a function's record.
pub(crate) fn key(id: &FunctionId) -> Vec<u8> {
    [PREFIX, id.region.as_bytes(), b"/", id.name.as_bytes()].concat()
}

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

fn id_of(key: &[u8]) -> Option<FunctionId> {
    let path = std::str::from_utf8(key.strip_prefix(PREFIX)?).ok()?;
    let (region, name) = path.split_once('/')?;
    Some(FunctionId { region: region.into(), name: name.into() })
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

/// A function as it is now.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    /// Settings and state.
    pub(crate) config: Arc<FunctionConfig>,
    /// Code; held here, so that it is not collected.
    pub(crate) code: Arc<CodeImage>,
    /// The store's revision of the record.
    pub(crate) revision: Revision,
}

type Map = BTreeMap<FunctionId, Function>;

/// The map and how far it has come.
pub(crate) struct View {
    map: RwLock<Map>,
    applied: watch::Sender<Revision>,
    code: Arc<CodeStore>,
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
            follower: OnceLock::new(),
        });
        let first = store.watch(KeyRange::prefix(PREFIX)).await?;
        let events = view.start_over(first).await?;
        let task = tokio::spawn(run(Arc::downgrade(&view), store, events));
        // Set once, here.
        let _ = view.follower.set(task.abort_handle());
        Ok(view)
    }

    /// A function, if it exists.
    pub(crate) fn get(&self, id: &FunctionId) -> Option<Function> {
        self.read().get(id).cloned()
    }

    /// At most `limit` functions of a region whose names come after `after`, in name order.
    pub(crate) fn list(&self, region: &str, after: Option<&str>, limit: usize) -> Vec<Arc<FunctionConfig>> {
        let start = FunctionId { region: region.into(), name: after.unwrap_or_default().into() };
        self.read()
            .range(start..)
            .take_while(|(id, _)| id.region == region)
            .filter(|(id, _)| after.is_none_or(|after| id.name.as_str() > after))
            .take(limit)
            .map(|(_, function)| Arc::clone(&function.config))
            .collect()
    }

    /// What `visit` makes of every function.
    pub(crate) fn collect<T>(&self, visit: impl FnMut(&Function) -> Option<T>) -> Vec<T> {
        self.read().values().filter_map(visit).collect()
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
        let mut map = Map::new();
        for entry in std::mem::take(&mut begun.snapshot) {
            let function = self.function(&entry).await?;
            map.insert(function.config.id.clone(), function);
        }
        *self.write() = map;
        self.applied.send_replace(begun.revision);
        Ok(begun)
    }

    async fn apply(&self, changes: Vec<Event>) -> Result<(), ViewError> {
        let Some(revision) = changes.last().map(Event::revision) else { return Ok(()) };
        for change in changes {
            match change {
                Event::Put(entry) => {
                    let function = self.function(&entry).await?;
                    self.write().insert(function.config.id.clone(), function);
                }
                Event::Delete { key, .. } => {
                    if let Some(id) = id_of(&key) {
                        self.write().remove(&id);
                    }
                }
            }
        }
        self.applied.send_replace(revision);
        Ok(())
    }

    async fn function(&self, entry: &Entry) -> Result<Function, ViewError> {
        let unreadable =
            |problem| ViewError::Record { key: String::from_utf8_lossy(&entry.key).into_owned(), problem };
        let config: FunctionConfig =
            serde_json::from_slice(&entry.value).map_err(|error| unreadable(error.to_string()))?;
        if key(&config.id) != entry.key {
            return Err(unreadable(format!("holds `{}`", config.arn())));
        }
        let code = self.code.image(&config.code.sha256).await;
        Ok(Function { code, revision: entry.modified, config: Arc::new(config) })
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Map> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }
}
