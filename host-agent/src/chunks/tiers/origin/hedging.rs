//! When a second request is sent for what the first has not brought yet, and whether one may be. Values in, values out.
//!
//! After the time that nineteen of twenty recent reads took, a read is one of the slow ones, and another request is likely to
//! overtake it. An origin that is slow as a whole must not be given twice the load for it: second requests are paid for by reads.

use std::collections::VecDeque;
use std::time::Duration;

/// Reads that are remembered: enough for a 95th percentile, few enough to follow an origin within seconds.
const REMEMBERED: usize = 128;

/// Fewest reads that say something of the slowest in twenty.
const ENOUGH: usize = 20;

/// Before that.
const FIRST_PATIENCE: Duration = Duration::from_millis(100);

/// Below this a second request would not be back before the first, if that is only late by the network's jitter.
const LEAST_PATIENCE: Duration = Duration::from_millis(5);

/// Longest wait of a guest for a request that was lost.
const MOST_PATIENCE: Duration = Duration::from_millis(500);

/// Reads that pay for one second request: 5 % more load at most.
const PRICE: u32 = 20;

/// Second requests that may be sent at once after a quiet time.
const BURST: u32 = 10;

/// What recent reads took, and what they have paid.
#[derive(Debug)]
pub(super) struct Hedging {
    took: VecDeque<Duration>,
    credit: u32,
}

impl Default for Hedging {
    fn default() -> Self {
        Self { took: VecDeque::with_capacity(REMEMBERED), credit: BURST * PRICE }
    }
}

impl Hedging {
    /// A read begins: how long to wait for its first request alone.
    pub(super) fn begin(&mut self) -> Duration {
        self.credit = (self.credit + 1).min(BURST * PRICE);
        if self.took.len() < ENOUGH {
            return FIRST_PATIENCE;
        }
        let mut took: Vec<Duration> = self.took.iter().copied().collect();
        let (_, slow, _) = took.select_nth_unstable(self.took.len() * 19 / 20);
        (*slow).clamp(LEAST_PATIENCE, MOST_PATIENCE)
    }

    /// Whether a second request may be sent; it is paid for then.
    pub(super) fn spend(&mut self) -> bool {
        let left = self.credit.checked_sub(PRICE);
        self.credit = left.unwrap_or(self.credit);
        left.is_some()
    }

    /// A read got its answer.
    pub(super) fn answered(&mut self, took: Duration) {
        if self.took.len() == REMEMBERED {
            self.took.pop_front();
        }
        self.took.push_back(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_the_slowest_in_twenty() {
        let mut hedging = Hedging::default();
        assert_eq!(hedging.begin(), FIRST_PATIENCE);
        for read in 1..=100 {
            hedging.answered(Duration::from_millis(if read % 10 == 0 { 80 } else { 20 }));
        }
        assert_eq!(hedging.begin(), Duration::from_millis(80));
        (0..REMEMBERED).for_each(|_| hedging.answered(Duration::from_micros(10)));
        assert_eq!(hedging.begin(), LEAST_PATIENCE);
        (0..REMEMBERED).for_each(|_| hedging.answered(Duration::from_secs(10)));
        assert_eq!(hedging.begin(), MOST_PATIENCE);
    }

    #[test]
    fn no_more_than_one_request_in_twenty_is_a_second_one() {
        let mut hedging = Hedging::default();
        let sent = (0..10_000).filter(|_| {
            hedging.begin();
            hedging.spend()
        });
        let sent = sent.count();
        assert!((500..=500 + BURST as usize).contains(&sent), "{sent}");
    }
}
