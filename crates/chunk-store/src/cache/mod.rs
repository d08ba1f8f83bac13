//! The worker's cache: this node's copies of chunks, bounded in bytes. In front of it is whoever has a manifest, behind it a
//! [`Source`]: peers, the origin.
//!
//! ```text
//! get ─► a copy? ─ verified ─► plaintext          policy.rs     which copies stay
//!          │ missing, damaged: dropped, counted   shelf.rs      what is where
//!          ▼                                      slots.rs      the files
//!        fetch ─► name verified ─► sealed anew ─► slot          flights.rs    one fetch for all who wait
//! ```
//!
//! Blocking, for any number of threads. No lock that a read needs is held while a file is opened, read, written or emptied or a
//! source is asked. Others may read the files at the same time ([`Cache::slots`]): what they find in a slot that is another's by
//! then does not open. A disk that is full or gone makes it slower, not wrong: every error of a file is counted and the chunk
//! fetched.

mod policy;
mod shelf;
mod slots;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::chunk::{ChunkError, Entry, MAX_BODY_LEN, open};
use crate::cipher::TAG_LEN;
use crate::flights::Flights;
use crate::grant::Place;
use crate::local::{LocalKey, NodeSecret};
use crate::name::ChunkName;
use crate::size::ChunkSize;

use shelf::{Gone, Shelf};
use slots::Slots;

/// How often a chunk is asked for before the error is its caller's.
const ATTEMPTS: u32 = 3;

/// Where bodies come from that are not on the node. It is not believed.
pub trait Source {
    /// The body of a chunk, of which no more than `max_len` bytes may be read. Before attempt 1 and later it pauses as it sees
    /// fit, or goes elsewhere.
    ///
    /// # Errors
    /// [`SourceError::Absent`] is final.
    fn fetch(&self, name: &ChunkName, max_len: usize, attempt: u32) -> Result<Vec<u8>, SourceError>;
}

/// Why a source gives no body.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SourceError {
    /// There is no such chunk; asking again is of no use.
    #[error("the source has no such chunk")]
    Absent,
    /// It may have it.
    #[error("the source failed: {0}")]
    Failed(String),
}

/// Why a chunk cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CacheError {
    /// No source gave anything.
    #[error("chunk {name} could not be fetched")]
    Source {
        /// Which.
        name: ChunkName,
        /// The last attempt's.
        source: SourceError,
    },
    /// What a source gave is not the chunk, or the manifest's key or length are not its.
    #[error("chunk {name} was fetched and is of no use")]
    Chunk {
        /// Which.
        name: ChunkName,
        /// The last attempt's.
        source: ChunkError,
    },
}

/// What happened since the cache was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Reads that a copy answered.
    pub hits: u64,
    /// Chunks that were fetched and verified.
    pub fetched: u64,
    /// Bodies from sources that were not the chunk.
    pub refused: u64,
    /// Copies that were not what had been written, and were dropped.
    pub damaged: u64,
    /// Copies dropped to make room.
    pub evicted: u64,
    /// Copies that could not be read, written or dropped.
    pub failed: u64,
    /// Copies there are.
    pub copies: u64,
    /// Bytes that they may take, whole slots.
    pub bytes: u64,
    /// Bytes that they are not to exceed.
    pub capacity: u64,
}

/// A chunk of a content: what a manifest says of it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Name and key.
    pub entry: &'a Entry,
    /// Its bytes.
    pub len: usize,
    /// Those of the others: decides in which file its copy is.
    pub size: ChunkSize,
}

/// A chunk that was verified.
#[derive(Debug)]
pub struct Verified {
    /// Its content.
    pub plaintext: Vec<u8>,
    /// The same as this node keeps it, without the zeros at its end.
    pub copy: Vec<u8>,
    /// The copy's tag.
    pub tag: [u8; TAG_LEN],
    /// Where it is kept; nowhere when there is no room.
    pub place: Option<Place>,
}

/// The chunks on this node.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
    secret: NodeSecret,
    /// One file is made at a time.
    opening: Mutex<()>,
    shelf: Mutex<Shelf>,
    /// By file, too: what lands says where in one of them it is.
    flights: Flights<(ChunkName, ChunkSize), Result<Arc<Verified>, CacheError>>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    fetched: AtomicU64,
    refused: AtomicU64,
    damaged: AtomicU64,
    evicted: AtomicU64,
    failed: AtomicU64,
}

