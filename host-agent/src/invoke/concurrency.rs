//! How many invocations may be in flight: of a function that has reserved some, and of all others together.
//!
//! One lock, held for a count. Memory is another limit and the pool's own.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Throttle;
use crate::functions::{View, concurrency::ACCOUNT_CONCURRENCY, model::FunctionId};

/// Counts what is in flight.
#[derive(Debug, Default)]
pub(crate) struct Concurrency {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// By function; no zeros.
    functions: HashMap<FunctionId, u32>,
    /// Of functions that had reserved nothing.
    unreserved: u32,
}

/// What a function may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// What it has reserved.
    Reserved(u32),
    /// With all others that have reserved nothing: what is left of the account's.
    Unreserved(u32),
}

impl Share {
    /// What a function may take now.
    pub(crate) fn of(view: &View, function: &FunctionId) -> Self {
        match view.get(function).and_then(|latest| latest.config.reserved_concurrency) {
            Some(reserved) => Self::Reserved(reserved),
            None => Self::Unreserved(ACCOUNT_CONCURRENCY.saturating_sub(view.reserved())),
        }
    }
}

/// The right to be in flight, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Slot {
    concurrency: Arc<Concurrency>,
    function: FunctionId,
    share: Share,
}

impl Concurrency {
    /// Lets an invocation in, if there is room for it.
    ///
    /// # Errors
    /// The limit that it met.
    pub(crate) fn enter(self: &Arc<Self>, function: &FunctionId, share: Share) -> Result<Slot, Throttle> {
        let mut counts = self.counts();
        match share {
            Share::Reserved(most) if counts.functions.get(function).copied().unwrap_or(0) >= most => {
                return Err(Throttle::Reserved);
            }
            Share::Unreserved(most) if counts.unreserved >= most => return Err(Throttle::Concurrency),
            Share::Reserved(_) => {}
            Share::Unreserved(_) => counts.unreserved += 1,
        }
        *counts.functions.entry(function.clone()).or_default() += 1;
        Ok(Slot { concurrency: Arc::clone(self), function: function.clone(), share })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Nothing under the lock panics.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.concurrency.counts();
        if matches!(self.share, Share::Unreserved(_)) {
            counts.unreserved -= 1;
        }
        if let Some(count) = counts.functions.get_mut(&self.function) {
            *count -= 1;
            if *count == 0 {
                counts.functions.remove(&self.function);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn id(name: &str) -> FunctionId {
        FunctionId { region: "us-east-1".into(), name: name.into() }
    }

    #[test]
    fn a_reservation_is_a_limit_and_a_promise() {
        let concurrency = Arc::new(Concurrency::default());
        let enter = |name: &str, share| concurrency.enter(&id(name), share);
        let held: Vec<_> = (0..2).map(|_| enter("f", Share::Reserved(2)).unwrap()).collect();
        assert_eq!(enter("f", Share::Reserved(2)).unwrap_err(), Throttle::Reserved);
        let other = enter("g", Share::Unreserved(1)).unwrap();
        assert_eq!(enter("h", Share::Unreserved(1)).unwrap_err(), Throttle::Concurrency);
        assert_eq!(enter("i", Share::Reserved(0)).unwrap_err(), Throttle::Reserved);
        drop(held);
        drop(other);
        enter("f", Share::Reserved(1)).unwrap();
        enter("h", Share::Unreserved(1)).unwrap();
        let counts = concurrency.counts();
        assert_eq!((counts.functions.len(), counts.unreserved), (0, 0));
    }

    #[test]
    fn what_runs_when_it_is_reserved_counts() {
        let concurrency = Arc::new(Concurrency::default());
        let before = concurrency.enter(&id("f"), Share::Unreserved(9)).unwrap();
        assert_eq!(concurrency.enter(&id("f"), Share::Reserved(1)).unwrap_err(), Throttle::Reserved);
        drop(before);
        concurrency.enter(&id("f"), Share::Reserved(1)).unwrap();
    }

    #[test]
    fn never_one_more_than_allowed() {
        const MOST: u32 = 5;
        let concurrency = Arc::new(Concurrency::default());
        let inside = AtomicU32::new(0);
        let entered = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let Ok(slot) = concurrency.enter(&id("f"), Share::Reserved(MOST)) else { continue };
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < MOST);
                        entered.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(slot);
                    }
                });
            }
        });
        assert!(entered.into_inner() > MOST);
    }
}
