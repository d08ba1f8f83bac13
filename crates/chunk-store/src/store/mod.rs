//! A directory that holds chunks and the roots that need them: the origin of a node that has no other.
//!
//! A root is visible only when everything that it needs is on the disk, and as long as it is visible nothing of that is
//! deleted, whatever is published, deleted or collected at the same time and wherever the process or the power ends.
//!
//! ```text
//! publish  pin the name ─► chunk there, or written ─► … ─► names flushed ─► root written ─► flushed ─► unpinned
//! delete   root gone ─► flushed
//! collect  a generation begins: pins count for all of it ─► roots listed, flushed, read ─► each chunk that is
//!          neither needed nor pinned since the beginning goes ─► the generation ends        (collect.rs)
//! ```
//!
//! Pins are in memory: a process that ended publishes nothing any more, and what it left behind is garbage. One process has
//! the directory, with any number of threads.

mod collect;
mod disk;
mod root;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cache::{Source, SourceError};
use crate::chunk::{Entry, Sealed};
use crate::flights::Flights;
use crate::manifest::Manifest;
use crate::name::ChunkName;

pub use collect::Collected;
pub use root::{Label, LabelError};

use disk::{Directory, Disk, Folder, Place};
use root::{MAX_ROOT_LEN, Root};

/// Chunks and roots.
pub struct Store {
    disk: Box<dyn Disk>,
    pins: Mutex<Pins>,
    /// Of chunks that are being written.
    flights: Flights<Result<(), Arc<io::Error>>>,
    /// One root is written at a time: two of one label would be written to one file.
    committing: Mutex<()>,
    /// There is one collection at a time.
    collecting: Mutex<()>,
}

/// Names that no collection touches.
#[derive(Debug, Default)]
struct Pins {
    next_publish: u64,
    /// Of each publish that has not ended.
    open: HashMap<u64, BTreeSet<ChunkName>>,
    /// Of every publish that was open at any time since the collection that is under way began.
    generation: Option<HashSet<ChunkName>>,
}

/// Why something cannot be stored, read or collected.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk does not do it.
    #[error("the store could not {what}")]
    Disk {
        /// What it was to do.
        what: &'static str,
        /// Why it does not.
        source: Arc<io::Error>,
    },
    /// The manifest needs a chunk that this publish has not added.
    #[error("chunk {0} was not added before its manifest")]
    NotAdded(ChunkName),
    /// There is no such root.
    #[error("there is no root {0}")]
    NoRoot(Label),
    /// Nothing can be read from it, and nothing is collected while it is there.
    #[error("root {0} is damaged")]
    DamagedRoot(Label),
}

impl Store {
    /// The store in `root`, which no other process has.
    ///
    /// # Errors
    /// The directory cannot be listed or written to.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let disk = Directory::open(root).map_err(failed("open its directory"))?;
        Ok(Self::on(Box::new(disk)))
    }

    fn on(disk: Box<dyn Disk>) -> Self {
        let pins = Mutex::new(Pins::default());
        Self { disk, pins, flights: Flights::new(), committing: Mutex::new(()), collecting: Mutex::new(()) }
    }

    /// Begins to publish a content. What is added stays until this is committed or dropped.
    pub fn publish(&self) -> Publish<'_> {
        let mut pins = self.pins();
        let id = pins.next_publish;
        pins.next_publish += 1;
        pins.open.insert(id, BTreeSet::new());
        Publish { store: self, id, added: Mutex::new(BTreeSet::new()) }
    }

    /// The sealed manifest of a root.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn manifest(&self, label: &Label) -> Result<Vec<u8>, StoreError> {
        let file = self.root(label)?.ok_or_else(|| StoreError::NoRoot(label.clone()))?;
        let root = Root::decode(&file).ok_or_else(|| StoreError::DamagedRoot(label.clone()))?;
        Ok(root.manifest.to_vec())
    }

    /// The roots there are.
    ///
    /// # Errors
    /// The disk does not tell.
    pub fn roots(&self) -> Result<Vec<Label>, StoreError> {
        let places = self.disk.list(Folder::Roots).map_err(failed("list its roots"))?;
        let label = |place| match place {
            Place::Root(label) => Some(label),
            Place::Chunk(_) => None,
        };
        Ok(places.into_iter().filter_map(label).collect())
    }

    /// Whether there is a root of that label; it may be damaged.
    ///
    /// # Errors
    /// The disk does not tell.
    pub fn has_root(&self, label: &Label) -> Result<bool, StoreError> {
        self.disk.holds(&Place::Root(label.clone())).map_err(failed("look for a root"))
    }

    /// Deletes a root; one that is not there is no error. What only it needed goes with the next collection: nobody may be
    /// reading it any more.
    ///
    /// # Errors
    /// The disk does not do it. Whether the root is still there has to be asked then.
    pub fn delete(&self, label: &Label) -> Result<(), StoreError> {
        self.disk.remove(&Place::Root(label.clone())).map_err(failed("delete a root"))?;
        self.disk.sync(Folder::Roots).map_err(failed("flush its roots"))
    }

    /// A root's file; none when there is no such root.
    fn root(&self, label: &Label) -> Result<Option<Vec<u8>>, StoreError> {
        match self.disk.read(&Place::Root(label.clone()), MAX_ROOT_LEN) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read a root")(error)),
        }
    }

    /// Every call on them ends before the lock does, so a panic elsewhere does not spoil them.
    fn pins(&self) -> MutexGuard<'_, Pins> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Store {
    fn fetch(&self, name: &ChunkName, max_len: usize, _attempt: u32) -> Result<Vec<u8>, SourceError> {
        self.disk.read(&Place::Chunk(*name), max_len).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => SourceError::Absent,
            _ => SourceError::Failed(error.to_string()),
        })
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("pins", &self.pins).finish_non_exhaustive()
    }
}

