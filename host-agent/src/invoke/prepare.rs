//! Making snapshots: beside the invocations, in the node's spare room, one at a time for each version.
//!
//! ```text
//!  room ─► boot ─► init ─► freeze, pause, snapshot ─► destroy ─► publish ─► rehearse
//! ```
//!
//! What fails on the way leaves neither a sandbox nor a file: a draft is removed when it is dropped, and at the next
//! start when the agent is killed.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use guest_protocol::{InitializationType, ShutdownReason};
use vmm_api::Identity;

use super::{
    CodeImage, InvokeError, PrepareError, Retired, messages,
    node::{Grant, Shared},
    rehearsal,
    start::{self, Blueprint},
};
use crate::{
    functions::model::{FunctionConfig, FunctionId},
    sandbox::{
        SandboxId, boot::Purpose, describe, error::SandboxError, guest::Init, life::Sandbox, machine,
        resume::FREEZE_TIMEOUT,
    },
    snapshots::{Content, Draft, HostIdentity, Owner, Resumable, Snapshot},
};

/// How often a snapshot is tried: a machine may be lost to bad luck once.
const TRIES: usize = 2;

/// Which versions are to have a snapshot.
#[derive(Debug)]
pub(super) struct Making {
    identity: HostIdentity,
    /// From the first time that their snapshot is asked for until they are retired.
    jobs: Mutex<HashMap<Owner, Arc<Job>>>,
}

#[derive(Debug, Default)]
struct Job {
    /// Held by whoever makes it; others who want it wait.
    turn: tokio::sync::Mutex<()>,
    /// Its owner is retired.
    over: AtomicBool,
}

impl Making {
    /// None yet, on a node that makes its snapshots from that.
    pub(super) fn new(identity: HostIdentity) -> Self {
        Self { identity, jobs: Mutex::default() }
    }

    /// The identity of a snapshot that would be made now.
    pub(super) async fn identity(&self, runtime: &str, content: Content<'_>) -> std::io::Result<Identity> {
        self.identity.identity(runtime, content).await
    }

    /// The version that the node has of a runtime.
    pub(super) async fn runtime(&self, runtime: &str) -> std::io::Result<String> {
        self.identity.runtime(runtime).await
    }

    /// The snapshot with the image of its runtime, if the node has that.
    pub(super) async fn resumable(&self, snapshot: Arc<Snapshot>, runtime: &str) -> Option<Resumable> {
        match self.identity.resumable(snapshot, runtime).await {
            Ok(resumable) => resumable,
            // The boot that follows names what is missing to whom it concerns.
            Err(error) => {
                tracing::warn!(runtime, "its image cannot be read: {error}");
                None
            }
        }
    }

    /// What is retired has none, and is made in vain.
    pub(super) fn retire(&self, id: &FunctionId, what: Retired<'_>) {
        self.jobs().retain(|owner, job| {
            let retired = owner.is_retired(id, what);
            job.over.fetch_or(retired, Ordering::Relaxed);
            !retired
        });
    }

    /// The job of a version that is to have one.
    fn enlist(&self, owner: &Owner) -> Arc<Job> {
        Arc::clone(self.jobs().entry(owner.clone()).or_default())
    }

    /// The job of a version that is still to have one: an invocation may be under way when its version goes.
    fn enlisted(&self, owner: &Owner) -> Option<Arc<Job>> {
        self.jobs().get(owner).cloned()
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<Owner, Arc<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sees to it that a version has a current snapshot, now and whenever an invocation finds none, until it is retired.
pub(super) fn version(
    shared: &Arc<Shared>,
    function: Arc<FunctionConfig>,
    code: Arc<CodeImage>,
) -> impl Future<Output = Result<(), PrepareError>> + Send + use<> {
    let job = shared.making.enlist(&Owner::version(&function));
    make_current(Arc::clone(shared), job, function, code)
}

/// Has the copy made of a runtime's image that its snapshots need when it has another one. When that fails, they serve until then.
pub(super) async fn keep_image(shared: &Shared, runtime: &str) {
    let room = async |len| shared.snapshots.make_room(&shared.settings.disk, len).await;
    if let Err(error) = shared.making.identity.keep_image(runtime, room).await {
        tracing::warn!(runtime, "there is no copy of its image: {}", describe(&error));
    }
}

/// An old one serves until the new one is published.
async fn make_current(
    shared: Arc<Shared>,
    job: Arc<Job>,
    function: Arc<FunctionConfig>,
    code: Arc<CodeImage>,
) -> Result<(), PrepareError> {
    let owner = Owner::version(&function);
    let _turn = job.turn.lock().await;
    let pin = start::check_runtime(&shared, &function).await;
    pin.map_err(|error| PrepareError::Node(describe(&error)))?;
    let content = function.content();
    let identity = shared.making.identity(shared.image(&function), Content::Function(&content)).await;
    let identity = identity.map_err(|error| PrepareError::Node(error.to_string()))?;
    if shared.snapshots.find(&owner).is_some_and(|snapshot| *snapshot.identity() == identity) {
        keep_image(&shared, shared.image(&function)).await;
        shared.host.blanks().expect(machine::shape(function.memory_mib));
        return Ok(());
    }
    let mut last_problem = String::new();
    for _ in 0..TRIES {
        if job.over.load(Ordering::Relaxed) {
            return Err(PrepareError::Superseded);
        }
        let draft = shared.snapshots.begin().map_err(|error| PrepareError::Node(describe(&error)))?;
        match make(&shared, &function, &code, &draft, identity.clone()).await {
            Ok(()) => {
                keep_image(&shared, shared.image(&function)).await;
                let wanted = Arc::clone(&job);
                let still_wanted = move || !wanted.over.load(Ordering::Relaxed);
                let (owner, identity) = (owner.clone(), identity.clone());
                let published = shared.snapshots.publish(draft, owner, identity, still_wanted).await;
                let published = published.map_err(|error| PrepareError::Node(describe(&error)))?;
                let snapshot = published.ok_or(PrepareError::Superseded)?;
                match rehearsal::of_version(&shared, &function, &code, snapshot).await {
                    Ok(()) => return Ok(()),
                    Err(unusable) => last_problem = describe(&unusable),
                }
            }
            Err(MakeError::Refused(error)) => return Err(error),
            Err(MakeError::Sandbox(error)) => {
                last_problem = describe(&error);
                tracing::warn!(function = function.version_arn(), "a snapshot was not made: {last_problem}");
                if !error.is_loss() {
                    break;
                }
            }
        }
    }
    Err(PrepareError::Node(last_problem))
}

/// Has the snapshot of a version made while something else serves; not of one that is gone meanwhile.
pub(super) fn beside(shared: &Arc<Shared>, blueprint: &Blueprint) {
    let Some(job) = shared.making.enlisted(&Owner::version(&blueprint.function)) else { return };
    let (function, code) = (Arc::clone(&blueprint.function), Arc::clone(&blueprint.code));
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let arn = function.version_arn();
        if let Err(error) = make_current(shared, job, function, code).await {
            tracing::warn!(function = arn, "its snapshot could not be made again: {error}");
        }
    });
}

