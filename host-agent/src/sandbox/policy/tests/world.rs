//! The pool's caller, played: what every sandbox and every request is doing.

use std::collections::{HashMap, HashSet};

use super::*;

/// Plays the caller: carries out actions and remembers what every sandbox and ticket is doing.
pub(super) struct World {
    pub(super) pool: Pool,
    pub(super) now: Instant,
    pub(super) next_ticket: u64,
    pub(super) keys: HashMap<SandboxId, Arc<VersionKey>>,
    pub(super) charges: HashMap<SandboxId, u64>,
    pub(super) starting: Vec<SandboxId>,
    pub(super) slots: HashSet<SandboxId>,
    pub(super) busy: Vec<SandboxId>,
    pub(super) idle: Vec<SandboxId>,
    pub(super) spare: Vec<SandboxId>,
    pub(super) preparing: Vec<SandboxId>,
    /// Those that were made ahead, whatever they do now.
    pub(super) ahead: HashSet<SandboxId>,
    pub(super) wanted: HashMap<Arc<VersionKey>, usize>,
    pub(super) stopping: Vec<SandboxId>,
    pub(super) retired: HashSet<SandboxId>,
    pub(super) waiting: HashMap<Ticket, Demand>,
}

impl World {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            pool: Pool::new(limits),
            now: Instant::now(),
            next_ticket: 0,
            keys: HashMap::new(),
            charges: HashMap::new(),
            starting: Vec::new(),
            slots: HashSet::new(),
            busy: Vec::new(),
            idle: Vec::new(),
            spare: Vec::new(),
            preparing: Vec::new(),
            ahead: HashSet::new(),
            wanted: HashMap::new(),
            stopping: Vec::new(),
            retired: HashSet::new(),
            waiting: HashMap::new(),
        }
    }

    pub(super) fn request(&mut self, demand: &Demand) -> Result<Vec<Action>, Throttle> {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let warm: Vec<_> = self.idle.iter().filter(|id| self.keys[id] == demand.key).copied().collect();
        let ready: Vec<_> = warm.iter().filter(|id| self.ahead.contains(id)).copied().collect();
        let kept = self.idle.iter().filter(|id| self.ahead.contains(id));
        let in_use = self.starting.iter().chain(&self.busy).chain(&self.preparing).chain(kept);
        let in_use = in_use.map(|id| self.charges[id]).sum::<u64>() + self.pool.tally.queued_mib;
        let in_flight = self.starting.len() + self.busy.len() + self.waiting.len();
        let verdict = self.pool.request(ticket, demand.clone(), self.now);
        match &verdict {
            Err(Throttle::AccountConcurrency) => assert!(in_flight >= self.pool.limits.account_concurrency),
            Err(Throttle::Growth) => panic!("nothing here grows that fast"),
            Err(Throttle::LargerThanNode) => assert!(demand.charge_mib > MEMORY_MIB),
            Err(Throttle::NodeMemory) => {
                assert!(warm.is_empty() && in_use + demand.charge_mib > MEMORY_MIB, "refused with room");
            }
            Ok(actions) => {
                assert!(in_flight < self.pool.limits.account_concurrency);
                self.check_kept(actions);
                if let Some(last) = ready.last().or(warm.last()) {
                    assert_eq!(actions[..], [Action::Run { ticket, sandbox: *last }], "not LIFO");
                }
                self.waiting.insert(ticket, demand.clone());
                self.apply(actions);
            }
        }
        verdict
    }

    pub(super) fn apply(&mut self, actions: &[Action]) {
        for action in actions {
            match *action {
                Action::Run { ticket, sandbox } => {
                    let asked = self.waiting.remove(&ticket).expect("one answer a ticket");
                    assert_eq!(self.keys[&sandbox], asked.key, "one version a sandbox");
                    assert!(!self.retired.contains(&sandbox), "retired sandboxes serve nothing new");
                    self.idle.retain(|id| *id != sandbox);
                    self.busy.retain(|id| *id != sandbox);
                    self.busy.push(sandbox);
                }
                Action::Start { ticket, sandbox } => {
                    let asked = self.waiting.remove(&ticket).expect("one answer a ticket");
                    assert!(self.keys.insert(sandbox, asked.key).is_none(), "names are used once");
                    self.charges.insert(sandbox, asked.charge_mib);
                    self.starting.push(sandbox);
                    self.slots.insert(sandbox);
                }
                Action::Prepare { sandbox } => {
                    let key = self.pool.key(sandbox).unwrap();
                    assert!(
                        self.waiting.values().all(|demand| !self.may_start(demand)),
                        "who waits comes first"
                    );
                    assert!(self.keys.insert(sandbox, Arc::clone(&key)).is_none(), "names are used once");
                    self.charges.insert(sandbox, self.pool.entries[&sandbox].demand.charge_mib);
                    self.preparing.push(sandbox);
                    self.slots.insert(sandbox);
                    self.ahead.insert(sandbox);
                }
                Action::Stop { sandbox } => {
                    let count = |world: &Self| {
                        world.idle.len() + world.busy.len() + world.spare.len() + world.preparing.len()
                    };
                    let was = count(self);
                    for list in [&mut self.idle, &mut self.busy, &mut self.spare, &mut self.preparing] {
                        list.retain(|id| *id != sandbox);
                    }
                    self.slots.remove(&sandbox);
                    assert_eq!(was, count(self) + 1, "stops what is unused, once");
                    self.stopping.push(sandbox);
                }
            }
        }
        self.check_bounds();
    }

    pub(super) fn check_bounds(&self) {
        let live = self.starting.iter().chain(&self.busy).chain(&self.idle).chain(&self.spare);
        let all = live.chain(&self.stopping).chain(&self.preparing);
        assert!(all.map(|id| self.charges[id]).sum::<u64>() <= MEMORY_MIB, "more memory than there is");
        assert!(self.slots.len() <= self.pool.limits.max_starting, "too many starts at once");
        let most = self.pool.limits.starts_of_version;
        let on_the_way = self.starting.iter().chain(&self.preparing);
        assert!(
            on_the_way.map(|id| &self.keys[id]).all(|key| self.on_the_way(key) <= most),
            "too many of one"
        );
    }

    fn on_the_way(&self, key: &Arc<VersionKey>) -> usize {
        self.starting.iter().chain(&self.preparing).filter(|id| self.keys[id] == *key).count()
    }

    fn may_start(&self, demand: &Demand) -> bool {
        self.on_the_way(&demand.key) < self.pool.limits.starts_of_version
    }

    pub(super) fn started(&mut self, index: usize) {
        let sandbox = self.starting.remove(index);
        self.slots.remove(&sandbox);
        self.busy.push(sandbox);
        let actions = self.pool.started(sandbox);
        self.apply(&actions);
    }

    pub(super) fn released(&mut self, index: usize) {
        let sandbox = self.busy[index];
        let actions = self.pool.released(sandbox, self.now);
        self.busy.remove(index);
        self.idle.push(sandbox);
        self.apply(&actions);
    }

    /// Nothing that was made ahead ends for others.
    pub(super) fn check_kept(&self, actions: &[Action]) {
        for action in actions {
            assert!(
                !matches!(action, Action::Stop { sandbox } if self.ahead.contains(sandbox)),
                "{action:?}"
            );
        }
    }

    pub(super) fn provide(&mut self, wanted: &Demand, count: usize) {
        self.wanted.retain(|key, _| key.function != wanted.key.function);
        self.wanted.insert(Arc::clone(&wanted.key), count);
        let actions = self.pool.provide(&wanted.key.function, vec![(wanted.clone(), count)]);
        self.apply(&actions);
    }

    pub(super) fn prepared(&mut self, index: usize) {
        let sandbox = self.preparing.remove(index);
        self.slots.remove(&sandbox);
        self.idle.push(sandbox);
        let actions = self.pool.prepared(sandbox, self.now);
        self.apply(&actions);
    }

    pub(super) fn failed(&mut self, index: usize) {
        let sandbox = self.preparing.remove(index);
        self.slots.remove(&sandbox);
        self.pool.failed(sandbox, Failed::Function, self.now);
        let actions = self.pool.ended(sandbox);
        self.apply(&actions);
    }

    /// There are never more than are wanted, and fewer only for a reason; when nothing is in flight.
    pub(super) fn check_provided(&self) {
        for (key, wanted) in &self.wanted {
            let ready =
                self.idle.iter().filter(|id| self.ahead.contains(id) && self.keys[id] == *key).count();
            let provisioned = self.pool.provisioned(key);
            assert_eq!(provisioned.ready, ready);
            assert!(ready <= *wanted && (ready == *wanted || provisioned.lack.is_some()), "{provisioned:?}");
        }
    }

    pub(super) fn spare(&mut self, charge_mib: u64) -> Option<SandboxId> {
        let waits = !self.waiting.is_empty();
        let serving = self.starting.len() + self.busy.len();
        let demand = demand(u8::MAX, charge_mib);
        let sandbox = self.pool.spare(demand.clone())?;
        assert!(self.spare.is_empty(), "one at a time");
        assert!(!waits && serving < self.pool.limits.max_starting, "in somebody's way");
        assert!(self.keys.insert(sandbox, demand.key).is_none(), "names are used once");
        self.charges.insert(sandbox, charge_mib);
        self.spare.push(sandbox);
        self.check_bounds();
        Some(sandbox)
    }

    pub(super) fn lost(&mut self, sandbox: SandboxId) {
        for list in [&mut self.starting, &mut self.busy, &mut self.idle, &mut self.spare] {
            list.retain(|id| *id != sandbox);
        }
        self.slots.remove(&sandbox);
        self.stopping.push(sandbox);
        let actions = self.pool.stopping(sandbox, self.now);
        self.apply(&actions);
    }

    pub(super) fn ended(&mut self, index: usize) {
        let sandbox = self.stopping.remove(index);
        let actions = self.pool.ended(sandbox);
        self.apply(&actions);
    }

    /// Runs everything in flight to its end; nobody may be left waiting.
    pub(super) fn settle(&mut self) {
        while !(self.starting.is_empty()
            && self.busy.is_empty()
            && self.spare.is_empty()
            && self.preparing.is_empty()
            && self.stopping.is_empty())
        {
            // A spare's work ends by itself, and the pool learns of that when its memory is free.
            while let Some(spare) = self.spare.pop() {
                self.stopping.insert(0, spare);
                self.ended(0);
            }
            while !self.stopping.is_empty() {
                self.ended(0);
            }
            while !self.starting.is_empty() {
                self.started(0);
            }
            while !self.preparing.is_empty() {
                self.prepared(0);
            }
            if !self.busy.is_empty() {
                self.released(0);
            }
        }
        assert!(self.waiting.is_empty(), "an admitted request is never forgotten");
    }
}
