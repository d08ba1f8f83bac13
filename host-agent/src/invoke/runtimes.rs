//! Snapshots of runtimes: kernel, guest-init and language runtime as they are before any function is known, so that even
//! a function's very first start skips the boot.
//!
//! ```text
//!  a boot of (runtime, memory) ends ─► room to spare ─► boot ─► preload, freeze, pause, snapshot ─► publish ─► shed ─► rehearse
//!                                          ▲               │ stopped: somebody needs the room
//!                                          └───────────────┘
//! ```
//!
//! They are a cache. They are made beside the invocations of what nobody else needs, one at a time, and thrown away when
//! somebody needs the disk; what one saves is a boot, so a pair of runtime and memory that causes trouble is booted from
//! then on. SnapStart's own snapshots are not made from them: see `docs/adr/0018-runtime-snapshots.md`.

use std::{
    collections::HashMap,
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::sync::mpsc;
use vmm_api::{Identity, SnapshotReport};

use super::{messages, node::Shared, prepare, rehearsal, worker::Command};
use crate::{
    disk::DiskError,
    functions::model::FunctionConfig,
    log::NOTICE,
    sandbox::{
        SandboxId, boot::Purpose, describe, error::SandboxError, life::Sandbox, machine,
        resume::PRELOAD_TIMEOUT,
    },
    snapshots::{Content, Draft, Owner, Resumable, Snapshot, SnapshotError},
};

/// How often a making that had to give its room back is begun again before it waits for the next boot of its pair.
const TRIES: usize = 3;

/// Failures in a row, of making a pair's snapshot or of its clones, after which the pair is booted until the agent
/// starts anew: each costs a caller the time of a boot, or the node that of a making.
const MAX_TROUBLES: usize = 3;

/// Age at which a snapshot is made anew when it is next asked for. Its clones share what was random at its boot and cannot
/// be changed afterwards (address-space layout, hash seeds: `docs/uniqueness.md`): not for a node's whole life.
const RENEW_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A runtime and the memory of functions, which together make a machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pair {
    pub(super) runtime: String,
    pub(super) memory_mib: u32,
}

impl Pair {
    /// What a function needs.
    fn of(shared: &Shared, function: &FunctionConfig) -> Self {
        Self { runtime: shared.image(function).into(), memory_mib: function.memory_mib }
    }

    fn owner(&self) -> Owner {
        Owner::Runtime { runtime: self.runtime.clone(), memory_mib: self.memory_mib }
    }
}

/// What is known of the node's pairs.
#[derive(Debug)]
pub(super) struct Runtimes {
    /// Most snapshots that are kept.
    limit: usize,
    /// Pairs that there is something to say of: as many as there are sizes of memory, and a few bytes each.
    records: Mutex<HashMap<Pair, Record>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Record {
    /// Whether a task takes care of it.
    making: bool,
    /// Failures since a clone became a function.
    troubles: usize,
}

impl Runtimes {
    /// With at most so many snapshots.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, records: Mutex::default() }
    }

    /// Whether snapshots of the pair are worth a try.
    fn trusts(&self, pair: &Pair) -> bool {
        let troubles = self.records().get(pair).map_or(0, |record| record.troubles);
        self.limit > 0 && troubles < MAX_TROUBLES
    }

    /// Whether the caller is the one to take care of the pair. No more pairs are taken care of than could be kept: who is
    /// refused for it asks again after its next boot.
    fn begin(&self, pair: &Pair) -> bool {
        if !self.trusts(pair) {
            return false;
        }
        let mut records = self.records();
        let others = records.values().filter(|record| record.making).count();
        let begins = others < self.limit && !records.get(pair).is_some_and(|record| record.making);
        if begins {
            records.entry(pair.clone()).or_default().making = true;
        }
        begins
    }

    /// Whether a task takes care of any pair, for tests.
    #[cfg(test)]
    pub(super) fn is_making(&self) -> bool {
        self.records().values().any(|record| record.making)
    }

    fn end(&self, pair: &Pair) {
        self.change(pair, |record| record.making = false);
    }

    /// A clone became a function. A snapshot that was made says nothing yet.
    fn worked(&self, pair: &Pair) {
        self.change(pair, |record| record.troubles = 0);
    }

    /// Whether that was once too often.
    fn failed(&self, pair: &Pair) -> bool {
        self.change(pair, |record| record.troubles += 1);
        let given_up = !self.trusts(pair);
        if given_up {
            tracing::error!(?pair, "snapshots of it fail: its functions are booted from now on");
        }
        given_up
    }

    fn change(&self, pair: &Pair, change: impl FnOnce(&mut Record)) {
        let mut records = self.records();
        let record = records.entry(pair.clone()).or_default();
        change(record);
        if *record == Record::default() {
            records.remove(pair);
        }
    }

    fn records(&self) -> MutexGuard<'_, HashMap<Pair, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at what an agent before this one has left: it may be told to keep fewer, and the node may have other images. Reads
/// the images that there are snapshots of, so that no call has to wait for that.
pub(super) async fn take_stock(node: Weak<Shared>) {
    let Some(shared) = node.upgrade() else { return };
    shared.snapshots.shed(shared.runtimes.limit).await;
    for snapshot in shared.snapshots.of_runtimes() {
        let Owner::Runtime { runtime, .. } = snapshot.owner() else { continue };
        if shared.making.resumable(Arc::clone(&snapshot), runtime).await.is_none() {
            shared.snapshots.discard(&snapshot);
        }
    }
}

/// The snapshot that a function's first sandboxes are clones of, if there is one that can be resumed here.
pub(super) async fn find(shared: &Shared, function: &FunctionConfig) -> Option<Resumable> {
    if function.image.is_some() {
        // It has no runtime of the node's.
        return None;
    }
    let pair = Pair::of(shared, function);
    if !shared.runtimes.trusts(&pair) {
        return None;
    }
    shared.making.resumable(shared.snapshots.find(&pair.owner())?, &pair.runtime).await
}

/// A clone became a function.
pub(super) fn worked(shared: &Shared, function: &FunctionConfig) {
    shared.runtimes.worked(&Pair::of(shared, function));
}

/// A clone did not become a function. Whose fault it is shows when the function has been booted.
pub(super) fn lost(shared: &Shared, snapshot: &Arc<Snapshot>, error: &SandboxError) {
    let unusable = error.is_unusable_snapshot();
    tracing::warn!(owner = ?snapshot.owner(), unusable, "a clone of a runtime is lost: a boot takes its place");
    if unusable {
        shared.snapshots.discard(snapshot);
    }
}

/// A function that was booted works; a clone that was to become it did not.
pub(super) fn failed(shared: &Shared, function: &FunctionConfig) {
    let pair = Pair::of(shared, function);
    if shared.runtimes.failed(&pair)
        && let Some(snapshot) = shared.snapshots.find(&pair.owner())
    {
        shared.snapshots.discard(&snapshot);
    }
}

/// Has the snapshot made that the start of a function's sandbox could do with, unless there is one that is current.
pub(super) fn beside(shared: &Arc<Shared>, function: &FunctionConfig) {
    let pair = Pair::of(shared, function);
    if function.image.is_some() || !shared.runtimes.begin(&pair) {
        return;
    }
    let shared = Arc::downgrade(shared);
    tokio::spawn(async move {
        let made = keep_current(&shared, &pair).await;
        let Some(shared) = shared.upgrade() else { return };
        shared.runtimes.end(&pair);
        match made {
            Ok(()) => {}
            Err(MakeError::Disk(full @ DiskError::Full { .. })) => {
                tracing::info!(?pair, "no snapshot of a runtime: {}", describe(&full));
            }
            Err(error) => {
                tracing::warn!(?pair, "a runtime's snapshot was not made: {}", describe(&error));
                shared.runtimes.failed(&pair);
            }
        }
    });
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
enum MakeError {
    /// It cannot be said what it would be made from.
    #[error("read what it is made from")]
    Identity(#[source] std::io::Error),
    /// The disk is full, or could not be asked.
    #[error("find room on the disk")]
    Disk(#[from] DiskError),
    /// The store.
    #[error("keep the snapshot")]
    Store(#[from] SnapshotError),
    /// The machine.
    #[error("make the machine")]
    Sandbox(#[from] SandboxError),
}

async fn keep_current(node: &Weak<Shared>, pair: &Pair) -> Result<(), MakeError> {
    for _ in 0..TRIES {
        let Some((shared, id, inbox)) = room(node, pair).await? else { return Ok(()) };
        if make(&shared, pair, id, inbox).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// Waits until a machine can be spared. Nothing, when none is needed, or the node goes down.
async fn room(node: &Weak<Shared>, pair: &Pair) -> Result<Option<Spare>, MakeError> {
    let Some(mut eased) = node.upgrade().map(|shared| shared.eased()) else { return Ok(None) };
    loop {
        {
            let Some(shared) = node.upgrade() else { return Ok(None) };
            let today = identity(&shared, pair).await?;
            let found = shared.snapshots.find(&pair.owner());
            if found.is_some_and(|found| is_current(found.identity(), found.age(), &today)) {
                return Ok(None);
            }
            match shared.spare(messages::nobodys_demand(pair)) {
                Ok(Some((id, inbox))) => return Ok(Some((shared, id, inbox))),
                Ok(None) => {}
                Err(_closing) => return Ok(None),
            }
            // While it waits it keeps no node from ending.
        }
        if eased.changed().await.is_err() {
            return Ok(None);
        }
    }
}

/// A machine that may be made, and where it is told that it is in somebody's way.
type Spare = (Arc<Shared>, SandboxId, mpsc::Receiver<Command>);

async fn identity(shared: &Shared, pair: &Pair) -> Result<Identity, MakeError> {
    let content = Content::Nobody(machine::shape(pair.memory_mib));
    let identity = shared.making.identity(&pair.runtime, content).await;
    identity.map_err(MakeError::Identity)
}

/// Whether a snapshot of that identity and age would be made the same today.
fn is_current(snapshot: &Identity, age: Duration, today: &Identity) -> bool {
    snapshot == today && age < RENEW_AFTER
}

/// Makes a snapshot and publishes it. Whether it came to that: not, when the machine had to go.
async fn make(
    shared: &Arc<Shared>,
    pair: &Pair,
    id: SandboxId,
    mut inbox: mpsc::Receiver<Command>,
) -> Result<bool, MakeError> {
    let mut forced = shared.forced();
    let stop = async {
        tokio::select! {
            _ = forced.wait_for(|forced| *forced) => {}
            // A word or the end of the channel: both say so.
            _ = inbox.recv() => {}
        }
    };
    let made = save(shared, pair, id, stop).await;
    shared.ended(id);
    let Some((draft, identity, report)) = made? else { return Ok(false) };
    prepare::keep_image(shared, &pair.runtime).await;
    let published = shared.snapshots.publish(draft, pair.owner(), identity, || true).await?;
    shared.snapshots.shed(shared.runtimes.limit).await;
    if let Some(snapshot) = published {
        rehearsal::of_runtime(shared, pair, snapshot).await?;
    }
    tracing::info!(target: NOTICE, runtime = pair.runtime, memory_mib = pair.memory_mib, "a runtime's snapshot is made");
    tracing::debug!(?report, "so it went");
    Ok(true)
}

/// Boots a guest that nobody owns and writes it into a draft. Nothing is left of one that has to stop.
async fn save(
    shared: &Shared,
    pair: &Pair,
    id: SandboxId,
    stop: impl Future<Output = ()>,
) -> Result<Option<(Draft, Identity, SnapshotReport)>, MakeError> {
    let identity = identity(shared, pair).await?;
    // All of its memory at most; most of it are holes. Its /tmp stays empty.
    let len = u64::from(machine::shape(pair.memory_mib).mem_size_mib) << 20;
    shared.snapshots.make_room(&shared.settings.disk, len).await?;
    let draft = shared.snapshots.begin()?;
    let mut stop = pin!(stop);
    let spec = messages::nobodys_spec(pair);
    let mut sandbox: Sandbox = tokio::select! {
        biased;
        () = &mut stop => return Ok(None),
        booted = shared.host.boot(id, &spec, Purpose::Save) => booted?.0,
    };
    let key = shared.snapshots.key().clone();
    let saved = tokio::select! {
        biased;
        () = &mut stop => None,
        saved = sandbox.save(&draft, key, identity.clone(), PRELOAD_TIMEOUT) => Some(saved),
    };
    match saved.transpose() {
        Ok(report) => {
            sandbox.destroy().await;
            Ok(report.map(|report| (draft, identity, report)))
        }
        Err(error) => {
            sandbox.destroy_because(&error).await;
            Err(error.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(memory_mib: u32) -> Pair {
        Pair { runtime: "python3.13".into(), memory_mib }
    }

    #[test]
    fn a_snapshot_is_made_anew_when_something_changed_or_a_day_is_over() {
        let identity = |kernel: &str| Identity([("kernel".to_owned(), kernel.to_owned())].into());
        let second = Duration::from_secs(1);
        assert!(is_current(&identity("k"), RENEW_AFTER - second, &identity("k")));
        assert!(!is_current(&identity("k"), RENEW_AFTER, &identity("k")));
        assert!(!is_current(&identity("k"), second, &identity("l")));
    }

    #[test]
    fn one_task_looks_after_a_pair() {
        let runtimes = Runtimes::new(2);
        assert!(runtimes.begin(&pair(128)) && !runtimes.begin(&pair(128)) && runtimes.begin(&pair(256)));
        assert!(!runtimes.begin(&pair(512)), "two are enough");
        runtimes.end(&pair(128));
        assert!(runtimes.begin(&pair(128)));
        assert!(!Runtimes::new(0).begin(&pair(128)), "there are to be none");
    }

    #[test]
    fn what_fails_again_and_again_is_given_up_and_what_works_between_is_forgiven() {
        let runtimes = Runtimes::new(1);
        for _ in 0..2 * MAX_TROUBLES {
            assert!(!runtimes.failed(&pair(128)));
            runtimes.worked(&pair(128));
        }
        assert_eq!(runtimes.records().len(), 0, "nothing is kept of what is well");
        assert_eq!([false, false, true], [(); MAX_TROUBLES].map(|()| runtimes.failed(&pair(128))));
        assert!(!runtimes.trusts(&pair(128)) && runtimes.trusts(&pair(256)));
    }
}
