//! The node's invoker: gives each invocation a sandbox, warm or new, and turns what happens there into an answer.
//!
//! `sandbox::policy` decides, this file carries its decisions out; `prepare` and `runtimes` make snapshots beside that. One
//! lock guards the pool and the mailboxes; it is held for the decision alone and never across an await. Each invocation
//! runs in a task of its own, so that it goes on when its client goes away.

use std::{
    collections::{HashMap, VecDeque},
    fs,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::{
    Failed, InvokeError, Retired, Throttle,
    ahead::{self, Provisions},
    messages,
    prepare::Making,
    runtimes::{self, Runtimes},
    settings::Settings,
    worker::{Command, Commands},
};
use crate::{
    functions::model::{FunctionConfig, FunctionId},
    sandbox::{
        SandboxId,
        boot::Host,
        describe, machine,
        policy::{self, Action, Demand, Pool, Ticket},
    },
    snapshots::{HostIdentity, SnapshotStore},
};

/// How long the processes of killed sandboxes may take to be gone.
const REAP_TIMEOUT: Duration = Duration::from_secs(5);

/// What the tasks of one node share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) host: Host,
    pub(super) settings: Settings,
    pub(super) snapshots: Arc<SnapshotStore>,
    pub(super) making: Making,
    pub(super) runtimes: Runtimes,
    state: Mutex<State>,
    /// A sandbox became idle: there may be something to expire.
    became_idle: Arc<Notify>,
    /// Something that failed to be prepared is to be tried again some time.
    failed: Arc<Notify>,
    /// Sandboxes and admitted requests that are not over.
    population: watch::Sender<usize>,
    /// A sandbox became idle or ended: what had no room may have some.
    eased: watch::Sender<()>,
    /// Set when there is no more time to drain.
    force: watch::Sender<bool>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) pool: Pool,
    pub(super) workers: HashMap<SandboxId, Commands>,
    waiting: HashMap<Ticket, oneshot::Sender<Grant>>,
    last_ticket: u64,
    closing: bool,
    pub(super) provisions: Provisions,
}

/// What an admitted request is given.
#[derive(Debug)]
pub(super) enum Grant {
    /// A sandbox that is ready.
    Warm(Commands),
    /// The right to start one.
    Cold(SandboxId),
}

/// What an agent before this one had no time for.
fn collect(shared: &Shared) -> impl FnOnce() + Send + 'static {
    let chunks = Arc::clone(&shared.settings.chunks);
    move || {
        if let Err(error) = chunks.collect() {
            tracing::warn!("chunks that nobody needs are left: {}", describe(&error));
        }
    }
}

/// Opens the images of the runtimes: the first sandbox of each would wait for what a long one's manifest takes to be read.
fn open_runtimes(shared: &Shared) -> impl FnOnce() + Send + 'static {
    let (chunks, dir) = (Arc::clone(&shared.settings.chunks), shared.settings.lib_dir.join("runtimes"));
    move || {
        let paths = fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        for path in paths.filter(|path| path.extension().is_some_and(|extension| extension == "pack")) {
            if let Err(error) = chunks.pack(&path) {
                tracing::warn!("a runtime cannot be used: {}", describe(&error));
            }
        }
    }
}

impl Shared {
    /// The runtime whose image serves the function. One that is gone since it was created is missed where it is opened.
    pub(super) fn image<'a>(&'a self, function: &'a FunctionConfig) -> &'a str {
        if function.image.is_some() {
            return messages::CONTAINER;
        }
        self.image_of(&function.runtime)
    }

    /// The runtime whose image serves functions of that one.
    pub(super) fn image_of<'a>(&'a self, runtime: &'a str) -> &'a str {
        self.settings.images.image(runtime).unwrap_or(runtime)
    }

    /// A node without sandboxes.
    pub(super) fn new(settings: Settings) -> anyhow::Result<Arc<Self>> {
        let Settings { lib_dir, launcher, scratch_dir, boot_timeout, disk, chunks, logs, network, .. } =
            &settings;
        let amounts = (settings.blank_limit, settings.memory_mib_per_cpu);
        let kept = (Arc::clone(disk), Arc::clone(chunks), Arc::clone(network), Arc::clone(logs));
        let host = Host::new((lib_dir, launcher.clone()), scratch_dir.clone(), *boot_timeout, amounts, kept)?;
        let snapshots = Arc::new(SnapshotStore::open(&settings.state_dir, Arc::clone(chunks))?);
        let identity = HostIdentity::new(lib_dir.clone(), Arc::clone(chunks));
        if let Err(error) = identity.shed_images(&snapshots) {
            tracing::warn!("images that no snapshot needs are left: {error}");
        }
        let making = Making::new(identity);
        let runtimes = Runtimes::new(settings.runtime_snapshots);
        let (provisions, orders) = Provisions::new();
        let state = State {
            pool: Pool::new(settings.limits.clone()),
            workers: HashMap::new(),
            waiting: HashMap::new(),
            last_ticket: 0,
            closing: false,
            provisions,
        };
        let shared = Arc::new(Self {
            host,
            settings,
            snapshots,
            making,
            runtimes,
            state: Mutex::new(state),
            became_idle: Arc::default(),
            failed: Arc::default(),
            population: watch::Sender::new(0),
            eased: watch::Sender::new(()),
            force: watch::Sender::new(false),
        });
        tokio::spawn(runtimes::take_stock(Arc::downgrade(&shared)));
        tokio::task::spawn_blocking(open_runtimes(&shared));
        tokio::task::spawn_blocking(collect(&shared));
        tokio::spawn(ahead::carry_out(Arc::downgrade(&shared), orders));
        let wakes = (Arc::clone(&shared.became_idle), Arc::clone(&shared.failed));
        tokio::spawn(expire_idle(Arc::downgrade(&shared), wakes));
        Ok(shared)
    }