impl Cache {
    /// The cache in `root`, with what was left there under the same secret, for at most `capacity` bytes of copies. No other
    /// process has it.
    ///
    /// # Errors
    /// The directory cannot be listed or written to.
    pub fn open(root: &Path, secret: NodeSecret, capacity: u64) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let (shelf, opening) = (Mutex::new(Shelf::new(capacity)), Mutex::new(()));
        let (flights, counters) = (Flights::new(), Counters::default());
        let cache = Self { root: root.to_owned(), secret, opening, shelf, flights, counters };
        for size in (0..=u8::MAX).filter_map(ChunkSize::from_log2) {
            if Slots::exist(root, size)? {
                cache.class(size)?;
            }
        }
        Ok(cache)
    }

    /// A chunk, verified: from its copy, or from `source`.
    ///
    /// # Errors
    /// There is no copy, and the source gave nothing that is this chunk in any of its attempts.
    pub fn get(&self, wanted: Wanted<'_>, source: &dyn Source) -> Result<Arc<Verified>, CacheError> {
        let Wanted { entry, len, size } = wanted;
        let wrong_len = || {
            let source = ChunkError::PlaintextLen(len);
            CacheError::Chunk { name: entry.name, source }
        };
        if len == 0 || len > size.bytes() {
            return Err(wrong_len());
        }
        let name = self.secret.name_of(entry);
        let key = self.secret.key_of(entry);
        if let Some(found) = self.read(&name, &key, wanted) {
            return Ok(Arc::new(found));
        }
        let landed = self.flights.join((name, size), || {
            // It may have landed between this thread's look and its turn.
            if let Some(found) = self.read(&name, &key, wanted) {
                return Ok(Arc::new(found));
            }
            let plaintext = self.fetch(entry, len, source)?;
            self.keep(&name, &key, plaintext, size).map(Arc::new).ok_or_else(wrong_len)
        })?;
        // Where somebody else, who fetched it, has another length for it, one of the two manifests is wrong.
        if landed.plaintext.len() == len { Ok(landed) } else { Err(wrong_len()) }
    }

    /// Where the copy of a chunk is, if there is one: it is not looked at. Counts as a use.
    pub fn locate(&self, wanted: Wanted<'_>) -> Option<Place> {
        let held = self.shelf().touch(&self.secret.name_of(wanted.entry))?;
        let fits = held.size == wanted.size && held.len as usize == wanted.len;
        fits.then(|| held.place())
    }

    /// Keeps a chunk whose content is known, unless there is a copy.
    pub fn keep_known(&self, wanted: Wanted<'_>, plaintext: &[u8]) {
        let name = self.secret.name_of(wanted.entry);
        if plaintext.len() == wanted.len && self.shelf().touch(&name).is_none() {
            self.keep(&name, &self.secret.key_of(wanted.entry), plaintext.to_vec(), wanted.size);
        }
    }

    /// Whether there is a copy of a chunk and it is whole; one that is not is dropped and counted.
    pub fn verify(&self, wanted: Wanted<'_>) -> bool {
        let name = self.secret.name_of(wanted.entry);
        self.read(&name, &self.secret.key_of(wanted.entry), wanted).is_some()
    }

    /// How a chunk's copy is read.
    pub fn key_of(&self, wanted: Wanted<'_>) -> LocalKey {
        self.secret.key_of(wanted.entry)
    }

    /// What a table says of a chunk: its copy's key, and where that is.
    pub fn known(&self, wanted: Wanted<'_>) -> (LocalKey, Option<Place>) {
        (self.secret.key_of(wanted.entry), self.locate(wanted))
    }

    /// The file of the copies of chunks of contents that are cut like this, for reading only.
    ///
    /// # Errors
    /// There is none, and none can be made.
    pub fn slots(&self, size: ChunkSize) -> io::Result<File> {
        self.class(size)?.handed()
    }

    /// What happened, and what there is.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let Counters { hits, fetched, refused, damaged, evicted, failed } = &self.counters;
        let (copies, bytes, capacity) = self.shelf().volume();
        let [hits, fetched, refused, damaged, evicted, failed] =
            [hits, fetched, refused, damaged, evicted, failed].map(|counter| counter.load(Ordering::Relaxed));
        CacheStats { hits, fetched, refused, damaged, evicted, failed, copies, bytes, capacity }
    }

    /// From its copy, if there is one that is whole. One of another length, or among contents that are cut otherwise, stays until
    /// the chunk has been fetched: not everybody who asks says what is so.
    fn read(&self, name: &ChunkName, key: &LocalKey, wanted: Wanted<'_>) -> Option<Verified> {
        let (held, slots) = {
            let mut shelf = self.shelf();
            let held = shelf.touch(name)?;
            (held, shelf.slots(held.size)?)
        };
        if held.size != wanted.size || held.len as usize != wanted.len {
            return None;
        }
        let mut plaintext = vec![0; wanted.len];
        let failure = match slots.read(&held) {
            Ok(copy) if key.open_copy(&copy, &held.tag, &mut plaintext).is_ok() => {
                count(&self.counters.hits);
                return Some(Verified { plaintext, copy, tag: held.tag, place: Some(held.place()) });
            }
            Ok(_) => &self.counters.damaged,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => &self.counters.damaged,
            Err(_) => &self.counters.failed,
        };
        // If it was evicted since, the slot is another's, and nothing is wrong with it.
        let gone = self.shelf().drop_held(name, &held);
        if let Some(gone) = gone {
            count(failure);
            self.empty(gone);
        }
        None
    }

    fn fetch(&self, entry: &Entry, len: usize, source: &dyn Source) -> Result<Vec<u8>, CacheError> {
        let mut attempt = 0;
        loop {
            let error = match source.fetch(&entry.name, MAX_BODY_LEN, attempt) {
                Ok(body) => match open(entry, &body, len) {
                    Ok(plaintext) => {
                        count(&self.counters.fetched);
                        return Ok(plaintext);
                    }
                    Err(source) => {
                        count(&self.counters.refused);
                        CacheError::Chunk { name: entry.name, source }
                    }
                },
                Err(source @ SourceError::Absent) => {
                    return Err(CacheError::Source { name: entry.name, source });
                }
                Err(source) => CacheError::Source { name: entry.name, source },
            };
            attempt += 1;
            if attempt == ATTEMPTS {
                return Err(error);
            }
        }
    }

    /// Seals a chunk and puts the copy into a slot. That it cannot be kept is no reason not to have it; none only of a plaintext
    /// that is no chunk.
    fn keep(
        &self,
        name: &ChunkName,
        key: &LocalKey,
        plaintext: Vec<u8>,
        size: ChunkSize,
    ) -> Option<Verified> {
        let mut copy = plaintext.get(..LocalKey::copy_len(&plaintext)).unwrap_or_default().to_vec();
        let tag = key.seal_copy(&mut copy).inspect_err(|_| count(&self.counters.failed)).ok()?;
        let place = self.put(name, (size, plaintext.len() as u32), tag, &copy).unwrap_or_else(|_| {
            count(&self.counters.failed);
            None
        });
        Some(Verified { plaintext, copy, tag, place })
    }

    /// Where a copy is from now on; nowhere when there is no room.
    fn put(
        &self,
        name: &ChunkName,
        (size, len): (ChunkSize, u32),
        tag: [u8; TAG_LEN],
        copy: &[u8],
    ) -> io::Result<Option<Place>> {
        self.class(size)?;
        let stuck = self.shelf().stuck();
        stuck.into_iter().for_each(|stuck| self.empty(stuck));
        let Some(mut room) = self.shelf().make_room(size) else { return Ok(None) };
        self.counters.evicted.fetch_add(room.evicted, Ordering::Relaxed);
        let emptied: Vec<_> = room.gone.drain(..).map(Gone::empty).collect();
        let failures = emptied.iter().map(|emptied| emptied.failures).sum();
        self.counters.failed.fetch_add(failures, Ordering::Relaxed);
        if !self.shelf().settle(&room, emptied) {
            return Ok(None);
        }
        let held = room.held((len, copy.len() as u32), tag);
        if let Err(error) = room.slots.write(name, &held, copy) {
            self.empty(Shelf::abandon(room));
            return Err(error);
        }
        let replaced = self.shelf().admit(*name, held);
        replaced.into_iter().for_each(|replaced| self.empty(replaced));
        Ok(Some(held.place()))
    }

    /// Without the lock, between two calls that need it.
    fn empty(&self, gone: Gone) {
        let emptied = gone.empty();
        self.counters.failed.fetch_add(emptied.failures, Ordering::Relaxed);
        self.shelf().emptied(emptied);
    }

    /// The slots of one length, made when they are first asked for.
    fn class(&self, size: ChunkSize) -> io::Result<Arc<Slots>> {
        let found = self.shelf().slots(size);
        if let Some(slots) = found {
            return Ok(slots);
        }
        let _only = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.shelf().slots(size);
        if let Some(slots) = found {
            return Ok(slots);
        }
        let (_, _, capacity) = self.shelf().volume();
        let most = u32::try_from(capacity >> size.log2()).unwrap_or(u32::MAX);
        let slots = Slots::open(&self.root, size, most)?;
        let mut shelf = self.shelf();
        shelf.adopt(slots)?;
        shelf.slots(size).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Every call on it ends before the lock does, so a panic elsewhere does not spoil it.
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
