//! Thousands of calls at once: the real limits and the real pool, and sandboxes that nobody made.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use super::{
    concurrency::{Concurrency, Share, Slot},
    messages,
    node::Grant,
    rate::Rate,
    worker::Commands,
    *,
};
use crate::{config, functions::Claim};

const CALLS: usize = 6000;

/// What the node has room for.
const ROOM: usize = 24;

/// Most at a time, and how often.
#[derive(Default)]
struct Gauge {
    now: AtomicUsize,
    most: AtomicUsize,
    times: AtomicUsize,
}

impl Gauge {
    fn enter(&self) {
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        self.times.fetch_add(1, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Makes sandboxes of nothing: the pool is told what it would be told of real ones.
struct Maker {
    shared: Arc<node::Shared>,
    concurrency: Arc<Concurrency>,
    all: Gauge,
    reserved: Gauge,
    growing: Gauge,
    /// Which sandbox a mailbox belongs to.
    sandboxes: std::sync::Mutex<Vec<(Commands, crate::sandbox::SandboxId)>>,
}

impl Maker {
    /// One call of a version, to its end.
    async fn call(&self, function: &FunctionConfig, share: Share, own: &Gauge) -> Result<(), Throttle> {
        let slot: Slot = self.concurrency.enter(&function.id, share)?;
        let demand = messages::demand(function);
        let sandbox = match self.shared.place(demand).await {
            Ok((Grant::Cold(sandbox), _)) => {
                self.growing.enter();
                let (commands, inbox) = mpsc::channel(2);
                // Nobody listens: a stop is as good as done.
                drop(tokio::spawn(end(Arc::clone(&self.shared), sandbox, inbox)));
                self.sandboxes.lock().unwrap().push((commands.clone(), sandbox));
                self.shared.started(sandbox, commands);
                sandbox
            }
            Ok((Grant::Warm(commands), _)) => {
                let sandboxes = self.sandboxes.lock().unwrap();
                let known = sandboxes.iter().find(|(known, _)| known.same_channel(&commands));
                known.unwrap().1
            }
            Err(InvokeError::Throttled(throttle)) => return Err(throttle),
            Err(error) => panic!("{error}"),
        };
        self.all.enter();
        own.enter();
        tokio::task::yield_now().await;
        own.leave();
        self.all.leave();
        self.shared.released(sandbox);
        drop(slot);
        Ok(())
    }
}

async fn end(
    shared: Arc<node::Shared>,
    sandbox: crate::sandbox::SandboxId,
    mut inbox: mpsc::Receiver<worker::Command>,
) {
    if inbox.recv().await.is_some() {
        shared.stopping(sandbox);
        shared.ended(sandbox);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_limit_is_ever_exceeded_by_one() {
    let growth = Rate { count: 100, per: Duration::from_secs(3600) };
    let node = node_with("", |settings| {
        settings.limits.memory_mib = ROOM as u64 * machine::charge_mib(MEMORY_MIB);
        (settings.limits.growth, settings.blank_limit) = (growth, 0);
        (settings.limits.max_starting, settings.limits.starts_of_version) = (ROOM, ROOM);
    });
    let bounds = config::Concurrency { account: 120, calls_per_s: 1_000_000, growth };
    let maker = Arc::new(Maker {
        shared: Arc::clone(&node.invoker.shared),
        concurrency: Arc::new(Concurrency::new(&bounds)),
        all: Gauge::default(),
        reserved: Gauge::default(),
        growing: Gauge::default(),
        sandboxes: Default::default(),
    });
    let began = Instant::now();
    let mut calls = JoinSet::new();
    for number in 0..CALLS {
        let maker = Arc::clone(&maker);
        calls.spawn(async move {
            if number % 2 == 0 {
                let claim = Claim { reserved: Some(5), ..Claim::default() };
                maker.call(&function("reserved"), Share::new("$LATEST", claim, 0), &maker.reserved).await
            } else {
                let share = Share::new("$LATEST", Claim::default(), 115);
                maker.call(&function("other"), share, &Gauge::default()).await
            }
        });
    }
    let mut ended = [0; 3];
    while let Some(call) = within(calls.join_next()).await {
        match call.unwrap() {
            Ok(()) => ended[0] += 1,
            Err(Throttle::Reserved) => ended[1] += 1,
            Err(Throttle::Concurrency | Throttle::Rate) => ended[2] += 1,
            Err(other) => panic!("{other}"),
        }
    }
    println!(
        "{CALLS} calls in {:?}: answered, beyond reservation, beyond the node: {ended:?}",
        began.elapsed()
    );
    assert!(ended[0] > 0 && ended.iter().sum::<usize>() == CALLS);
    assert!(maker.reserved.most.load(Ordering::SeqCst) <= 5);
    assert!(maker.all.most.load(Ordering::SeqCst) <= ROOM);
    assert!(maker.growing.times.load(Ordering::SeqCst) <= 2 * 100 + 1);
    // All of it can be had again: nothing was lost on the way.
    let share = || Share::new("$LATEST", Claim { reserved: Some(5), ..Claim::default() }, 0);
    let held: Vec<_> =
        (0..5).map(|_| maker.concurrency.enter(&function("reserved").id, share()).unwrap()).collect();
    assert_eq!(maker.concurrency.enter(&function("reserved").id, share()).unwrap_err(), Throttle::Reserved);
    drop(held);
}
