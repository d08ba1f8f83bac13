//! From nothing to a guest that is up: files, process, machine, hello.
//!
//! Each step's failure names what was tried; whatever was begun is destroyed before an error is returned, so the
//! caller has nothing to clean up.

use std::{
    fs::File,
    io,
    num::NonZeroU32,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use chunk_store::Label;
use guest_protocol::Hello;
use jail::CpuQuota;
use tokio::{net::unix::pipe, time::timeout};
use vmm_api::MachineConfig;

use super::{
    SandboxId,
    blanks::Blanks,
    console::{Captured, Stream},
    error::SandboxError,
    guest::Guest,
    life::{Sandbox, report},
    logs::Logs,
    machine::{self, Connections},
    packet::PacketSocket,
    scratch::{Image, Scratch},
    spawn::Spawner,
    vmm::{Vmm, VmmError},
};
use crate::{
    chunks::{Chunks, Content},
    code::blocking,
    disk::Disk,
    functions::model::FunctionId,
    logs::{LogStore, StreamId},
    network::{Network, NetworkError, Slot},
    snapshots::{RuntimeImage, image_in},
};

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

/// What a machine is booted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To serve a function, to its end.
    Serve,
    /// To become a snapshot.
    Save,
}

/// How long the parts of a start took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BootTiming {
    /// Files and sockets, up to the spawn.
    pub(crate) place: Duration,
    /// From the spawn to the guest's hello.
    pub(crate) boot: Duration,
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
        purpose: Purpose,
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
        let allow_snapshots = purpose == Purpose::Save;
        let config = MachineConfig { net, allow_snapshots, ..machine::config(spec.memory_mib) };
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
