//! Which event is delivered next: values in, values out, no I/O, no clock.
//!
//! Of each function it knows how much waits, what is being delivered, and a window of what is due first; the rest is on the disk.
//! Among functions the event that is due first comes first, unless its function was throttled a moment ago or has its share of
//! the deliveries.
//!
//! ```text
//!           ┌─────────────── returned, throttled ───────────────┐
//!           ▼                                                   │
//! added ──► window ──next──► in flight ──removed (and added again when it is to be tried later)──► gone
//!           ▲
//!           └─ refilled, from the disk
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    Counts,
    policy::backoff_ms,
    store::{Brief, Op, Place},
};
use crate::functions::model::FunctionId;

/// Events of a function that are known by their names in memory, some 50 bytes each.
pub(super) const WINDOW: usize = 64;

/// Functions of which something is known though nothing of theirs waits: their counts. Beyond that those are forgotten.
const MAX_KNOWN: usize = 10_000;

/// Records that are on their way to one destination at a time, each in memory: 128 MiB if all that may be configured
/// (`config::destinations`) take the longest ones.
const LANE_SHARE: usize = 4;

/// What a destination has for a region; no region is called so.
const LANE: &str = "@";

/// What may wait and be under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Events that wait when one comes. What follows from their ends is let in: two queues' lines for one at most.
    pub(crate) max_count: u64,
    /// Their bytes.
    pub(crate) max_bytes: u64,
    /// Deliveries of one function at a time, so that slow ones leave room for others.
    pub(crate) max_share: usize,
    /// Records that wait for one destination, so that one that is away leaves room for events.
    pub(crate) max_lane_count: u64,
    /// Their bytes.
    pub(crate) max_lane_bytes: u64,
}

/// What there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Events that wait or are being delivered.
    pub(crate) count: u64,
    /// Bytes of their records.
    pub(crate) bytes: u64,
}

/// A function's part of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Events that wait.
    pub(crate) queued: u64,
    /// Those that are being delivered.
    pub(crate) in_flight: u64,
    /// When the one of these was accepted that is due first.
    pub(crate) oldest_ms: Option<u64>,
    /// What became of others since the agent started.
    pub(crate) counts: Counts,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Deliver it.
    Deliver(Place, Brief),
    /// Look on the disk what is due first of a function.
    Refill(FunctionId),
    /// Wait, until this time or a change.
    At(u64),
    /// Wait for a change.
    Idle,
}

type Rank = (u64, u64);

#[derive(Debug, Default)]
struct Queue {
    /// On the disk.
    len: u64,
    /// Of those.
    bytes: u64,
    window: BTreeMap<Rank, Brief>,
    in_flight: BTreeMap<Rank, Brief>,
    /// There is more on the disk than in the window and in flight.
    more: bool,
    /// The disk is being looked at.
    refilling: bool,
    /// Until this time no more are under way than had room when it was throttled.
    blocked_ms: u64,
    /// How many that were.
    had_room: usize,
    /// How often it was throttled in a row.
    throttles: u32,
    /// How often a lane was held in a row.
    holds: u32,
    /// Where it is in `ready`.
    ranked: Option<Rank>,
    counts: Counts,
}

/// Everything that is known.
#[derive(Debug)]
pub(crate) struct Schedule {
    limits: Limits,
    totals: Totals,
    /// Admitted and not yet on the disk.
    coming: Totals,
    last_seq: u64,
    queues: HashMap<FunctionId, Queue>,
    /// Functions by when the first of their events can be delivered, and its number.
    ready: BTreeSet<(Rank, FunctionId)>,
    /// The same of lanes.
    ready_lanes: BTreeSet<(Rank, FunctionId)>,
    /// Functions whose window is empty while there is more.
    dry: BTreeSet<FunctionId>,
}

