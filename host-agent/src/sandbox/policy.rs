//! Which sandbox serves a request: values in, values out; no clock, no task, no I/O.
//!
//! `invoke::Invoker` tells the [`Pool`] what happened and carries out the [`Action`]s it answers with. Rules:
//! warm sandboxes are reused last in, first out, so that the surplus ages and expires; a request that finds none gets
//! a new one when the node's memory holds it, idle sandboxes of other versions being evicted least recently used
//! first; otherwise it is refused at once, as Lambda does. Nobody waits for a running invocation to end.
//! The only queue is that of admitted requests whose sandbox may not start *yet*: its memory is promised already, so
//! it is never longer than the node's memory, and starts go on at a bounded rate ([`Limits::max_starting`]). A version has no more of them
//! on their way than compute side by side ([`Limits::starts_of_version`], ADR 40); what waits for that holds up nobody else, and takes the first
//! sandbox of its version that is free. What is not to serve any more: `retirement`.
//!
//! What can be made at any time (a runtime's snapshot) is made in a *spare* sandbox: of room that nobody asks for, and the
//! first to go when somebody does. What was provisioned (`provisions`) is made ahead of its requests, and never goes for others.
//!
//! ```text
//!  request ─► queued ─► Starting ─► Busy ◄──► Idle ─► Stopping ─► (gone)
//!                          └──────────┴────────┼────────▲   memory is free when the process is reaped, not before
//!  spare ──────────────────────────────────────┼────────┤
//!  provide ─► promised ─► Preparing ───────────┴────────┘
//! ```

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use super::{SandboxId, VersionKey};
use crate::{functions::model::FunctionId, invoke::rate::Bucket};

mod provisions;
mod retirement;
mod tally;
mod terms;
#[cfg(test)]
mod tests;

use provisions::Provision;
#[cfg(test)]
use provisions::Provisioned;
pub(crate) use provisions::{Failed, Lack};
use tally::{OnTheWay, State, Tally};
pub(crate) use terms::{Action, Demand, Limits, Throttle, Ticket};

/// Functions whose growth is remembered before those are looked for that need not be.
const MAX_GROWING: usize = 1024;

/// Whether a sandbox may be reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tenure {
    Current,
    Retired,
}

/// Whom a sandbox was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    /// For a request, or to be a spare.
    OnDemand,
    /// For a version that has some provisioned.
    Ahead {
        /// Whether it has run an event.
        served: bool,
    },
}

#[derive(Debug)]
struct Entry {
    demand: Demand,
    state: State,
    tenure: Tenure,
    made: Made,
}

#[derive(Debug)]
struct Queued {
    ticket: Ticket,
    demand: Demand,
    tenure: Tenure,
}

/// Every sandbox of the node and every request that waits for one to start.
#[derive(Debug)]
pub(crate) struct Pool {
    limits: Limits,
    entries: HashMap<SandboxId, Entry>,
    /// Idle sandboxes by version, the most recently used last. No empty stacks.
    idle: HashMap<Arc<VersionKey>, Vec<SandboxId>>,
    /// As `idle`, of those that were made ahead: nothing else is, and nothing ends them for others.
    ready: HashMap<Arc<VersionKey>, Vec<SandboxId>>,
    queue: VecDeque<Queued>,
    /// What is to be kept ready, by version.
    provisions: HashMap<Arc<VersionKey>, Provision>,
    /// Versions whose next sandbox has its memory promised and may not start yet.
    promised: VecDeque<Arc<VersionKey>>,
    /// Of functions that have grown of late.
    growth: HashMap<FunctionId, Bucket>,
    last_id: u64,
    tally: Tally,
    on_the_way: OnTheWay,
}

