//! How often something may happen: a bucket of tokens that fills by the clock. Values in, values out; whoever asks brings
//! the time.

use std::time::{Duration, Instant};

/// A rate, and how much of it may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// How often within [`Self::per`], and at most at once.
    pub(crate) count: u32,
    /// Time in which a bucket that is empty becomes full; not zero.
    pub(crate) per: Duration,
}

impl Rate {
    /// So many a second, a second's worth of them at once.
    pub(crate) fn per_second(count: u32) -> Self {
        Self { count, per: Duration::from_secs(1) }
    }

    /// Time for which one token stands.
    fn interval(self) -> Duration {
        self.per / self.count.max(1)
    }
}

/// What is left of a rate. Kept as the moment at which the bucket would be full again, so that nothing is rounded and a rate may
/// change at any time: never more than twice its count within any [`Rate::per`], and its count within each in the long run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    full_at: Option<Instant>,
}

impl Bucket {
    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        if rate.count == 0 {
            return false;
        }
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + rate.interval();
        let fits = full_at <= now + rate.per;
        if fits {
            self.full_at = Some(full_at);
        }
        fits
    }

    /// Whether nothing is missing: as good as a new one.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_bucket_has_its_count_and_then_what_time_brings() {
        let (mut bucket, now) = (Bucket::default(), Instant::now());
        let rate = Rate { count: 1000, per: Duration::from_secs(10) };
        let taken = |bucket: &mut Bucket, now| (0..5000).filter(|_| bucket.take(rate, now)).count();
        assert_eq!(taken(&mut bucket, now), 1000);
        assert_eq!(taken(&mut bucket, now + Duration::from_millis(9)), 0);
        assert_eq!(taken(&mut bucket, now + Duration::from_secs(1)), 100);
        assert!(!bucket.is_full(now + Duration::from_millis(10_999)));
        assert!(bucket.is_full(now + Duration::from_secs(11)));
        assert_eq!(taken(&mut bucket, now + Duration::from_secs(60)), 1000, "it does not overflow");
        assert!(!bucket.take(Rate::per_second(0), now + Duration::from_secs(99)));
    }

    proptest! {
        #[test]
        fn no_window_has_more_than_a_full_bucket_and_what_flows_in(
            count in 1..50u32, steps in prop::collection::vec(0..200u64, 1..300),
        ) {
            let (mut bucket, mut now) = (Bucket::default(), Instant::now());
            let rate = Rate::per_second(count);
            let mut taken: Vec<Instant> = Vec::new();
            for step in steps {
                now += Duration::from_millis(step);
                if bucket.take(rate, now) {
                    taken.push(now);
                }
            }
            for (index, from) in taken.iter().enumerate() {
                for (more, to) in taken[index..].iter().enumerate() {
                    let flowed = (*to - *from).as_secs_f64() * f64::from(count);
                    prop_assert!((more + 1) as f64 <= f64::from(count) + flowed + 1e-3);
                }
            }
        }
    }
}
