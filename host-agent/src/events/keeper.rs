//! The thread that alone changes the queue's file. Changes that wait for it are made together, in one commit: as many events as
//! come during one flush of the disk share the next. The schedule hears of a change when it is durable, and before whoever asked
//! for it, so that it knows all that is on the disk whether or not that one still listens.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    EventsError,
    schedule::Schedule,
    store::{EventStore, Op, StoreError},
};
use crate::{functions::model::FunctionId, sandbox::describe};

/// Changes that wait for the thread; who comes then waits to wait.
const MAX_WAITING: usize = 1024;

/// Bytes of records in one commit, about, which redb holds in memory.
const MAX_BATCH_LEN: usize = 8 * 1024 * 1024;

/// How long a disk is left alone that could not be read.
const PAUSE: Duration = Duration::from_secs(1);

/// What is asked of the thread.
enum Job {
    Write(Write),
    Refill(FunctionId),
}

struct Write {
    ops: Vec<Op>,
    /// Length of what was admitted for it.
    admitted: Option<u32>,
    done: oneshot::Sender<bool>,
}

/// The schedule, and word of its changes.
#[derive(Debug)]
pub(super) struct Ledger {
    schedule: Mutex<Schedule>,
    pub(super) changed: Notify,
}

impl Ledger {
    pub(super) fn new(schedule: Schedule) -> Arc<Self> {
        Arc::new(Self { schedule: Mutex::new(schedule), changed: Notify::new() })
    }

    /// The schedule, to look at or for changes that make nothing ready.
    pub(super) fn schedule(&self) -> MutexGuard<'_, Schedule> {
        // Nothing under the lock panics by design; if something did, what is known is still the best there is.
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the schedule and says so.
    pub(super) fn update(&self, change: impl FnOnce(&mut Schedule)) {
        change(&mut self.schedule());
        self.changed.notify_one();
    }
}

/// The thread's mailbox; it ends with this.
#[derive(Debug)]
pub(super) struct Keeper {
    jobs: mpsc::Sender<Job>,
    ledger: Arc<Ledger>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job(..)")
    }
}

impl Keeper {
    /// Starts the thread.
    pub(super) fn start(store: Arc<EventStore>, ledger: Arc<Ledger>) -> std::io::Result<Self> {
        let (jobs, inbox) = mpsc::channel(MAX_WAITING);
        let keeping = Keeping { store, ledger: Arc::clone(&ledger), inbox };
        thread::Builder::new().name("events".into()).spawn(move || keeping.run())?;
        Ok(Self { jobs, ledger })
    }

    /// Writes a new event if there is room for it: durable when this returns. `make` is given a number that nothing has.
    pub(super) async fn admit(&self, len: u32, make: impl FnOnce(u64) -> Op) -> Result<(), EventsError> {
        let place = self.jobs.reserve().await.map_err(|_| EventsError::Closed)?;
        let (done, outcome) = oneshot::channel();
        // Nothing is awaited between the admission and the job: who goes away leaves no room taken.
        let op = {
            let mut schedule = self.ledger.schedule();
            if !schedule.admit(len) {
                return Err(EventsError::Full);
            }
            make(schedule.number())
        };
        place.send(Job::Write(Write { ops: vec![op], admitted: Some(len), done }));
        finished(outcome).await
    }

    /// Makes changes, together: durable when this returns.
    pub(super) async fn write(&self, ops: Vec<Op>) -> Result<(), EventsError> {
        let (done, outcome) = oneshot::channel();
        let job = Job::Write(Write { ops, admitted: None, done });
        self.jobs.send(job).await.map_err(|_| EventsError::Closed)?;
        finished(outcome).await
    }

    /// Fills a function's window, in turn with changes: it misses none.
    pub(super) async fn refill(&self, function: FunctionId) {
        // The thread lives as long as this.
        drop(self.jobs.send(Job::Refill(function)).await);
    }
}

async fn finished(outcome: oneshot::Receiver<bool>) -> Result<(), EventsError> {
    match outcome.await {
        Ok(true) => Ok(()),
        // The thread has said why.
        Ok(false) => Err(EventsError::Unwritten),
        Err(_) => Err(EventsError::Closed),
    }
}

struct Keeping {
    store: Arc<EventStore>,
    ledger: Arc<Ledger>,
    inbox: mpsc::Receiver<Job>,
}

impl Keeping {
    fn run(mut self) {
        let mut next = None;
        while let Some(job) = next.take().or_else(|| self.inbox.blocking_recv()) {
            match job {
                Job::Refill(function) => self.refill(&function),
                Job::Write(first) => next = self.write(first),
            }
        }
    }

    /// Writes what waits, and returns the job that came after it.
    fn write(&mut self, first: Write) -> Option<Job> {
        let mut len = first.len();
        let mut batch = vec![first];
        let mut next = None;
        while len < MAX_BATCH_LEN && batch.len() < MAX_WAITING {
            match self.inbox.try_recv() {
                Ok(Job::Write(write)) => {
                    len += write.len();
                    batch.push(write);
                }
                Ok(other) => {
                    next = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        let written = self.store.apply(batch.iter().flat_map(|write| &write.ops));
        if let Err(error) = &written {
            tracing::error!(changes = batch.len(), "events were not written: {}", describe(error));
        }
        self.ledger.update(|schedule| {
            for write in &batch {
                write.admitted.into_iter().for_each(|len| schedule.arrived(len));
                if written.is_ok() {
                    write.ops.iter().for_each(|op| schedule.committed(op));
                }
            }
        });
        for write in batch {
            // Nobody listens any more: it is written all the same.
            let _ = write.done.send(written.is_ok());
        }
        next
    }

    fn refill(&self, function: &FunctionId) {
        let limit = self.ledger.schedule().to_read(function);
        match self.store.first(function, limit) {
            Ok(first) => {
                self.ledger.update(|schedule| schedule.refilled(function, &first, first.len() < limit));
            }
            Err(error) => {
                let error: StoreError = error;
                tracing::error!(function = function.name, "its events cannot be read: {}", describe(&error));
                thread::sleep(PAUSE);
                self.ledger.update(|schedule| schedule.unfilled(function));
            }
        }
    }
}

impl Write {
    fn len(&self) -> usize {
        let len = |op: &Op| match op {
            Op::Add(_, _, record) | Op::Bury(_, record) => record.len(),
            Op::Remove(..) | Op::Forget(_) => 0,
        };
        self.ops.iter().map(len).sum()
    }
}
