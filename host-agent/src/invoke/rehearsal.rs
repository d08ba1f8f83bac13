//! One clone of every new snapshot that serves nobody: it touches what each clone touches on the way to its first event, and
//! tells, so that those that somebody waits for have it before they run.
//!
//! It is made of what can be spared, or not at all, and gives its room back when somebody needs it. Nothing depends on it: without
//! it the first clones that serve somebody are the first to tell. Either way a blank machine waits for the first of these.

use std::sync::Arc;

use super::{CodeImage, messages, node::Shared, runtimes::Pair, start};
use crate::{
    functions::model::FunctionConfig,
    sandbox::{
        SandboxId,
        boot::{SandboxError, Spec},
        describe,
        guest::Restored,
        machine,
        policy::Demand,
        resume::Tmp,
    },
    snapshots::{Resumable, Snapshot},
};

/// Of a version: gate and hooks, up to the point where it would be given an event.
pub(super) async fn of_version(
    shared: &Shared,
    function: &FunctionConfig,
    code: &CodeImage,
    snapshot: Arc<Snapshot>,
) {
    let (demand, spec) = (messages::snapshot_demand(function), messages::spec(function, code));
    in_spare_room(shared, demand, &spec, snapshot, Tmp::AsSaved).await;
}

/// Of a runtime: the gate, up to the point where it would be told its function.
pub(super) async fn of_runtime(shared: &Shared, pair: &Pair, snapshot: Arc<Snapshot>) {
    let (demand, spec) = (messages::nobodys_demand(pair), messages::nobodys_spec(pair));
    in_spare_room(shared, demand, &spec, snapshot, Tmp::Empty).await;
}

async fn in_spare_room(shared: &Shared, demand: Demand, spec: &Spec, snapshot: Arc<Snapshot>, tmp: Tmp) {
    let Some(origin) = shared.making.resumable(snapshot, &spec.runtime).await else { return };
    let Ok(Some((id, mut inbox))) = shared.spare(demand) else {
        shared.host.blanks().expect(machine::shape(spec.memory_mib));
        return;
    };
    let mut forced = shared.forced();
    let rehearsed = tokio::select! {
        biased;
        _ = forced.wait_for(|forced| *forced) => Ok(()),
        // A word or the end of the channel: both say that it is in somebody's way.
        _ = inbox.recv() => Ok(()),
        rehearsed = rehearse(shared, id, spec, &origin, tmp) => rehearsed,
    };
    shared.ended(id);
    if let Err(error) = rehearsed {
        tracing::warn!(owner = ?origin.snapshot.owner(), "a clone that was to tell came to nothing: {}", describe(&error));
    }
}

async fn rehearse(
    shared: &Shared,
    id: SandboxId,
    spec: &Spec,
    origin: &Resumable,
    tmp: Tmp,
) -> Result<(), SandboxError> {
    let (mut sandbox, resumed) = start::resume(shared, id, spec, origin, tmp).await?;
    let told = async {
        if tmp == Tmp::AsSaved {
            let left = shared.settings.restore_timeout.saturating_sub(resumed.total());
            let restoring = std::pin::pin!(sandbox.restored(left));
            // Whether its hooks fail is for whoever calls the function to know.
            if let Restored::Failed(failure) = start::with_slot(shared, id, restoring).await? {
                tracing::info!(owner = ?origin.snapshot.owner(), ?failure, "hooks failed where nobody waited for them");
            }
        }
        sandbox.report_working_set().await
    };
    match told.await {
        Ok(made) => {
            sandbox.destroy().await;
            // Whoever waits for the snapshot waits for this as well, some milliseconds.
            if let Some(made) = made {
                drop(made.await);
            }
            Ok(())
        }
        Err(error) => {
            sandbox.destroy_because(&error).await;
            Err(error)
        }
    }
}