impl Schedule {
    /// With nothing in it.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            totals: Totals::default(),
            coming: Totals::default(),
            last_seq: 0,
            queues: HashMap::new(),
            ready: BTreeSet::new(),
            ready_lanes: BTreeSet::new(),
            dry: BTreeSet::new(),
        }
    }

    /// An item that was on the disk at the start. They come in the order in which they are due.
    pub(crate) fn found(&mut self, place: &Place, brief: Brief) {
        self.last_seq = self.last_seq.max(place.seq);
        self.totals.count += 1;
        self.totals.bytes += u64::from(brief.len);
        self.insert(place, brief);
    }

    /// Makes room for an event.
    pub(crate) fn admit(&mut self, len: u32) -> bool {
        let count = self.totals.count + self.coming.count + 1;
        let bytes = self.totals.bytes + self.coming.bytes + u64::from(len);
        let fits = count <= self.limits.max_count && bytes <= self.limits.max_bytes;
        if fits {
            self.coming.count += 1;
            self.coming.bytes += u64::from(len);
        }
        fits
    }

    /// What was admitted is on the disk, or will not be.
    pub(crate) fn arrived(&mut self, len: u32) {
        self.coming.count = self.coming.count.saturating_sub(1);
        self.coming.bytes = self.coming.bytes.saturating_sub(u64::from(len));
    }

    /// A number that nothing has.
    pub(crate) fn number(&mut self) -> u64 {
        self.last_seq += 1;
        self.last_seq
    }

    /// A change is on the disk.
    pub(crate) fn committed(&mut self, op: &Op) {
        match op {
            Op::Add(place, brief, _) => {
                self.totals.count += 1;
                self.totals.bytes += u64::from(brief.len);
                self.insert(place, *brief);
            }
            Op::Remove(place, brief) => {
                self.totals.count = self.totals.count.saturating_sub(1);
                self.totals.bytes = self.totals.bytes.saturating_sub(u64::from(brief.len));
                let queue = self.queue(&place.function);
                queue.len = queue.len.saturating_sub(1);
                queue.bytes = queue.bytes.saturating_sub(u64::from(brief.len));
                queue.in_flight.remove(&rank(place));
                queue.throttles = 0;
                self.rank(&place.function);
            }
            Op::Bury(..) | Op::Forget(_) => {}
        }
    }

    /// What is due first of a function, as it is on the disk now; `whole`: there is no more of it.
    pub(crate) fn refilled(&mut self, function: &FunctionId, first: &[(Place, Brief)], whole: bool) {
        let queue = self.queue(function);
        for (place, brief) in first {
            if !queue.in_flight.contains_key(&rank(place)) {
                queue.window.insert(rank(place), *brief);
            }
        }
        queue.more = !whole;
        queue.refilling = false;
        self.rank(function);
    }

    /// The disk could not be looked at.
    pub(crate) fn unfilled(&mut self, function: &FunctionId) {
        self.queue(function).refilling = false;
        self.rank(function);
    }

    /// How many of a function's first items have to be read so that the window is filled.
    pub(crate) fn to_read(&self, function: &FunctionId) -> usize {
        WINDOW + self.queues.get(function).map_or(0, |queue| queue.in_flight.len())
    }

    /// What is to be done at this time. What is to be delivered is in flight from now on.
    pub(crate) fn next(&mut self, now_ms: u64) -> Next {
        let first = self.ready.first().into_iter().chain(self.ready_lanes.first()).min().cloned();
        self.take(first, now_ms)
    }

    /// The same while no function can be run.
    pub(crate) fn next_in_lanes(&mut self, now_ms: u64) -> Next {
        let first = self.ready_lanes.first().cloned();
        self.take(first, now_ms)
    }

    fn take(&mut self, first: Option<(Rank, FunctionId)>, now_ms: u64) -> Next {
        if let Some(function) = self.dry.pop_first() {
            self.queue(&function).refilling = true;
            return Next::Refill(function);
        }
        let Some(((at_ms, _), function)) = first else { return Next::Idle };
        if at_ms > now_ms {
            return Next::At(at_ms);
        }
        let queue = self.queue(&function);
        let Some(((due_ms, seq), brief)) = queue.window.pop_first() else { return Next::Idle };
        queue.in_flight.insert((due_ms, seq), brief);
        self.rank(&function);
        Next::Deliver(Place { function, due_ms, seq }, brief)
    }

    /// It was not delivered, and is to be tried again as if it never had been.
    pub(crate) fn returned(&mut self, place: &Place) {
        let queue = self.queue(&place.function);
        if let Some(brief) = queue.in_flight.remove(&rank(place)) {
            queue.window.insert(rank(place), brief);
        }
        self.rank(&place.function);
    }

    /// The same, as its function is at a limit: as many of its events as are under way have room, and no more are tried before
    /// a while has passed, twice as long each time unless one has ended.
    pub(crate) fn throttled(&mut self, place: &Place, now_ms: u64) {
        let queue = self.queue(&place.function);
        queue.counts.throttled += 1;
        // One wait for all that were under way together.
        if queue.blocked_ms <= now_ms {
            queue.throttles += 1;
            queue.blocked_ms = now_ms + backoff_ms(queue.throttles);
        }
        self.returned(place);
        let queue = self.queue(&place.function);
        queue.had_room = queue.in_flight.len();
        self.rank(&place.function);
    }

    /// A destination took nothing: nothing more is given to it before a while has passed, twice as long each time until it takes
    /// something.
    pub(crate) fn held(&mut self, lane: &FunctionId, now_ms: u64) {
        let queue = self.queue(lane);
        if queue.blocked_ms <= now_ms {
            queue.holds += 1;
            queue.blocked_ms = now_ms + backoff_ms(queue.holds);
        }
        queue.had_room = 0;
        self.rank(lane);
    }

    /// It took something.
    pub(crate) fn freed(&mut self, lane: &FunctionId) {
        let queue = self.queue(lane);
        (queue.holds, queue.blocked_ms) = (0, 0);
        self.rank(lane);
    }

    /// Whether one more record may wait for a destination.
    pub(crate) fn lane_has_room(&self, lane: &FunctionId, len: u64) -> bool {
        let Limits { max_lane_count, max_lane_bytes, .. } = self.limits;
        let (count, bytes) = self.queues.get(lane).map_or((0, 0), |queue| (queue.len, queue.bytes));
        count < max_lane_count && bytes + len <= max_lane_bytes
    }

    /// It is no longer there.
    pub(crate) fn vanished(&mut self, place: &Place) {
        self.queue(&place.function).in_flight.remove(&rank(place));
        self.rank(&place.function);
    }

    /// Counts of a function.
    pub(crate) fn count(&mut self, function: &FunctionId, count: impl FnOnce(&mut Counts)) {
        count(&mut self.queue(function).counts);
    }

    /// How a function stands.
    pub(crate) fn standing(&self, function: &FunctionId) -> Standing {
        self.queues.get(function).map_or_else(Standing::default, |queue| {
            let first = queue.in_flight.iter().chain(&queue.window).min_by_key(|(rank, _)| **rank);
            let in_flight = queue.in_flight.len() as u64;
            Standing {
                queued: queue.len.saturating_sub(in_flight),
                in_flight,
                oldest_ms: first.map(|(_, brief)| brief.accepted_ms),
                counts: queue.counts,
            }
        })
    }

    /// What there is, and how much may be.
    pub(crate) fn totals(&self) -> (Totals, Limits) {
        (self.totals, self.limits)
    }

    fn queue(&mut self, function: &FunctionId) -> &mut Queue {
        if self.queues.len() >= MAX_KNOWN && !self.queues.contains_key(function) {
            self.queues.retain(|_, queue| queue.len > 0 || queue.refilling);
        }
        self.queues.entry(function.clone()).or_default()
    }

    /// Puts an item into the window if it is one of the first.
    fn insert(&mut self, place: &Place, brief: Brief) {
        let queue = self.queue(&place.function);
        queue.len += 1;
        queue.bytes += u64::from(brief.len);
        let is_first = || queue.window.last_key_value().is_some_and(|(last, _)| rank(place) < *last);
        if !queue.more || is_first() {
            queue.window.insert(rank(place), brief);
        }
        if queue.window.len() > WINDOW {
            queue.window.pop_last();
            queue.more = true;
        }
        self.rank(&place.function);
    }

    /// Puts a function where it belongs after a change.
    fn rank(&mut self, function: &FunctionId) {
        let lane = is_lane(function);
        let max_share = if lane { LANE_SHARE } else { self.limits.max_share };
        let queue = self.queue(function);
        let before = queue.ranked.take();
        let has_room = queue.in_flight.len() < queue.had_room;
        let from_ms = if has_room { 0 } else { queue.blocked_ms };
        let first = queue.window.first_key_value().map(|((due, seq), _)| (*due.max(&from_ms), *seq));
        queue.ranked = first.filter(|_| queue.in_flight.len() < max_share);
        let after = queue.ranked;
        let is_dry = queue.window.is_empty() && queue.more && !queue.refilling;
        let ready = if lane { &mut self.ready_lanes } else { &mut self.ready };
        if let Some(before) = before {
            ready.remove(&(before, function.clone()));
        }
        if let Some(after) = after {
            ready.insert((after, function.clone()));
        }
        if is_dry {
            self.dry.insert(function.clone());
        } else {
            self.dry.remove(function);
        }
    }
}

/// Under which name what waits for a destination is on the disk and here, as a function's events are under its.
pub(crate) fn lane(arn: &str) -> FunctionId {
    FunctionId { region: LANE.into(), name: arn.into() }
}

/// Whether a name is a destination's.
pub(crate) fn is_lane(id: &FunctionId) -> bool {
    id.region == LANE
}

fn rank(place: &Place) -> Rank {
    (place.due_ms, place.seq)
}

#[cfg(test)]
mod tests;
