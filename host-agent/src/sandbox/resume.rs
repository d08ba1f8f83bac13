//! From a sandbox to a snapshot, and from a snapshot to sandboxes that are not each other's copies.
//!
//! ```text
//!  Sandbox ─freeze─► guest frozen ─pause, snapshot─► files ─destroy─►
//!  blank ─load─► guest runs ─its new connection─► gate ─► unique ─► restored (or, of a runtime's snapshot, init)
//! ```
//!
//! Nothing of the function's runs between the load and the gate's end; whatever fails on the way destroys the clone,
//! and the caller goes on with another one.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use guest_protocol::{GateReport, Unique, generation_counter};
use tokio::{
    net::unix::pipe,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};
use vmm_api::{Identity, Key, LoadConfig, LoadReport, SnapshotReport};

use super::{
    SandboxId,
    blanks::Starting,
    boot::{Drives, Host, Spec},
    console::{Captured, Stream},
    error::SandboxError,
    guest::{Guest, GuestError, Restored, told},
    life::{GRACE, Sandbox, report},
    logs::Logs,
    machine::{self, CODE_DRIVE, Extras, RUNTIME_DRIVE, SCRATCH_DRIVE},
    packet::PacketSocket,
    scratch::{self, ScratchError},
    vmm::Vmm,
};
use crate::{
    chunks::Content,
    code::blocking,
    snapshots::{ContentsError, Draft, Lesson, Opened, Resumable, Snapshot},
};

/// How long a guest may take to stand still: its function's threads are frozen in milliseconds, what is in its page
/// cache is written to a file of ours.
pub(crate) const FREEZE_TIMEOUT: Duration = Duration::from_secs(30);

/// The same for a guest that is nobody yet: it starts its runtime first, for which it gives itself a minute.
pub(crate) const PRELOAD_TIMEOUT: Duration = Duration::from_secs(60 + FREEZE_TIMEOUT.as_secs());

/// The VMM copies a list.
const WORKING_SET_TIMEOUT: Duration = Duration::from_secs(5);

/// How long after a resume that found them missing its pages are read into the page cache: its first answer goes first.
const WARMING_WAITS: Duration = Duration::from_secs(1);

/// One part in so many of the time that a clone has left is not for executables in `restore.d`.
const HOOKS_SPARE: u32 = 10;

/// How long the parts of a resume took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResumeTiming {
    /// Files, sockets and a machine, up to the load.
    pub(crate) place: Duration,
    /// From the load's request to its answer: vCPUs run.
    pub(crate) load: Duration,
    /// From there to the end of the gate.
    pub(crate) unique: Duration,
    /// Of that, what the guest's own steps took, by its clock.
    pub(crate) gate: Duration,
}

impl ResumeTiming {
    /// All of it.
    pub(crate) fn total(&self) -> Duration {
        self.place + self.load + self.unique
    }
}

/// The /tmp of a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tmp {
    /// As it was when the snapshot was taken: its guest has it mounted.
    AsSaved,
    /// Empty and of the function's size: its guest looks at it when it is told its function.
    Empty,
}

/// Who a clone is going to be, and from what.
#[derive(Debug)]
pub(crate) struct Rebirth<'a> {
    /// What is resumed.
    pub(crate) origin: &'a Resumable,
    /// The key that it was made with.
    pub(crate) key: &'a Key,
    /// Its /tmp.
    pub(crate) tmp: Tmp,
    /// What makes the clone unique; the time that it took until then is filled in.
    pub(crate) unique: Unique,
    /// How long it may take to be unique and restored, hooks included.
    pub(crate) limit: Duration,
}

/// What a clone is one of, until it has answered its first event.
#[derive(Debug)]
pub(crate) struct Origin {
    /// What it is to tell of its snapshot.
    lesson: Option<Lesson>,
    /// It counts as being brought up.
    _starting: Starting,
}

