//! An origin: an object store that holds the bodies and roots of everything that was published. It may be slow, wrong or down, and
//! none of what it gives is believed.
//!
//! ```text
//! fetch ─► attempt ─► request ── answered, its name is right ─────────────► body
//!            ▲           │ not answered by the time that most are
//!            │           ├─► a second request beside it, if it is paid for    hedging.rs
//!            │           ▼
//!            └─ pause ── both wrong, failed or late; ATTEMPTS times, then the last error
//! ```
//!
//! The layout is that of `docs/chunk-format.md`, `chunks/xx/NAME` and `roots/LABEL`, in a directory and in a bucket alike.

mod hedging;
#[cfg(test)]
mod tests;
mod upload;

use std::fs::File;
use std::future::Future;
use std::io::Read as _;
use std::path::{Path as FilePath, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chunk_store::ChunkName;
use futures_util::StreamExt as _;
use object_store::{GetResultPayload, ObjectStore, ObjectStoreExt as _, local::LocalFileSystem, path::Path};
use tokio::time::{Instant, sleep, timeout};

use super::counters::OriginCounters;
use crate::config::Bucket;
use crate::s3::{self, S3Error};
use hedging::Hedging;

pub(crate) use upload::UploadError;

/// Requests for one chunk, but for second ones. A service that fails three times in a row over [`ATTEMPT_TIMEOUT`] and more is down.
pub(super) const ATTEMPTS: u32 = 3;

/// Longest time of an attempt. A guest waits for it: a megabyte takes some 100 ms of a service that is well.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1500);

/// Pause before the second attempt; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Longest time of an attempt to put something. Nobody waits for it but who publishes.
const PUT_TIMEOUT: Duration = Duration::from_secs(30);

/// Why an origin gives no body.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum OriginError {
    /// It says that it has none. A manifest says otherwise, and a copy of the store that lags behind may not know yet.
    #[error("there is no such object")]
    Absent,
    /// What it gave has another name: it was cut off, or is another one.
    #[error("what it gave, {0} bytes, has another name")]
    Wrong(usize),
    /// What it has is longer than any body of this chunk.
    #[error("what it has is longer than {0} bytes")]
    TooLong(usize),
    /// No answer.
    #[error("it did not answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// It said no, or could not be reached.
    #[error("it failed")]
    Failed(#[source] Arc<object_store::Error>),
    /// A file of it could not be read.
    #[error("it could not be read")]
    Io(#[source] Arc<std::io::Error>),
}

/// A place that has everything that was published, or should.
#[derive(Debug)]
pub(crate) struct Origin {
    store: Arc<dyn ObjectStore>,
    /// Before `chunks` and `roots`; empty for a directory or bucket of its own.
    prefix: Path,
    /// Where it is, if it is a directory.
    folder: Option<PathBuf>,
    hedging: Mutex<Hedging>,
    pub(super) counters: OriginCounters,
}

impl Origin {
    /// The directory of a [`chunk_store::Store`], which is there.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn directory(root: &FilePath) -> Result<Self, object_store::Error> {
        let store = Arc::new(LocalFileSystem::new_with_prefix(root)?);
        Ok(Self { folder: Some(root.to_owned()), ..Self::of(store, Path::default()) })
    }

    /// In a bucket. Nothing is sent yet.
    ///
    /// # Errors
    /// The certificates are not there, or the settings contradict themselves.
    pub(crate) fn bucket(settings: &Bucket) -> Result<Self, S3Error> {
        let (store, prefix) = s3::client(settings, PUT_TIMEOUT)?;
        Ok(Self::of(store, prefix))
    }

    fn of(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        Self { store, prefix, folder: None, hedging: Mutex::default(), counters: OriginCounters::default() }
    }

    /// The body of a chunk, which has at most `max_len` bytes.
    ///
    /// # Errors
    /// That of the last of `attempts` attempts.
    pub(super) async fn fetch(
        &self,
        name: &ChunkName,
        max_len: usize,
        attempts: u32,
    ) -> Result<Bytes, OriginError> {
        let mut attempt = 1;
        loop {
            let answer = timeout(ATTEMPT_TIMEOUT, self.attempt(name, max_len)).await;
            let error = match answer.unwrap_or(Err(OriginError::Late(ATTEMPT_TIMEOUT))) {
                Ok(body) => {
                    self.counters.hits.count();
                    return Ok(body);
                }
                Err(error) => error,
            };
            self.count(&error);
            if attempt >= attempts {
                return Err(error);
            }
            sleep(pause(attempt)).await;
            self.counters.retries.count();
            attempt += 1;
        }
    }

    /// A chunk's body from the directory, by the caller's own thread, which may block: one that hands the work to another waits ten
    /// times as long. None if it is not right there at once, for whatever reason: [`Self::fetch`] finds out.
    pub(super) fn read_here(&self, name: &ChunkName, max_len: usize) -> Option<Vec<u8>> {
        let path = self.folder.as_ref()?.join(self.chunk(name).as_ref());
        let body = read_file(&File::open(path).ok()?, max_len).ok()?;
        if body.len() > max_len || ChunkName::of(&body) != *name {
            return None;
        }
        self.counters.hits.count();
        Some(body)
    }

    /// One request, or two.
    async fn attempt(&self, name: &ChunkName, max_len: usize) -> Result<Bytes, OriginError> {
        let begun = Instant::now();
        let patience = self.hedging().begin();
        let mut first = pin!(self.request(name, max_len));
        let answer = match timeout(patience, &mut first).await {
            Ok(answer) => answer,
            Err(_) if self.hedging().spend() => {
                self.counters.hedges.count();
                first_good(first, self.request(name, max_len)).await
            }
            Err(_) => first.await,
        };
        if answer.is_ok() {
            self.hedging().answered(begun.elapsed());
        }
        answer
    }

    async fn request(&self, name: &ChunkName, max_len: usize) -> Result<Bytes, OriginError> {
        let object = self.store.get(&self.chunk(name)).await.map_err(failed)?;
        if object.meta.size > max_len as u64 {
            return Err(OriginError::TooLong(max_len));
        }
        let body = match object.payload {
            GetResultPayload::File(file, _) => read(file, max_len).await?,
            GetResultPayload::Stream(mut pieces) => {
                let mut body = BytesMut::with_capacity(object.meta.size as usize);
                while let Some(piece) = pieces.next().await {
                    let piece = piece.map_err(failed)?;
                    if piece.len() > max_len - body.len() {
                        return Err(OriginError::TooLong(max_len));
                    }
                    body.extend_from_slice(&piece);
                }
                body.freeze()
            }
        };
        if ChunkName::of(&body) == *name { Ok(body) } else { Err(OriginError::Wrong(body.len())) }
    }

    fn count(&self, error: &OriginError) {
        match error {
            OriginError::Absent => &self.counters.absent,
            OriginError::Wrong(_) | OriginError::TooLong(_) => &self.counters.wrong,
            OriginError::Late(_) => &self.counters.late,
            OriginError::Failed(_) | OriginError::Io(_) => &self.counters.failed,
        }
        .count();
    }

    fn chunk(&self, name: &ChunkName) -> Path {
        self.prefix.clone().join("chunks").join(format!("{:02x}", name.as_bytes()[0])).join(name.to_string())
    }

    /// Every call on it ends before the lock does, so a panic elsewhere does not spoil it.
    fn hedging(&self) -> MutexGuard<'_, Hedging> {
        self.hedging.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first answer that is good; when there is none, the one that came last.
async fn first_good<T, E>(
    first: impl Future<Output = Result<T, E>>,
    second: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    tokio::select! {
        answer = &mut first => if answer.is_ok() { answer } else { second.await },
        answer = &mut second => if answer.is_ok() { answer } else { first.await },
    }
}

async fn read(file: File, max_len: usize) -> Result<Bytes, OriginError> {
    let read = tokio::task::spawn_blocking(move || read_file(&file, max_len));
    let body = read.await.map_err(std::io::Error::from).flatten();
    let body = body.map_err(|error| OriginError::Io(Arc::new(error)))?;
    if body.len() > max_len { Err(OriginError::TooLong(max_len)) } else { Ok(body.into()) }
}

/// All of it, or a byte more than `max_len`.
fn read_file(file: &File, max_len: usize) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    file.take(max_len as u64 + 1).read_to_end(&mut body)?;
    Ok(body)
}

fn failed(error: object_store::Error) -> OriginError {
    match error {
        // S3's name for a bucket that there is not: no chunk is missing then, but all of them.
        object_store::Error::NotFound { ref source, .. } if !source.to_string().contains("NoSuchBucket") => {
            OriginError::Absent
        }
        error => OriginError::Failed(Arc::new(error)),
    }
}

/// How long to wait after the attempt of that number, the first of which is 1: twice as long after each, and never
/// the same on two nodes that were refused together.
pub(super) fn pause(attempt: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(MAX_PAUSE);
    // Where the system has no random bytes, all wait alike.
    let part = getrandom::u32().unwrap_or(u32::MAX);
    doubled / 2 + (doubled / 2).mul_f64(f64::from(part) / f64::from(u32::MAX))
}
