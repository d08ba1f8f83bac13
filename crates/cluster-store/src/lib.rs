//! A revisioned key-value store: the trait that the agent keeps its state behind, and a backend for one node.
//!
//! The shape is etcd's, so that a cluster backend needs no other: every write raises one store-wide revision, an entry
//! knows the revisions of its creation and of its last change, a transaction compares before it writes, a watch
//! delivers every change after a snapshot, a lease deletes its keys when its holder stops renewing it.
//!
//! Nothing here knows what is stored. Whatever is read back from disk is treated as hostile: it is checksummed and
//! bounded before anyone sees it.
//!
//! Threads: callers are async; the redb backend works on tokio's blocking threads, one writer at a time. A change is
//! on disk before its transaction succeeds, and published to watchers after that, in revision order.

mod lease;
mod record;
mod redb;
#[cfg(test)]
mod tests;

use std::{future::Future, ops::Bound, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

pub use redb::RedbStore;

/// Longest key in bytes.
pub const MAX_KEY_LEN: usize = 1024;

/// Longest value in bytes; what is larger belongs in an object store. etcd's default request limit is 1.5 MiB.
pub const MAX_VALUE_LEN: usize = 1024 * 1024;

/// Most compares and most operations in a transaction: etcd's default limit.
pub const MAX_TXN_OPS: usize = 128;

/// Changes a watcher may fall behind before it is told [`WatchError::Lagged`].
pub const WATCH_BACKLOG: usize = 1024;

/// Store-wide counter of writes; the empty store is at 0.
pub type Revision = u64;

/// Names a lease. Never 0.
pub type LeaseId = u64;

/// What a store's operations return: a future that borrows the store.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Why an operation failed. Nothing was changed, except that after [`StoreError::Io`] a transaction's outcome is
/// unknown: read it back.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file could not be created, opened, read or written.
    #[error("{attempted} in {}", path.display())]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// The database file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file is not a store, or was damaged.
    #[error("store {} is damaged: {problem}", path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A key, value or transaction exceeds the store's bounds.
    #[error("{what} of {len} exceeds the limit of {max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The lease was never granted, was revoked, or has expired.
    #[error("lease {0} does not exist")]
    NoLease(LeaseId),
}

/// A key and what is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// Revision at which the key came into being (again).
    pub created: Revision,
    /// Revision of its last change.
    pub modified: Revision,
    /// Lease that it lives under.
    pub lease: Option<LeaseId>,
}

/// A half-open range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// First key.
    pub start: Bound<Vec<u8>>,
    /// Where it ends.
    pub end: Bound<Vec<u8>>,
}

impl KeyRange {
    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        // The first key behind them all is the prefix with its last byte below 0xff raised and the rest cut.
        let end = match prefix.iter().rposition(|&byte| byte != 0xff) {
            Some(last) => {
                let mut end = prefix[..=last].to_vec();
                end[last] += 1;
                Bound::Excluded(end)
            }
            None => Bound::Unbounded,
        };
        Self { start: Bound::Included(prefix.to_vec()), end }
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        let after_start = match &self.start {
            Bound::Included(start) => key >= start.as_slice(),
            Bound::Excluded(start) => key > start.as_slice(),
            Bound::Unbounded => true,
        };
        let before_end = match &self.end {
            Bound::Included(end) => key <= end.as_slice(),
            Bound::Excluded(end) => key < end.as_slice(),
            Bound::Unbounded => true,
        };
        after_start && before_end
    }
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(Vec<u8>),
    /// The key exists.
    Exists(Vec<u8>),
    /// The key exists and was last changed at this revision.
    Modified(Vec<u8>, Revision),
}

/// A write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Put {
        /// The key.
        key: Vec<u8>,
        /// Its new value.
        value: Vec<u8>,
        /// Lease that the key shall live under.
        lease: Option<LeaseId>,
    },
    /// Removes a key, if it exists.
    Delete(Vec<u8>),
}

/// Writes that happen together, in order, if every condition holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// Applied in order, under one new revision.
    pub ops: Vec<Op>,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    /// All conditions held and the writes are durable. The revision is unchanged if nothing was written.
    Committed(Revision),
    /// A condition did not hold; nothing was written. Carries the store's revision.
    Refused(Revision),
}

/// A change that a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key has this value now.
    Put(Entry),
    /// The key is gone.
    Delete {
        /// The key.
        key: Vec<u8>,
        /// Revision of the deletion.
        revision: Revision,
    },
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.modified,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// Why a watch delivers no further change. The watcher starts again with a new watch and its snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// More than [`WATCH_BACKLOG`] transactions were waiting.
    #[error("the watcher fell behind and missed changes")]
    Lagged,
    /// The store was closed.
    #[error("the store was closed")]
    Closed,
}

/// A range's entries at one revision, and every change after it.
#[derive(Debug)]
pub struct Watch {
    /// The entries when the watch began, in key order.
    pub snapshot: Vec<Entry>,
    /// The store's revision then.
    pub revision: Revision,
    range: KeyRange,
    changes: tokio::sync::broadcast::Receiver<Arc<[Event]>>,
}

impl Watch {
    /// The changes of the next transaction that touched the range; never empty.
    ///
    /// # Errors
    /// [`WatchError`]; the watch is of no further use then.
    pub async fn next(&mut self) -> Result<Vec<Event>, WatchError> {
        use tokio::sync::broadcast::error::RecvError;
        loop {
            let changes = self.changes.recv().await.map_err(|error| match error {
                RecvError::Lagged(_) => WatchError::Lagged,
                RecvError::Closed => WatchError::Closed,
            })?;
            let mine: Vec<_> =
                changes.iter().filter(|event| self.range.contains(event.key())).cloned().collect();
            if !mine.is_empty() {
                return Ok(mine);
            }
        }
    }
}

/// A revisioned key-value store.
pub trait Store: Send + Sync {
    /// The entry of a key.
    fn get(&self, key: Vec<u8>) -> StoreFuture<'_, Option<Entry>>;

    /// At most `limit` entries of a range in key order, and the revision that they were read at.
    fn range(&self, range: KeyRange, limit: usize) -> StoreFuture<'_, (Vec<Entry>, Revision)>;

    /// Applies a transaction. Success means that it is durable.
    fn txn(&self, txn: Txn) -> StoreFuture<'_, TxnOutcome>;

    /// Watches a range from now on.
    fn watch(&self, range: KeyRange) -> StoreFuture<'_, Watch>;

    /// Grants a lease that expires after `ttl` unless it is kept alive. A lease does not outlive the process that was
    /// granted it: what it held is deleted when a one-node store is opened again.
    fn grant(&self, ttl: Duration) -> StoreFuture<'_, LeaseId>;

    /// Starts the lease's time anew.
    fn keep_alive(&self, lease: LeaseId) -> StoreFuture<'_, ()>;

    /// Ends a lease and deletes its keys.
    fn revoke(&self, lease: LeaseId) -> StoreFuture<'_, ()>;
}