impl Host {
    /// Resumes a clone up to the end of the gate, or until `stop`: nothing is left of it then.
    pub(crate) async fn resume(
        &self,
        id: SandboxId,
        spec: &Spec,
        rebirth: Rebirth<'_>,
        stop: impl Future<Output = ()>,
    ) -> Result<(Sandbox, ResumeTiming), SandboxError> {
        let began = Instant::now();
        let Rebirth { origin: Resumable { snapshot, image }, key, tmp, unique, limit } = rebirth;
        let opening = Arc::clone(snapshot);
        let opened = blocking(move || opening.open()).await?;
        let drives = self.drives(image.clone(), spec.code.clone()).await?;
        let (scratch, tmp) = match tmp {
            Tmp::AsSaved => {
                let saved = &opened.scratch;
                (self.scratch.layer(saved.manifest().content().len)?, Some(saved))
            }
            Tmp::Empty => (self.scratch.image(spec.ephemeral_storage_mib).await?, None),
        };
        let (broker, their_broker) = PacketSocket::pair()?;
        let (serial_in, serial_out) = pipe::pipe()?;
        let serial = Captured::from(serial_out, id, Stream::Serial);
        let connections = drives.hand(&scratch, their_broker, serial_in.into_nonblocking_fd()?)?;
        let hand = |content: Option<&Arc<Content>>| content.map(Content::hand).transpose();
        let extras = Extras { prefetch: hand(opened.prefetch.as_ref())?, tmp: hand(tmp)? };
        fetch_ahead(snapshot, &drives, &opened);
        let (places, lesson) = (extras.places(), snapshot.lesson());
        let mut fds =
            connections.and_snapshot(opened.state.try_clone()?.into(), opened.memory.hand()?, extras);
        let mut slot = self.connect(spec).await?;
        let net = slot.as_mut().and_then(|slot| slot.hand(&mut fds));
        let learn = lesson.is_some();
        let starting = self.blanks.begin();
        let (vmm, stderr) = match self.blanks.take(machine::shape(spec.memory_mib)) {
            Some(blank) => blank,
            None => self.spawn(spec.memory_mib).await?,
        };
        let stderr = Captured::from(stderr, id, Stream::VmmStderr);
        let mut logs = self.logs_of(id, spec);
        let identity = snapshot.identity().clone();
        let config = machine::load(key.clone(), unique.generation, identity, places, learn);
        let config = LoadConfig { net, ..config };
        let place = began.elapsed();

        let up = async {
            let loading = Instant::now();
            if load(&vmm, config, fds).await?.prefetched_past_cache
                && let Some(prefetch) = &opened.prefetch
            {
                prefetch.warm(WARMING_WAITS);
            }
            let load = loading.elapsed();
            let waking = Instant::now();
            let (guest, report) = wake(&vmm, &broker, unique, (began, limit), &mut logs).await?;
            let unique = waking.elapsed();
            tracing::info!(%id, gate_us = report.duration_us, steps = told(&report.steps), "a clone is unique");
            let gate = Duration::from_micros(report.duration_us);
            Ok((guest, ResumeTiming { place, load, unique, gate }))
        };
        let up = tokio::select! {
            biased;
            () = stop => Err(SandboxError::Stopped),
            up = timeout(limit, up) => {
                up.unwrap_or(Err(SandboxError::TimedOut { what: "become unique", limit }))
            }
        };
        match up {
            Ok((guest, timing)) => {
                let origin = Some(Origin { lesson, _starting: starting });
                let (init_failed, _broker, _slot) = (false, broker, slot);
                let sandbox = Sandbox {
                    id,
                    vmm,
                    guest,
                    logs,
                    init_failed,
                    quota: self.serving_quota(spec),
                    origin,
                    scratch,
                    serial,
                    stderr,
                    _broker,
                    _slot,
                };
                Ok((sandbox, timing))
            }
            Err(mut error) => {
                let status = vmm.destroy().await;
                if opened.has_lost() {
                    error = ContentsError::Lost.into();
                }
                if !matches!(error, SandboxError::Stopped) {
                    report(id, &error, status, serial, stderr).await;
                }
                Err(error)
            }
        }
    }
}

/// Brings to the node what clones are going to read and is not there: it comes while the machine is made.
fn fetch_ahead(snapshot: &Snapshot, drives: &Drives, opened: &Opened) {
    let read =
        [(RUNTIME_DRIVE, &drives.runtime), (CODE_DRIVE, &drives.code), (SCRATCH_DRIVE, &opened.scratch)];
    for (drive, content) in read {
        content.fetch_ahead(snapshot.chunks_of(drive));
    }
    if let Some(prefetch) = &opened.prefetch {
        prefetch.fetch_ahead((0..prefetch.manifest().chunks().len() as u32).collect());
    }
}

