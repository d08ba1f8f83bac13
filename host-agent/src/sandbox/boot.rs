//! From nothing to a sandbox that takes events: files, process, machine, hello, init; and its end.
//!
//! Each step's failure names what was tried; whatever was begun is destroyed before an error is returned, so the
//! caller has nothing to clean up.

use std::{
    convert::Infallible,
    fs::File,
    future::pending,
    io,
    num::NonZeroU32,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use chunk_store::Label;
use guest_protocol::{Hello, Invoke, Start};
use jail::CpuQuota;
use tokio::{
    net::unix::pipe,
    time::{sleep, timeout},
};
use vmm_api::MachineConfig;

use super::{
    SandboxId,
    blanks::Blanks,
    console::{Captured, Stream},
    error::SandboxError,
    guest::{Guest, GuestError, Init, Lost, Outlets, Reply, ReplyResult},
    logs::Logs,
    machine::{self, Connections},
    packet::PacketSocket,
    resume::Origin,
    scratch::{Image, Scratch},
    spawn::Spawner,
    vmm::{Vmm, VmmError},
};
use crate::{
    chunks::{Chunks, Content},
    code::blocking,
    disk::Disk,
    functions::model::FunctionId,
    invoke::memory::Handout,
    logs::{LogStore, StreamId},
    network::{Network, NetworkError, Slot},
    snapshots::{RuntimeImage, image_in},
};

/// How long after the guest's own limit the agent ends a sandbox: room for the guest to kill the function's processes
/// and to report, and for a clock that runs a little slow under emulation.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// How long a sandbox serves its first event with all of its vCPUs' time, as it was started: a clone's first event touches what
/// memory and drives have not brought yet.
const UNBOUNDED: Duration = Duration::from_millis(100);

/// How long what a guest said before its machine ended may take to be read: it lies in a socket buffer.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What every sandbox of the node is made from.
#[derive(Debug)]
pub(crate) struct Host {
    spawner: Arc<Spawner>,
    pub(super) scratch: Scratch,
    pub(super) blanks: Arc<Blanks>,
    pub(super) chunks: Arc<Chunks>,
    pub(super) network: Arc<Network>,
    logs: Arc<LogStore>,
    lib_dir: PathBuf,
    pub(super) boot_timeout: Duration,
    memory_mib_per_cpu: NonZeroU32,
}

/// What one sandbox is made from.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// For the log.
    pub(crate) function: String,
    /// The function's memory.
    pub(crate) memory_mib: u32,
    /// Size of /tmp.
    pub(crate) ephemeral_storage_mib: u32,
    /// Whose network it has; nobody's is none.
    pub(crate) owner: Option<FunctionId>,
    /// Names the runtime's image.
    pub(crate) runtime: String,
    /// What its root file system is.
    pub(crate) root: Root,
    /// Where its lines go; nobody's go nowhere.
    pub(crate) log: Option<StreamId>,
    /// The code's image; without one there is a drive that nobody is to mount.
    pub(crate) code: Option<Label>,
}

/// What a sandbox's root file system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// The runtime's image, with the code in it.
    Runtime,
    /// The code's image, which is a whole container's.
    Code,
}

/// How long the parts of a start took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BootTiming {
    /// Files and sockets, up to the spawn.
    pub(crate) place: Duration,
    /// From the spawn to the guest's hello.
    pub(crate) boot: Duration,
}

/// A guest and everything that keeps it running.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(super) id: SandboxId,
    pub(super) vmm: Vmm,
    pub(super) guest: Guest,
    pub(super) logs: Logs,
    pub(super) init_failed: bool,
    /// What it may have of the processors when it serves, until it does.
    pub(super) quota: Option<CpuQuota>,
    /// Of a clone that has not answered an event yet.
    pub(super) origin: Option<Origin>,
    /// The image behind /tmp, to be saved with the machine.
    pub(super) scratch: Image,
    pub(super) serial: Captured,
    pub(super) stderr: Captured,
    /// Kept open, though nothing is taken from it any more: its end would be news to the VMM.
    pub(super) _broker: PacketSocket,
    /// Removed when the machine is gone.
    pub(super) _slot: Option<Slot>,
}

impl Host {
    /// Sandboxes from the images in `lib_dir`, the processes of the launcher at that socket and what is in `chunks`, with /tmp images in `scratch_dir`; a guest that
    /// does not say hello within `boot_timeout` is given up. Up to `blank_limit` machines wait for what they will be. Who serves
    /// has one processor for `memory_mib_per_cpu`.
    pub(crate) fn new(
        (lib_dir, launcher): (&Path, PathBuf),
        scratch_dir: PathBuf,
        boot_timeout: Duration,
        (blank_limit, memory_mib_per_cpu): (usize, NonZeroU32),
        (disk, chunks, network, logs): (Arc<Disk>, Arc<Chunks>, Arc<Network>, Arc<LogStore>),
    ) -> io::Result<Self> {
        let spawner = Arc::new(Spawner::new(launcher));
        Ok(Self {
            blanks: Blanks::start(Arc::clone(&spawner), blank_limit),
            spawner,
            scratch: Scratch::new(scratch_dir, disk)?,
            chunks,
            logs,
            network,
            lib_dir: lib_dir.to_owned(),
            boot_timeout,
            memory_mib_per_cpu,
        })
    }

