//! The queue on the disk: a redb file of its own. Reads take no lock; `keeper` alone writes.
//!
//! ```text
//! due     REGION/NAME 0 due seq   → record's length, when it was accepted
//! events  seq                     → record
//! dead    REGION/NAME 0 died seq  → what is shown of an event that failed
//! meta    format
//! ```
//!
//! A function's events are in the order in which they are due; what is read to decide is `due`, and never a payload.

use std::{
    collections::BTreeSet,
    ops::Bound,
    path::{Path, PathBuf},
};

use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, TableDefinition,
    WriteTransaction,
};

use super::record::{Item, RecordError};
use crate::functions::model::FunctionId;

const DUE: TableDefinition<'_, &[u8], (u32, u64)> = TableDefinition::new("due");
const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
const DEAD: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("dead");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const FORMAT: &str = "format";

/// Layout of the file; another is refused.
const FORMAT_VERSION: u64 = 1;

/// redb's page cache: an event is written once and read once.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// Dead events of a function that are kept to be shown, the last ones.
pub(crate) const MAX_DEAD: usize = 32;

/// Dead events of all functions: some 100 MiB if all of them are as long as they can be. Beyond it those of the function go whose
/// name comes first.
const MAX_BURIED: u64 = 8192;

/// Why the queue could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// redb's error.
    #[error("{attempted} {}", path.display())]
    Database {
        /// What was attempted.
        attempted: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// It is another version's.
    #[error("{} has the unknown format {format}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it says.
        format: u64,
    },
    /// A key is none of ours.
    #[error("{} has a key without meaning: {key:?}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// It.
        key: Vec<u8>,
    },
    /// The folder's entry could not be made durable.
    #[error("sync the folder of {}", path.display())]
    Folder {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Where an item is: among its function's, in the order in which they are due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Whose it is.
    pub(crate) function: FunctionId,
    /// When it is to be delivered, in milliseconds since the Unix epoch.
    pub(crate) due_ms: u64,
    /// Names it.
    pub(crate) seq: u64,
}

/// What is known of an item without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Brief {
    /// Length of its record.
    pub(crate) len: u32,
    /// When the event was accepted.
    pub(crate) accepted_ms: u64,
}

/// A change of the queue.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// An item comes.
    Add(Place, Brief, Vec<u8>),
    /// It goes.
    Remove(Place, Brief),
    /// What is to be shown of an event that failed, at that time.
    Bury(Place, Vec<u8>),
    /// Nothing is shown of a function's any more.
    Forget(FunctionId),
}

/// The file.
#[derive(Debug)]
pub(crate) struct EventStore {
    path: PathBuf,
    database: Database,
}

impl Place {
    fn key(&self) -> Vec<u8> {
        let mut key = prefix(&self.function);
        key.extend_from_slice(&self.due_ms.to_be_bytes());
        key.extend_from_slice(&self.seq.to_be_bytes());
        key
    }

    fn parse(key: &[u8]) -> Option<Self> {
        let (rest, seq) = key.split_last_chunk::<8>()?;
        let (rest, due) = rest.split_last_chunk::<8>()?;
        let (region, name) = std::str::from_utf8(rest.strip_suffix(b"\0")?).ok()?.split_once('/')?;
        let function = FunctionId { region: region.into(), name: name.into() };
        Some(Self { function, due_ms: u64::from_be_bytes(*due), seq: u64::from_be_bytes(*seq) })
    }
}

/// What keys of a function's begin with; neither regions nor names have a zero in them.
fn prefix(function: &FunctionId) -> Vec<u8> {
    format!("{}/{}\0", function.region, function.name).into_bytes()
}

/// The keys of a function's.
fn range_of(function: &FunctionId) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let start = prefix(function);
    let mut end = start.clone();
    if let Some(last) = end.last_mut() {
        *last = 1;
    }
    (Bound::Included(start), Bound::Excluded(end))
}

