//! Who may be connected: so many at a time, and when all places are taken, who has waited for longest makes room for who comes.
//!
//! ```text
//!  accepted ─► Head ──head read──► Body ──admitted──► (serves) ──answer handed over──► Head …
//!              └──── gives way ─────┘
//! ```
//!
//! A connection gives way as long as it costs its client nothing but bytes: between requests, while a head trickles in, while
//! nobody has verified the request, and once its answer is with the kernel or waits for a client that does not read. A request
//! that was admitted is never cut off.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// What a connection that gives way waits for. The first of these goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// The head of a request.
    Head,
    /// Its body, and that it is verified.
    Body,
}

/// Of so many places one is kept free, so that who comes does not wait until somebody else is gone.
const PLACES_A_SPARE: usize = 64;

/// All places of a server.
pub(super) struct Places {
    free: Arc<Semaphore>,
    spare: usize,
    waiting: Mutex<Waiting>,
    /// One more connection gives way than before.
    more: Notify,
}

/// Connections that give way, the first of them first.
#[derive(Default)]
struct Waiting {
    last_turn: u64,
    by_turn: BTreeMap<(Stage, u64), Arc<Notify>>,
}

impl Places {
    pub(super) fn new(count: usize) -> Arc<Self> {
        let waiting = Mutex::default();
        let (free, spare) = (Arc::new(Semaphore::new(count)), count / PLACES_A_SPARE);
        Arc::new(Self { free, spare, waiting, more: Notify::new() })
    }

    /// A place for one more connection, another one's if need be. Waits as long as all others serve.
    pub(super) async fn take(self: &Arc<Self>) -> Standing {
        let permit = loop {
            let more = self.more.notified();
            if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
                break permit;
            }
            self.make_room();
            tokio::select! {
                Ok(permit) = Arc::clone(&self.free).acquire_owned() => break permit,
                () = more => {}
            }
        };
        if self.free.available_permits() < self.spare {
            self.make_room();
        }
        let place = Place {
            places: Arc::clone(self),
            turn: Mutex::new(None),
            given_up: Arc::new(Notify::new()),
            _permit: permit,
        };
        let standing = Standing(Arc::new(place));
        standing.rest();
        standing
    }

    /// Has the first of those who give way end.
    fn make_room(&self) {
        if let Some((_, given_up)) = self.waiting().by_turn.pop_first() {
            given_up.notify_one();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place, which it has until the last of these is dropped.
#[derive(Clone)]
pub(crate) struct Standing(Arc<Place>);

struct Place {
    places: Arc<Places>,
    /// Under which it gives way; none while it serves.
    turn: Mutex<Option<(Stage, u64)>>,
    given_up: Arc<Notify>,
    _permit: OwnedSemaphorePermit,
}

impl Standing {
    /// Returns when the connection has to give way.
    pub(super) async fn given_up(&self) {
        self.0.given_up.notified().await;
    }

    /// It waits for the head of a request from now on.
    pub(super) fn rest(&self) {
        let Place { places, turn, given_up, .. } = &*self.0;
        let mut turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = places.waiting();
        // One that has been told to give way stays so: its turn is gone from the list, and it is ending.
        if turn.is_some_and(|turn| waiting.by_turn.remove(&turn).is_none()) {
            return;
        }
        waiting.last_turn += 1;
        let next = (Stage::Head, waiting.last_turn);
        waiting.by_turn.insert(next, Arc::clone(given_up));
        *turn = Some(next);
        drop(waiting);
        places.more.notify_waiters();
    }

    /// A head has arrived: its body is waited for, after all who wait for heads.
    pub(super) fn begin(&self) {
        let Place { places, turn, given_up, .. } = &*self.0;
        let mut turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = places.waiting();
        if let Some(old) = *turn
            && waiting.by_turn.remove(&old).is_some()
        {
            let next = (Stage::Body, old.1);
            waiting.by_turn.insert(next, Arc::clone(given_up));
            *turn = Some(next);
        }
    }

    /// The request is whole and verified: it is served now, whoever comes. Never returns to one that has been told to give way,
    /// whose connection is dropped, and this with it, before anything is done.
    pub(crate) async fn admit(&self) {
        if !self.leave() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether it had not been told to give way.
    fn leave(&self) -> bool {
        let Place { places, turn, .. } = &*self.0;
        let mut turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let left = turn.is_none_or(|turn| places.waiting().by_turn.remove(&turn).is_some());
        if left {
            *turn = None;
        }
        left
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(turn) = self.turn.get_mut().unwrap_or_else(PoisonError::into_inner) {
            self.places.waiting().by_turn.remove(turn);
        }
    }
}
