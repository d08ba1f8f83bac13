//! Who may be connected: so many at a time, and when all places are taken, who has waited for longest makes room for who comes.
//!
//! ```text
//!  accepted ─► Head ──head read──► Body ──admitted──► (serves) ──answer handed over──► Head …
//!              └──── gives way ─────┘
//! ```
//!
//! A connection gives way as long as it costs its client nothing but bytes: between requests, while a head trickles in, while
//! nobody has verified the request, and once its answer is with the kernel or waits for a client that does not read. A request
//! that was admitted is never cut off. Where a connection has several requests at a time, it serves while one of them is admitted, and
//! waits for a body while one of them does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
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
    pub(super) async fn take(self: &Arc<Self>) -> Seat {
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
            requests: Mutex::default(),
            given_up: Arc::new(Notify::new()),
            _permit: permit,
        };
        place.wait(&mut place.requests());
        Seat(Arc::new(place))
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

/// A connection's place, which it has until the last of these, and of its requests' parts of it, is dropped.
#[derive(Clone)]
pub(super) struct Seat(Arc<Place>);

/// A request's part of its connection's place.
#[derive(Clone)]
pub(crate) struct Standing(Arc<Part>);

struct Part {
    place: Arc<Place>,
    admitted: AtomicBool,
}

struct Place {
    places: Arc<Places>,
    requests: Mutex<Requests>,
    given_up: Arc<Notify>,
    _permit: OwnedSemaphorePermit,
}

/// A connection's requests.
#[derive(Default)]
struct Requests {
    /// Under which the connection gives way; none while it serves.
    turn: Option<(Stage, u64)>,
    /// Those whose heads have arrived and whose answers are not handed over.
    open: usize,
    /// Those of them that were admitted.
    served: usize,
}

impl Seat {
    /// Returns when the connection has to give way.
    pub(super) async fn given_up(&self) {
        self.0.given_up.notified().await;
    }

    /// Has the connection end.
    pub(super) fn give_up(&self) {
        self.0.given_up.notify_one();
    }

    /// A head has arrived: its body is waited for, after all who wait for heads.
    pub(super) fn begin(&self) -> Standing {
        let mut requests = self.0.requests();
        requests.open += 1;
        let mut waiting = self.0.places.waiting();
        if let Some(old) = requests.turn
            && waiting.by_turn.remove(&old).is_some()
        {
            let next = (Stage::Body, old.1);
            waiting.by_turn.insert(next, Arc::clone(&self.0.given_up));
            requests.turn = Some(next);
        }
        Standing(Arc::new(Part { place: Arc::clone(&self.0), admitted: AtomicBool::new(false) }))
    }
}

impl Standing {
    /// The answer is handed over, or nobody wants it: the connection waits, unless it serves another request.
    pub(super) fn rest(&self) {
        let place = &self.0.place;
        let mut requests = place.requests();
        requests.open -= 1;
        if self.0.admitted.load(Ordering::Relaxed) {
            requests.served -= 1;
        }
        if requests.served == 0 {
            place.wait(&mut requests);
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
        let place = &self.0.place;
        let mut requests = place.requests();
        let left = requests.turn.is_none_or(|turn| place.places.waiting().by_turn.remove(&turn).is_some());
        if left {
            requests.turn = None;
            if !self.0.admitted.swap(true, Ordering::Relaxed) {
                requests.served += 1;
            }
        }
        left
    }
}

impl Place {
    /// It gives way from now on, after all who do so already.
    fn wait(&self, requests: &mut Requests) {
        let mut waiting = self.places.waiting();
        // One that has been told to give way stays so: its turn is gone from the list, and it is ending.
        if requests.turn.is_some_and(|turn| waiting.by_turn.remove(&turn).is_none()) {
            return;
        }
        waiting.last_turn += 1;
        let stage = if requests.open > 0 { Stage::Body } else { Stage::Head };
        let next = (stage, waiting.last_turn);
        waiting.by_turn.insert(next, Arc::clone(&self.given_up));
        requests.turn = Some(next);
        drop(waiting);
        self.places.more.notify_waiters();
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let requests = self.requests.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = requests.turn {
            self.places.waiting().by_turn.remove(&turn);
        }
    }
}
