//! Sandboxes that are made before anybody asks for them and kept: of each version as many as were provisioned.
//!
//! Who waits for a start comes first: what is made ahead leaves a slot to requests. It takes the memory of what is idle, and of
//! nothing that serves; what does not fit is tried again whenever something gives memory back. What fails is tried again after a
//! while that grows, for it may be the function's fault.
//!
//! ```text
//!  missing ─► promised ─► Preparing ─► Idle ◄──► Busy
//!     ▲                       │          │         │
//!     └──────── hold ◄────────┴──────────┘         │    lost before it has served
//!     └────────────────────────────────────────────┘    lost otherwise
//! ```

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Action, Demand, Entry, Made, Pool, State, Tenure};
use crate::{
    functions::model::FunctionId,
    sandbox::{SandboxId, VersionKey},
};

/// How long nothing is made of a version after a failure; twice as long after the next one.
const FIRST_HOLD: Duration = Duration::from_secs(1);

/// The longest of these: a function that cannot be initialised costs one start a minute.
const LONGEST_HOLD: Duration = Duration::from_secs(60);

/// What is to be kept ready of a version.
#[derive(Debug)]
pub(super) struct Provision {
    demand: Demand,
    /// How many.
    wanted: usize,
    /// How many of them have their memory promised, and may not start yet.
    promised: usize,
    /// There were more than that in use when it was last said how many.
    over: bool,
    /// In a row.
    failures: u32,
    held_until: Option<Instant>,
    lack: Option<Lack>,
}

/// Why there is less than was provisioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// The node's memory is taken by what serves, or by what else was provisioned.
    Memory,
    /// Not even an empty node would have the memory for all of them.
    LargerThanNode,
    /// One did not come up, or ended before it was of use.
    Failed(Failed),
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// The function's init, or its runtime behind it.
    Function,
    /// The node, whose log says how.
    Node,
}

/// How a version's provision stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Provisioned {
    /// How many there are that were initialised, whether or not they serve.
    pub(crate) ready: usize,
    /// Why there are no more, when that has a reason.
    pub(crate) lack: Option<Lack>,
}

impl Pool {
    /// Keeps so many of these versions ready, and none of the function's others.
    pub(crate) fn provide(&mut self, function: &FunctionId, wanted: Vec<(Demand, usize)>) -> Vec<Action> {
        let others = self.provisions.iter_mut().filter(|(key, _)| key.function == *function);
        others.for_each(|(_, provision)| provision.wanted = 0);
        for (demand, count) in wanted {
            let provision = self.provisions.entry(Arc::clone(&demand.key)).or_insert(Provision {
                demand,
                wanted: 0,
                promised: 0,
                over: false,
                failures: 0,
                held_until: None,
                lack: None,
            });
            provision.wanted = count;
            // Whoever asks again means another try.
            (provision.failures, provision.held_until, provision.lack) = (0, None, None);
        }
        let mut actions = Vec::new();
        let keys: Vec<_> = self.provisions.keys().filter(|key| key.function == *function).cloned().collect();
        for key in keys {
            self.trim(&key, &mut actions);
        }
        self.provisions.retain(|_, provision| provision.wanted > 0);
        self.dispatch(&mut actions);
        actions
    }

    /// How the provision of a version stands.
    pub(crate) fn provisioned(&self, key: &VersionKey) -> Provisioned {
        let ready = self.ahead(key).filter(|(_, entry)| !matches!(entry.state, State::Preparing { .. }));
        let lack = self.provisions.get(key).and_then(|provision| provision.lack);
        Provisioned { ready: ready.count(), lack }
    }

    /// Of what a sandbox is.
    pub(crate) fn key(&self, sandbox: SandboxId) -> Option<Arc<VersionKey>> {
        self.entries.get(&sandbox).map(|entry| Arc::clone(&entry.demand.key))
    }

