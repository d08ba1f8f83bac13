//! One clone of every new snapshot that serves nobody: it touches what each clone touches on the way to its first event, and
//! tells, so that those that somebody waits for have it before they run.
//!
//! It is made of what can be spared soon, or not at all, and gives its room back when somebody needs it. Nothing depends on it: without
//! it the first clones that serve somebody are the first to tell. Either way a blank machine waits for the first of these.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::timeout};

use super::{CodeImage, messages, node::Shared, runtimes::Pair, start, worker::Command};
use crate::{
    functions::model::FunctionConfig,
    sandbox::{
        SandboxId, boot::Spec, describe, error::SandboxError, guest::Restored, life::Sandbox, machine,
        policy::Demand, resume::Tmp,
    },
    snapshots::{Resumable, Snapshot},
};

/// A sandbox that may be made, and where it is told that it is in somebody's way.
type Spare = (SandboxId, mpsc::Receiver<Command>);

/// Of a version: gate and hooks, up to the point where it would be given an event. Whoever waits for the version waits for this,
/// twice as long as a restore may take at most: for room, and for the clone.
///
/// # Errors
/// The snapshot is of no use, and gone. Anything else is chance.
pub(super) async fn of_version(
    shared: &Shared,
    function: &FunctionConfig,
    code: &CodeImage,
    snapshot: Arc<Snapshot>,
) -> Result<(), SandboxError> {
    let (demand, spec) = (messages::snapshot_demand(function), start::own_spec(shared, function, code));
    in_spare_room(shared, demand, &spec, snapshot, Tmp::AsSaved).await
}

/// Of a runtime: the gate, up to the point where it would be told its function.
///
/// # Errors
/// As of a version.
pub(super) async fn of_runtime(
    shared: &Shared,
    pair: &Pair,
    snapshot: Arc<Snapshot>,
) -> Result<(), SandboxError> {
    let (demand, spec) = (messages::nobodys_demand(pair), messages::nobodys_spec(pair));
    in_spare_room(shared, demand, &spec, snapshot, Tmp::Empty).await
}

async fn in_spare_room(
    shared: &Shared,
    demand: Demand,
    spec: &Spec,
    snapshot: Arc<Snapshot>,
    tmp: Tmp,
) -> Result<(), SandboxError> {
    let Some(origin) = shared.making.resumable(snapshot, &spec.runtime).await else { return Ok(()) };
    // Its /tmp, and that of a caller who comes meanwhile: the disk's room is not given back as quickly as a sandbox's.
    let tmp_len = u64::from(spec.ephemeral_storage_mib) << 20;
    let spare = match shared.settings.disk.check(2 * tmp_len) {
        Ok(()) => timeout(shared.settings.restore_timeout, room(shared, demand)).await.unwrap_or_default(),
        Err(_) => None,
    };
    let Some((id, mut inbox)) = spare else {
        shared.host.blanks().expect(machine::shape(spec.memory_mib));
        return Ok(());
    };
    let mut forced = shared.forced();
    let stop = async {
        tokio::select! {
            _ = forced.wait_for(|forced| *forced) => {}
            // A word or the end of the channel: both say that it is in somebody's way.
            _ = inbox.recv() => {}
        }
    };
    let rehearsed = rehearse(shared, id, spec, &origin, tmp, stop).await;
    shared.ended(id);
    match rehearsed {
        Ok(()) | Err(SandboxError::Stopped) => Ok(()),
        Err(error) => {
            tracing::warn!(owner = ?origin.snapshot.owner(), "a clone that was to tell came to nothing: {}", describe(&error));
            if !error.is_unusable_snapshot() {
                return Ok(());
            }
            shared.snapshots.discard(&origin.snapshot);
            Err(error)
        }
    }
}

/// Room that is there or that somebody else gives back in a while; none on a node that is full.
async fn room(shared: &Shared, demand: Demand) -> Option<Spare> {
    let mut eased = shared.eased();
    loop {
        match shared.spare(demand.clone()) {
            Ok(Some(spare)) => return Some(spare),
            Ok(None) if shared.is_busy() => {}
            Ok(None) | Err(_) => return None,
        }
        eased.changed().await.ok()?;
    }
}

/// Nothing is left of the clone when this returns.
async fn rehearse(
    shared: &Shared,
    id: SandboxId,
    spec: &Spec,
    origin: &Resumable,
    tmp: Tmp,
    stop: impl Future<Output = ()>,
) -> Result<(), SandboxError> {
    let mut stop = pin!(stop);
    let (mut sandbox, resumed) = start::resume(shared, id, spec, origin, tmp, &mut stop).await?;
    let left = shared.settings.restore_timeout.saturating_sub(resumed.total());
    let told = tokio::select! {
        biased;
        () = &mut stop => Err(SandboxError::Stopped),
        restored = restore(shared, id, &mut sandbox, origin, tmp, left) => restored,
    };
    let told = match told {
        Ok(()) => sandbox.report_working_set().await,
        Err(error) => Err(error),
    };
    match told {
        Ok(made) => {
            sandbox.destroy().await;
            // Some milliseconds.
            if let Some(made) = made {
                drop(made.await);
            }
            Ok(())
        }
        Err(SandboxError::Stopped) => {
            sandbox.destroy().await;
            Err(SandboxError::Stopped)
        }
        Err(error) => {
            sandbox.destroy_because(&error).await;
            Err(error)
        }
    }
}

/// Has the function restored, if there is one. Whether its hooks fail is for whoever calls it to know.
async fn restore(
    shared: &Shared,
    id: SandboxId,
    sandbox: &mut Sandbox,
    origin: &Resumable,
    tmp: Tmp,
    left: Duration,
) -> Result<(), SandboxError> {
    if tmp == Tmp::Empty {
        return Ok(());
    }
    let restoring = pin!(sandbox.restored(left));
    if let Restored::Failed(failure) = start::with_slot(shared, id, restoring).await? {
        tracing::info!(owner = ?origin.snapshot.owner(), ?failure, "hooks failed where nobody waited for them");
    }
    Ok(())
}
