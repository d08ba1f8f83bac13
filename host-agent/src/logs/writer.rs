//! The thread that alone writes lines. What came within a few milliseconds is written together, a write for each group.
//!
//! Lines are in the kernel's hands when they are written, which a killed agent does not undo; they are flushed every few seconds, for
//! a power cut.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    LogsError,
    group::{GroupName, Line},
    groups::Groups,
    source::Batch,
};
use crate::{disk::Disk, functions::now_ms, sandbox::describe};

/// Batches that wait; who comes then drops. Their bytes are bounded by who sends them.
pub(super) const MAX_WAITING: usize = 8192;

/// Bytes that are written together, about.
const MAX_TOGETHER: usize = 1024 * 1024;

/// How long the thread lets lines come together once there are some. An invocation prints several, one after the other, and waking up
/// costs more than writing: without it the agent spends a quarter more on a call.
const GATHER: Duration = Duration::from_millis(5);

/// Bytes that wait with which it does not: what prints that fast would fill its share meanwhile.
const MAX_GATHERED: usize = 128 * 1024;

/// Longest time that a line is not flushed.
const FLUSH_AFTER: Duration = Duration::from_secs(5);

/// How often old lines are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);

/// Room that is asked for at once: the disk's answer takes a system call for every sandbox.
const ROOM: u64 = 4 * 1024 * 1024;

/// How often a disk that is full is spoken of.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// What is asked of the thread.
#[derive(Debug)]
pub(super) enum Job {
    /// To keep lines.
    Lines(Batch),
    /// To say when all before it is written, and flushed if that is wanted.
    Settle(Flush, SyncSender<()>),
}

/// Whether what is written has to be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flush {
    Yes,
    No,
}

/// The groups, for the thread and for those who read.
#[derive(Debug)]
pub(super) struct Shelf(Mutex<Groups>);

impl Shelf {
    pub(super) fn new(groups: Groups) -> Arc<Self> {
        Arc::new(Self(Mutex::new(groups)))
    }

    /// Held for a batch or a look at what there is, never while somebody waits for a client.
    pub(super) fn groups(&self) -> MutexGuard<'_, Groups> {
        // Files are read up to what was noted after they were written, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) shelf: Arc<Shelf>,
    pub(super) disk: Arc<Disk>,
    pub(super) jobs: Receiver<Job>,
    /// Bytes that wait.
    pub(super) waiting: Arc<AtomicUsize>,
    /// Bytes that the disk had room for.
    room: u64,
    is_dirty: bool,
    flushed: Instant,
    expired: Option<Instant>,
    complained: Option<Instant>,
}

impl Writer {
    /// Starts it. It ends when nobody can ask it for anything any more.
    pub(super) fn start(
        (shelf, disk): (Arc<Shelf>, Arc<Disk>),
        jobs: Receiver<Job>,
        waiting: Arc<AtomicUsize>,
    ) -> std::io::Result<()> {
        let (room, is_dirty, flushed) = (0, false, Instant::now());
        let writer =
            Self { shelf, disk, jobs, waiting, room, is_dirty, flushed, expired: None, complained: None };
        thread::Builder::new().name("logs".into()).spawn(move || writer.run()).map(drop)
    }

    fn run(mut self) {
        loop {
            let wait = if self.is_dirty { FLUSH_AFTER } else { EXPIRE_EVERY };
            match self.jobs.recv_timeout(wait) {
                Ok(job) => {
                    self.gather(&job);
                    self.take(job);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.is_dirty && self.flushed.elapsed() >= FLUSH_AFTER {
                self.flush();
            }
            if self.expired.is_none_or(|last| last.elapsed() >= EXPIRE_EVERY) {
                self.expired = Some(Instant::now());
                self.shelf.groups().expire(time_ms());
            }
        }
        self.flush();
    }

    /// Waits for more, unless somebody waits for what there is.
    fn gather(&self, first: &Job) {
        if matches!(first, Job::Lines(_)) && self.waiting.load(Ordering::Relaxed) < MAX_GATHERED {
            thread::sleep(GATHER);
        }
    }

    /// Takes what waits, in its order.
    fn take(&mut self, first: Job) {
        let (mut len, mut batches, mut next) = (0, Vec::new(), Some(first));
        while let Some(job) = next.take() {
            match job {
                Job::Lines(batch) => {
                    len += batch.cost();
                    batches.push(batch);
                }
                Job::Settle(flush, done) => {
                    self.write(std::mem::take(&mut batches));
                    if flush == Flush::Yes {
                        self.flush();
                    }
                    // Who does not wait any more does not mind.
                    let _ = done.try_send(());
                }
            }
            if len < MAX_TOGETHER {
                next = self.jobs.try_recv().ok();
            }
        }
        self.write(batches);
    }

    fn write(&mut self, batches: Vec<Batch>) {
        let mut by_group: HashMap<&GroupName, Vec<&Batch>> = HashMap::new();
        for batch in &batches {
            by_group.entry(&batch.stream.id.group).or_default().push(batch);
        }
        for (group, batches) in by_group {
            if let Err(error) = self.append(group, &batches) {
                self.complain(group, &error);
                batches.iter().for_each(|batch| batch.lose());
            }
        }
        for batch in batches {
            let cost = batch.cost();
            batch.stream.share.waiting.fetch_sub(cost, Ordering::Relaxed);
            self.waiting.fetch_sub(cost, Ordering::Relaxed);
        }
    }

    fn append(&mut self, group: &GroupName, batches: &[&Batch]) -> Result<(), LogsError> {
        self.make_room(batches.iter().map(|batch| batch.kept_len()).sum())?;
        let lines = batches.iter().flat_map(|batch| {
            let (stream, at_ms) = (batch.stream.id.stream.as_str(), batch.at_ms);
            batch.lines().map(move |message| Line { stream, at_ms, message })
        });
        let lines: Vec<Line<'_>> = lines.collect();
        self.is_dirty = true;
        self.shelf.groups().append(group, &lines, time_ms())
    }

    /// What others were promised is theirs: lines are dropped rather than take it.
    fn make_room(&mut self, len: u64) -> Result<(), LogsError> {
        if self.room < len {
            let wanted = len.max(ROOM);
            self.disk.check(wanted)?;
            self.room = wanted;
        }
        self.room -= len;
        Ok(())
    }

    fn complain(&mut self, group: &GroupName, error: &LogsError) {
        if self.complained.is_none_or(|last| last.elapsed() >= SAY_EVERY) {
            self.complained = Some(Instant::now());
            tracing::warn!(group = group.name, "lines of a log are not kept: {}", describe(error));
        }
    }

    /// Not under the lock: a disk takes its time.
    fn flush(&mut self) {
        let dirty = self.shelf.groups().dirty();
        for file in dirty {
            if let Err(error) = file.sync_data() {
                tracing::warn!("a log was not flushed: {error}");
            }
        }
        (self.is_dirty, self.flushed) = (false, Instant::now());
    }
}

/// Now, in milliseconds since the Unix epoch.
pub(super) fn time_ms() -> u64 {
    u64::try_from(now_ms()).unwrap_or(0)
}