    /// The sandbox is up and waits.
    pub(crate) fn prepared(&mut self, sandbox: SandboxId, now: Instant) -> Vec<Action> {
        let Some(entry) = self.entries.get(&sandbox) else { return Vec::new() };
        match entry.state {
            State::Preparing { .. } => {
                let provision = self.provisions.get_mut(&entry.demand.key);
                // While it is held another one has failed.
                if let Some(provision) = provision.filter(|provision| provision.held_until.is_none()) {
                    provision.lack = None;
                }
                let mut actions = self.offer(sandbox, now);
                self.dispatch(&mut actions);
                actions
            }
            // It was told so when nobody listened any more.
            State::Stopping => vec![Action::Stop { sandbox }],
            _ => Vec::new(),
        }
    }

    /// The sandbox did not come up: none of its version is made for a while. Report [`Pool::ended`] when it is gone.
    pub(crate) fn failed(&mut self, sandbox: SandboxId, failed: Failed, now: Instant) {
        if let Some(entry) = self.entries.get(&sandbox)
            && matches!(entry.state, State::Preparing { .. })
        {
            self.hold(&Arc::clone(&entry.demand.key), failed, now);
        }
    }

    /// A sandbox is lost; one that was made ahead and has not even served is not made again at once.
    pub(super) fn lost(&mut self, sandbox: SandboxId, now: Instant) {
        let Some(entry) = self.entries.get(&sandbox) else { return };
        match (entry.made, entry.state) {
            (Made::Ahead { served: false }, State::Idle { .. } | State::Preparing { .. }) => {
                self.hold(&Arc::clone(&entry.demand.key), Failed::Function, now);
            }
            (Made::Ahead { served: true }, _) => {
                if let Some(provision) = self.provisions.get_mut(&entry.demand.key) {
                    provision.failures = 0;
                }
            }
            _ => {}
        }
    }

    fn hold(&mut self, key: &VersionKey, failed: Failed, now: Instant) {
        let Some(provision) = self.provisions.get_mut(key) else { return };
        let hold = FIRST_HOLD.saturating_mul(1 << provision.failures.min(16)).min(LONGEST_HOLD);
        provision.failures += 1;
        provision.held_until = Some(now + hold);
        provision.lack = Some(Lack::Failed(failed));
    }

    /// Whether something is tried again from now on.
    pub(super) fn let_go(&mut self, now: Instant) -> bool {
        let due =
            self.provisions.values_mut().filter(|provision| provision.held_until.is_some_and(|at| at <= now));
        due.map(|provision| provision.held_until = None).count() > 0
    }

    /// When something will be tried again.
    pub(super) fn held(&self) -> impl Iterator<Item = Instant> {
        self.provisions.values().filter_map(|provision| provision.held_until)
    }

    /// Whether there would be more if there were more memory.
    pub(super) fn is_short(&self) -> bool {
        let short = |lack| matches!(lack, Some(Lack::Memory | Lack::LargerThanNode));
        self.provisions.values().any(|provision| short(provision.lack))
    }

    /// Whether there are more of a sandbox's version than are to be kept. No scan, unless there once were.
    pub(super) fn is_surplus(&self, entry: &Entry) -> bool {
        let key = &entry.demand.key;
        let over = match self.provisions.get(key) {
            Some(provision) => provision.over && self.ahead(key).count() > provision.wanted,
            None => true,
        };
        matches!(entry.made, Made::Ahead { .. }) && over
    }

    /// Nothing is kept ready of these any more; the sandboxes that there are go by other ways.
    pub(super) fn forget(&mut self, matches: impl Fn(&VersionKey) -> bool) {
        let mib = |provision: &Provision| provision.promised as u64 * provision.demand.charge_mib;
        let gone = self.provisions.iter().filter(|(key, _)| matches(key));
        self.tally.queued_mib -= gone.map(|(_, provision)| mib(provision)).sum::<u64>();
        self.provisions.retain(|key, _| !matches(key));
        self.promised.retain(|key| !matches(key));
    }