impl Pool {
    /// An empty pool.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            idle: HashMap::new(),
            ready: HashMap::new(),
            queue: VecDeque::new(),
            provisions: HashMap::new(),
            promised: VecDeque::new(),
            growth: HashMap::new(),
            last_id: 0,
            tally: Tally::default(),
            on_the_way: OnTheWay::default(),
        }
    }

    /// A request arrives. `Ok` without a `Run` or `Start` for `ticket` means that one follows from a later call.
    pub(crate) fn request(
        &mut self,
        ticket: Ticket,
        demand: Demand,
        now: Instant,
    ) -> Result<Vec<Action>, Throttle> {
        if self.tally.serving + self.queue.len() >= self.limits.account_concurrency {
            return Err(Throttle::AccountConcurrency);
        }
        let stacks = [&self.ready, &self.idle];
        let warm = stacks.into_iter().find_map(|stacks| stacks.get(&demand.key)?.last().copied());
        if let Some(sandbox) = warm {
            self.enter(sandbox, State::Busy);
            return Ok(vec![Action::Run { ticket, sandbox }]);
        }
        if demand.charge_mib > self.limits.memory_mib {
            return Err(Throttle::LargerThanNode);
        }
        let victims = self.victims(demand.charge_mib).ok_or(Throttle::NodeMemory)?;
        if !self.grows(&demand.key.function, now) {
            return Err(Throttle::Growth);
        }
        let mut actions = self.stop_all(victims);
        self.tally.queued_mib += demand.charge_mib;
        self.queue.push_back(Queued { ticket, demand, tenure: Tenure::Current });
        self.dispatch(&mut actions);
        Ok(actions)
    }

    /// A sandbox for something that can wait, unless there is anything else to do with what it takes: it is the only one,
    /// nobody waits for a start, one more start would find a slot beside all that is being served, and its memory is free
    /// without ending anything. Report [`Pool::ended`] when it is gone.
    pub(crate) fn spare(&mut self, demand: Demand) -> Option<SandboxId> {
        let Tally { live_mib, stopping_mib, queued_mib, .. } = self.tally;
        let taken_mib = live_mib + stopping_mib + queued_mib;
        let fits = taken_mib + demand.charge_mib <= self.limits.memory_mib;
        (fits && !self.is_busy()).then(|| self.add(demand, State::Spare, Tenure::Current, Made::OnDemand))
    }

    /// Whether what [`Self::spare`] does not find is taken for a while only: by starts, or by another spare.
    pub(crate) fn is_busy(&self) -> bool {
        let waits = !self.queue.is_empty() || !self.promised.is_empty();
        let starts = waits || self.tally.serving >= self.limits.max_starting;
        starts || self.spares().next().is_some()
    }

    /// The sandbox is up and runs the request it was started for.
    pub(crate) fn started(&mut self, sandbox: SandboxId) -> Vec<Action> {
        if self.state_is(sandbox, |state| matches!(state, State::Starting { .. })) {
            self.enter(sandbox, State::Busy);
        }
        self.dispatched()
    }

    /// The sandbox has had its share of the start bound, whether or not it is up: user code that sleeps in its init
    /// does not hold up other starts.
    pub(crate) fn slot_used(&mut self, sandbox: SandboxId) -> Vec<Action> {
        if self.state_is(sandbox, |state| matches!(state, State::Starting { .. })) {
            self.enter(sandbox, State::Starting { holds_slot: false });
        }
        if self.state_is(sandbox, |state| matches!(state, State::Preparing { .. })) {
            self.enter(sandbox, State::Preparing { holds_slot: false });
        }
        self.dispatched()
    }

    /// The sandbox's invocation has ended and it could take another.
    pub(crate) fn released(&mut self, sandbox: SandboxId, now: Instant) -> Vec<Action> {
        let Some(entry) = self.entries.get(&sandbox) else { return Vec::new() };
        if entry.state != State::Busy {
            return Vec::new();
        }
        if entry.tenure == Tenure::Retired || self.is_surplus(entry) {
            return self.stop_all(vec![sandbox]);
        }
        self.offer(sandbox, now)
    }

    /// Gives a sandbox to whoever waits for one of its version to start, or has it wait.
    fn offer(&mut self, sandbox: SandboxId, now: Instant) -> Vec<Action> {
        let Some(entry) = self.entries.get(&sandbox) else { return Vec::new() };
        let waiting = self.queue.iter().position(|queued| queued.demand.key == entry.demand.key);
        if let Some(queued) = waiting.and_then(|position| self.queue.remove(position)) {
            self.tally.queued_mib -= queued.demand.charge_mib;
            self.enter(sandbox, State::Busy);
            let mut actions = vec![Action::Run { ticket: queued.ticket, sandbox }];
            self.dispatch(&mut actions);
            return actions;
        }
        self.enter(sandbox, State::Idle { since: now });
        // One that is idle may make room for what was provisioned.
        if self.is_short() { self.dispatched() } else { Vec::new() }
    }

    /// The sandbox died, failed to start or is no longer to be trusted; the caller destroys it.
    pub(crate) fn stopping(&mut self, sandbox: SandboxId, now: Instant) -> Vec<Action> {
        self.lost(sandbox, now);
        self.enter(sandbox, State::Stopping);
        self.dispatched()
    }

    /// The sandbox's process is reaped and its memory is free.
    pub(crate) fn ended(&mut self, sandbox: SandboxId) -> Vec<Action> {
        self.enter(sandbox, State::Stopping);
        if let Some(entry) = self.entries.remove(&sandbox) {
            self.tally.remove(entry.state, entry.demand.charge_mib);
            self.on_the_way.remove(entry.state, &entry.demand.key);
        }
        self.dispatched()
    }

    /// Stops what has been idle for [`Limits::idle_timeout`], and tries again what has failed to be prepared.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Action> {
        let timeout = self.limits.idle_timeout;
        let old = self.idle_by_age().filter(|(since, _)| *since + timeout <= now).map(|(_, id)| id).collect();
        let mut actions = self.stop_all(old);
        if self.let_go(now) {
            self.dispatch(&mut actions);
        }
        actions
    }

    /// Stops everything that serves nobody: something else than memory has run out.
    pub(crate) fn evict_idle(&mut self) -> Vec<Action> {
        let idle = self.spares().chain(self.idle_by_age().map(|(_, id)| id)).collect();
        self.stop_all(idle)
    }

    /// When [`Self::expire`] will next have something to do.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.idle_by_age().map(|(since, _)| since + self.limits.idle_timeout).chain(self.held()).min()
    }

    /// Sandboxes that are not gone yet, and requests that wait for theirs to start.
    pub(crate) fn population(&self) -> usize {
        self.entries.len() + self.queue.len()
    }

    /// What to evict so that `charge_mib` can be promised: none when it fits, `None` when it cannot.
    fn victims(&self, charge_mib: u64) -> Option<Vec<SandboxId>> {
        let promised = self.tally.live_mib + self.tally.queued_mib;
        let mut excess = (promised + charge_mib).saturating_sub(self.limits.memory_mib);
        if excess == 0 {
            return Some(Vec::new());
        }
        let mut idle: Vec<_> = self.idle_by_age().collect();
        idle.sort_unstable();
        let mut victims = Vec::new();
        for id in self.spares().chain(idle.into_iter().map(|(_, id)| id)) {
            victims.push(id);
            excess = excess.saturating_sub(self.entries.get(&id)?.demand.charge_mib);
            if excess == 0 {
                return Some(victims);
            }
        }
        None
    }

    /// Whether the function may have another sandbox now.
    fn grows(&mut self, function: &FunctionId, now: Instant) -> bool {
        if self.growth.len() >= MAX_GROWING {
            self.growth.retain(|_, bucket| !bucket.is_full(now));
        }
        self.growth.entry(function.clone()).or_default().take(self.limits.growth, now)
    }

    /// A scan, but only when room is short.
    fn spares(&self) -> impl Iterator<Item = SandboxId> {
        let spare = self.entries.iter().filter(|(_, entry)| entry.state == State::Spare);
        spare.map(|(id, _)| *id)
    }

    fn idle_by_age(&self) -> impl Iterator<Item = (Instant, SandboxId)> {
        self.idle.values().flatten().filter_map(|id| match self.entries.get(id)?.state {
            State::Idle { since } => Some((since, *id)),
            _ => None,
        })
    }

    fn stop_all(&mut self, sandboxes: Vec<SandboxId>) -> Vec<Action> {
        for sandbox in &sandboxes {
            self.enter(*sandbox, State::Stopping);
        }
        sandboxes.into_iter().map(|sandbox| Action::Stop { sandbox }).collect()
    }

    fn dispatched(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        self.dispatch(&mut actions);
        actions
    }

    /// Whether another of this version may be on its way.
    fn may_start(&self, key: &VersionKey) -> bool {
        self.on_the_way.of(key) < self.limits.starts_of_version
    }

    /// Starts what is queued and may start, in order, while a slot and memory that is really free allow it; then what is provisioned.
    fn dispatch(&mut self, actions: &mut Vec<Action>) {
        while let Some((position, next)) =
            self.queue.iter().enumerate().find(|(_, queued)| self.may_start(&queued.demand.key))
        {
            let resident = self.tally.live_mib + self.tally.stopping_mib;
            let fits = resident + next.demand.charge_mib <= self.limits.memory_mib;
            if !fits || self.tally.slots >= self.limits.max_starting {
                return;
            }
            let Some(Queued { ticket, demand, tenure }) = self.queue.remove(position) else { return };
            self.tally.queued_mib -= demand.charge_mib;
            let sandbox = self.add(demand, State::Starting { holds_slot: true }, tenure, Made::OnDemand);
            actions.push(Action::Start { ticket, sandbox });
        }
        self.prepare(actions);
    }

    fn add(&mut self, demand: Demand, state: State, tenure: Tenure, made: Made) -> SandboxId {
        self.last_id += 1;
        let sandbox = SandboxId(self.last_id);
        self.tally.add(state, demand.charge_mib);
        self.on_the_way.add(state, &demand.key);
        self.entries.insert(sandbox, Entry { demand, state, tenure, made });
        sandbox
    }

    fn state_is(&self, sandbox: SandboxId, predicate: impl Fn(State) -> bool) -> bool {
        self.entries.get(&sandbox).is_some_and(|entry| predicate(entry.state))
    }

    /// The one place where a state changes: keeps the sums and the idle stacks true.
    fn enter(&mut self, sandbox: SandboxId, state: State) {
        let Some(entry) = self.entries.get_mut(&sandbox) else { return };
        let before = std::mem::replace(&mut entry.state, state);
        self.tally.remove(before, entry.demand.charge_mib);
        self.tally.add(state, entry.demand.charge_mib);
        self.on_the_way.remove(before, &entry.demand.key);
        self.on_the_way.add(state, &entry.demand.key);
        let stacks = match &mut entry.made {
            Made::OnDemand => &mut self.idle,
            Made::Ahead { served } => {
                *served |= state == State::Busy;
                &mut self.ready
            }
        };
        if matches!(before, State::Idle { .. })
            && let Some(stack) = stacks.get_mut(&entry.demand.key)
        {
            stack.retain(|id| *id != sandbox);
            if stack.is_empty() {
                stacks.remove(&entry.demand.key);
            }
        }
        if matches!(state, State::Idle { .. }) {
            stacks.entry(Arc::clone(&entry.demand.key)).or_default().push(sandbox);
        }
    }
}
