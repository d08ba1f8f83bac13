//! Takes snapshots of Linux guests and clones them, on a booted test host, and holds every clone to what its guest says.
//!
//! `vm-driver VMM KERNEL INITRD VCPUS MIB CLONES KIND`: boots `tests/guest-probe` in its ticking mode, takes a snapshot after
//! some ticks, resumes so many clones at once, with other disks, one of them by chunks, and follows each for some more. With KIND `diff` the original
//! runs on after its full snapshot, and the clones are of the changes since. The kernel of every clone must say that it has
//! rekeyed its generator; but of the last, which is loaded with the generation that the original had. Prints what the VMM
//! reports of its times; any gap or complaint is an error. Called by `tests/it`.
//!
//! `vm-driver prove …`: see `proof`.

mod disks;
mod guest;
mod proof;
mod subject;
mod vm;

use std::env;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use chunk_store::{ChunkSize, Kind, LocalContent};
use devices::GenerationState;
use snapshot::StateReader;
use vmm_api::{
    Grant, Identity, Key, LoadConfig, MachineConfig, Request, Response, SerialConfig, Shape, SnapshotConfig,
    SnapshotKind, Source, VsockConfig,
};

use disks::Disks;
use vm::Vm;

const CMDLINE: &str = "console=ttyS0 quiet loglevel=3 panic=-1 reboot=k probe=tick";
const GUEST_CID: u32 = 3;
/// Where a clone's memory is among the descriptors of a load.
const MEMORY: Grant = Grant { table: 1, slots: 2, asks: 3 };
/// Ticks before the snapshot, and of each clone.
const TICKS: u64 = 20;
/// Not the one that a machine that boots draws.
const NEW_GENERATION: [u8; 16] = [1; 16];

/// Whether the generation devices tell a clone's kernel that it is one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kernel {
    Told,
    /// They have the generation of the original: Linux compares, and does nothing.
    Untold,
}

/// What is driven.
struct Plan {
    vmm: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
    shape: Shape,
    clones: usize,
    kind: SnapshotKind,
}

impl Plan {
    fn from_arguments() -> Result<Self> {
        let arguments: Vec<String> = env::args().skip(1).collect();
        let [vmm, kernel, initrd, vcpus, mib, clones, kind] = arguments.as_slice() else {
            bail!("usage: vm-driver VMM KERNEL INITRD VCPUS MIB CLONES full|diff");
        };
        let kind = match kind.as_str() {
            "full" => SnapshotKind::Full,
            "diff" => SnapshotKind::Diff,
            other => bail!("{other} is no kind of snapshot"),
        };
        let shape = Shape { vcpu_count: vcpus.parse()?, mem_size_mib: mib.parse()? };
        let (vmm, kernel, initrd) = (vmm.into(), kernel.into(), initrd.into());
        Ok(Self { vmm, kernel, initrd, shape, clones: clones.parse()?, kind })
    }
}