    /// Promises memory to what is missing, and starts what may start. Of what is queued nothing may.
    pub(super) fn prepare(&mut self, actions: &mut Vec<Action>) {
        if self.provisions.is_empty() {
            return;
        }
        let keys: Vec<_> = self.provisions.keys().cloned().collect();
        for key in keys {
            self.promise(&key, actions);
        }
        // One slot is for who waits.
        let most = self.limits.max_starting.saturating_sub(1).max(1);
        while self.tally.slots < most
            && let Some(position) = self.promised.iter().position(|key| self.may_start(key))
            && let Some(key) = self.promised.get(position).cloned()
            && let Some(provision) = self.provisions.get_mut(&key)
        {
            let demand = provision.demand.clone();
            let resident = self.tally.live_mib + self.tally.stopping_mib;
            if resident + demand.charge_mib > self.limits.memory_mib {
                return;
            }
            provision.promised -= 1;
            self.promised.remove(position);
            self.tally.queued_mib -= demand.charge_mib;
            let state = State::Preparing { holds_slot: true };
            let sandbox = self.add(demand, state, Tenure::Current, Made::Ahead { served: false });
            actions.push(Action::Prepare { sandbox });
        }
    }

    fn promise(&mut self, key: &Arc<VersionKey>, actions: &mut Vec<Action>) {
        let live = self.ahead(key).count();
        while let Some(provision) = self.provisions.get(key)
            && provision.held_until.is_none()
            && live + provision.promised < provision.wanted
        {
            let charge_mib = provision.demand.charge_mib;
            let victims = self.victims(charge_mib);
            let memory_mib = self.limits.memory_mib;
            let Some(provision) = self.provisions.get_mut(key) else { return };
            let Some(victims) = victims else {
                let too_large = provision.wanted as u64 * charge_mib > memory_mib;
                provision.lack = Some(if too_large { Lack::LargerThanNode } else { Lack::Memory });
                return;
            };
            provision.promised += 1;
            self.tally.queued_mib += charge_mib;
            self.promised.push_back(Arc::clone(key));
            actions.extend(self.stop_all(victims));
        }
    }

    /// Gives up what there is beyond what is to be kept: what has not begun, then what serves nobody.
    fn trim(&mut self, key: &Arc<VersionKey>, actions: &mut Vec<Action>) {
        let live = self.ahead(key).count();
        let Some(provision) = self.provisions.get_mut(key) else { return };
        let mut surplus = (live + provision.promised).saturating_sub(provision.wanted);
        let unmade = surplus.min(provision.promised);
        provision.promised -= unmade;
        self.tally.queued_mib -= unmade as u64 * provision.demand.charge_mib;
        surplus -= unmade;
        let kept = provision.promised;
        let mut seen = 0;
        self.promised.retain(|promised| {
            seen += usize::from(promised == key);
            promised != key || seen <= kept
        });
        let mut unused: Vec<_> = self
            .ahead(key)
            .filter(|(_, entry)| matches!(entry.state, State::Preparing { .. } | State::Idle { .. }))
            .map(|(id, entry)| (!matches!(entry.state, State::Preparing { .. }), id))
            .collect();
        // What is not ready yet goes first.
        unused.sort_unstable();
        if let Some(provision) = self.provisions.get_mut(key) {
            provision.over = surplus > unused.len();
        }
        let unused = unused.into_iter().take(surplus).map(|(_, id)| id).collect();
        actions.extend(self.stop_all(unused));
    }

    /// Those that were made ahead and are neither going nor retired.
    fn ahead(&self, key: &VersionKey) -> impl Iterator<Item = (SandboxId, &Entry)> {
        let all = self.entries.iter().filter(move |(_, entry)| {
            matches!(entry.made, Made::Ahead { .. })
                && *entry.demand.key == *key
                && entry.tenure == Tenure::Current
                && entry.state != State::Stopping
        });
        all.map(|(id, entry)| (*id, entry))
    }
}
