//! What time it is, for what has to happen at a time that is kept on the disk: the wall clock, or a test's.

use std::time::Duration;

#[cfg(test)]
use tokio::sync::watch;

use crate::functions::now_ms;

/// Longest sleep without a look at the clock: the wall clock may be set.
const MAX_SLEEP_MS: u64 = 60_000;

/// A clock in milliseconds since the Unix epoch.
#[derive(Debug)]
pub(crate) enum Clock {
    /// The machine's.
    Wall,
    /// It is when the test says it is.
    #[cfg(test)]
    Pretended(watch::Sender<u64>),
}

impl Clock {
    /// Now.
    pub(crate) fn now_ms(&self) -> u64 {
        match self {
            Self::Wall => u64::try_from(now_ms()).unwrap_or(0),
            #[cfg(test)]
            Self::Pretended(now) => *now.borrow(),
        }
    }

    /// Waits for a time, or for less when that is far away.
    pub(crate) async fn sleep_towards(&self, at_ms: u64) {
        match self {
            Self::Wall => {
                let left = at_ms.saturating_sub(self.now_ms()).min(MAX_SLEEP_MS);
                tokio::time::sleep(Duration::from_millis(left)).await;
            }
            #[cfg(test)]
            Self::Pretended(now) => {
                let _ = now.subscribe().wait_for(|now| *now >= at_ms).await;
            }
        }
    }
}
