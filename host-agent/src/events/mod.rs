//! Asynchronous calls: events that are kept before they are acknowledged, and delivered until they are done with.
//!
//! ```text
//! api ─accept─► keeper (thread) ─commit─► store (events.redb)
//!                   │                        ▲ read
//!                   ▼ what is durable        │
//!               schedule ─what is due─► courier ─► invoker ─► policy ─► outcome ─► a function's event, a queue's line, a parcel
//!                                        │ └────── removal, with what follows from it, in one commit ──► keeper
//!                                        └─► parcels ─► destinations (buckets, webhooks)
//! ```
//!
//! At least once: an event goes when its end is durable, and what was under way when the agent ended is delivered again. In
//! memory are numbers and a window of each function's first events; payloads are when they are delivered.

mod clock;
mod courier;
pub(crate) mod destinations;
mod keeper;
mod lineage;
mod outcome;
mod parcels;
mod policy;
mod queues;
mod record;
mod schedule;
mod store;
#[cfg(test)]
mod tests;

use std::{io, path::Path, sync::Arc};

use tokio::sync::{Semaphore, watch};

pub(crate) use self::{
    clock::Clock,
    destinations::{Destinations, Past},
    queues::{Lines, QueueError, QueueName, Queues},
    record::Event,
    schedule::{Limits, Standing, Totals},
    store::StoreError,
};
use self::{
    keeper::{Keeper, Ledger},
    record::{Item, RecordError},
    schedule::Schedule,
    store::{Brief, EventStore, Op, Place},
};
use crate::{
    config,
    disk::Disk,
    functions::{Functions, model::FunctionId},
    invoke::{
        Invoker,
        concurrency::Concurrency,
        memory::{self, Answers},
    },
    sandbox::describe,
};

/// Why an event was not accepted, or nothing is said of any.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EventsError {
    /// The queue or the disk has no room.
    #[error("the queue of events is full")]
    Full,
    /// The disk did not take it; the log says why.
    #[error("the event was not written")]
    Unwritten,
    /// It is longer than any.
    #[error("the event cannot be kept")]
    Record(#[from] RecordError),
    /// The queue could not be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder of queues could not be made, or the thread not started.
    #[error("start the queue of events")]
    Start(#[from] io::Error),
    /// The node is going down.
    #[error("the queue of events is closed")]
    Closed,
}

/// What became of a function's events since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// The function answered without an error.
    pub(crate) delivered: u64,
    /// An attempt failed, and another one follows.
    pub(crate) retried: u64,
    /// There was no room for an attempt.
    pub(crate) throttled: u64,
    /// The function, version or alias is gone.
    pub(crate) dropped: u64,
    /// Given up.
    pub(crate) dead: u64,
}

/// What deliveries work with.
pub(crate) struct Parts {
    /// The node's functions.
    pub(crate) functions: Arc<Functions>,
    /// What runs them.
    pub(crate) invoker: Arc<dyn Invoker>,
    /// What holds them to their limits.
    pub(crate) concurrency: Arc<Concurrency>,
    /// Where the queue is.
    pub(crate) disk: Arc<Disk>,
    /// What time it is.
    pub(crate) clock: Clock,
    /// The node's.
    pub(crate) account_id: String,
    /// What the ARNs of buckets and topics stand for.
    pub(crate) destinations: Arc<Destinations>,
}

/// What the tasks share.
struct Shared {
    parts: Parts,
    store: Arc<EventStore>,
    ledger: Arc<Ledger>,
    keeper: Keeper,
    queues: Arc<Queues>,
    /// One for each delivery that may be under way.
    places: Arc<Semaphore>,
    answers: Answers,
    max_deliveries: usize,
    stopping: watch::Sender<bool>,
}

/// The node's queue of events. Dropping it ends its tasks.
pub(crate) struct Events {
    shared: Arc<Shared>,
}

