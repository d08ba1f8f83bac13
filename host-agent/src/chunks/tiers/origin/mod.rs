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
//! The layout is `chunks/xx/NAME` and `roots/LABEL`, where `xx` are the name's first two digits.

mod hedging;
#[cfg(test)]
mod tests;
mod upload;

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chunk_store::ChunkName;
use futures_util::StreamExt as _;
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
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
    /// The node's own directory could not be read.
    #[error("it could not be read: {0}")]
    Directory(String),
}

/// A place that has everything that was published, or should.
#[derive(Debug)]
pub(crate) struct Origin {
    store: Arc<dyn ObjectStore>,
    /// Before `chunks` and `roots`; empty for a bucket of its own.
    prefix: Path,
    hedging: Mutex<Hedging>,
    pub(super) counters: OriginCounters,
}

impl Origin {
    /// In a bucket. Nothing is sent yet.
    ///
    /// # Errors
    /// The certificates are not there, or the settings contradict themselves.
    pub(crate) fn bucket(settings: &Bucket) -> Result<Self, S3Error> {
        let (store, prefix) = s3::client(settings, PUT_TIMEOUT)?;
        Ok(Self::of(store, prefix))
    }

    fn of(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        Self { store, prefix, hedging: Mutex::default(), counters: OriginCounters::default() }
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
            self.counters.count(&error);
            if attempt >= attempts {
                return Err(error);
            }
            sleep(pause(attempt)).await;
            self.counters.retries.count();
            attempt += 1;
        }
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
        let mut body = BytesMut::with_capacity(object.meta.size as usize);
        let mut pieces = object.into_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(failed)?;
            if piece.len() > max_len - body.len() {
                return Err(OriginError::TooLong(max_len));
            }
            body.extend_from_slice(&piece);
        }
        let body = body.freeze();
        if ChunkName::of(&body) == *name { Ok(body) } else { Err(OriginError::Wrong(body.len())) }
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
