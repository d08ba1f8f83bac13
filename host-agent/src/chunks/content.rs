//! A content that is open: what a VMM is handed of it, and what the agent itself reads of it.

use std::{
    fmt,
    fs::File,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chunk_store::{
    CacheError, Manifest, Place, Source, SourceError, Table, TableError, Verified, Wanted, for_reading,
};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use tokio::task::spawn_blocking;

use super::{
    asks,
    node::{Chunks, ChunksError, Name},
};
use crate::{code::blocking, sandbox::packet::PacketSocket};

/// How often at most it is looked where the copies of a content are: VMMs do not tell which they read, so this is what keeps copies
/// that are used from being evicted.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Chunks up to which a content's keys are derived when it is opened: each takes a few microseconds, and a clone's memory, which
/// is wanted at once, has fewer. Those of a longer one are derived when they are asked for.
const KEYS_AT_ONCE: usize = 8192;

/// A content that somebody reads.
pub(crate) struct Content {
    chunks: Arc<Chunks>,
    pub(super) name: Name,
    manifest: Manifest,
    table: Table,
    /// Copies, for reading only.
    slots: File,
    source: Arc<dyn Source + Send + Sync>,
    /// Chunks that were not on the node when it was looked last.
    absent: AtomicU32,
    /// Whether a chunk is nowhere any more.
    lost: AtomicBool,
    opened: Instant,
    /// Milliseconds after that when it was last looked where the copies are.
    looked_ms: AtomicU64,
    /// Whether it is about to be read into the page cache.
    warming: AtomicBool,
}

/// What a VMM is handed: table, slots, asks.
#[derive(Debug)]
pub(crate) struct Handed(pub(crate) [OwnedFd; 3]);

impl Content {
    /// The content of a manifest; what is not on the node comes from `source`.
    pub(super) fn new(
        chunks: Arc<Chunks>,
        name: Name,
        manifest: Manifest,
        source: Arc<dyn Source + Send + Sync>,
    ) -> Result<Self, ChunksError> {
        let absent = AtomicU32::new(0);
        let table = if is_long(&manifest) {
            let stored = manifest.chunks().iter().map(Option::is_some);
            absent.store(u32::MAX, Ordering::Relaxed);
            Table::unknown(manifest.content(), stored)?
        } else {
            let known = (0..manifest.chunks().len() as u32).map(|index| {
                let (key, place) = chunks.cache.known(manifest.wanted(index)?);
                absent.fetch_add(u32::from(place.is_none()), Ordering::Relaxed);
                Some((key, place))
            });
            Table::new(manifest.content(), known)?
        };
        let slots = chunks.cache.slots(manifest.content().chunk_size).map_err(TableError::from)?;
        let (opened, looked_ms) = (Instant::now(), AtomicU64::new(0));
        let (lost, warming) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { chunks, name, manifest, table, slots, source, absent, lost, opened, looked_ms, warming })
    }

    /// What it consists of.
    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Descriptors for one VMM, which is answered what it asks for until it closes its end. They are its own: what it does to them
    /// no other one notices.
    pub(crate) fn hand(self: &Arc<Self>) -> io::Result<Handed> {
        let (ours, theirs) = PacketSocket::pair()?;
        let handed = Handed([self.table.handed()?, for_reading(&self.slots)?, theirs]);
        tokio::spawn(asks::serve(Arc::clone(self), ours));
        Ok(handed)
    }

    /// A chunk, verified; nothing of one that is zeros. Blocks.
    pub(crate) fn read(&self, index: u32) -> Result<Option<Arc<Verified>>, CacheError> {
        let Some(wanted) = self.manifest.wanted(index) else { return Ok(None) };
        let found = self.chunks.cache.get(wanted, self.source.as_ref()).inspect_err(|error| {
            if is_final(error) {
                self.lost.store(true, Ordering::Relaxed);
            }
        })?;
        self.note(index, wanted, found.place);
        Ok(Some(found))
    }

    /// Whether its table has only what was asked for.
    fn is_long(&self) -> bool {
        is_long(&self.manifest)
    }

    /// Says in the table where a chunk is, and how it is read if that is not there yet.
    fn note(&self, index: u32, wanted: Wanted<'_>, place: Option<Place>) {
        // The table has as many chunks as the manifest.
        if self.is_long() {
            drop(self.table.set(index, self.chunks.cache.key_of(wanted), place));
        } else if let Some(place) = place {
            drop(self.table.set_place(index, place));
        }
    }

    /// Whether a chunk of it was wanted that is nowhere any more, or damaged wherever it is.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// All of it, which is short. Blocks.
    pub(crate) fn read_all(&self, into: impl Fn(u64, &[u8]) -> io::Result<()>) -> Result<(), ReadAllError> {
        let size = self.manifest.content().chunk_size;
        for index in 0..self.manifest.chunks().len() as u32 {
            if let Some(chunk) = self.read(index)? {
                into(u64::from(index) << size.log2(), &chunk.plaintext)?;
            }
        }
        Ok(())
    }

    /// Brings chunks to the node that VMMs are going to ask for, in this order, while they do.
    pub(crate) fn fetch_ahead(self: &Arc<Self>, indexes: Vec<u32>) {
        if indexes.is_empty() || self.absent.load(Ordering::Relaxed) == 0 {
            return;
        }
        let content = Arc::clone(self);
        drop(spawn_blocking(move || {
            for index in indexes {
                let Some(wanted) = content.manifest.wanted(index) else { continue };
                match content.chunks.cache.locate(wanted) {
                    Some(place) => content.note(index, wanted, Some(place)),
                    // One that cannot be had is the VMM's to complain of.
                    None if content.read(index).is_err() => return,
                    None => {}
                }
            }
        }));
    }

    /// Has the kernel read its copies into the page cache after so long, for who reads it next. Whoever found them missing there has not
    /// left them: what a sandbox reads by way of that cache is its own group's memory, and all of them read these.
    pub(crate) fn warm(self: &Arc<Self>, wait: Duration) {
        if self.warming.swap(true, Ordering::Relaxed) {
            return;
        }
        let content = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let warmed = Arc::clone(&content);
            blocking(move || warmed.read_ahead()).await;
            content.warming.store(false, Ordering::Relaxed);
        });
    }

    fn read_ahead(&self) {
        let indexes = 0..self.manifest.chunks().len() as u32;
        let wanted = indexes.filter_map(|index| self.manifest.wanted(index));
        for place in wanted.filter_map(|wanted| self.chunks.cache.locate(wanted)) {
            let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
            // What is not read now is read when it is wanted.
            let _ = posix_fadvise(&self.slots, place.at.cast_signed(), place.len.into(), advice);
        }
    }

    /// Looks where the copies are, unless it was done just now; takes a while, and is done beside.
    pub(super) fn refresh(self: &Arc<Self>) {
        if self.is_long() {
            // All of its chunks would be a while's work; those that are used are asked for again when they have gone.
            return;
        }
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        let last = self.looked_ms.load(Ordering::Relaxed);
        let due = now.saturating_sub(last) >= LOOK_AGAIN.as_millis() as u64;
        let mine =
            due && self.looked_ms.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if !mine {
            return;
        }
        let content = Arc::clone(self);
        let look = move || {
            let mut absent = 0;
            for index in 0..content.manifest.chunks().len() as u32 {
                let Some(wanted) = content.manifest.wanted(index) else { continue };
                match content.chunks.cache.locate(wanted) {
                    Some(place) => content.note(index, wanted, Some(place)),
                    None => absent += 1,
                }
            }
            content.absent.store(absent, Ordering::Relaxed);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(look)),
            Err(_) => look(),
        }
    }
}

fn is_long(manifest: &Manifest) -> bool {
    manifest.chunks().len() > KEYS_AT_ONCE
}

/// Whether asking again is of no use: a source that fails may be back.
fn is_final(error: &CacheError) -> bool {
    matches!(error, CacheError::Chunk { .. } | CacheError::Source { source: SourceError::Absent, .. })
}

/// A content that cannot be read as a whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadAllError {
    /// A chunk.
    #[error(transparent)]
    Chunk(#[from] CacheError),
    /// Where it goes.
    #[error("write it down")]
    Write(#[from] io::Error),
}

impl Drop for Content {
    fn drop(&mut self) {
        if let Err(error) = self.chunks.bury(&self.name) {
            tracing::warn!("{:?} was to be deleted and is left until the next start: {error}", self.name);
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("name", &self.name).finish_non_exhaustive()
    }
}
