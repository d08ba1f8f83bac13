//! Bringing up a sandbox, for an invocation or to wait for one: cloned from its version or its runtime, or booted, up to the moment when it
//! takes the event.

use std::{
    future::{Future, pending},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use guest_protocol::{InitializationType, RestoreFailure};
use tokio::time::timeout;

use super::{
    CodeImage, Invocation, Timing,
    messages::{self, Chance},
    node::Shared,
    prepare, runtimes,
};
use crate::{
    functions::model::{FunctionConfig, StartKind},
    sandbox::{
        SandboxId,
        boot::{Purpose, Spec},
        error::SandboxError,
        guest::Restored,
        life::Sandbox,
        resume::{Rebirth, ResumeTiming, Tmp},
        way::{Losses, Way, choose},
    },
    snapshots::{Owner, Resumable, Snapshot},
};

/// Why a sandbox is not there.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// It was to be a clone; another one may have more luck.
    #[error("resume a clone")]
    Clone(#[source] SandboxError),
    /// It was to be a clone of its runtime's snapshot.
    #[error("resume a clone of the runtime")]
    Runtime(#[source] SandboxError),
    /// It was to be booted.
    #[error("boot a guest")]
    Boot(#[from] SandboxError),
    /// The function could not be restored, by its own fault.
    #[error("restore the function")]
    Restore(RestoreFailure),
}

/// What is brought up.
#[derive(Clone, Debug)]
pub(super) struct Blueprint {
    pub(super) function: Arc<FunctionConfig>,
    pub(super) code: Arc<CodeImage>,
    /// What its function is told of why it is initialised.
    pub(super) initialization: InitializationType,
}

impl Blueprint {
    /// Of the sandbox that an invocation needs.
    pub(super) fn for_invocation(invocation: &Invocation) -> Self {
        Self {
            function: Arc::clone(&invocation.function),
            code: Arc::clone(&invocation.code),
            initialization: InitializationType::OnDemand,
        }
    }

    /// How long its init may take: AWS gives more to one that nobody waits for.
    fn init_timeout(&self, on_demand: Duration) -> Duration {
        match self.initialization {
            InitializationType::OnDemand => on_demand,
            _ => messages::long_init_timeout(&self.function),
        }
    }
}

/// Brings up a sandbox. Nothing is left of one that fails.
pub(super) async fn bring_up(
    shared: &Arc<Shared>,
    id: SandboxId,
    blueprint: &Blueprint,
    losses: Losses,
    timing: &mut Timing,
) -> Result<Sandbox, StartError> {
    let function = &blueprint.function;
    check_runtime(shared, function).await?;
    let version = match function.start_kind() {
        StartKind::Boot => None,
        StartKind::Snapshot | StartKind::SnapshotWhenReady => {
            fitting(shared, function, shared.snapshots.find(&Owner::version(function))).await
        }
    };
    let missing = version.is_none() && function.start_kind() == StartKind::Snapshot;
    let runtime = match version {
        Some(_) => None,
        None => runtimes::find(shared, function).await.filter(|snapshot| fits_pin(function, snapshot)),
    };
    let way = choose(losses, version, runtime);
    timing.way = Some(way.name());
    if missing && losses == Losses::default() {
        // It should have had one: the next invocation shall.
        prepare::beside(shared, blueprint);
    }
    match way {
        Way::Clone(snapshot) => clone(shared, id, blueprint, &snapshot, timing).await,
        Way::Runtime(snapshot) => clone_runtime(shared, id, blueprint, &snapshot, timing).await,
        Way::Boot => {
            let booted = boot(shared, id, blueprint, timing).await?;
            if losses.runtimes > 0 {
                // What was lost as a clone works like this: it was not the function.
                runtimes::failed(shared, function);
            }
            Ok(booted)
        }
    }
}

async fn clone(
    shared: &Arc<Shared>,
    id: SandboxId,
    blueprint: &Blueprint,
    origin: &Resumable,
    timing: &mut Timing,
) -> Result<Sandbox, StartError> {
    let limit = shared.settings.restore_timeout;
    let spec = own_spec(shared, &blueprint.function, &blueprint.code);
    let (mut sandbox, resumed) = match resume(shared, id, &spec, origin, Tmp::AsSaved, pending()).await {
        Ok(resumed) => resumed,
        Err(error) => {
            if error.is_unusable_snapshot() {
                let arn = blueprint.function.version_arn();
                tracing::warn!(function = arn, "its snapshot is of no use and is made again");
                shared.snapshots.discard(&origin.snapshot);
                prepare::beside(shared, blueprint);
            }
            return Err(StartError::Clone(error));
        }
    };
    note(timing, resumed);
    let began = Instant::now();
    let restored = {
        let restoring = std::pin::pin!(sandbox.restored(limit.saturating_sub(resumed.total())));
        with_slot(shared, id, restoring).await
    };
    timing.hooks = Some(began.elapsed());
    match restored {
        Ok(Restored::Done(_)) => Ok(sandbox),
        Ok(Restored::Failed(failure)) => {
            sandbox.destroy().await;
            Err(StartError::Restore(failure))
        }
        Err(error) => {
            sandbox.destroy_because(&error).await;
            Err(StartError::Clone(error))
        }
    }
}

/// A clone of what the function's runtime was before anybody's code was in it, told after its gate which function it is.
async fn clone_runtime(
    shared: &Arc<Shared>,
    id: SandboxId,
    blueprint: &Blueprint,
    origin: &Resumable,
    timing: &mut Timing,
) -> Result<Sandbox, StartError> {
    let function = &blueprint.function;
    let spec = own_spec(shared, function, &blueprint.code);
    origin.snapshot.use_now();
    let started = match resume(shared, id, &spec, origin, Tmp::Empty, pending()).await {
        Ok((mut sandbox, resumed)) => {
            note(timing, resumed);
            // While it is nobody's: what one tenant's function touches is no other tenant's to feel.
            match sandbox.report_working_set().await {
                Ok(_) => {
                    let version = origin.runtime_version().unwrap_or_default().to_owned();
                    initialise(shared, id, (sandbox, version), blueprint, timing).await
                }
                Err(error) => {
                    sandbox.destroy_because(&error).await;
                    Err(error)
                }
            }
        }
        Err(error) => Err(error),
    };
    match started {
        Ok(sandbox) => {
            runtimes::worked(shared, function);
            Ok(sandbox)
        }
        Err(error) => {
            runtimes::lost(shared, &origin.snapshot, &error);
            Err(StartError::Runtime(error))
        }
    }
}

/// Resumes a clone up to the end of its gate, or until `stop`.
pub(super) async fn resume(
    shared: &Shared,
    id: SandboxId,
    spec: &Spec,
    origin: &Resumable,
    tmp: Tmp,
    stop: impl Future<Output = ()>,
) -> Result<(Sandbox, ResumeTiming), SandboxError> {
    let limit = shared.settings.restore_timeout;
    // Not the sandbox's id: the agent counts those from its start.
    let instance = uuid::Uuid::new_v4().to_string();
    let unique = messages::unique(instance, wall_clock_unix_ns(), &chance()?, limit);
    let rebirth = Rebirth { origin, key: shared.snapshots.key(), tmp, unique, limit };
    shared.host.resume(id, spec, rebirth, stop).await
}

fn note(timing: &mut Timing, resumed: ResumeTiming) {
    let ResumeTiming { place, load, unique, gate } = resumed;
    (timing.place, timing.load, timing.unique, timing.gate) =
        (Some(place), Some(load), Some(unique), Some(gate));
}

async fn boot(
    shared: &Arc<Shared>,
    id: SandboxId,
    blueprint: &Blueprint,
    timing: &mut Timing,
) -> Result<Sandbox, SandboxError> {
    let spec = own_spec(shared, &blueprint.function, &blueprint.code);
    let version = runtime_version(shared, &blueprint.function).await?;
    let (sandbox, boot) = shared.host.boot(id, &spec, Purpose::Serve).await?;
    (timing.place, timing.boot) = (Some(boot.place), Some(boot.boot));
    initialise(shared, id, (sandbox, version), blueprint, timing).await
}

/// Tells a guest which function it is, and waits for the end of its init; with the version of the runtime that the guest has.
async fn initialise(
    shared: &Shared,
    id: SandboxId,
    (mut sandbox, version): (Sandbox, String),
    blueprint: &Blueprint,
    timing: &mut Timing,
) -> Result<Sandbox, SandboxError> {
    let moment = match moment(blueprint.init_timeout(shared.settings.init_timeout), &mut sandbox) {
        Ok(moment) => moment,
        Err(error) => {
            sandbox.destroy().await;
            return Err(error.into());
        }
    };
    let began = Instant::now();
    let initialised = {
        let function = &blueprint.function;
        let runtime = (shared.image(function), version);
        let start = messages::start(function, runtime, moment, blueprint.initialization);
        let init = std::pin::pin!(sandbox.init(start));
        with_slot(shared, id, init).await
    };
    timing.init = Some(began.elapsed());
    match initialised {
        Ok(_) => Ok(sandbox),
        Err(error) => {
            sandbox.destroy_because(&error).await;
            Err(error)
        }
    }
}

/// The version's snapshot, if it can be resumed with what the node has.
async fn fitting(
    shared: &Shared,
    function: &FunctionConfig,
    snapshot: Option<Arc<Snapshot>>,
) -> Option<Resumable> {
    let resumable = shared.making.resumable(snapshot?, shared.image(function)).await;
    resumable.filter(|snapshot| fits_pin(function, snapshot))
}

/// A snapshot of another time has the runtime of that time: what is pinned to the node's is not resumed from it.
fn fits_pin(function: &FunctionConfig, snapshot: &Resumable) -> bool {
    function.runtime_management.pinned().is_none() || snapshot.has_current_runtime()
}

/// Nothing runs on another version of its runtime than the one that it is pinned to.
pub(super) async fn check_runtime(shared: &Shared, function: &FunctionConfig) -> Result<(), SandboxError> {
    let Some(pinned) = function.runtime_management.pinned() else { return Ok(()) };
    let here = runtime_version(shared, function).await?;
    if function.runtime_management.allows(&here) {
        return Ok(());
    }
    Err(SandboxError::OtherRuntime { pinned: pinned.into(), here })
}

/// The version that the node has of what serves the function; of a container image, its digest.
pub(super) async fn runtime_version(
    shared: &Shared,
    function: &FunctionConfig,
) -> Result<String, SandboxError> {
    if function.image.is_some() {
        return Ok(function.code.sha256.clone());
    }
    shared.making.runtime(shared.image(function)).await.map_err(SandboxError::UnknownRuntime)
}

/// Waits for user code that computes under its start slot; code that takes this long mostly waits for something, and
/// gives the slot back.
pub(super) async fn with_slot<F: Future + Unpin>(shared: &Shared, id: SandboxId, mut work: F) -> F::Output {
    match timeout(shared.settings.init_slot(), &mut work).await {
        Ok(done) => done,
        Err(_) => {
            shared.slot_used(id);
            work.await
        }
    }
}

/// What a sandbox for the function is made from, with a log stream of its own: AWS's names tell the day, the version, and nothing else.
pub(super) fn own_spec(shared: &Shared, function: &FunctionConfig, code: &CodeImage) -> Spec {
    let (date, unique) = (chrono::Utc::now().format("%Y/%m/%d"), uuid::Uuid::new_v4().simple());
    let stream = format!("{date}/[{}]{unique}", function.version);
    messages::spec(function, code, shared.image(function), stream)
}

/// What a guest needs from the host at the moment of its start.
pub(super) fn moment(init_timeout: Duration, sandbox: &mut Sandbox) -> std::io::Result<messages::Moment> {
    let mut entropy = [0; 32];
    getrandom::fill(&mut entropy)?;
    Ok(messages::Moment {
        wall_clock_unix_ns: wall_clock_unix_ns(),
        entropy,
        log_stream: sandbox.logs().stream().unwrap_or_default().to_owned(),
        init_timeout,
    })
}

/// What is random about a clone, from the host's kernel.
fn chance() -> std::io::Result<Chance> {
    let mut chance = Chance {
        seed: [0; guest_protocol::SEED_LEN],
        generation: [0; 16],
        machine_id: [0; 16],
        boot_id: [0; 16],
        hostname: [0; 6],
    };
    let Chance { seed, generation, machine_id, boot_id, hostname } = &mut chance;
    for part in [&mut seed[..], generation, machine_id, boot_id, hostname] {
        getrandom::fill(part)?;
    }
    // The kernel's own boot_id is a random UUID, version 4: so is ours.
    boot_id[6] = boot_id[6] & 0x0f | 0x40;
    boot_id[8] = boot_id[8] & 0x3f | 0x80;
    Ok(chance)
}

fn wall_clock_unix_ns() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use guest_protocol::generation_counter;

    use super::*;

    #[test]
    fn chance_is_another_one_each_time_in_every_part() {
        // Named, so that a new part does not compile until it is compared.
        let Chance { seed, generation, machine_id, boot_id, hostname } = chance().unwrap();
        let other = chance().unwrap();
        assert_ne!(seed, other.seed);
        assert_ne!(generation, other.generation);
        assert_ne!(machine_id, other.machine_id);
        assert_ne!(boot_id, other.boot_id);
        assert_ne!(hostname, other.hostname);
        assert_ne!(generation_counter(&generation), generation_counter(&other.generation));
        assert_ne!(generation_counter(&generation), 0, "0 is a guest that was never resumed");
        assert_eq!((boot_id[6] >> 4, boot_id[8] >> 6), (4, 0b10), "it is a random UUID");
    }
}
