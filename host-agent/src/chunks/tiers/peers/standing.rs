//! Whether a peer is asked. Values in, values out.

use std::time::Duration;

use tokio::time::Instant;

/// How long a peer is left alone after its first failure; twice as long after each that follows at once.
const FIRST_REST: Duration = Duration::from_millis(500);

/// Longest time: how late a peer that came back is noticed.
const MAX_REST: Duration = Duration::from_secs(30);

/// What is known of a peer's health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Since it last answered.
    failures: u32,
    aside_until: Option<Instant>,
}

impl Standing {
    /// Whether it is to be left alone.
    pub(super) fn is_aside(&self, now: Instant) -> bool {
        self.aside_until.is_some_and(|until| now < until)
    }

    /// It answered, and what it said was right.
    pub(super) fn answered(&mut self) {
        *self = Self::default();
    }

    /// It failed, was late, or lied. Requests that were under way together count once.
    pub(super) fn failed(&mut self, now: Instant) {
        if self.is_aside(now) {
            return;
        }
        let rest = FIRST_REST.saturating_mul(1 << self.failures.min(16)).min(MAX_REST);
        *self = Self { failures: self.failures.saturating_add(1), aside_until: Some(now + rest) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_fails_again_and_again_is_asked_less_and_less() {
        let (mut now, mut standing, mut rests) = (Instant::now(), Standing::default(), Vec::new());
        for _ in 0..8 {
            standing.failed(now);
            // Of the same time: another one that was under way.
            standing.failed(now);
            let begun = now;
            while standing.is_aside(now) {
                now += FIRST_REST;
            }
            rests.push((now - begun).as_millis());
        }
        assert_eq!(rests, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        standing.answered();
        assert_eq!(standing, Standing::default());
    }
}
