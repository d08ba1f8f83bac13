//! Our VMM by its control socket: the rested guest's first life, its snapshot, and clones.

use std::{
    fs::{self, File},
    io::{PipeReader, PipeWriter, Read as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use chunk_store::{ChunkSize, Kind, LocalContent};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use snapshot::{PAGE_LEN, Prefetch};
use vmm_api::{
    Client, Grant, Identity, Key, LoadConfig, LoadTimings, MachineConfig, Request, Response, SerialConfig,
    Shape, SnapshotConfig, SnapshotKind, Source,
};

use crate::{plan::Plan, snapshot::remove};

/// A `vmm` process that serves a control socket; killed and reaped when dropped.
pub(crate) struct Vmm {
    client: Client,
    process: Process,
}

enum Process {
    Child(Child),
    Jailed(Jailed),
}

/// What a launcher hands out with a process.
pub(crate) struct Jailed {
    /// Ends it when a `1` is written there.
    pub(crate) end: File,
    /// Says how it ended.
    pub(crate) status: File,
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
    /// Pages that are wanted first, when some clone has told.
    prefetch: Option<LocalContent>,
}

/// What one clone is given: state and memory, and what it wants first.
pub(crate) struct Handed {
    state: [OwnedFd; 4],
    prefetch: Option<[OwnedFd; 3]>,
    /// Whether the clone is to tell of each page that it waits for.
    learn: bool,
}

impl Handed {
    /// For a clone that tells of each page that it waits for.
    pub(crate) fn telling(self) -> Self {
        Self { learn: true, ..self }
    }
}

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
        Ok(Kept { state: self.state, memory, prefetch: None })
    }

    /// Another descriptor of its memory.
    pub(crate) fn memory(&self) -> Result<File> {
        Ok(self.memory.try_clone()?)
    }
}

impl Kept {
    /// For one clone.
    pub(crate) fn handed(&self) -> Result<Handed> {
        let [table, slots, asks] = self.memory.handed()?;
        let prefetch = self.prefetch.as_ref().map(LocalContent::handed).transpose()?;
        Ok(Handed { state: [self.state.try_clone()?.into(), table, slots, asks], prefetch, learn: false })
    }

    /// What its clones want first: pages of `memory`, which is its memory in the clear. Copies go to a new file at `path`.
    pub(crate) fn prefetch(&mut self, mut pages: Vec<u32>, memory: &File, path: &Path) -> Result<()> {
        pages.sort_unstable();
        let (mut content, mut page) = (Vec::new(), [0; PAGE_LEN]);
        let (mut filled, mut zeros) = (Vec::new(), Vec::new());
        for number in pages {
            memory.read_exact_at(&mut page, u64::from(number) * PAGE_LEN as u64).context("read a page")?;
            if page == [0; PAGE_LEN] {
                zeros.push(number);
            } else {
                filled.push(number);
                content.extend_from_slice(&page);
            }
        }
        let plain = path.with_extension("plain");
        fs::write(&plain, [Prefetch::encode(&filled, &zeros)?, content].concat())?;
        let (slots, plain) =
            (File::options().read(true).write(true).create_new(true).open(path)?, File::open(&plain)?);
        self.prefetch = Some(LocalContent::seal(&plain, Kind::Prefetch, ChunkSize::IMAGE, slots)?);
        Ok(())
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
        Ok(Self { client: Client::new(ours), process: Process::Child(child) })
    }

    /// A blank process that a launcher has started.
    pub(crate) fn jailed(control: OwnedFd, process: Jailed) -> Self {
        Self { client: Client::new(control), process: Process::Jailed(process) }
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
            net: None,
            entropy: false,
            serial: SerialConfig::Fd(2),
            allow_snapshots: true,
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
    pub(crate) fn load(&self, handed: &Handed) -> Result<LoadTimings> {
        self.load_with(handed, None)
    }

    /// The same of a clone whose console is wanted.
    pub(crate) fn load_touching(&self, handed: &Handed) -> Result<PipeReader> {
        let (console, writer) = std::io::pipe().context("make a console")?;
        self.load_with(handed, Some(&writer))?;
        Ok(console)
    }

    fn load_with(&self, handed: &Handed, console: Option<&PipeWriter>) -> Result<LoadTimings> {
        let Handed { state, prefetch, learn } = handed;
        let mut fds: Vec<_> = state.iter().chain(prefetch.iter().flatten()).map(AsFd::as_fd).collect();
        let at = fds.len();
        fds.extend(console.map(AsFd::as_fd));
        let config = LoadConfig {
            state: Source::Fd(0),
            memory: Grant { table: 1, slots: 2, asks: 3 },
            key: key(),
            drives: Vec::new(),
            vsock: None,
            net: None,
            serial: console.map_or(SerialConfig::Null, |_| SerialConfig::Fd(at)),
            generation: [1; 16],
            identity: None,
            prefetch: prefetch.as_ref().map(|_| Grant { table: 4, slots: 5, asks: 6 }),
            learn: *learn,
            track_changes: false,
            resume: true,
            allow_snapshots: true,
        };
        match self.call(&Request::Load(config), &fds)? {
            Response::Loaded(report) => Ok(report.timings),
            other => bail!("not loaded: {other:?}"),
        }
    }

    /// Pages that a clone has waited for until now.
    pub(crate) fn waited_for(&self) -> Result<Vec<u32>> {
        match self.call(&Request::WorkingSet, &[])? {
            Response::WorkingSet(told) => Ok(told.pages),
            other => bail!("no working set: {other:?}"),
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
        match &mut self.process {
            // Both fail only when the process is reaped already, which is what they are for.
            Process::Child(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Process::Jailed(Jailed { end, status }) => {
                // Both fail only when the launcher is gone, and everything that it has started with it.
                let _ = end.write_all(b"1");
                let _ = status.read_to_end(&mut Vec::new());
            }
        }
    }
}

fn key() -> Key {
    Key::new([0x5a; 32])
}
