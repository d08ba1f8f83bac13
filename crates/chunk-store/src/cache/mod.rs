//! The worker's cache: this node's copies of chunks, as files, bounded in bytes. In front of it is whoever has a manifest, behind
//! it a [`Source`]: peers, the origin.
//!
//! ```text
//! get ─► a file? ─ verified ─► plaintext          policy.rs     which files stay
//!          │ missing, damaged: deleted, counted   directory.rs  files, whole or not at all
//!          ▼                                      flights.rs    one fetch for all who wait
//!        fetch ─► name verified ─► sealed anew ─► file
//! ```
//!
//! Blocking, for any number of threads. No lock is held while a file is read or written or a source is asked; files appear and
//! disappear under the policy's, so that it knows what there is. A disk that is full or
//! gone makes it slower, not wrong: every error of a file is counted and the chunk fetched.

mod directory;
mod policy;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::chunk::{ChunkError, Entry, MAX_BODY_LEN, open};
use crate::flights::Flights;
use crate::local::{LocalKey, NodeSecret};
use crate::name::ChunkName;
use crate::size::ChunkSize;

use directory::Directory;
use policy::Policy;

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
    /// Reads that a file answered.
    pub hits: u64,
    /// Chunks that were fetched and verified.
    pub fetched: u64,
    /// Bodies from sources that were not the chunk.
    pub refused: u64,
    /// Files that were not what had been written, and were deleted.
    pub damaged: u64,
    /// Files deleted to make room.
    pub evicted: u64,
    /// Files that could not be read, written or deleted.
    pub failed: u64,
    /// Files there are.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// The chunks on this node.
#[derive(Debug)]
pub struct Cache {
    directory: Directory,
    secret: NodeSecret,
    policy: Mutex<Policy>,
    flights: Flights<Result<Arc<Vec<u8>>, CacheError>>,
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
    /// The cache in `root`, with what was left there under the same secret, for at most `capacity` bytes of files. No other
    /// process has it.
    ///
    /// # Errors
    /// The directory cannot be listed or written to.
    pub fn open(root: &Path, secret: NodeSecret, capacity: u64) -> io::Result<Self> {
        let (directory, found) = Directory::open(root)?;
        let cache = Self {
            directory,
            secret,
            policy: Mutex::new(Policy::new(capacity)),
            flights: Flights::new(),
            counters: Counters::default(),
        };
        for file in found {
            cache.admit(&file.name, file.len, || Ok(()));
        }
        Ok(cache)
    }

    /// The plaintext of a chunk, `len` bytes: from its file, or from `source`.
    ///
    /// # Errors
    /// There is no file, and the source gave nothing that is this chunk in any of its attempts.
    pub fn get(&self, entry: &Entry, len: usize, source: &dyn Source) -> Result<Arc<Vec<u8>>, CacheError> {
        let wrong_len = || {
            let source = ChunkError::PlaintextLen(len);
            CacheError::Chunk { name: entry.name, source }
        };
        if len == 0 || len > ChunkSize::LONGEST.bytes() {
            return Err(wrong_len());
        }
        let name = self.secret.name_of(entry);
        let key = self.secret.key_of(entry);
        if let Some(plaintext) = self.read(&name, &key, len) {
            return Ok(Arc::new(plaintext));
        }
        let landed = self.flights.join(&name, || {
            // It may have landed between this thread's look and its turn.
            if let Some(plaintext) = self.read(&name, &key, len) {
                return Ok(Arc::new(plaintext));
            }
            let plaintext = self.fetch(entry, len, source)?;
            self.keep(&name, &key, plaintext.clone());
            Ok(Arc::new(plaintext))
        })?;
        // Where somebody else, who fetched it, has another length for it, one of the two manifests is wrong.
        if landed.len() == len { Ok(landed) } else { Err(wrong_len()) }
    }

    /// What happened, and what there is.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let Counters { hits, fetched, refused, damaged, evicted, failed } = &self.counters;
        let policy = self.policy();
        let [hits, fetched, refused, damaged, evicted, failed] =
            [hits, fetched, refused, damaged, evicted, failed].map(|counter| counter.load(Ordering::Relaxed));
        let (files, bytes) = (policy.len() as u64, policy.bytes());
        CacheStats { hits, fetched, refused, damaged, evicted, failed, files, bytes }
    }

    /// From its file, if there is one that is whole.
    fn read(&self, name: &ChunkName, key: &LocalKey, len: usize) -> Option<Vec<u8>> {
        if !self.policy().touch(name) {
            return None;
        }
        match self.directory.read(name, LocalKey::sealed_len(len)) {
            Ok(copy) => {
                let mut plaintext = vec![0; len];
                if key.open(&copy, &mut plaintext).is_ok() {
                    count(&self.counters.hits);
                    return Some(plaintext);
                }
                count(&self.counters.damaged);
            }
            // Evicted since, or deleted by somebody.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => count(&self.counters.failed),
        }
        self.drop_file(name);
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

    /// Writes the file. That it cannot be kept is no reason not to have it.
    fn keep(&self, name: &ChunkName, key: &LocalKey, plaintext: Vec<u8>) {
        let Ok(copy) = key.seal(plaintext) else { return count(&self.counters.failed) };
        match self.directory.write(name, &copy) {
            Ok(()) => self.admit(name, copy.len() as u64, || self.directory.finish(name)),
            Err(_) => count(&self.counters.failed),
        }
    }

    /// Deletes what has to go for a file, and puts it there.
    fn admit(&self, name: &ChunkName, len: u64, finish: impl FnOnce() -> io::Result<()>) {
        let mut policy = self.policy();
        for gone in policy.insert(*name, len) {
            count(&self.counters.evicted);
            self.delete(&gone);
        }
        if !policy.holds(name) {
            self.directory.discard(name);
        } else if finish().is_err() {
            count(&self.counters.failed);
            policy.remove(name);
            self.delete(name);
        }
    }

    /// Deletes a file that is of no use.
    fn drop_file(&self, name: &ChunkName) {
        let mut policy = self.policy();
        policy.remove(name);
        self.delete(name);
    }

    /// The caller has the policy, which does not know the file any more.
    fn delete(&self, name: &ChunkName) {
        if self.directory.remove(name).is_err() {
            count(&self.counters.failed);
        }
    }

    /// Every call on it ends before the lock does, so a panic elsewhere does not spoil it.
    fn policy(&self) -> MutexGuard<'_, Policy> {
        self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