    /// Asks the pool for a sandbox: at once for a warm one or a free start, otherwise after a wait, whose length comes
    /// with the grant.
    pub(super) async fn place(&self, demand: Demand) -> Result<(Grant, Option<Duration>), InvokeError> {
        let mut granted = {
            let mut state = self.state();
            if state.closing {
                return Err(InvokeError::ShuttingDown);
            }
            state.last_ticket += 1;
            let ticket = Ticket(state.last_ticket);
            let actions = state.pool.request(ticket, demand, Instant::now());
            let actions = actions.map_err(|reason| refused(reason, &self.settings.limits))?;
            let (grant, granted) = oneshot::channel();
            state.waiting.insert(ticket, grant);
            state.carry_out(actions);
            self.count(&state);
            granted
        };
        if let Ok(grant) = granted.try_recv() {
            return Ok((grant, None));
        }
        let waits_from = Instant::now();
        let grant = granted.await.map_err(|_| InvokeError::ShuttingDown)?;
        Ok((grant, Some(waits_from.elapsed())))
    }

    /// A sandbox for something that can wait, if there is room for it now. It is to end when it is told so, or when its
    /// channel closes.
    pub(super) fn spare(
        &self,
        demand: Demand,
    ) -> Result<Option<(SandboxId, mpsc::Receiver<Command>)>, InvokeError> {
        let mut state = self.state();
        if state.closing {
            return Err(InvokeError::ShuttingDown);
        }
        let spare = state.pool.spare(demand).map(|sandbox| {
            let (commands, inbox) = mpsc::channel(1);
            state.workers.insert(sandbox, commands);
            (sandbox, inbox)
        });
        self.count(&state);
        Ok(spare)
    }

    /// Whether there may soon be the room that [`Self::spare`] did not find.
    pub(super) fn is_busy(&self) -> bool {
        self.state().pool.is_busy()
    }

    /// A new sandbox is ready and runs the request that it was started for.
    pub(super) fn started(&self, sandbox: SandboxId, commands: Commands) {
        self.update(|state| {
            state.workers.insert(sandbox, commands);
            state.pool.started(sandbox)
        });
    }

    /// A new sandbox has used its share of the start bound.
    pub(super) fn slot_used(&self, sandbox: SandboxId) {
        self.update(|state| state.pool.slot_used(sandbox));
    }

    /// A sandbox is free.
    pub(super) fn released(&self, sandbox: SandboxId) {
        self.update(|state| state.pool.released(sandbox, Instant::now()));
        self.became_idle.notify_one();
        self.eased.send_replace(());
    }

    /// The disk is full: what idle sandboxes and snapshots of runtimes have of it is of more use to others. `len`: what
    /// there was no room for.
    pub(super) fn ease_disk(&self, len: u64) {
        self.update(|state| state.pool.evict_idle());
        let (snapshots, disk) = (Arc::clone(&self.snapshots), Arc::clone(&self.settings.disk));
        tokio::spawn(async move { snapshots.make_room(&disk, len).await });
    }

    /// A sandbox takes no more events.
    pub(super) fn stopping(&self, sandbox: SandboxId) {
        self.update(|state| {
            state.workers.remove(&sandbox);
            state.pool.stopping(sandbox, Instant::now())
        });
        self.failed.notify_one();
    }

    /// Something is to be tried again some time.
    pub(super) fn notify_failed(&self) {
        self.failed.notify_one();
    }

    /// A sandbox is gone.
    pub(super) fn ended(&self, sandbox: SandboxId) {
        self.update(|state| {
            state.workers.remove(&sandbox);
            state.pool.ended(sandbox)
        });
        self.eased.send_replace(());
    }

    /// See [`super::Invoker::retire`].
    pub(super) fn retire(&self, function: &FunctionId, what: Retired<'_>) {
        self.update(|state| state.pool.retire(function, what));
        // In this order: what is published after the first step is deleted by the second.
        self.making.retire(function, what);
        self.snapshots.retire(function, what);
    }

