//! What functions print, kept on the node's disk: groups of streams as CloudWatch Logs has them, one stream for each sandbox.
//!
//! ```text
//!  sandbox ─ Source (lines, rate) ─ bounded channel ─► writer's thread ─► segments (logs/GROUP/N.log)
//!                 └ full: dropped, counted, said                              ▲
//!                                              api::logs ─ view, query ───────┘
//! ```
//!
//! No invocation waits for any of it: [`Source::write`] hands over what fits and drops the rest. The thread of [`writer`] alone appends;
//! whoever reads takes a [`view`] under the lock and reads files without it, in a thread for what blocks.

mod group;
mod groups;
mod pattern;
mod query;
mod segment;
mod share;
mod source;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod view;
mod writer;

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::AtomicUsize,
        mpsc::{SyncSender, sync_channel},
    },
    time::Duration,
};

use tokio::{sync::Semaphore, task::spawn_blocking};

pub(crate) use self::{
    group::GroupName,
    groups::{GroupInfo, Limits},
    pattern::Pattern,
    query::{Found, Page, Query, StreamInfo, Streams},
    source::{Source, StreamId},
    view::Position,
};
use self::{
    groups::Groups,
    share::Share,
    source::Stream,
    view::View,
    writer::{Flush, Job, MAX_WAITING, Shelf, Writer, time_ms},
};
use crate::disk::{Disk, DiskError};

/// Questions at a time: each reads up to 32 MiB and holds 1 MiB.
const MAX_QUESTIONS: usize = 2;

/// How long a question waits for what was printed before it to be written.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the end waits for that: with the invoker's drain and what it reaps within the unit's `TimeoutStopSec`.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Shares of groups nobody writes to any more are forgotten when there are this many.
const MAX_SHARES: usize = 4096;

