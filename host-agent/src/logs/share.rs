//! What all sandboxes of a log group have together: a rate, and bytes that wait for the writer. Pure but for the lock.

use std::{
    sync::{Mutex, PoisonError, atomic::AtomicUsize},
    time::Instant,
};

use guest_protocol::LogSource;

/// What a line costs beside its bytes: its record, and what is done for it.
pub(super) const LINE_COST: u64 = 64;

/// Seconds of its rate that a group that was silent may print at once.
pub(super) const BURST_S: u64 = 4;

/// What the platform's lines may take beyond a group's rate: they are few and short, and tell what became of an invocation.
const RESERVE: i64 = 64 * 1024;

/// What all sandboxes of a group have together.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) waiting: AtomicUsize,
    bucket: Mutex<Bucket>,
}

/// Bytes that may be printed: they come back with time.
#[derive(Debug)]
struct Bucket {
    rate: u64,
    left: i64,
    at: Instant,
}

impl Share {
    /// With bytes a second.
    pub(super) fn new(rate: u64) -> Self {
        let left = i64::try_from(rate * BURST_S).unwrap_or(i64::MAX);
        Self { waiting: AtomicUsize::new(0), bucket: Mutex::new(Bucket { rate, left, at: Instant::now() }) }
    }

    /// Whether a line of that length may be kept now; it has been taken off then.
    pub(super) fn admits(&self, source: LogSource, len: usize, now: Instant) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(source, len as u64 + LINE_COST, now)
    }
}

impl Bucket {
    fn take(&mut self, source: LogSource, cost: u64, now: Instant) -> bool {
        let passed_us = u64::try_from(now.saturating_duration_since(self.at).as_micros()).unwrap_or(u64::MAX);
        let back = i64::try_from(self.rate.saturating_mul(passed_us) / 1_000_000).unwrap_or(i64::MAX);
        if back > 0 {
            let most = i64::try_from(self.rate * BURST_S).unwrap_or(i64::MAX);
            (self.left, self.at) = (self.left.saturating_add(back).min(most), now);
        }
        let cost = i64::try_from(cost).unwrap_or(i64::MAX);
        let least = match source {
            LogSource::Function => 0,
            LogSource::Platform => -RESERVE,
        };
        // A line may be longer than what a slow group is given at once: it waits until that is full.
        let enough = self.left - cost >= least || (self.left > 0 && cost > self.left && self.is_full());
        if enough {
            self.left -= cost;
        }
        enough
    }

    fn is_full(&self) -> bool {
        self.left >= i64::try_from(self.rate * BURST_S).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_fills_with_time_and_the_platform_may_overdraw_it() {
        let begin = Instant::now();
        let mut bucket = Bucket { rate: 1000, left: 4000, at: begin };
        assert!(bucket.take(LogSource::Function, 4000, begin));
        assert!(!bucket.take(LogSource::Function, 1, begin));
        assert!(bucket.take(LogSource::Platform, 1000, begin));
        assert!(!bucket.take(LogSource::Platform, RESERVE as u64, begin));
        assert!(!bucket.take(LogSource::Function, 1, begin + Duration::from_secs(1)));
        assert!(bucket.take(LogSource::Function, 1000, begin + Duration::from_secs(2)));
        assert!(
            bucket.take(LogSource::Function, 5000, begin + Duration::from_secs(60)),
            "one that is longer"
        );
    }
}
