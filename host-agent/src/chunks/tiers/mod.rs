//! Where a chunk comes from that is not in the node's cache: the peers, then the origin. Called by the cache, which joins those who
//! want the same chunk at the same time.
//!
//! ```text
//! this node's directory ── what was published here lies here; by the thread that asks   directory.rs
//!    │ not there
//!    ▼
//! peers ── five shards asked for, four give the chunk                   peers/
//!    │ fewer than four, or late
//!    ▼
//! origin ── the directory, or a bucket; attempts, pauses, second requests  origin/
//!    └─► the peers that lack a shard get one, behind the caller's back
//! ```
//!
//! Nobody is believed: a body counts when its name is right, and everything is bounded in bytes and in time. See
//! `docs/adr/0021-tiers.md`.

mod counters;
mod directory;
mod origin;
mod peers;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, path::Path, sync::Arc};

use bytes::Bytes;
use chunk_store::{ChunkName, Label, Source, SourceError, Store};
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::config;
use crate::s3::S3Error;
use crate::sandbox::describe;
pub(crate) use counters::TierStats;
use directory::Directory;
pub(crate) use origin::UploadError;
use origin::{ATTEMPTS, Origin, OriginError, pause};
use peers::{Peers, PeersError};

/// Why a chunk is not to be had.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum TierError {
    /// The origin says that there is none, and the peers have too little of it.
    #[error("there is no chunk {0}")]
    Absent(ChunkName),
    /// The origin gave nothing that is the chunk, however often it was asked, and the peers have too little of it.
    #[error("the origin does not give chunk {name}")]
    Origin {
        /// Which.
        name: ChunkName,
        /// The last attempt's.
        source: OriginError,
    },
}

/// Why there are no tiers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TiersError {
    /// The bucket's settings are of no use.
    #[error("cannot use the bucket of chunks")]
    Bucket(#[from] S3Error),
    /// The peers' settings are of no use.
    #[error("cannot use the peers' shards")]
    Peers(#[from] PeersError),
}

/// Everything behind the cache.
#[derive(Debug)]
pub(crate) struct Tiers {
    directory: Directory,
    bucket: Option<Origin>,
    peers: Option<Peers>,
    runtime: Handle,
}

impl Tiers {
    /// As configured: `store` is where this node publishes, `shards` where it keeps those of peers. Called in a
    /// runtime; ends serving peers when it is dropped.
    ///
    /// # Errors
    /// The shards' folder, an address or a certificate is of no use. No service is spoken to yet.
    pub(crate) async fn open(
        config: &config::Chunks,
        store: Arc<Store>,
        shards: &Path,
    ) -> Result<Self, TiersError> {
        let bucket = config.origin.as_ref().map(Origin::bucket).transpose()?;
        let peers = match &config.cluster {
            Some(cluster) => Some(Peers::start(cluster, shards, config.shards_bytes).await?),
            None => None,
        };
        Ok(Self { directory: Directory::new(store), bucket, peers, runtime: Handle::current() })
    }

    /// A chunk's body, which has at most `max_len` bytes and that name, from others: the peers, then the origin.
    ///
    /// # Errors
    /// No tier gives it.
    async fn fetch(&self, name: &ChunkName, max_len: usize) -> Result<Bytes, TierError> {
        let Some(peers) = &self.peers else { return self.ask_origin(name, max_len, ATTEMPTS).await };
        let gathered = peers.fetch(name, max_len).await;
        let body = match gathered.body.clone() {
            Some(body) => body,
            None => self.ask_origin(name, max_len, ATTEMPTS).await?,
        };
        if !gathered.is_settled() {
            peers.settle(name, &body, &gathered);
        }
        Ok(body)
    }

    /// Puts what was published in the directory into the bucket, if there is one: the chunks, then the root.
    ///
    /// # Errors
    /// The directory does not have it, or the bucket does not take it.
    async fn publish(&self, label: &Label, names: &BTreeSet<ChunkName>) -> Result<(), UploadError> {
        match &self.bucket {
            Some(bucket) => bucket.publish(&self.directory, label, names).await,
            None => Ok(()),
        }
    }

    /// As [`Self::publish`], for threads that may block.
    pub(crate) fn publish_blocking(
        &self,
        label: &Label,
        names: &BTreeSet<ChunkName>,
    ) -> Result<(), UploadError> {
        if self.bucket.is_none() {
            return Ok(());
        }
        self.runtime.block_on(self.publish(label, names))
    }

    /// Deletes a root from the bucket, if there is one, while the caller goes on. One that stays is garbage that nobody reads.
    pub(crate) fn retract_beside(self: &Arc<Self>, label: Label) {
        if self.bucket.is_none() {
            return;
        }
        let tiers = Arc::clone(self);
        self.runtime.spawn(async move {
            if let Err(error) = tiers.retract(&label).await {
                tracing::warn!("{label} is left in the bucket: {}", describe(&error));
            }
        });
    }

    /// Deletes a root from the bucket, if there is one.
    ///
    /// # Errors
    /// The bucket does not do it.
    async fn retract(&self, label: &Label) -> Result<(), UploadError> {
        match &self.bucket {
            Some(bucket) => bucket.retract(label).await,
            None => Ok(()),
        }
    }

    /// What happened so far.
    pub(crate) fn stats(&self) -> TierStats {
        let directory = self.directory.counters.stats();
        let peers = self.peers.as_ref().map(|peers| peers.counters.stats()).unwrap_or_default();
        match &self.bucket {
            Some(bucket) => TierStats { directory, peers, origin: bucket.counters.stats() },
            None => TierStats { peers, origin: directory, ..TierStats::default() },
        }
    }

    async fn ask_origin(&self, name: &ChunkName, max_len: usize, attempts: u32) -> Result<Bytes, TierError> {
        let body = match &self.bucket {
            Some(bucket) => bucket.fetch(name, max_len, attempts).await,
            None => self.directory.fetch(name, max_len).await,
        };
        body.map_err(|source| match source {
            OriginError::Absent => TierError::Absent(*name),
            source => TierError::Origin { name: *name, source },
        })
    }
}

/// For threads that may block, none of which is one of the runtime's own. After the first attempt, which goes through all tiers, it
/// is one of the origin's: what peers gave was the chunk's body, and yet of no use.
impl Source for Tiers {
    fn fetch(&self, name: &ChunkName, max_len: usize, attempt: u32) -> Result<Vec<u8>, SourceError> {
        // Otherwise it is the origin, behind the peers.
        let is_own = self.bucket.is_some() || self.peers.is_none();
        if attempt == 0
            && is_own
            && let Some(body) = self.directory.read_here(name, max_len)
        {
            return Ok(body);
        }
        let body = self.runtime.block_on(async {
            if attempt == 0 {
                return self.fetch(name, max_len).await;
            }
            sleep(pause(attempt)).await;
            self.ask_origin(name, max_len, 1).await
        });
        body.map(Into::into).map_err(|error| match error {
            TierError::Absent(_) => SourceError::Absent,
            error => SourceError::Failed(describe(&error)),
        })
    }
}