/// A content on its way into the store.
#[derive(Debug)]
pub struct Publish<'a> {
    store: &'a Store,
    id: u64,
    /// What is there. A name is pinned before that.
    added: Mutex<BTreeSet<ChunkName>>,
}

impl Publish<'_> {
    /// Stores a chunk, unless it is there, and gives what the manifest says of it.
    ///
    /// # Errors
    /// The disk does not do it. It can be added again.
    pub fn add(&self, sealed: Sealed) -> Result<Option<Entry>, StoreError> {
        let Sealed::Chunk { entry, body } = sealed else { return Ok(None) };
        self.pin(entry.name);
        let place = Place::Chunk(entry.name);
        let disk = &self.store.disk;
        let written = self.store.flights.join(&entry.name, || {
            if disk.holds(&place)? {
                return Ok(());
            }
            disk.write(&place, &body)?;
            disk.finish(&place).map_err(Arc::new)
        });
        written.map_err(|source| StoreError::Disk { what: "write a chunk", source })?;
        self.added().insert(entry.name);
        Ok(Some(entry))
    }

    /// Makes the content a root, in place of one that has this label. `sealed` is the manifest as it is kept.
    ///
    /// # Errors
    /// The manifest needs what was not added; or the disk does not do it, and whether the root is there has to be asked.
    pub fn commit(self, label: &Label, manifest: &Manifest, sealed: &[u8]) -> Result<(), StoreError> {
        let names: BTreeSet<ChunkName> = manifest.names().collect();
        if let Some(name) = names.difference(&self.added()).next() {
            return Err(StoreError::NotAdded(*name));
        }
        let disk = &self.store.disk;
        // Also of chunks that somebody else wrote: their names may not be on the disk yet.
        let folders: BTreeSet<Folder> = names.iter().map(|name| Place::Chunk(*name).folder()).collect();
        for folder in folders {
            disk.sync(folder).map_err(failed("flush its chunks"))?;
        }
        let place = Place::Root(label.clone());
        let root = Root { names, manifest: sealed }.encode();
        let _only = self.store.committing.lock().unwrap_or_else(PoisonError::into_inner);
        disk.write(&place, &root).and_then(|()| disk.finish(&place)).map_err(failed("write a root"))?;
        disk.sync(Folder::Roots).map_err(failed("flush its roots"))
        // Dropped, and unpinned, only now.
    }

    fn added(&self) -> MutexGuard<'_, BTreeSet<ChunkName>> {
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before anybody looks whether the chunk is there: from here on no collection deletes it.
    fn pin(&self, name: ChunkName) {
        let mut pins = self.store.pins();
        if let Some(names) = pins.open.get_mut(&self.id) {
            names.insert(name);
        }
        if let Some(generation) = &mut pins.generation {
            generation.insert(name);
        }
    }
}

impl Drop for Publish<'_> {
    fn drop(&mut self) {
        self.store.pins().open.remove(&self.id);
    }
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |error| StoreError::Disk { what, source: Arc::new(error) }
}
