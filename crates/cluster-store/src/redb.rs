//! The store of one node: a redb file.
//!
//! Two tables: `entries` (key → record) and `meta` (format and revision). One mutex orders writers, publishing and the
//! start of watches, so that a watcher's snapshot and its changes meet without a gap. Readers take no lock.

use std::{
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ::redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable, StorageError, TableDefinition};
use tokio::sync::broadcast;

use crate::{
    Compare, Entry, Event, KeyRange, LeaseId, MAX_KEY_LEN, MAX_TXN_OPS, MAX_VALUE_LEN, Op, Revision, Store,
    StoreError, StoreFuture, Txn, TxnOutcome, WATCH_BACKLOG, Watch, lease::Leases, record,
};

const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
const FORMAT: &str = "format";

/// Layout of the file; another is refused.
const FORMAT_VERSION: u64 = 1;

/// redb's page cache: our records are small and read once, so its default of 1 GiB would be waste.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// A store in one file. Cheap to clone.
#[derive(Clone)]
pub struct RedbStore {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    database: Database,
    /// Held from a transaction's begin to its publication.
    order: Mutex<()>,
    changes: broadcast::Sender<Arc<[Event]>>,
    leases: Leases,
    next_lease: AtomicU64,
}

impl RedbStore {
    /// Opens the store at `path`, which is made when it does not exist. Verifies the whole file, and deletes keys
    /// whose leases ended with the process before.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the file is not a store or does not verify, [`StoreError::Io`] otherwise; also
    /// when another process has it open.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        run(move || Inner::open(path)).await.map(|inner| Self { inner: Arc::new(inner) })
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        run(move || work(&inner)).await
    }
}

async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // Nobody aborts these tasks: what is left is a panic of the work itself.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

impl Inner {
    fn open(path: PathBuf) -> Result<Self, StoreError> {
        let fresh = !path.exists();
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(&path)
            .map_err(|error| open_error(&path, error))?;
        if fresh && let Some(parent) = path.parent() {
            // The file's name must be as durable as its content.
            std::fs::File::open(parent)
                .and_then(|dir| dir.sync_all())
                .map_err(|error| io(&path, "syncing the directory", error))?;
        }
        let mut inner = Self {
            path,
            database,
            order: Mutex::new(()),
            changes: broadcast::channel(WATCH_BACKLOG).0,
            leases: Leases::default(),
            next_lease: AtomicU64::new(1),
        };
        inner.verify()?;
        inner.drop_dead_leases()?;
        Ok(inner)
    }

    /// Checks the file's structure, its format and every record.
    fn verify(&mut self) -> Result<(), StoreError> {
        match self.database.check_integrity() {
            Ok(true) => {}
            Ok(false) => tracing::warn!(store = %self.path.display(), "repaired after an unclean end"),
            Err(error) => return Err(open_error(&self.path, error)),
        }
        let txn = self.database.begin_write().map_err(|error| io(&self.path, "opening", error))?;
        {
            let mut meta = txn.open_table(META).map_err(|error| self.damaged(error))?;
            let format = meta.get(FORMAT).map_err(|error| self.damaged(error))?.map(|value| value.value());
            match format {
                None => {
                    meta.insert(FORMAT, FORMAT_VERSION).map_err(|error| io(&self.path, "opening", error))?;
                }
                Some(FORMAT_VERSION) => {}
                Some(other) => return Err(self.damaged(format!("format {other} is unknown"))),
            }
            let revision = self.revision(&meta)?;
            let entries = txn.open_table(ENTRIES).map_err(|error| self.damaged(error))?;
            for entry in self.collect(&entries, &KeyRange::prefix(b""), usize::MAX)? {
                if entry.modified > revision || entry.created > entry.modified || entry.created == 0 {
                    let key = String::from_utf8_lossy(&entry.key).into_owned();
                    return Err(self.damaged(format!("`{key}` is from revision {}", entry.modified)));
                }
            }
        }
        txn.commit().map_err(|error| io(&self.path, "opening", error))
    }

