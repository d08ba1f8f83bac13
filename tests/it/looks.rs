//! Looking again and again for what takes a node its time. A look costs an emulated node what it needs for just that, so
//! there is a pause before the next one.

use std::thread;
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// What `look` finds, as soon as it finds something; within `patience`, or what it has seen last.
pub(crate) fn until<Found, Seen>(
    patience: Duration,
    mut look: impl FnMut() -> Result<Found, Seen>,
) -> Result<Found, Seen> {
    let begun = Instant::now();
    loop {
        match look() {
            Err(_) if begun.elapsed() < patience => thread::park_timeout(PAUSE),
            seen => return seen,
        }
    }
}
