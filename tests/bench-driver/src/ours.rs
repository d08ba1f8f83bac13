//! Our VMM by its control socket: the rested guest's first life, its snapshot, and clones.

use std::{
    fs::File,
    io::PipeReader,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use chunk_store::{ChunkSize, Kind, LocalContent};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use vmm_api::{
    Client, Grant, Identity, Key, LoadConfig, LoadTimings, MachineConfig, Request, Response, SerialConfig,
    Shape, SnapshotConfig, SnapshotKind, Source,
};

use crate::{plan::Plan, snapshot::remove};

/// A `vmm` process that serves its standard input; killed and reaped when dropped.
pub(crate) struct Vmm {
    client: Client,
    child: Child,
}

/// The two files of a snapshot.
pub(crate) struct Snapshot {
    state: File,
    memory: File,
    /// Where the copies of its memory go.
    slots: File,
}

/// A snapshot as clones read it.
pub(crate) struct Kept {
    state: File,
    memory: LocalContent,
}

/// What one clone is given: state and memory.
pub(crate) struct Handed([OwnedFd; 4]);

impl Snapshot {
    /// New files, in the place of the old ones.
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        let create = |name: &str| {
            let path = folder.join(name);
            remove(&path)?;
            let file = File::options().read(true).write(true).create_new(true).open(&path);
            file.with_context(|| format!("create {}", path.display()))
        };
        Ok(Self {
            state: create("ours.state")?,
            memory: create("ours.memory")?,
            slots: create("ours.slots")?,
        })
    }

    /// Cuts its memory into chunks, as an agent does.
    pub(crate) fn keep(self) -> Result<Kept> {
        let memory = LocalContent::seal(&self.memory, Kind::Memory, ChunkSize::MEMORY, self.slots)?;
        Ok(Kept { state: self.state, memory })
    }
}

impl Kept {
    /// For one clone.
    pub(crate) fn handed(&self) -> Result<Handed> {
        let [table, slots, asks] = self.memory.handed()?;
        Ok(Handed([self.state.try_clone()?.into(), table, slots, asks]))
    }
}

impl Vmm {
    /// A blank process.
    pub(crate) fn spawn(plan: &Plan) -> Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .context("make a socket pair")?;
        let child = Command::new(&plan.vmm)
            .args(["--control-fd", "0"])
            .stdin(Stdio::from(theirs))
            .spawn()
            .with_context(|| format!("start {}", plan.vmm.display()))?;
        Ok(Self { client: Client::new(ours), child })
    }

    /// Boots a guest of this shape; its console.
    pub(crate) fn boot(&self, plan: &Plan, shape: Shape, cmdline: &str) -> Result<PipeReader> {
        let config = MachineConfig {
            vcpu_count: shape.vcpu_count,
            mem_size_mib: shape.mem_size_mib,
            kernel: Source::Fd(0),
            initrd: Some(Source::Fd(1)),
            cmdline: cmdline.into(),
            drives: Vec::new(),
            vsock: None,
            entropy: false,
            serial: SerialConfig::Fd(2),
        };
        let (kernel, initrd) = (File::open(&plan.kernel)?, File::open(&plan.resting_initrd)?);
        let (console, writer) = std::io::pipe().context("make a console")?;
        let fds = [kernel.as_fd(), initrd.as_fd(), writer.as_fd()];
        self.done(&Request::Configure(config), &fds)?;
        self.done(&Request::Start, &[])?;
        Ok(console)
    }

    /// Pauses the guest and writes all of it.
    pub(crate) fn snapshot(&self, files: &Snapshot) -> Result<()> {
        self.done(&Request::Pause, &[])?;
        let config = SnapshotConfig {
            state: Source::Fd(0),
            memory: Source::Fd(1),
            key: key(),
            kind: SnapshotKind::Full,
            identity: Identity::default(),
            track_changes: false,
        };
        match self.call(&Request::Snapshot(config), &[files.state.as_fd(), files.memory.as_fd()])? {
            Response::Snapshotted(_) => Ok(()),
            other => bail!("no snapshot: {other:?}"),
        }
    }

    /// Reserves a machine, as the node's blank ones are.
    pub(crate) fn prepare(&self, shape: Shape) -> Result<()> {
        self.done(&Request::Prepare(shape), &[])
    }

    /// Becomes a clone; returns when its vCPUs run.
    pub(crate) fn load(&self, Handed(fds): &Handed) -> Result<LoadTimings> {
        let config = LoadConfig {
            state: Source::Fd(0),
            memory: Grant { table: 1, slots: 2, asks: 3 },
            key: key(),
            drives: Vec::new(),
            vsock: None,
            serial: SerialConfig::Null,
            generation: [1; 16],
            identity: None,
            prefetch: None,
            learn: false,
            track_changes: false,
            resume: true,
        };
        match self.call(&Request::Load(config), &fds.each_ref().map(AsFd::as_fd))? {
            Response::Loaded(report) => Ok(report.timings),
            other => bail!("not loaded: {other:?}"),
        }
    }

    fn done(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<()> {
        match self.call(request, fds)? {
            Response::Ok => Ok(()),
            other => bail!("not done: {other:?}"),
        }
    }

    fn call(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Response> {
        self.client.call(request, fds).context("talk to the vmm")
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // Both fail only when the process is reaped already, which is what they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn key() -> Key {
    Key::new([0x5a; 32])
}