    fn drop_dead_leases(&self) -> Result<(), StoreError> {
        let (entries, _) = self.range(&KeyRange::prefix(b""), usize::MAX)?;
        let dead: Vec<_> = entries
            .into_iter()
            .filter(|entry| entry.lease.is_some())
            .map(|entry| Op::Delete(entry.key))
            .collect();
        for ops in dead.chunks(MAX_TXN_OPS) {
            self.txn(&Txn { compares: Vec::new(), ops: ops.to_vec() })?;
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        let txn = self.database.begin_read().map_err(|error| io(&self.path, "reading", error))?;
        let entries = txn.open_table(ENTRIES).map_err(|error| self.damaged(error))?;
        self.entry(&entries, key)
    }

    fn range(&self, range: &KeyRange, limit: usize) -> Result<(Vec<Entry>, Revision), StoreError> {
        let txn = self.database.begin_read().map_err(|error| io(&self.path, "reading", error))?;
        let entries = txn.open_table(ENTRIES).map_err(|error| self.damaged(error))?;
        let meta = txn.open_table(META).map_err(|error| self.damaged(error))?;
        Ok((self.collect(&entries, range, limit)?, self.revision(&meta)?))
    }

    fn watch(&self, range: KeyRange) -> Result<Watch, StoreError> {
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = self.changes.subscribe();
        let (snapshot, revision) = self.range(&range, usize::MAX)?;
        Ok(Watch { snapshot, revision, range, changes })
    }

    fn txn(&self, request: &Txn) -> Result<TxnOutcome, StoreError> {
        self.check_bounds(request)?;
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let write = |error: StorageError| io(&self.path, "writing", error);
        let txn = self.database.begin_write().map_err(|error| io(&self.path, "writing", error))?;
        let (events, revision) = {
            let mut meta = txn.open_table(META).map_err(|error| self.damaged(error))?;
            let mut entries = txn.open_table(ENTRIES).map_err(|error| self.damaged(error))?;
            let before = self.revision(&meta)?;
            for compare in &request.compares {
                if !self.holds(&entries, compare)? {
                    return Ok(TxnOutcome::Refused(before));
                }
            }
            let revision = before + 1;
            let mut events = Vec::new();
            for op in &request.ops {
                match op {
                    Op::Put { key, value, lease } => {
                        if let Some(lease) = *lease
                            && !self.leases.contains(lease)
                        {
                            return Err(StoreError::NoLease(lease));
                        }
                        let created = self.entry(&entries, key)?.map_or(revision, |entry| entry.created);
                        let (key, value) = (key.clone(), value.clone());
                        let entry = Entry { key, value, created, modified: revision, lease: *lease };
                        entries
                            .insert(entry.key.as_slice(), record::encode(&entry).as_slice())
                            .map_err(write)?;
                        events.push(Event::Put(entry));
                    }
                    Op::Delete(key) => {
                        if entries.remove(key.as_slice()).map_err(write)?.is_some() {
                            events.push(Event::Delete { key: key.clone(), revision });
                        }
                    }
                }
            }
            if events.is_empty() {
                return Ok(TxnOutcome::Committed(before));
            }
            meta.insert(REVISION, revision).map_err(write)?;
            (events, revision)
        };
        txn.commit().map_err(|error| io(&self.path, "writing", error))?;
        // No receiver is no error: nobody watches.
        let _ = self.changes.send(events.into());
        Ok(TxnOutcome::Committed(revision))
    }

    fn check_bounds(&self, txn: &Txn) -> Result<(), StoreError> {
        let within = |what, len, max| {
            if len > max { Err(StoreError::TooLarge { what, len, max }) } else { Ok(()) }
        };
        within("transaction", txn.ops.len().max(txn.compares.len()), MAX_TXN_OPS)?;
        for op in &txn.ops {
            match op {
                Op::Put { key, value, .. } => {
                    within("key", key.len(), MAX_KEY_LEN)?;
                    within("value", value.len(), MAX_VALUE_LEN)?;
                }
                Op::Delete(key) => within("key", key.len(), MAX_KEY_LEN)?,
            }
        }
        Ok(())
    }

    fn holds(
        &self,
        entries: &impl ReadableTable<&'static [u8], &'static [u8]>,
        compare: &Compare,
    ) -> Result<bool, StoreError> {
        Ok(match compare {
            Compare::Absent(key) => self.entry(entries, key)?.is_none(),
            Compare::Exists(key) => self.entry(entries, key)?.is_some(),
            Compare::Modified(key, revision) => {
                self.entry(entries, key)?.is_some_and(|entry| entry.modified == *revision)
            }
        })
    }

    fn entry(
        &self,
        entries: &impl ReadableTable<&'static [u8], &'static [u8]>,
        key: &[u8],
    ) -> Result<Option<Entry>, StoreError> {
        let record = entries.get(key).map_err(|error| self.damaged(error))?;
        record
            .map(|record| record::decode(key, record.value()).map_err(|problem| self.damaged(problem)))
            .transpose()
    }

    fn collect(
        &self,
        entries: &impl ReadableTable<&'static [u8], &'static [u8]>,
        range: &KeyRange,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        if is_empty(range) {
            return Ok(Vec::new());
        }
        let bounds = (as_slice(&range.start), as_slice(&range.end));
        let found = entries.range::<&[u8]>(bounds).map_err(|error| self.damaged(error))?;
        found
            .take(limit)
            .map(|pair| {
                let (key, record) = pair.map_err(|error| self.damaged(error))?;
                record::decode(key.value(), record.value()).map_err(|problem| self.damaged(problem))
            })
            .collect()
    }

    fn revision(&self, meta: &impl ReadableTable<&'static str, u64>) -> Result<Revision, StoreError> {
        let revision = meta.get(REVISION).map_err(|error| self.damaged(error))?;
        Ok(revision.map_or(0, |revision| revision.value()))
    }

    /// Ends a lease: forgets it, deletes its keys.
    fn end_lease(&self, lease: LeaseId) -> Result<bool, StoreError> {
        if !self.leases.remove(lease) {
            return Ok(false);
        }
        let (entries, _) = self.range(&KeyRange::prefix(b""), usize::MAX)?;
        let held: Vec<_> = entries.into_iter().filter(|entry| entry.lease == Some(lease)).collect();
        for entries in held.chunks(MAX_TXN_OPS) {
            let ops = entries.iter().map(|entry| Op::Delete(entry.key.clone())).collect();
            self.txn(&Txn { compares: Vec::new(), ops })?;
        }
        Ok(true)
    }

    fn damaged(&self, problem: impl ToString) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), problem: problem.to_string() }
    }
}