    /// Turns true when everything has to end now.
    pub(super) fn forced(&self) -> watch::Receiver<bool> {
        self.force.subscribe()
    }

    /// Changes when what had no room may have some.
    pub(super) fn eased(&self) -> watch::Receiver<()> {
        self.eased.subscribe()
    }

    /// How many sandboxes and admitted requests are not over.
    pub(super) fn population(&self) -> watch::Receiver<usize> {
        self.population.subscribe()
    }

    /// See [`super::Invoker::shutdown`].
    pub(super) async fn shutdown(&self) {
        self.state().closing = true;
        self.eased.send_replace(());
        self.update(|state| state.pool.retire_all());
        self.host.blanks().close().await;
        let mut population = self.population();
        let drain = population.wait_for(|left| *left == 0);
        if tokio::time::timeout(self.settings.drain_timeout, drain).await.is_ok() {
            return;
        }
        let left = *self.population.borrow();
        tracing::warn!(left, "invocations are still running: their sandboxes are killed");
        self.force.send_replace(true);
        let gone = population.wait_for(|left| *left == 0);
        if tokio::time::timeout(REAP_TIMEOUT, gone).await.is_err() {
            tracing::error!("sandboxes did not end; they end with this process");
        }
    }

    /// Tells the pool what happened and carries out what it wants.
    pub(super) fn update(&self, event: impl FnOnce(&mut State) -> Vec<Action>) {
        let mut state = self.state();
        let actions = event(&mut state);
        state.carry_out(actions);
        self.count(&state);
    }

    fn count(&self, state: &State) {
        let population = state.pool.population();
        self.population.send_if_modified(|known| std::mem::replace(known, population) != population);
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // No code under the lock panics by design; if some did, the pool's sums are still the best there is.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.became_idle.notify_one();
        self.failed.notify_one();
    }
}

impl State {
    pub(super) fn is_closing(&self) -> bool {
        self.closing
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        let mut pending = VecDeque::from(actions);
        while let Some(action) = pending.pop_front() {
            match action {
                Action::Run { ticket, sandbox } => {
                    let warm = self.workers.get(&sandbox).cloned().map(Grant::Warm);
                    if !self.grant(ticket, warm) {
                        pending.extend(self.pool.released(sandbox, Instant::now()));
                    }
                }
                Action::Start { ticket, sandbox } => {
                    if !self.grant(ticket, Some(Grant::Cold(sandbox))) {
                        pending.extend(self.pool.ended(sandbox));
                    }
                }
                Action::Prepare { sandbox } => {
                    let ordered = self.pool.key(sandbox).and_then(|key| self.provisions.order(sandbox, &key));
                    match ordered {
                        Some(commands) => drop(self.workers.insert(sandbox, commands)),
                        None => {
                            self.pool.failed(sandbox, Failed::Node, Instant::now());
                            pending.extend(self.pool.ended(sandbox));
                        }
                    }
                }
                // A worker that is gone has told the pool, or is about to.
                Action::Stop { sandbox } => {
                    if let Some(commands) = self.workers.remove(&sandbox) {
                        drop(commands.try_send(Command::Stop));
                    }
                }
            }
        }
    }

    /// Whether the request took what it was given; one that no longer waits cannot.
    fn grant(&mut self, ticket: Ticket, grant: Option<Grant>) -> bool {
        let waiting = self.waiting.remove(&ticket);
        waiting.zip(grant).is_some_and(|(waiting, grant)| waiting.send(grant).is_ok())
    }
}

fn refused(reason: policy::Throttle, limits: &policy::Limits) -> InvokeError {
    tracing::debug!(?reason, "an invocation was throttled");
    match reason {
        policy::Throttle::LargerThanNode => {
            InvokeError::LargerThanNode { largest_mib: machine::largest_function_mib(limits.memory_mib) }
        }
        policy::Throttle::AccountConcurrency | policy::Throttle::NodeMemory => {
            InvokeError::Throttled(Throttle::Concurrency)
        }
        policy::Throttle::Growth => InvokeError::Throttled(Throttle::Rate),
    }
}

/// Stops sandboxes that have been idle for too long, and tries again what failed to be prepared, until the node is dropped.
async fn expire_idle(shared: Weak<Shared>, (became_idle, failed): (Arc<Notify>, Arc<Notify>)) {
    loop {
        let next = {
            let Some(shared) = shared.upgrade() else { return };
            shared.update(|state| state.pool.expire(Instant::now()));
            shared.state().pool.next_expiry()
        };
        match next {
            // What becomes idle now expires later.
            Some(at) => tokio::select! {
                () = tokio::time::sleep_until(at.into()) => {}
                () = failed.notified() => {}
            },
            None => tokio::select! {
                () = became_idle.notified() => {}
                () = failed.notified() => {}
            },
        }
    }
}