impl EventStore {
    /// Opens the queue at `path`, which is made when it does not exist.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let fail = |source: redb::Error| failed(path, "open", source);
        let fresh = !path.exists();
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path);
        let database = database.map_err(|error| fail(error.into()))?;
        if fresh && let Some(parent) = path.parent() {
            let synced = std::fs::File::open(parent).and_then(|dir| dir.sync_all());
            synced.map_err(|source| StoreError::Folder { path: path.to_owned(), source })?;
        }
        let store = Self { path: path.to_owned(), database };
        let txn = store.begin().map_err(fail)?;
        let format = init(&txn).map_err(fail)?;
        if format != FORMAT_VERSION {
            return Err(StoreError::Format { path: path.to_owned(), format });
        }
        txn.commit().map_err(|error| fail(error.into()))?;
        Ok(store)
    }

    /// Everything that waits, in the order of its keys, without a payload being read; and the highest number that is taken.
    pub(crate) fn scan(&self, mut visit: impl FnMut(Place, Brief)) -> Result<u64, StoreError> {
        let fail = |source| failed(&self.path, "read", source);
        let (mut last, mut strange) = (0, None);
        let mut read = || -> Result<(), redb::Error> {
            let table = self.database.begin_read()?.open_table(DUE)?;
            for entry in table.iter()? {
                let (key, value) = entry?;
                let Some(place) = Place::parse(key.value()) else {
                    strange = Some(key.value().to_vec());
                    return Ok(());
                };
                last = last.max(place.seq);
                let (len, accepted_ms) = value.value();
                visit(place, Brief { len, accepted_ms });
            }
            Ok(())
        };
        read().map_err(fail)?;
        match strange {
            Some(key) => Err(StoreError::Key { path: self.path.clone(), key }),
            None => Ok(last),
        }
    }

    /// The first of a function's items in the order in which they are due.
    pub(crate) fn first(
        &self,
        function: &FunctionId,
        limit: usize,
    ) -> Result<Vec<(Place, Brief)>, StoreError> {
        let read = || -> Result<Vec<(Place, Brief)>, redb::Error> {
            let table = self.database.begin_read()?.open_table(DUE)?;
            let (start, end) = range_of(function);
            let bounds = (start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice));
            let mut first = Vec::new();
            for entry in table.range::<&[u8]>(bounds)?.take(limit) {
                let (key, value) = entry?;
                let (len, accepted_ms) = value.value();
                first.extend(Place::parse(key.value()).map(|place| (place, Brief { len, accepted_ms })));
            }
            Ok(first)
        };
        read().map_err(|source| failed(&self.path, "read", source))
    }

    /// An item, if it is still there.
    pub(crate) fn read(&self, place: &Place) -> Result<Option<Result<Item, RecordError>>, StoreError> {
        let read = || -> Result<Option<Result<Item, RecordError>>, redb::Error> {
            let txn = self.database.begin_read()?;
            if txn.open_table(DUE)?.get(place.key().as_slice())?.is_none() {
                return Ok(None);
            }
            let found = txn.open_table(EVENTS)?.get(place.seq)?;
            Ok(Some(found.map_or(Err(RecordError::Length(0)), |record| Item::decode(record.value()))))
        };
        read().map_err(|source| failed(&self.path, "read", source))
    }

    /// What is shown of a function's dead events, the last one first.
    pub(crate) fn dead(&self, function: &FunctionId) -> Result<Vec<Vec<u8>>, StoreError> {
        let read = || -> Result<Vec<Vec<u8>>, redb::Error> {
            let table = self.database.begin_read()?.open_table(DEAD)?;
            let (start, end) = range_of(function);
            let bounds = (start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice));
            let all = table.range::<&[u8]>(bounds)?.rev().take(MAX_DEAD);
            all.map(|entry| Ok(entry?.1.value().to_vec())).collect()
        };
        read().map_err(|source| failed(&self.path, "read", source))
    }

    /// Functions of which dead events are shown.
    pub(crate) fn buried(&self) -> Result<BTreeSet<FunctionId>, StoreError> {
        let read = || -> Result<BTreeSet<FunctionId>, redb::Error> {
            let table = self.database.begin_read()?.open_table(DEAD)?;
            let mut functions = BTreeSet::new();
            for entry in table.iter()? {
                functions.extend(Place::parse(entry?.0.value()).map(|place| place.function));
            }
            Ok(functions)
        };
        read().map_err(|source| failed(&self.path, "read", source))
    }

    /// Makes changes, all of them or none: durable when this returns.
    pub(crate) fn apply<'a>(&self, ops: impl IntoIterator<Item = &'a Op>) -> Result<(), StoreError> {
        let write = || -> Result<(), redb::Error> {
            let txn = self.begin()?;
            for op in ops {
                apply_one(&txn, op)?;
            }
            Ok(txn.commit()?)
        };
        write().map_err(|source| failed(&self.path, "write", source))
    }

    /// A transaction in two phases: what clients write is on the pages, so a checksum alone does not say that a commit is whole. The
    /// next start reads where there is room instead of going through all of the file.
    fn begin(&self) -> Result<WriteTransaction, redb::Error> {
        let mut txn = self.database.begin_write()?;
        txn.set_quick_repair(true);
        Ok(txn)
    }
}

fn init(txn: &WriteTransaction) -> Result<u64, redb::Error> {
    txn.open_table(DUE)?;
    txn.open_table(EVENTS)?;
    txn.open_table(DEAD)?;
    let mut meta = txn.open_table(META)?;
    let format = meta.get(FORMAT)?.map(|format| format.value());
    if format.is_none() {
        meta.insert(FORMAT, FORMAT_VERSION)?;
    }
    Ok(format.unwrap_or(FORMAT_VERSION))
}

fn apply_one(txn: &WriteTransaction, op: &Op) -> Result<(), redb::Error> {
    match op {
        Op::Add(place, brief, record) => {
            txn.open_table(DUE)?.insert(place.key().as_slice(), (brief.len, brief.accepted_ms))?;
            txn.open_table(EVENTS)?.insert(place.seq, record.as_slice())?;
        }
        Op::Remove(place, _) => {
            txn.open_table(DUE)?.remove(place.key().as_slice())?;
            txn.open_table(EVENTS)?.remove(place.seq)?;
        }
        Op::Bury(place, shown) => {
            let mut dead = txn.open_table(DEAD)?;
            dead.insert(place.key().as_slice(), shown.as_slice())?;
            trim(&mut dead, &place.function, MAX_DEAD)?;
            while dead.len()? > MAX_BURIED {
                dead.pop_first()?;
            }
        }
        Op::Forget(function) => trim(&mut txn.open_table(DEAD)?, function, 0)?,
    }
    Ok(())
}

/// Leaves the last ones of a function's.
fn trim(
    dead: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
    function: &FunctionId,
    left: usize,
) -> Result<(), redb::Error> {
    let (start, end) = range_of(function);
    let bounds = (start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice));
    let old: Result<Vec<Vec<u8>>, redb::StorageError> =
        dead.range::<&[u8]>(bounds)?.rev().skip(left).map(|entry| Ok(entry?.0.value().to_vec())).collect();
    for key in old? {
        dead.remove(key.as_slice())?;
    }
    Ok(())
}

fn failed(path: &Path, attempted: &'static str, source: redb::Error) -> StoreError {
    StoreError::Database { attempted, path: path.to_owned(), source: Box::new(source) }
}