    /// The machines that wait.
    pub(crate) fn blanks(&self) -> &Blanks {
        &self.blanks
    }

    /// Starts a machine and waits for its guest's hello.
    pub(crate) async fn boot(
        &self,
        id: SandboxId,
        spec: &Spec,
    ) -> Result<(Sandbox, BootTiming), SandboxError> {
        let began = Instant::now();
        let kernel = |name| {
            let path = self.lib_dir.join("guest").join(name);
            File::open(&path).map_err(|source| SandboxError::Kernel { path, source })
        };
        let (kernel, initrd) = (kernel("vmlinux")?, kernel("initrd.cpio")?);
        let (image, code) = match (spec.root, spec.code.clone()) {
            (Root::Code, Some(label)) => (RuntimeImage::Kept(label), None),
            (_, code) => (RuntimeImage::Pack(image_in(&self.lib_dir, &spec.runtime)), code),
        };
        let drives = self.drives(image, code).await?;
        let scratch = self.scratch.image(spec.ephemeral_storage_mib).await?;
        let (broker, their_broker) = PacketSocket::pair()?;
        let (serial_in, serial_out) = pipe::pipe()?;
        let serial = Captured::from(serial_out, id, Stream::Serial);
        let connections = drives.hand(&scratch, their_broker, serial_in.into_nonblocking_fd()?)?;
        let mut fds = connections.and_kernel(kernel.into(), initrd.into());
        let mut slot = self.connect(spec).await?;
        let net = slot.as_mut().and_then(|slot| slot.hand(&mut fds));
        let config = MachineConfig { net, ..machine::config(spec.memory_mib) };
        let spawned = Instant::now();
        let (vmm, stderr) = self.spawn(spec.memory_mib).await?;
        let stderr = Captured::from(stderr, id, Stream::VmmStderr);

        let up = timeout(self.boot_timeout, bring_up(&vmm, &broker, config, fds)).await;
        let limit = self.boot_timeout;
        match up.unwrap_or(Err(SandboxError::TimedOut { what: "say hello", limit })) {
            Ok((guest, hello)) => {
                let timing = BootTiming { place: spawned - began, boot: spawned.elapsed() };
                tracing::debug!(%id, kernel = hello.kernel_release, boot = ?timing.boot, "a guest is up");
                let logs = self.logs_of(id, spec);
                let (init_failed, origin, _broker, _slot) = (false, None, broker, slot);
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
            Err(error) => {
                let status = vmm.destroy().await;
                report(id, &error, status, serial, stderr).await;
                Err(error)
            }
        }
    }

    /// The contents of a sandbox's drives; without code there is a drive that nobody is to mount.
    pub(super) async fn drives(
        &self,
        image: RuntimeImage,
        code: Option<Label>,
    ) -> Result<Drives, SandboxError> {
        let chunks = Arc::clone(&self.chunks);
        blocking(move || {
            let runtime = image.open(&chunks).map_err(SandboxError::Runtime)?;
            let code = match code {
                Some(label) => chunks.content(&label).map_err(SandboxError::Code)?,
                None => Arc::clone(&runtime),
            };
            Ok(Drives { runtime, code })
        })
        .await
    }

    /// The log of a sandbox.
    pub(super) fn logs_of(&self, id: SandboxId, spec: &Spec) -> Logs {
        let kept = spec.log.clone().map(|stream| self.logs.source(stream));
        Logs::new(id, spec.function.clone(), kept)
    }

    /// A slot of the network for whose sandbox it is, if that may go anywhere.
    pub(super) async fn connect(&self, spec: &Spec) -> Result<Option<Slot>, NetworkError> {
        match &spec.owner {
            Some(owner) => self.network.connect(owner).await,
            None => Ok(None),
        }
    }

    /// What its sandbox may have of the processors when it serves.
    pub(super) fn serving_quota(&self, spec: &Spec) -> Option<CpuQuota> {
        Some(machine::serving_quota(spec.memory_mib, self.memory_mib_per_cpu))
    }

    /// A process for the machine of a function with that much memory.
    pub(super) async fn spawn(&self, memory_mib: u32) -> Result<(Vmm, pipe::Receiver), VmmError> {
        Vmm::spawn(&self.spawner, machine::shape(memory_mib)).await
    }
}

/// What a sandbox's drives are, but for /tmp.
#[derive(Debug)]
pub(super) struct Drives {
    pub(super) runtime: Arc<Content>,
    pub(super) code: Arc<Content>,
}

impl Drives {
    /// With all else that a sandbox is connected to.
    pub(super) fn hand(&self, scratch: &Image, broker: OwnedFd, serial: OwnedFd) -> io::Result<Connections> {
        let (runtime, code) = (self.runtime.hand()?, self.code.hand()?);
        Ok(Connections { scratch: scratch.try_clone()?.into(), broker, serial, runtime, code })
    }
}

/// Our copies of the descriptors are closed once the VMM has them, so that its end is the end of the broker and of
/// the console.
async fn bring_up(
    vmm: &Vmm,
    broker: &PacketSocket,
    config: MachineConfig,
    fds: Vec<OwnedFd>,
) -> Result<(Guest, Hello), SandboxError> {
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    vmm.run(config, &borrowed).await?;
    drop(fds);
    tokio::select! {
        biased;
        guest = Guest::accept(broker) => Ok(guest?),
        ended = vmm.ended() => Err(ended.into()),
    }
}

/// Bounds a sandbox that serves its first event, when it has had some time for that.
async fn bound_soon(vmm: &Vmm, quota: Option<CpuQuota>) -> Infallible {
    if let Some(quota) = quota {
        sleep(UNBOUNDED).await;
        vmm.bound(quota);
    }
    pending().await
}

impl Sandbox {
    /// Tells the guest what it is and waits for its init; the guest ends an init that takes longer than
    /// `start.init_timeout_ms`.
    pub(crate) async fn init(&mut self, start: Start) -> Result<Init, SandboxError> {
        let limit = Duration::from_millis(start.init_timeout_ms.into()) + GRACE;
        let done = timeout(limit, self.guest.init(start, &mut self.logs)).await;
        match done.unwrap_or(Err(GuestError::Io(io::ErrorKind::TimedOut.into()))) {
            Ok(init) => {
                self.init_failed = matches!(init, Init::Failed(_));
                Ok(init)
            }
            Err(GuestError::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
                Err(SandboxError::TimedOut { what: "end its init", limit })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Runs one event; `outlets` as of [`Guest::invoke`]. `Ok(None)`: it was not over within the function's timeout and some
    /// grace.
    pub(crate) async fn invoke(
        &mut self,
        invoke: Invoke,
        event: &Handout,
        outlets: Outlets<'_, impl FnOnce(ReplyResult) -> Option<ReplyResult>>,
    ) -> Result<Option<Reply>, Lost> {
        let timeout_ms = Duration::from_millis(invoke.timeout_ms.into());
        // An init that is repeated has the function's timeout for itself.
        let limit = if self.init_failed { timeout_ms * 2 } else { timeout_ms } + GRACE;
        self.init_failed = false;
        let quota = self.quota.take();
        let running = self.guest.invoke(invoke, event, outlets, &mut self.logs);
        let vmm = &self.vmm;
        let watched = async {
            let mut running = std::pin::pin!(running);
            tokio::select! {
                biased;
                reply = &mut running => reply,
                never = bound_soon(vmm, quota) => match never {},
                _ended = vmm.ended() => match timeout(LAST_WORDS, running).await {
                    Ok(reply) => reply,
                    Err(_) => Err(Lost::After(GuestError::Closed)),
                },
            }
        };
        let watched = timeout(limit, watched).await;
        if let Some(quota) = quota {
            vmm.bound(quota);
        }
        match watched {
            Ok(reply) => reply.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Waits until the sandbox is of no further use. Cancel-safe.
    pub(crate) async fn idle(&mut self) -> SandboxError {
        tokio::select! {
            biased;
            error = self.guest.idle(&mut self.logs) => error.into(),
            ended = self.vmm.ended() => ended.into(),
        }
    }

    /// Whether its function could not be initialised: it is again, at its first event.
    pub(crate) fn has_failed_init(&self) -> bool {
        self.init_failed
    }

    /// Its log.
    pub(crate) fn logs(&mut self) -> &mut Logs {
        &mut self.logs
    }

    /// Ends it as intended.
    pub(crate) async fn destroy(self) {
        if let Err(error) = self.vmm.destroy().await {
            tracing::error!(id = %self.id, %error, "a vmm could not be reaped");
        }
    }

    /// Ends it and says why, with what the guest's console and the VMM said last. A guest that went away by itself
    /// is given a moment, so that the VMM tells the rest.
    pub(crate) async fn destroy_because(self, error: &SandboxError) {
        let Self { id, vmm, serial, stderr, .. } = self;
        if matches!(error, SandboxError::Guest(GuestError::Closed)) {
            drop(timeout(LAST_WORDS, vmm.ended()).await);
        }
        let status = vmm.destroy().await;
        report(id, error, status, serial, stderr).await;
    }
}

pub(super) async fn report(
    id: SandboxId,
    error: &SandboxError,
    status: io::Result<ExitStatus>,
    serial: Captured,
    stderr: Captured,
) {
    // "signal: 9" is our own doing; anything else is how the process ended before.
    let vmm = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    let (serial, stderr) = tokio::join!(serial.last_words(), stderr.last_words());
    tracing::warn!(%id, error = super::describe(error), vmm, serial, stderr, "a sandbox was lost");
}