impl Events {
    /// Opens the queue of a node and goes on with its deliveries.
    pub(crate) async fn open(
        state_dir: &Path,
        config: &config::Events,
        parts: Parts,
    ) -> Result<Arc<Self>, EventsError> {
        let config::Events { max_count, max_bytes, max_deliveries, queue_bytes, .. } = *config;
        // Half of the queue is for events, however many destinations are away.
        let lanes = 2 * parts.destinations.len().max(1) as u64;
        let limits = Limits {
            max_count,
            max_bytes,
            max_share: max_deliveries.div_ceil(2),
            max_lane_count: max_count / lanes,
            max_lane_bytes: max_bytes / lanes,
        };
        let queues = Arc::new(Queues::open(state_dir.join("queues"), queue_bytes)?);
        let path = state_dir.join("events.redb");
        let (store, schedule) = crate::code::blocking(move || {
            let store = EventStore::open(&path)?;
            let mut schedule = Schedule::new(limits);
            store.scan(|place, brief| schedule.found(&place, brief))?;
            Ok::<_, StoreError>((Arc::new(store), schedule))
        })
        .await?;
        let (found, _) = schedule.totals();
        tracing::info!(events = found.count, bytes = found.bytes, "the queue of events is open");
        let ledger = Ledger::new(schedule);
        let keeper = Keeper::start(Arc::clone(&store), Arc::clone(&ledger))?;
        let shared = Arc::new(Shared {
            parts,
            store,
            ledger,
            keeper,
            queues,
            places: Arc::new(Semaphore::new(max_deliveries)),
            answers: Answers::new(memory::EVENT_ANSWERS_KIB),
            max_deliveries,
            stopping: watch::Sender::new(false),
        });
        shared.forget_strangers().await?;
        tokio::spawn(courier::run(Arc::clone(&shared)));
        Ok(Arc::new(Self { shared }))
    }

    /// Keeps an event: durable when this returns.
    ///
    /// # Errors
    /// [`EventsError`]; it may be kept all the same only after [`EventsError::Unwritten`] and [`EventsError::Closed`].
    pub(crate) async fn accept(&self, event: Event) -> Result<(), EventsError> {
        let (function, accepted_ms) = (event.function.clone(), event.accepted_ms);
        let record = Item::Call(event).encode()?;
        // Bounded far below.
        let len = u32::try_from(record.len()).unwrap_or(u32::MAX);
        if let Err(error) = self.shared.parts.disk.check(u64::from(len)) {
            tracing::warn!("an event was not accepted: {}", describe(&error));
            return Err(EventsError::Full);
        }
        let make = |seq| {
            let place = Place { function, due_ms: accepted_ms, seq };
            Op::Add(place, Brief { len, accepted_ms }, record)
        };
        self.shared.keeper.admit(len, make).await
    }

    /// Now, by the clock of the queue.
    pub(crate) fn now_ms(&self) -> u64 {
        self.shared.parts.clock.now_ms()
    }

    /// How a function's events stand.
    pub(crate) fn standing(&self, function: &FunctionId) -> Standing {
        self.shared.ledger.schedule().standing(function)
    }

    /// What there is, and how much may be.
    pub(crate) fn totals(&self) -> (Totals, Limits) {
        self.shared.ledger.schedule().totals()
    }

    /// What the ARNs of buckets and topics stand for.
    pub(crate) fn destinations(&self) -> &Destinations {
        &self.shared.parts.destinations
    }

    /// How each destination stands: its ARN, what waits for it, and how deliveries went.
    pub(crate) fn lanes(&self) -> Vec<(String, Standing, Past)> {
        let past = self.destinations().past();
        past.map(|(arn, past)| (arn.into(), self.standing(&schedule::lane(arn)), past)).collect()
    }

    /// What is shown of a function's dead events, each as JSON, the last one first.
    pub(crate) async fn dead(&self, function: &FunctionId) -> Result<Vec<Vec<u8>>, EventsError> {
        let (store, function) = (Arc::clone(&self.shared.store), function.clone());
        Ok(crate::code::blocking(move || store.dead(&function)).await?)
    }

    /// A function was deleted: nothing is shown of its dead events any more. Those that wait are dropped in their turn.
    pub(crate) async fn forget(&self, function: &FunctionId) -> Result<(), EventsError> {
        self.shared.keeper.write(vec![Op::Forget(function.clone())]).await
    }

    /// The node's queues.
    pub(crate) fn queues(&self) -> &Arc<Queues> {
        &self.shared.queues
    }

    /// Begins no more deliveries.
    pub(crate) fn stop(&self) {
        self.shared.stopping.send_replace(true);
    }

    /// Waits for the deliveries that are under way: the invoker's end is theirs.
    pub(crate) async fn drained(&self) {
        let all = u32::try_from(self.shared.max_deliveries).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        drop(self.shared.places.acquire_many(all).await);
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// Forgets dead events of functions that are gone: the agent ended before it had.
    async fn forget_strangers(&self) -> Result<(), EventsError> {
        let store = Arc::clone(&self.store);
        let buried = crate::code::blocking(move || store.buried()).await?;
        let gone = buried.into_iter().filter(|function| self.parts.functions.get(function).is_none());
        let ops: Vec<_> = gone.map(Op::Forget).collect();
        if ops.is_empty() { Ok(()) } else { self.keeper.write(ops).await }
    }
}