fn main() -> Result<()> {
    let folder = env::temp_dir().join(format!("vm-driver-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match arguments.split_first() {
        Some((mode, rest)) if mode == "prove" => proof::run(rest, &folder),
        _ => Plan::from_arguments().and_then(|plan| run(&plan, &folder)),
    };
    std::fs::remove_dir_all(&folder)?;
    result
}

fn run(plan: &Plan, folder: &Path) -> Result<()> {
    let original = Disks::make(folder, "original", [0x11, 0x33], 8)?;
    let began = Instant::now();
    let mut first = boot(plan, &original)?;
    let greeting = first.greeting()?;
    ensure!(greeting == "hello 1", "a guest that booted says {greeting:?}");
    println!("driver: booted in {} ms", began.elapsed().as_millis());
    let mut ticks = Ticks::after(0, Kernel::Untold);
    let expected = |disks: &Disks| format!("cpus={} disks={}", plan.shape.vcpu_count, disks.said());
    ticks.follow(&mut first, TICKS, &expected(&original))?;
    let taken = if plan.kind == SnapshotKind::Diff { Take::Base } else { Take::Full };
    let mut snapshot = Snapshot::take(&first, folder, taken)?;
    if plan.kind == SnapshotKind::Diff {
        first.call(&Request::Resume, &[])?;
        ticks.follow(&mut first, TICKS, &expected(&original))?;
        // Over the full one's files, which nobody uses.
        snapshot = Snapshot::take(&first, folder, Take::Changes)?;
    }
    // What was printed and not read yet; the last line may be cut in two, its other half is the clones'.
    first.stop()?;
    original.check()?;
    let mut clones = Vec::new();
    for _ in 0..plan.clones {
        let vm = Vm::spawn(&plan.vmm)?;
        vm.call(&Request::Prepare(plan.shape), &[])?;
        clones.push(vm);
    }
    // Other files behind the same names, one of another length.
    let other = Disks::make(folder, "other", [0x22, 0x44], 16)?;
    let kernel = |number| if number == plan.clones { Kernel::Untold } else { Kernel::Told };
    for (number, clone) in (1..).zip(&mut clones) {
        snapshot.load(clone, &other, kernel(number))?;
    }
    for (number, clone) in (1..).zip(&mut clones) {
        let greeting = clone.greeting()?;
        ensure!(greeting == "hello 2", "a clone whose connection ended says {greeting:?}");
        let mut ticks = Ticks::after(ticks.last, kernel(number));
        ticks.resume(clone)?;
        ticks.follow(clone, TICKS, &expected(&other))?;
    }
    let vm = clones.pop().context("at least one clone")?;
    let again = Snapshot::take(&vm, folder, Take::Full)?;
    println!("driver: again {:?}", again.file_bytes()?);
    clones.into_iter().try_for_each(Vm::stop)?;
    other.check()
}

fn boot(plan: &Plan, disks: &Disks) -> Result<Vm> {
    let mut vm = Vm::spawn(&plan.vmm)?;
    let config = MachineConfig {
        vcpu_count: plan.shape.vcpu_count,
        mem_size_mib: plan.shape.mem_size_mib,
        kernel: Source::Fd(0),
        initrd: Some(Source::Fd(1)),
        cmdline: CMDLINE.into(),
        drives: disks::configs(2),
        vsock: Some(VsockConfig { guest_cid: GUEST_CID, broker_fd: 4 }),
        net: None,
        entropy: true,
        serial: SerialConfig::Fd(5),
        allow_snapshots: true,
    };
    let (kernel, initrd) = (File::open(&plan.kernel)?, File::open(&plan.initrd)?);
    let [first, second] = disks.files();
    vm.make(&Request::Configure(config), &[&kernel, &initrd, first, second])?;
    vm.call(&Request::Start, &[])?;
    Ok(vm)
}

struct Snapshot {
    state: File,
    memory: File,
    /// What clones read of the memory; none of a base, which has no clones.
    content: Option<LocalContent>,
}

/// What is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Take {
    /// All of memory.
    Full,
    /// All of memory, and what changes from here on is tracked.
    Base,
    /// What has changed, over the files of the base.
    Changes,
}

fn key() -> Key {
    Key::new([0x5a; 32])
}

impl Snapshot {
    fn take(vm: &Vm, folder: &Path, what: Take) -> Result<Self> {
        let create = |name: String| {
            File::options().read(true).write(true).create(true).truncate(false).open(folder.join(name))
        };
        let (state, memory) =
            (create(format!("state-{}", vm.pid()))?, create(format!("memory-{}", vm.pid()))?);
        vm.call(&Request::Pause, &[])?;
        let config = SnapshotConfig {
            state: Source::Fd(0),
            memory: Source::Fd(1),
            key: key(),
            kind: if what == Take::Changes { SnapshotKind::Diff } else { SnapshotKind::Full },
            identity: Identity::default(),
            track_changes: what == Take::Base,
        };
        match vm.call(&Request::Snapshot(config), &[&state, &memory])? {
            Response::Snapshotted(report) => println!("driver: snapshot {}", serde_json::to_string(&report)?),
            other => bail!("no snapshot: {other:?}"),
        }
        let content = if what == Take::Base {
            None
        } else {
            let slots = create(format!("slots-{}", vm.pid()))?;
            Some(LocalContent::seal(&memory, Kind::Memory, ChunkSize::MEMORY, slots)?)
        };
        Ok(Self { state, memory, content })
    }

