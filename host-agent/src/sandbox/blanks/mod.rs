//! Blank machines: `vmm` processes with a virtual machine, vCPUs and memory reserved, waiting for the snapshot that one of
//! them becomes, so that a resume costs no fork, no exec and no making of a machine.
//!
//! One task keeps as many as `policy` wants, one step at a time. A blank is a `vmm` like any other: it ends with the
//! agent, with its control socket and with this value.

pub(crate) mod policy;

use std::{
    collections::BTreeMap,
    num::NonZero,
    process::ExitStatus,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread::available_parallelism,
    time::{Duration, Instant},
};

use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe,
    sync::{Notify, watch},
    time::{sleep_until, timeout},
};
use vmm_api::Shape;

use self::policy::{Key, Policy, Step, key};
use super::{spawn::Spawner, vmm::Vmm};

/// How long a machine may take to be reserved, and how long the next try waits when one could not be.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest that is logged of what a blank said before it ended, bytes: a `vmm` ends with one line.
const MAX_SAID: u64 = 4096;

/// The machines that wait.
#[derive(Debug)]
pub(crate) struct Blanks {
    spawner: Arc<Spawner>,
    state: Mutex<State>,
    changed: Arc<Notify>,
    /// How many there are.
    count: watch::Sender<usize>,
}

/// A machine that waits, and what its process says about itself.
type Blank = (Vmm, pipe::Receiver);

#[derive(Debug)]
struct State {
    policy: Policy,
    blanks: BTreeMap<Key, Vec<Blank>>,
    closed: bool,
}

impl State {
    fn counts(&self) -> BTreeMap<Key, usize> {
        self.blanks.iter().map(|(key, blanks)| (*key, blanks.len())).collect()
    }
}

impl Blanks {
    /// Keeps at most `limit` blanks, from now on until the value is dropped.
    pub(super) fn start(spawner: Arc<Spawner>, limit: usize) -> Arc<Self> {
        let processors = available_parallelism().map_or(1, NonZero::get);
        let policy = Policy::new(limit, processors);
        let state = State { policy, blanks: BTreeMap::new(), closed: false };
        let changed: Arc<Notify> = Arc::default();
        let blanks = Self {
            spawner,
            state: Mutex::new(state),
            changed: Arc::clone(&changed),
            count: watch::Sender::new(0),
        };
        let blanks = Arc::new(blanks);
        tokio::spawn(keep(Arc::downgrade(&blanks), changed));
        blanks
    }

    /// Takes a blank of that shape, if one waits and still runs, and lets the next one be made.
    pub(super) fn take(&self, shape: Shape) -> Option<Blank> {
        let taken = {
            let mut state = self.state();
            state.policy.taken(shape, Instant::now());
            let taken = state.blanks.get_mut(&key(shape)).and_then(running);
            self.recount(&state);
            taken
        };
        self.changed.notify_one();
        taken
    }

    /// A clone begins, and is on its way until the value is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Starting {
        let number = self.state().policy.begin(Instant::now());
        Starting { blanks: Arc::downgrade(self), number }
    }

    /// A snapshot of that shape was made: somebody is about to ask.
    pub(crate) fn expect(&self, shape: Shape) {
        self.state().policy.taken(shape, Instant::now());
        self.changed.notify_one();
    }

    /// Ends all of them and makes no more.
    pub(crate) async fn close(&self) {
        let blanks: Vec<_> = {
            let mut state = self.state();
            state.closed = true;
            std::mem::take(&mut state.blanks).into_values().flatten().collect()
        };
        for (vmm, _) in blanks {
            end(vmm).await;
        }
        self.count.send_replace(0);
    }

    /// The processes that wait, in the order in which they came.
    #[cfg(test)]
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.state().blanks.values().flatten().map(|(vmm, _)| vmm.pid()).collect()
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    fn recount(&self, state: &State) {
        let count = state.blanks.values().map(Vec::len).sum();
        self.count.send_if_modified(|known| std::mem::replace(known, count) != count);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self) -> Step {
        let mut state = self.state();
        let counts = state.counts();
        if state.closed { Step::Wait(None) } else { state.policy.step(&counts, Instant::now()) }
    }

    /// Makes one, unless it is too late for it. Whether it could be made.
    async fn make(&self, shape: Shape) -> bool {
        let made = timeout(PREPARE_TIMEOUT, async {
            let (vmm, stderr) = Vmm::spawn(&self.spawner, shape).await?;
            vmm.prepare(shape).await.map(|()| (vmm, stderr))
        });
        let problem = match made.await {
            Ok(Ok(blank)) => {
                let mut state = self.state();
                if !state.closed {
                    state.blanks.entry(key(shape)).or_default().push(blank);
                    self.recount(&state);
                }
                return true;
            }
            Ok(Err(error)) => super::describe(&error),
            Err(_) => "it takes too long".into(),
        };
        tracing::warn!(?shape, "a machine could not be reserved: {problem}");
        false
    }

    async fn end(&self, shape: Shape) {
        let surplus = {
            let mut state = self.state();
            let surplus = state.blanks.get_mut(&key(shape)).and_then(Vec::pop);
            self.recount(&state);
            surplus
        };
        if let Some((vmm, _)) = surplus {
            end(vmm).await;
        }
    }
}

/// A clone on its way up to the answer of its first event.
#[derive(Debug)]
pub(crate) struct Starting {
    blanks: Weak<Blanks>,
    number: u64,
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(blanks) = self.blanks.upgrade() {
            blanks.state().policy.end(self.number);
            blanks.changed.notify_one();
        }
    }
}

impl Drop for Blanks {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

/// The last of some blanks whose process still runs. Those that have ended, by themselves or by the kernel's choice when
/// memory was short, are taken out: a clone would be lost with them.
fn running(blanks: &mut Vec<Blank>) -> Option<Blank> {
    while let Some((mut vmm, stderr)) = blanks.pop() {
        match vmm.reap() {
            Ok(None) => return Some((vmm, stderr)),
            Ok(Some(status)) => drop(tokio::spawn(tell(status, stderr))),
            Err(error) => tracing::error!(%error, "a blank vmm could not be looked at"),
        }
    }
    None
}

/// Logs how a process ended and what it said. Its end of the pipe is closed: this does not wait.
async fn tell(status: ExitStatus, stderr: pipe::Receiver) {
    let mut said = Vec::new();
    // A read error is the end of it as far as the operator's log goes.
    drop(stderr.take(MAX_SAID).read_to_end(&mut said).await);
    let said = String::from_utf8_lossy(&said);
    tracing::warn!(%status, said = said.trim_end(), "a blank vmm had ended while it waited");
}

async fn end(vmm: Vmm) {
    if let Err(error) = vmm.destroy().await {
        tracing::error!(%error, "a blank vmm could not be reaped");
    }
}

/// Does what the policy wants, until nobody is left to want a blank.
async fn keep(blanks: Weak<Blanks>, changed: Arc<Notify>) {
    loop {
        let until = {
            let Some(blanks) = blanks.upgrade() else { return };
            match blanks.step() {
                Step::Make(shape) if blanks.make(shape).await => continue,
                // What failed once is not tried again at once.
                Step::Make(_) => Some(Instant::now() + PREPARE_TIMEOUT),
                Step::End(shape) => {
                    blanks.end(shape).await;
                    continue;
                }
                Step::Wait(until) => until,
            }
        };
        match until {
            Some(until) => tokio::select! {
                () = sleep_until(until.into()) => {}
                () = changed.notified() => {}
            },
            None => changed.notified().await,
        }
    }
}
