//! A directory that holds chunks and the roots that need them: the origin of a node that has no other.
//!
//! A root is visible only when everything that it needs is on the disk, and as long as it is visible nothing of that is
//! deleted, whatever is published, deleted or collected at the same time and wherever the process or the power ends.
//!
//! ```text
//! publish  pin the name ─► chunk there, or a draft ─► … ─► drafts flushed ─► named ─► the root's draft ─► all flushed
//!          ─► root named ─► flushed ─► unpinned                                                      (publish.rs)
//! delete   root gone ─► flushed
//! collect  a generation begins: pins count for all of it ─► roots listed, flushed, read ─► each chunk that is
//!          neither needed nor pinned since the beginning goes ─► the generation ends                 (collect.rs)
//! check    each chunk read, its name computed ─► damaged: replaced from a source, or deleted          (check.rs)
//! ```
//!
//! Pins are in memory: a process that ended publishes nothing any more, and what it left behind is garbage. One process has
//! the directory, with any number of threads.

mod check;
mod collect;
mod disk;
mod publish;
mod root;
mod segments;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cache::{Source, SourceError};
use crate::name::ChunkName;

pub use check::{Health, Repaired, StoreStats};
pub use collect::Collected;
pub use publish::Publish;
pub use root::{Label, LabelError};

use disk::{Directory, Disk, Folder, Place};
use root::{MAX_ROOT_LEN, Root};

/// Chunks and roots.
pub struct Store {
    disk: Box<dyn Disk>,
    pins: Mutex<Pins>,
    /// How many flushes have failed: what was written before one of them may not be what is on the disk, whoever wrote it.
    failed_flushes: AtomicU64,
    /// There is one flush at a time: whoever is told that it went well knows of all that did not before.
    flushing: Mutex<()>,
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
        let (pins, failed_flushes) = (Mutex::new(Pins::default()), AtomicU64::new(0));
        Self { disk, pins, failed_flushes, flushing: Mutex::new(()), collecting: Mutex::new(()) }
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
        self.disk.sync_roots().map_err(failed("flush its roots"))
    }

    /// Flushes everything, for who has begun after so many failures: a disk tells of one only once, and it may be of theirs.
    fn flush(&self, failures: u64) -> Result<(), StoreError> {
        let _only = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut flushed = self.disk.flush();
        if flushed.is_err() {
            self.failed_flushes.fetch_add(1, Ordering::SeqCst);
        } else if self.failed_flushes.load(Ordering::SeqCst) != failures {
            flushed = Err(io::Error::other("a flush has failed since this was begun"));
        }
        flushed.map_err(failed("flush what it has written"))
    }

    /// A root's file, as an origin keeps it; none when there is no such root.
    ///
    /// # Errors
    /// The disk does not give it.
    pub fn root(&self, label: &Label) -> Result<Option<Vec<u8>>, StoreError> {
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

fn failed(what: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |error| StoreError::Disk { what, source: Arc::new(error) }
}
