//! Sandboxes that are made before anybody invokes their version. `sandbox::policy` says when, and of what there are too few; each
//! is brought up here, in a task of its own, and then is one like any other: its worker has it.
//!
//! What is kept ready is not written down here: `functions` has it in the store, and says it again when the agent starts.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Instant,
};

use guest_protocol::{InitializationType, ShutdownReason};
use tokio::sync::mpsc;

use super::{
    Provided, Provision, Timing, messages,
    node::Shared,
    runtimes,
    start::{self, Blueprint, StartError},
    worker::{self, Command, Commands},
};
use crate::{
    functions::model::{FunctionConfig, FunctionId},
    sandbox::{
        SandboxId, VersionKey, describe,
        life::Sandbox,
        policy::{Demand, Failed},
        way::Losses,
    },
};

/// A sandbox that is to be made. It is to end when it is told so, or when its channel closes.
#[derive(Debug)]
pub(super) struct Order {
    sandbox: SandboxId,
    blueprint: Blueprint,
    inbox: mpsc::Receiver<Command>,
}

/// Takes orders. As many as the node's memory has room for.
pub(super) type Orders = mpsc::UnboundedReceiver<Order>;

/// What versions are made from that some are kept ready of.
#[derive(Debug)]
pub(super) struct Provisions {
    blueprints: HashMap<Arc<VersionKey>, Blueprint>,
    orders: mpsc::UnboundedSender<Order>,
}

impl Provisions {
    /// None, and where orders will come.
    pub(super) fn new() -> (Self, Orders) {
        let (orders, taken) = mpsc::unbounded_channel();
        (Self { blueprints: HashMap::new(), orders }, taken)
    }

    /// Has a sandbox made; where it is told to end. `None` if nobody knows any more of what.
    pub(super) fn order(&self, sandbox: SandboxId, key: &VersionKey) -> Option<Commands> {
        let blueprint = self.blueprints.get(key)?.clone();
        let (commands, inbox) = mpsc::channel(1);
        self.orders.send(Order { sandbox, blueprint, inbox }).ok()?;
        Some(commands)
    }

    fn replace(&mut self, function: &FunctionId, wanted: Vec<Provision>) -> Vec<(Demand, usize)> {
        self.blueprints.retain(|key, _| key.function != *function);
        let mut demands = Vec::with_capacity(wanted.len());
        for Provision { function, code, count } in wanted {
            let demand = messages::demand(&function);
            let initialization = InitializationType::Provisioned;
            self.blueprints.insert(Arc::clone(&demand.key), Blueprint { function, code, initialization });
            demands.push((demand, count as usize));
        }
        demands
    }
}

impl Shared {
    /// See [`super::Invoker::provide`].
    pub(super) fn provide(&self, function: &FunctionId, wanted: Vec<Provision>) {
        self.update(|state| {
            if state.is_closing() {
                return Vec::new();
            }
            let wanted = state.provisions.replace(function, wanted);
            state.pool.provide(function, wanted)
        });
    }

    /// See [`super::Invoker::provided`].
    pub(super) fn provided(&self, function: &FunctionConfig) -> Provided {
        let policy = self.state().pool.provisioned(&messages::demand(function).key);
        Provided { ready: u32::try_from(policy.ready).unwrap_or(u32::MAX), lack: policy.lack }
    }

    fn prepared(&self, sandbox: SandboxId, commands: Commands) {
        self.update(|state| {
            state.workers.insert(sandbox, commands);
            state.pool.prepared(sandbox, Instant::now())
        });
    }

    fn failed(&self, sandbox: SandboxId, failed: Failed) {
        self.update(|state| {
            state.pool.failed(sandbox, failed, Instant::now());
            Vec::new()
        });
        self.notify_failed();
    }
}

/// Carries out orders until the node is gone.
pub(super) async fn carry_out(node: Weak<Shared>, mut orders: Orders) {
    while let Some(order) = orders.recv().await {
        let Some(shared) = node.upgrade() else { return };
        tokio::spawn(make(shared, order));
    }
}

async fn make(shared: Arc<Shared>, order: Order) {
    let Order { sandbox: id, blueprint, mut inbox } = order;
    let mut forced = shared.forced();
    // A machine that is let go of on the way is killed.
    let made = tokio::select! {
        biased;
        _ = forced.wait_for(|forced| *forced) => None,
        _ = inbox.recv() => None,
        made = bring_up(&shared, id, &blueprint) => Some(made),
    };
    match made {
        Some(Ok(sandbox)) => {
            let commands = worker::start(id, sandbox, &shared);
            shared.prepared(id, commands);
            return;
        }
        Some(Err(failed)) => {
            tracing::warn!(%id, function = blueprint.function.version_arn(), ?failed, "it cannot be kept ready");
            shared.failed(id, failed);
        }
        None => {}
    }
    shared.ended(id);
}

/// A sandbox whose function was initialised, and that has nothing left to tell of that.
async fn bring_up(shared: &Arc<Shared>, id: SandboxId, blueprint: &Blueprint) -> Result<Sandbox, Failed> {
    let (mut losses, mut timing) = (Losses::default(), Timing::default());
    let mut sandbox = loop {
        let error = match start::bring_up(shared, id, blueprint, losses, &mut timing).await {
            Ok(sandbox) => break sandbox,
            Err(error) => error,
        };
        tracing::warn!(%id, "a sandbox was not made ahead: {}", describe(&error));
        match error {
            StartError::Clone(_) => losses.clones += 1,
            StartError::Runtime(_) => losses.runtimes += 1,
            StartError::Restore(_) => return Err(Failed::Function),
            StartError::Boot(error) if error.is_loss() => losses.others += 1,
            StartError::Boot(error) => {
                if error.is_full_disk() {
                    shared.ease_disk(u64::from(blueprint.function.ephemeral_storage_mib) << 20);
                }
                return Err(Failed::Node);
            }
        }
        if losses.are_too_many() {
            return Err(Failed::Node);
        }
    };
    runtimes::beside(shared, &blueprint.function);
    if sandbox.has_failed_init() {
        sandbox.shut_down(ShutdownReason::Failure).await;
        sandbox.destroy().await;
        return Err(Failed::Function);
    }
    // No invocation is told what its function printed before it.
    sandbox.logs().end_invocation();
    Ok(sandbox)
}