/// Why lines are not kept or not found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogsError {
    /// There is no such group.
    #[error("there is no such log group")]
    NoGroup,
    /// The group has no such stream.
    #[error("there is no such log stream")]
    NoStream,
    /// There is such a group already.
    #[error("there is such a log group already")]
    GroupExists,
    /// There are as many as may be.
    #[error("this node has as many log groups as it may have")]
    TooManyGroups,
    /// More deleted streams than are remembered.
    #[error("as many streams of the group were deleted as it remembers; delete the group")]
    TooManyDeleted,
    /// The disk is full.
    #[error("find room for lines")]
    Disk(#[from] DiskError),
    /// The disk failed.
    #[error("use the files of a log")]
    Io(#[from] io::Error),
}

/// The node's logs.
#[derive(Debug)]
pub(crate) struct LogStore {
    shelf: Arc<Shelf>,
    jobs: SyncSender<Job>,
    waiting: Arc<AtomicUsize>,
    shares: Mutex<HashMap<GroupName, Weak<Share>>>,
    rate: u64,
    questions: Semaphore,
}

impl LogStore {
    /// Opens what is in `state_dir` and starts the writer. A group may print `rate` bytes a second. Blocks.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub(crate) fn open(
        state_dir: &Path,
        limits: Limits,
        rate: u64,
        disk: Arc<Disk>,
    ) -> io::Result<Arc<Self>> {
        let shelf = Shelf::new(Groups::open(state_dir.join("logs"), limits)?);
        let (jobs, inbox) = sync_channel(MAX_WAITING);
        let waiting = Arc::<AtomicUsize>::default();
        Writer::start((Arc::clone(&shelf), disk), inbox, Arc::clone(&waiting))?;
        let (shares, questions) = (Mutex::default(), Semaphore::new(MAX_QUESTIONS));
        Ok(Arc::new(Self { shelf, jobs, waiting, shares, rate, questions }))
    }

    /// What a sandbox writes its stream with.
    pub(crate) fn source(&self, id: StreamId) -> Source {
        let share = self.share(&id.group);
        Source::new(Arc::new(Stream::new(id, share)), self.jobs.clone(), Arc::clone(&self.waiting))
    }

    fn share(&self, group: &GroupName) -> Arc<Share> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(group).and_then(Weak::upgrade) {
            return share;
        }
        if shares.len() >= MAX_SHARES {
            shares.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(Share::new(self.rate));
        shares.insert(group.clone(), Arc::downgrade(&share));
        share
    }

    /// Events of a group from a position on.
    pub(crate) async fn find(
        self: &Arc<Self>,
        group: GroupName,
        query: Query,
        from: Position,
    ) -> Result<Page, LogsError> {
        self.ask(move |store| Ok(query::forwards(&store.view(&group)?, &query, from)?)).await
    }

    /// Events of one stream: those from a position on, or the last before it.
    pub(crate) async fn read_stream(
        self: &Arc<Self>,
        (group, stream): (GroupName, String),
        query: Query,
        reading: Reading,
    ) -> Result<Page, LogsError> {
        self.ask(move |store| {
            let view = store.view(&group)?;
            if !query::has_stream(&view, &stream)? {
                return Err(LogsError::NoStream);
            }
            Ok(match reading {
                Reading::From(from) => query::forwards(&view, &query, from)?,
                Reading::Before(before) => query::backwards(&view, &query, before)?,
            })
        })
        .await
    }

    /// The streams of a group, by name.
    pub(crate) async fn streams(self: &Arc<Self>, group: GroupName) -> Result<Vec<StreamInfo>, LogsError> {
        self.ask(move |store| Ok(query::streams(&store.view(&group)?)?)).await
    }

    /// The groups of a region whose names are to be kept, by name, those behind `after`.
    pub(crate) async fn groups(
        self: &Arc<Self>,
        region: String,
        keep: impl Fn(&str) -> bool + Send + 'static,
        after: String,
    ) -> Result<Vec<GroupInfo>, LogsError> {
        self.ask(move |store| Ok(store.shelf.groups().list(&region, keep, &after))).await
    }

    /// Makes a group before its first line. Durable when this returns.
    pub(crate) async fn create_group(self: &Arc<Self>, group: GroupName) -> Result<(), LogsError> {
        self.ask(move |store| store.shelf.groups().create(&group, time_ms())).await
    }

    /// Changes a group's retention; none: the node's. Durable when this returns.
    pub(crate) async fn set_retention(
        self: &Arc<Self>,
        group: GroupName,
        days: Option<u32>,
    ) -> Result<(), LogsError> {
        self.ask(move |store| {
            let mut groups = store.shelf.groups();
            groups.set_retention(&group, days)?;
            groups.expire(time_ms());
            Ok(())
        })
        .await
    }

    /// Removes a group with all its streams. Durable when this returns.
    pub(crate) async fn delete_group(self: &Arc<Self>, group: GroupName) -> Result<(), LogsError> {
        self.ask(move |store| store.shelf.groups().delete(&group)).await
    }

    /// Removes a stream. Durable when this returns.
    pub(crate) async fn delete_stream(
        self: &Arc<Self>,
        group: GroupName,
        stream: String,
    ) -> Result<(), LogsError> {
        self.ask(move |store| {
            if !query::has_stream(&store.view(&group)?, &stream)? {
                return Err(LogsError::NoStream);
            }
            store.shelf.groups().delete_stream(&group, &stream)
        })
        .await
    }

    /// Writes and flushes what was printed, for an agent that ends. What it is late for is in the kernel's hands.
    pub(crate) async fn close(self: &Arc<Self>) {
        let store = Arc::clone(self);
        drop(spawn_blocking(move || store.settle(Flush::Yes, CLOSE_TIMEOUT)).await);
    }

    fn view(&self, group: &GroupName) -> Result<View, LogsError> {
        self.shelf.groups().view(group, time_ms())
    }

    /// Answers a question in a thread for what blocks; what was printed before it is written first.
    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl FnOnce(&Self) -> Result<T, LogsError> + Send + 'static,
    ) -> Result<T, LogsError> {
        // Never closed.
        let _turn = self.questions.acquire().await;
        let store = Arc::clone(self);
        let answered = spawn_blocking(move || {
            store.settle(Flush::No, SETTLE_TIMEOUT);
            question(&store)
        });
        answered.await.unwrap_or_else(|panicked| Err(io::Error::other(panicked).into()))
    }

    fn settle(&self, flush: Flush, limit: Duration) {
        let (done, settled) = sync_channel(1);
        if self.jobs.try_send(Job::Settle(flush, done)).is_ok() {
            // Late: the answer is what is written.
            let _ = settled.recv_timeout(limit);
        }
    }
}

/// Which part of a stream is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// From here on.
    From(Position),
    /// What is last before here.
    Before(Position),
}