    /// State and memory, as descriptors 0 to 3 of a load.
    fn handed(&self) -> Result<[File; 4]> {
        let content = self.content.as_ref().context("a base has no clones")?;
        let [table, slots, asks] = content.handed()?.map(File::from);
        Ok([self.state.try_clone()?, table, slots, asks])
    }

    /// The generation id that the guest had when it was taken.
    fn generation(&self) -> Result<[u8; 16]> {
        let mut bytes = vec![0; usize::try_from(self.state.metadata()?.len())?];
        self.state.read_exact_at(&mut bytes, 0)?;
        let state = StateReader::open(&bytes, &snapshot::Key::new(*key().bytes()))?;
        Ok(state.get::<GenerationState>(0)?.id)
    }

    fn file_bytes(&self) -> Result<(u64, u64)> {
        Ok((self.state.metadata()?.len(), self.memory.metadata()?.len()))
    }

    fn load(&self, vm: &mut Vm, disks: &Disks, kernel: Kernel) -> Result<()> {
        let generation = match kernel {
            Kernel::Told => NEW_GENERATION,
            Kernel::Untold => self.generation()?,
        };
        let config = LoadConfig {
            state: Source::Fd(0),
            memory: MEMORY,
            key: key(),
            drives: disks::configs_by_chunks(4),
            vsock: Some(VsockConfig { guest_cid: GUEST_CID, broker_fd: 8 }),
            net: None,
            serial: SerialConfig::Fd(9),
            generation,
            identity: None,
            prefetch: None,
            learn: false,
            track_changes: false,
            resume: true,
            allow_snapshots: true,
        };
        let began = Instant::now();
        let files: Vec<File> = self.handed()?.into_iter().chain(disks.files_by_chunks()?).collect();
        let files: Vec<&File> = files.iter().collect();
        match vm.make(&Request::Load(config), &files)? {
            Response::Loaded(report) => {
                let (timings, seen) = (serde_json::to_string(&report.timings)?, began.elapsed().as_micros());
                println!("driver: load {timings} seen_us {seen}");
            }
            other => bail!("not loaded: {other:?}"),
        }
        Ok(())
    }
}

/// A guest's console, as far as it was read.
struct Ticks {
    /// The last tick.
    last: u64,
    kernel: Kernel,
    /// Whether the kernel has said that its generator was rekeyed.
    rekeyed: bool,
}

impl Ticks {
    /// Of a guest that was at tick `last`, and whose kernel is told that it is a clone, or not.
    fn after(last: u64, kernel: Kernel) -> Self {
        Self { last, kernel, rekeyed: false }
    }

    /// Follows `count` more; the last must say `expected`, and the kernel by then that it was told.
    fn follow(&mut self, vm: &mut Vm, count: u64, expected: &str) -> Result<()> {
        let told = self.kernel == Kernel::Told;
        let mut seen = 0;
        loop {
            let line = self.line(vm)?;
            let Some((number, rest)) = parse(&line) else { continue };
            ensure!(number == self.last + 1, "tick {number} after {}", self.last);
            self.last = number;
            seen += 1;
            // A processor may miss a round of 20 ms when the host is slow; not for ever.
            if seen >= count && rest == expected && self.rekeyed == told {
                return Ok(());
            }
            ensure!(seen < 50 * count, "{line}, expected {expected}; rekeyed: {}", self.rekeyed);
        }
    }

    /// The first whole line of a clone: ticks that nobody read may lie between.
    fn resume(&mut self, vm: &mut Vm) -> Result<()> {
        loop {
            let line = self.line(vm)?;
            if let Some((number, _)) = parse(&line) {
                ensure!(number > self.last, "a clone went back to tick {number}");
                self.last = number;
                return Ok(());
            }
        }
    }

    fn line(&mut self, vm: &mut Vm) -> Result<String> {
        let line = vm.line()?;
        ensure!(!line.contains("wrong") && !line.contains("probe: failed"), "the guest says: {line}");
        if line.contains("probe: rekeyed") {
            ensure!(self.kernel == Kernel::Told, "the kernel was told of a generation that is not new");
            self.rekeyed = true;
        }
        Ok(line)
    }
}

fn parse(line: &str) -> Option<(u64, &str)> {
    let (number, rest) = line.strip_prefix("probe: tick ")?.split_once(' ')?;
    Some((number.parse().ok()?, rest))
}