/// Our copies of the descriptors are closed once the VMM has them, so that its end is the end of the broker and of
/// the console.
async fn load(vmm: &Vmm, config: LoadConfig, fds: Vec<OwnedFd>) -> Result<LoadReport, SandboxError> {
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let report = vmm.load(config, &borrowed).await?;
    tracing::debug!(timings = ?report.timings, "a snapshot is loaded");
    Ok(report)
}

/// From a running clone to a unique one, and what the guest says of its steps.
async fn wake(
    vmm: &Vmm,
    broker: &PacketSocket,
    mut unique: Unique,
    (began, limit): (Instant, Duration),
    logs: &mut Logs,
) -> Result<(Guest, GateReport), SandboxError> {
    let waking = async {
        let mut guest = Guest::resumed(broker, generation_counter(&unique.generation)).await?;
        let elapsed = began.elapsed();
        unique.elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        // What has passed until now is the guest's no more.
        let left_ms = u32::try_from(limit.saturating_sub(elapsed).as_millis()).unwrap_or(u32::MAX);
        unique.restore_timeout_ms = unique.restore_timeout_ms.min(left_ms);
        // Less than all of it: a guest whose time is up as well does not come to say which executable was late.
        unique.hook_timeout_ms = unique.hook_timeout_ms.min(left_ms - left_ms / HOOKS_SPARE);
        let report = guest.make_unique(unique, logs).await?;
        Ok((guest, report))
    };
    tokio::select! {
        biased;
        unique = waking => unique.map_err(|error: GuestError| error.into()),
        ended = vmm.ended() => Err(ended.into()),
    }
}

impl Sandbox {
    /// After a version's clone's first invocation, before a runtime's clone is told its function: tells the snapshot what the
    /// clone had to wait for, so that the next ones need not. What is given back is over when they will.
    pub(crate) async fn report_working_set(&mut self) -> Result<Option<JoinHandle<()>>, SandboxError> {
        let Some(Origin { lesson, _starting }) = self.origin.take() else { return Ok(None) };
        let Some(lesson) = lesson else { return Ok(None) };
        let (what, limit) = ("tell its working set", WORKING_SET_TIMEOUT);
        let asked = timeout(limit, self.vmm.working_set()).await;
        let faulted = asked.map_err(|_| SandboxError::TimedOut { what, limit })??;
        Ok(lesson.tell(&faulted))
    }

    /// Waits until the runtime of a unique clone asks for invocations; the guest ends a restore that takes longer than
    /// `limit`.
    pub(crate) async fn restored(&mut self, limit: Duration) -> Result<Restored, SandboxError> {
        let restored = self.guest.restored(&mut self.logs);
        let watched = async {
            tokio::select! {
                biased;
                restored = restored => restored.map_err(SandboxError::from),
                ended = self.vmm.ended() => Err(ended.into()),
            }
        };
        let limit = limit + GRACE;
        timeout(limit, watched)
            .await
            .unwrap_or(Err(SandboxError::TimedOut { what: "restore its function", limit }))
    }

    /// Freezes the guest, which may take it `limit`, and writes its machine into `draft`. It is of no further use then.
    pub(crate) async fn save(
        &mut self,
        draft: &Draft,
        key: Key,
        identity: Identity,
        limit: Duration,
    ) -> Result<SnapshotReport, SandboxError> {
        let frozen = timeout(limit, self.guest.freeze(&mut self.logs)).await;
        let report = frozen.map_err(|_| SandboxError::TimedOut { what: "freeze", limit })??;
        tracing::info!(id = %self.id, steps = told(&report.steps), "a guest stands still");
        let (state, memory) = (draft.create("state")?, draft.create("memory")?);
        let config = machine::snapshot(key, identity);
        let report = self.vmm.snapshot(config, &[state.as_fd(), memory.as_fd()]).await?;
        let (image, saved) = (self.scratch.whole()?, draft.create("scratch")?);
        save_scratch(image, saved).await?;
        Ok(report)
    }
}

async fn save_scratch(image: File, saved: File) -> Result<(), ScratchError> {
    let done = spawn_blocking(move || scratch::save(&image, &saved)).await;
    let done = done.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
    done.map_err(ScratchError::Save)
}
