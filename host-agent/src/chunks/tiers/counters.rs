//! What the tiers have done since the agent started.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::origin::OriginError;

/// One number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Of one origin.
#[derive(Debug, Default)]
pub(super) struct OriginCounters {
    pub(super) hits: Counter,
    pub(super) absent: Counter,
    pub(super) wrong: Counter,
    pub(super) late: Counter,
    pub(super) failed: Counter,
    pub(super) retries: Counter,
    pub(super) hedges: Counter,
}

impl OriginCounters {
    /// An attempt that came to nothing.
    pub(super) fn count(&self, error: &OriginError) {
        match error {
            OriginError::Absent => &self.absent,
            OriginError::Wrong(_) | OriginError::TooLong(_) => &self.wrong,
            OriginError::Late(_) => &self.late,
            OriginError::Failed(_) | OriginError::Directory(_) => &self.failed,
        }
        .count();
    }
}

/// Of the peers.
#[derive(Debug, Default)]
pub(super) struct PeerCounters {
    pub(super) hits: Counter,
    pub(super) misses: Counter,
    pub(super) liars: Counter,
    pub(super) late: Counter,
    pub(super) failed: Counter,
    pub(super) sent: Counter,
    pub(super) unsent: Counter,
}

/// What an origin has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct OriginStats {
    /// Bodies that it gave.
    pub(crate) hits: u64,
    /// Times it said that there is no such chunk.
    pub(crate) absent: u64,
    /// Answers that were not the chunk: cut off, old, another one's.
    pub(crate) wrong: u64,
    /// Attempts that ended with no answer in time.
    pub(crate) late: u64,
    /// Attempts that ended with an error.
    pub(crate) failed: u64,
    /// Attempts after the first of a read.
    pub(crate) retries: u64,
    /// Second requests beside one that was slow.
    pub(crate) hedges: u64,
}

/// What the peers have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct PeerStats {
    /// Bodies that their shards gave.
    pub(crate) hits: u64,
    /// Reads that they did not answer, or not in time.
    pub(crate) misses: u64,
    /// Shards that were not the chunk's.
    pub(crate) liars: u64,
    /// Requests that were not answered in time.
    pub(crate) late: u64,
    /// Requests that ended with an error.
    pub(crate) failed: u64,
    /// Shards that were put where they were missing.
    pub(crate) sent: u64,
    /// Shards that were to be put and were not: too many waited, or the peer did not take it.
    pub(crate) unsent: u64,
}

/// What the tiers have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct TierStats {
    /// This node's own directory, where the origin is another one.
    pub(crate) directory: OriginStats,
    /// Other nodes.
    pub(crate) peers: PeerStats,
    /// The origin.
    pub(crate) origin: OriginStats,
}

impl OriginCounters {
    pub(super) fn stats(&self) -> OriginStats {
        let Self { hits, absent, wrong, late, failed, retries, hedges } = self;
        OriginStats {
            hits: hits.get(),
            absent: absent.get(),
            wrong: wrong.get(),
            late: late.get(),
            failed: failed.get(),
            retries: retries.get(),
            hedges: hedges.get(),
        }
    }
}

impl PeerCounters {
    pub(super) fn stats(&self) -> PeerStats {
        let Self { hits, misses, liars, late, failed, sent, unsent } = self;
        PeerStats {
            hits: hits.get(),
            misses: misses.get(),
            liars: liars.get(),
            late: late.get(),
            failed: failed.get(),
            sent: sent.get(),
            unsent: unsent.get(),
        }
    }
}