/// Why there is no snapshot.
enum MakeError {
    /// There is no use in trying again.
    Refused(PrepareError),
    Sandbox(SandboxError),
}

impl From<SandboxError> for MakeError {
    fn from(error: SandboxError) -> Self {
        Self::Sandbox(error)
    }
}

async fn make(
    shared: &Arc<Shared>,
    function: &FunctionConfig,
    code: &CodeImage,
    draft: &Draft,
    identity: Identity,
) -> Result<(), MakeError> {
    // Machine and /tmp at most; most of both are holes.
    let len =
        u64::from(machine::shape(function.memory_mib).mem_size_mib + function.ephemeral_storage_mib) << 20;
    let room = shared.snapshots.make_room(&shared.settings.disk, len).await;
    room.map_err(|full| MakeError::Refused(PrepareError::Node(describe(&full))))?;
    let id = room_for(shared, function).await.map_err(MakeError::Refused)?;
    let mut forced = shared.forced();
    let made = tokio::select! {
        biased;
        _ = forced.wait_for(|forced| *forced) => Err(MakeError::Refused(PrepareError::ShuttingDown)),
        made = in_room(shared, id, function, code, draft, identity) => made,
    };
    shared.ended(id);
    made
}

async fn in_room(
    shared: &Arc<Shared>,
    id: SandboxId,
    function: &FunctionConfig,
    code: &CodeImage,
    draft: &Draft,
    identity: Identity,
) -> Result<(), MakeError> {
    let (mut sandbox, boot) =
        shared.host.boot(id, &start::own_spec(shared, function, code), Purpose::Save).await?;
    let made = {
        let work = std::pin::pin!(initialise_and_save(shared, &mut sandbox, function, draft, identity));
        start::with_slot(shared, id, work).await
    };
    match made {
        Ok(report) => {
            tracing::info!(function = function.version_arn(), boot = ?boot.boot, ?report, "a snapshot is made");
            sandbox.destroy().await;
            Ok(())
        }
        Err(MakeError::Sandbox(error)) => {
            sandbox.destroy_because(&error).await;
            Err(error.into())
        }
        Err(refused) => {
            sandbox.shut_down(ShutdownReason::Failure).await;
            sandbox.destroy().await;
            Err(refused)
        }
    }
}

async fn initialise_and_save(
    shared: &Shared,
    sandbox: &mut Sandbox,
    function: &FunctionConfig,
    draft: &Draft,
    identity: Identity,
) -> Result<vmm_api::SnapshotReport, MakeError> {
    let limit: Duration = messages::long_init_timeout(function);
    let moment = start::moment(limit, sandbox).map_err(SandboxError::from)?;
    let runtime = (shared.image(function), start::runtime_version(shared, function).await?);
    match sandbox.init(messages::start(function, runtime, moment, InitializationType::SnapStart)).await? {
        Init::Done => {
            Ok(sandbox.save(draft, shared.snapshots.key().clone(), identity, FREEZE_TIMEOUT).await?)
        }
        Init::Failed(error) => Err(MakeError::Refused(PrepareError::Init(error))),
    }
}

/// Waits for the node to have room. Snapshots are made of what can be spared: no invocation is refused for one that
/// has not begun.
async fn room_for(shared: &Shared, function: &FunctionConfig) -> Result<SandboxId, PrepareError> {
    let mut eased = shared.eased();
    loop {
        match shared.place(messages::snapshot_demand(function)).await {
            Ok((Grant::Cold(id), _)) => return Ok(id),
            Ok((Grant::Warm(_), _)) => {
                return Err(PrepareError::Node("a snapshot is made in a new sandbox".into()));
            }
            Err(InvokeError::ShuttingDown) => return Err(PrepareError::ShuttingDown),
            Err(_) => eased.changed().await.map_err(|_| PrepareError::ShuttingDown)?,
        }
    }
}