impl Store for RedbStore {
    fn get(&self, key: Vec<u8>) -> StoreFuture<'_, Option<Entry>> {
        Box::pin(self.with(move |inner| inner.get(&key)))
    }

    fn range(&self, range: KeyRange, limit: usize) -> StoreFuture<'_, (Vec<Entry>, Revision)> {
        Box::pin(self.with(move |inner| inner.range(&range, limit)))
    }

    fn txn(&self, txn: Txn) -> StoreFuture<'_, TxnOutcome> {
        Box::pin(self.with(move |inner| inner.txn(&txn)))
    }

    fn watch(&self, range: KeyRange) -> StoreFuture<'_, Watch> {
        Box::pin(self.with(move |inner| inner.watch(range)))
    }

    fn grant(&self, ttl: Duration) -> StoreFuture<'_, LeaseId> {
        Box::pin(async move {
            let lease = self.inner.next_lease.fetch_add(1, Ordering::Relaxed);
            let mut timer = self.inner.leases.insert(lease, ttl);
            let store: Weak<Inner> = Arc::downgrade(&self.inner);
            tokio::spawn(async move {
                if !timer.expired().await {
                    return;
                }
                let Some(inner) = store.upgrade() else { return };
                if let Err(error) = run(move || inner.end_lease(lease)).await {
                    tracing::error!(lease, "keys of an expired lease were not deleted: {error}");
                }
            });
            Ok(lease)
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> StoreFuture<'_, ()> {
        let renewed = self.inner.leases.renew(lease);
        Box::pin(async move { if renewed { Ok(()) } else { Err(StoreError::NoLease(lease)) } })
    }

    fn revoke(&self, lease: LeaseId) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let ended = self.with(move |inner| inner.end_lease(lease)).await?;
            if ended { Ok(()) } else { Err(StoreError::NoLease(lease)) }
        })
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

/// Whether no key can lie in the range; redb panics on a range that runs backwards.
fn is_empty(range: &KeyRange) -> bool {
    match (&range.start, &range.end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end) | Bound::Included(end)) => {
            start >= end
        }
    }
}

fn open_error(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::Storage(StorageError::Io(error)) if !is_content(&error) => io(path, "opening", error),
        DatabaseError::DatabaseAlreadyOpen => io(path, "opening", error),
        other => StoreError::Damaged { path: path.to_owned(), problem: other.to_string() },
    }
}

/// Whether an I/O error speaks of the file's content rather than of access to it.
fn is_content(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
}

fn io(
    path: &Path,
    attempted: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::Io { attempted, path: path.to_owned(), source: source.into() }
}
