//! Fetches and writes that are under way. Who wants a chunk that somebody fetches already waits for it instead of fetching it
//! again; who stores one, likewise.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What came of each, while it is under way.
#[derive(Debug)]
pub(crate) struct Flights<K, T>(Mutex<HashMap<K, Arc<Flight<T>>>>);

#[derive(Debug)]
struct Flight<T> {
    state: Mutex<State<T>>,
    ended: Condvar,
}

#[derive(Debug)]
enum State<T> {
    UnderWay,
    Landed(T),
    /// Whoever fetched it panicked.
    Lost,
}

impl<K: Copy + Eq + Hash, T: Clone> Flights<K, T> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    /// What `fetch` gives, or what it gives to somebody else who is in it for the same thing already. It is called without
    /// a lock.
    pub(crate) fn join(&self, what: K, fetch: impl Fn() -> T) -> T {
        loop {
            let mut flights = lock(&self.0);
            if let Some(flight) = flights.get(&what).map(Arc::clone) {
                drop(flights);
                if let Some(landed) = flight.wait() {
                    return landed;
                }
                // Lost: somebody else tries, perhaps this thread.
                continue;
            }
            let flight = Arc::new(Flight { state: Mutex::new(State::UnderWay), ended: Condvar::new() });
            flights.insert(what, Arc::clone(&flight));
            drop(flights);
            let mut pilot = Pilot { flights: self, flight, what, landed: None };
            let landed = fetch();
            pilot.landed = Some(landed.clone());
            return landed;
        }
    }
}

impl<T: Clone> Flight<T> {
    fn wait(&self) -> Option<T> {
        let mut state = lock(&self.state);
        loop {
            match &*state {
                State::UnderWay => state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner),
                State::Landed(landed) => return Some(landed.clone()),
                State::Lost => return None,
            }
        }
    }
}

/// Ends the flight however its thread leaves it.
struct Pilot<'a, K: Copy + Eq + Hash, T> {
    flights: &'a Flights<K, T>,
    flight: Arc<Flight<T>>,
    what: K,
    landed: Option<T>,
}

impl<K: Copy + Eq + Hash, T> Drop for Pilot<'_, K, T> {
    fn drop(&mut self) {
        // First nobody joins any more, then those who have joined go on.
        lock(&self.flights.0).remove(&self.what);
        *lock(&self.flight.state) = self.landed.take().map_or(State::Lost, State::Landed);
        self.flight.ended.notify_all();
    }
}

/// Nothing is left half done under these locks, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
