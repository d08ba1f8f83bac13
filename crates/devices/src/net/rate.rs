//! How much may pass in which time: a bucket of tokens that fills at a rate. Pure; the clock is the caller's.

use std::time::{Duration, Instant};

use super::MAX_FRAME_LEN;

/// What a short frame costs, in bytes: the host spends as much on it as on a longer one, so bytes alone would bound nothing.
const MIN_COST: u64 = 256;
/// Shortest pause of a bucket without tokens: one that waits for one frame's at a time wakes the I/O thread for each.
pub(super) const MIN_PAUSE: Duration = Duration::from_millis(1);
const NANOS: u128 = 1_000_000_000;

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// What passes for ever. Not zero.
    pub bytes_per_second: u64,
    /// What passes at once when nothing did before. At least what passes in [a pause](MIN_PAUSE) and the longest frame.
    pub burst_bytes: u64,
}

/// The tokens of one direction.
#[derive(Debug)]
pub(super) struct Bucket {
    limit: RateLimit,
    tokens: u64,
    /// The time that the tokens are of.
    filled: Instant,
}

impl Bucket {
    /// One that is full.
    pub(super) fn new(limit: RateLimit, now: Instant) -> Self {
        let RateLimit { bytes_per_second, burst_bytes } = limit;
        // What the caller has checked; a bucket that never has a frame's tokens would be a link that is silently dead.
        let limit = RateLimit {
            bytes_per_second: bytes_per_second.max(1),
            burst_bytes: burst_bytes.max(MAX_FRAME_LEN as u64),
        };
        Self { limit, tokens: limit.burst_bytes, filled: now }
    }

    /// Whether any frame may pass now; otherwise how long to wait.
    pub(super) fn ready(&mut self, now: Instant) -> Result<(), Duration> {
        self.fill(now);
        let missing = (MAX_FRAME_LEN as u64).saturating_sub(self.tokens);
        if missing == 0 { Ok(()) } else { Err(self.time_for(missing).max(MIN_PAUSE)) }
    }

    /// A frame of `len` bytes has passed.
    pub(super) fn charge(&mut self, len: usize) {
        self.tokens = self.tokens.saturating_sub((len as u64).max(MIN_COST));
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_nanos();
        let gained = passed.saturating_mul(self.limit.bytes_per_second.into()) / NANOS;
        let room = self.limit.burst_bytes - self.tokens;
        match u64::try_from(gained) {
            Ok(gained) if gained < room => {
                self.tokens += gained;
                // Not `now`: what is left of the time is part of the next token.
                self.filled += self.time_for(gained);
            }
            _ => {
                self.tokens = self.limit.burst_bytes;
                self.filled = now;
            }
        }
    }

    /// In which time so many tokens come in.
    fn time_for(&self, tokens: u64) -> Duration {
        let nanos = (u128::from(tokens) * NANOS).div_ceil(self.limit.bytes_per_second.into());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Never more than the burst and what comes in meanwhile; and, when there is always something to pass, not much less.
        #[test]
        fn what_passes_is_the_limit(
            bytes_per_second in 1_000u64..10_000_000_000,
            burst_frames in 12u64..1_000,
            steps in prop::collection::vec((0u64..5_000_000, 14usize..=MAX_FRAME_LEN), 1..200),
        ) {
            let begin = Instant::now();
            let burst_bytes = (burst_frames * MAX_FRAME_LEN as u64).max(bytes_per_second / 1000);
            let mut bucket = Bucket::new(RateLimit { bytes_per_second, burst_bytes }, begin);
            let (mut now, mut passed) = (begin, 0u128);
            for (wait, len) in steps {
                while bucket.ready(now).is_ok() {
                    bucket.charge(len);
                    passed += (len as u64).max(MIN_COST) as u128;
                    let most = u128::from(burst_bytes)
                        + (now - begin).as_nanos() * u128::from(bytes_per_second) / NANOS;
                    prop_assert!(passed <= most, "{passed} of {most}");
                    if passed > u128::from(burst_bytes) * 2 {
                        break;
                    }
                }
                now += Duration::from_nanos(wait);
            }
        }

        #[test]
        fn who_waits_as_long_as_it_was_told_is_served(bytes_per_second: u64, burst_bytes: u64) {
            let mut now = Instant::now();
            let mut bucket = Bucket::new(RateLimit { bytes_per_second, burst_bytes }, now);
            for _ in 0..3 {
                bucket.tokens = 0;
                let pause = bucket.ready(now).expect_err("there is nothing");
                prop_assert!(pause >= MIN_PAUSE);
                now += pause;
                prop_assert_eq!(bucket.ready(now), Ok(()));
            }
        }
    }
}
