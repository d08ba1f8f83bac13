//! How many invocations may be in flight, and how often some may begin: of a version that has some provisioned, of a function that has
//! reserved some, and of all others together.
//!
//! ```text
//! account ─┬─ reserved by a function ──┬─ provisioned for a version of it: that version's alone
//!          │                           └─ the rest: what else is invoked of it
//!          ├─ provisioned for a version of a function that has reserved nothing
//!          └─ the rest: whatever else is invoked
//! ```
//!
//! A version's invocations take what is theirs alone first, then of the rest. One lock, held for a count. Memory is another limit and
//! the pool's own.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    Throttle,
    rate::{Bucket, Rate},
};
use crate::{
    config,
    functions::{Claim, View, model::FunctionId},
};

#[cfg(test)]
mod tests;

/// Functions that are remembered for how often they were invoked of late, before those are looked for that need not be.
const MAX_REMEMBERED: usize = 1024;

/// Counts what is in flight.
#[derive(Debug)]
pub(crate) struct Concurrency {
    account: u32,
    calls_per_s: u32,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: u32,
    /// Of functions that had reserved nothing, but for what was provisioned.
    unreserved: u32,
    /// How often these were let in of late.
    unreserved_calls: Bucket,
    functions: HashMap<FunctionId, Counted>,
}

/// What is in flight of a function.
#[derive(Debug, Default)]
struct Counted {
    all: u32,
    /// How often it was let in of late as one that has reserved something.
    calls: Bucket,
    /// What was let in of what was provisioned, by version.
    provisioned: HashMap<String, (u32, Bucket)>,
}

impl Counted {
    fn on_demand(&self) -> u32 {
        self.all - self.provisioned.values().map(|(count, _)| count).sum::<u32>()
    }

    /// Whether there is nothing to be remembered.
    fn is_over(&self, now: Instant) -> bool {
        let full = |(_, bucket): &(u32, Bucket)| bucket.is_full(now);
        self.all == 0 && self.calls.is_full(now) && self.provisioned.values().all(full)
    }
}

/// What an invocation may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// The version that it is of.
    version: String,
    /// What was provisioned for that.
    provisioned: u32,
    rest: Rest,
}

/// What a function may take beyond what was provisioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// Of what it has reserved.
    Reserved { reserved: u32, on_demand: u32 },
    /// With all others that have reserved nothing: what is left of the account's.
    Unreserved(u32),
}

impl Share {
    /// Of a version of a function that has so much, where so much is nobody's.
    pub(super) fn new(version: &str, claim: Claim, unclaimed: u32) -> Self {
        let Claim { reserved, provisioned, of_version } = claim;
        let rest = match reserved {
            Some(reserved) => Rest::Reserved { reserved, on_demand: reserved.saturating_sub(provisioned) },
            None => Rest::Unreserved(unclaimed),
        };
        Self { version: version.into(), provisioned: of_version, rest }
    }
}

/// The right to be in flight, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Slot {
    concurrency: Arc<Concurrency>,
    function: FunctionId,
    of: Of,
}

/// What a slot is one of.
#[derive(Debug)]
enum Of {
    Provisioned { version: String },
    Reserved,
    Unreserved,
}

impl Concurrency {
    /// Nothing in flight, within these bounds.
    pub(crate) fn new(bounds: &config::Concurrency) -> Self {
        let config::Concurrency { account, calls_per_s, .. } = *bounds;
        Self { account, calls_per_s, counts: Mutex::default() }
    }

    /// How many there may be altogether.
    pub(crate) fn account(&self) -> u32 {
        self.account
    }

    /// What an invocation of a version may take now.
    pub(crate) fn share(&self, view: &View, function: &FunctionId, version: &str) -> Share {
        Share::new(version, view.claim(function, version), self.account.saturating_sub(view.claimed()))
    }

    /// Lets an invocation in, if there is room for it.
    ///
    /// # Errors
    /// The limit that it met.
    pub(crate) fn enter(self: &Arc<Self>, function: &FunctionId, share: Share) -> Result<Slot, Throttle> {
        self.enter_at(function, share, Instant::now())
    }

    fn enter_at(
        self: &Arc<Self>,
        function: &FunctionId,
        share: Share,
        now: Instant,
    ) -> Result<Slot, Throttle> {
        let mut counts = self.counts();
        if counts.functions.len() >= MAX_REMEMBERED {
            counts.functions.retain(|_, counted| !counted.is_over(now));
        }
        let of = counts.admit(self, function, share, now);
        if let Ok(of) = &of {
            counts.all += 1;
            let counted = counts.functions.entry(function.clone()).or_default();
            counted.all += 1;
            match of {
                Of::Provisioned { version } => {
                    counted.provisioned.entry(version.clone()).or_default().0 += 1;
                }
                Of::Reserved => {}
                Of::Unreserved => counts.unreserved += 1,
            }
        }
        Ok(Slot { concurrency: Arc::clone(self), function: function.clone(), of: of? })
    }

    fn rate(&self, concurrency: u32) -> Rate {
        Rate::per_second(concurrency.saturating_mul(self.calls_per_s))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Nothing under the lock panics.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// What an invocation is let in as; only the rates are counted.
    fn admit(
        &mut self,
        bounds: &Concurrency,
        function: &FunctionId,
        share: Share,
        now: Instant,
    ) -> Result<Of, Throttle> {
        let Share { version, provisioned, rest } = share;
        // Neither is exceeded while a change of what is reserved or provisioned meets what ran before it.
        if self.all >= bounds.account {
            return Err(Throttle::Concurrency);
        }
        let in_flight = self.functions.get(function).map_or(0, |counted| counted.all);
        if matches!(rest, Rest::Reserved { reserved, .. } if in_flight >= reserved) {
            return Err(Throttle::Reserved);
        }
        if provisioned > 0 {
            let counted = self.functions.entry(function.clone()).or_default();
            let (count, calls) = counted.provisioned.entry(version.clone()).or_default();
            if *count < provisioned && calls.take(bounds.rate(provisioned), now) {
                return Ok(Of::Provisioned { version });
            }
        }
        match rest {
            Rest::Reserved { reserved, on_demand } => {
                let counted = self.functions.entry(function.clone()).or_default();
                if counted.on_demand() >= on_demand {
                    Err(Throttle::Reserved)
                } else if counted.calls.take(bounds.rate(reserved), now) {
                    Ok(Of::Reserved)
                } else {
                    Err(Throttle::ReservedRate)
                }
            }
            Rest::Unreserved(most) if self.unreserved >= most => Err(Throttle::Concurrency),
            Rest::Unreserved(most) if self.unreserved_calls.take(bounds.rate(most), now) => {
                Ok(Of::Unreserved)
            }
            Rest::Unreserved(_) => Err(Throttle::Rate),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.concurrency.counts();
        counts.all -= 1;
        if matches!(self.of, Of::Unreserved) {
            counts.unreserved -= 1;
        }
        let Some(counted) = counts.functions.get_mut(&self.function) else { return };
        counted.all -= 1;
        if let Of::Provisioned { version } = &self.of
            && let Some((count, _)) = counted.provisioned.get_mut(version)
        {
            *count -= 1;
        }
        if counted.is_over(Instant::now()) {
            counts.functions.remove(&self.function);
        }
    }
}
