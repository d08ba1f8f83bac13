//! How long an answer may wait for its client: so long in all, and longer for what the client takes. So one that takes a byte now
//! and then is given up like one that takes nothing, and nobody holds an answer, and its memory, for as long as they like.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes a second that are not too slow, 256 kbit/s: four minutes for the longest answer that is not streamed, and then it is with
/// the kernel.
pub(super) const MIN_RATE: u32 = 32 * 1024;

/// What a client has taken its time for.
#[derive(Debug)]
pub(super) struct Pace {
    /// How long it may take nothing.
    patience: Duration,
    /// How long it has been waited for that it has not made good.
    spent: Duration,
    /// Since when it is waited for.
    since: Option<Instant>,
}

impl Pace {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, spent: Duration::ZERO, since: None }
    }

    /// Something waits for the client; until when it may.
    pub(super) fn wait(&mut self, now: Instant) -> Instant {
        *self.since.get_or_insert(now) + self.patience.saturating_sub(self.spent)
    }

    /// The client has taken so many bytes, and is not waited for.
    pub(super) fn took(&mut self, now: Instant, len: usize) {
        let waited = self.since.take().map_or(Duration::ZERO, |since| now - since);
        let earned = Duration::from_secs_f64(len as f64 / f64::from(MIN_RATE));
        self.spent = (self.spent + waited).saturating_sub(earned);
    }

    /// Whether it has been waited for too long.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| self.spent + (now - since) > self.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// How much of a long answer a client takes that takes `len` bytes every `interval`, until it is given up or has taken `all`.
    fn taken(len: usize, interval: Duration, all: usize) -> usize {
        let (mut pace, mut now, mut taken) = (Pace::new(PATIENCE), Instant::now(), 0);
        while taken < all {
            let until = pace.wait(now);
            if until < now + interval {
                assert!(pace.is_over(until + Duration::from_millis(1)) && !pace.is_over(until));
                break;
            }
            now += interval;
            pace.took(now, len);
            taken += len;
        }
        taken
    }

    #[tokio::test]
    async fn who_is_quick_enough_takes_all_and_who_trickles_is_given_up() {
        let (second, all) = (Duration::from_secs(1), 64 << 20);
        assert_eq!(taken(MIN_RATE as usize, second, all), all);
        assert!(taken(20 * MIN_RATE as usize, 20 * second, all) >= all, "in bursts, too");
        assert_eq!(taken(1, second, all), 60);
        // Half the rate is twice the time.
        assert!(taken(MIN_RATE as usize / 2, second, all) <= 120 * MIN_RATE as usize / 2);
        assert_eq!(taken(all, PATIENCE + second, all), 0);
    }
}
