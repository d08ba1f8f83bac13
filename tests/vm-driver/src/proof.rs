//! The proof of uniqueness: one snapshot of a function that has drawn from every generator, many clones of it, and nothing
//! that two of them share.
//!
//! `vm-driver prove LIB INITRD CLONES told|untold [BOOTSTRAP]`: LIB is a payload, INITRD holds the guest-init under proof;
//! BOOTSTRAP is the function in Rust, in place of the one in Python. The kernel of a clone that is `untold` finds in its
//! devices the generation that its original had, and so does not rekey its generator by itself: what is different then, the
//! gate made so. Ends with an error that names what clones had in common.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use guest_protocol::{
    CodeLayout, Credentials, GateReport, GuestMessage, HostMessage, InitializationType, LogFormat,
    PROTOCOL_VERSION, Seed, Start, Unique, generation_counter,
};
use serde_json::Value;
use vmm_api::{
    DriveAccess, DriveConfig, LoadConfig, MachineConfig, Request, Response, SerialConfig, Shape, Source,
    VsockConfig,
};

use crate::guest::Guest;
use crate::subject::{self, Subject};
use crate::vm::Vm;
use crate::{GUEST_CID, Kernel, MEMORY, Snapshot, Take, key};

const CMDLINE: &str = "console=ttyS0 quiet loglevel=3 panic=-1 reboot=k";
const SHAPE: Shape = Shape { vcpu_count: 1, mem_size_mib: 256 };
const MEMORY_MIB: u32 = 192;
const SCRATCH_BYTES: u64 = 16 << 20;

/// Clones that run at once. Each waits for those before it: of four on an emulated host with six busy loops beside it the last was restored
/// after 125 s.
const AT_ONCE: usize = 2;

/// Limit of a restore, ms, which is not what is proved: on such a host the first one takes 45 s.
const RESTORE_LIMIT_MS: u32 = 170_000;

/// How old a guest is when it is snapshotted whose clones are to be told nothing, in seconds. Linux rekeys its generator by
/// itself whenever its uptime has grown by half (`crng_reseed_interval` in drivers/char/random.c), from the first seconds on:
/// at 19, 28 and 42 s. Clones must have drawn before the next time. For the same reason they run one at a time.
const UNTOLD_AGE_S: &str = "31";

/// What the clones are made from.
struct Stage<'a> {
    subject: &'static Subject,
    lib: &'a Path,
    folder: &'a Path,
    runtime: PathBuf,
    code: PathBuf,
    kernel: Kernel,
}

/// A clone.
struct Loaded {
    vm: Vm,
    began: Instant,
    /// What its devices say.
    shown: [u8; 16],
    /// What the gate is given.
    generation: [u8; 16],
}

pub(crate) fn run(arguments: &[String], folder: &Path) -> Result<()> {
    let (lib, initrd, clones, kernel, bootstrap) = match arguments {
        [lib, initrd, clones, kernel] => (lib, initrd, clones, kernel, None),
        [lib, initrd, clones, kernel, bootstrap] => (lib, initrd, clones, kernel, Some(Path::new(bootstrap))),
        _ => bail!("usage: vm-driver prove LIB INITRD CLONES told|untold [BOOTSTRAP]"),
    };
    let kernel = match kernel.as_str() {
        "told" => Kernel::Told,
        "untold" => Kernel::Untold,
        other => bail!("a kernel is told or untold, not {other}"),
    };
    let subject = if bootstrap.is_some() { &subject::RUST } else { &subject::PYTHON };
    let code = subject::code_image(folder, bootstrap)?;
    let runtime = subject::runtime_image(Path::new(lib), subject.runtime, folder)?;
    let stage = Stage { subject, lib: Path::new(lib), folder, runtime, code, kernel };
    let scratch = scratch_image(folder)?;
    let snapshot = stage.snapshot(Path::new(initrd), &scratch)?;
    let clones: usize = clones.parse()?;
    let mut verdict = Verdict::of(subject);
    let at_once = if kernel == Kernel::Untold { 1 } else { AT_ONCE };
    for first in (0..clones).step_by(at_once) {
        let batch = at_once.min(clones - first);
        let samples = stage.clones(&snapshot, &scratch, first, batch)?;
        samples.iter().try_for_each(|sample| verdict.take(sample))?;
    }
    verdict.tell(clones)
}

impl Stage<'_> {
    /// Boots the function, lets it draw from everything, and takes a snapshot while it waits in `restore/next`.
    fn snapshot(&self, initrd: &Path, scratch: &Path) -> Result<Snapshot> {
        let mut vm = Vm::spawn(&self.lib.join("vmm"))?;
        let config = MachineConfig {
            vcpu_count: SHAPE.vcpu_count,
            mem_size_mib: SHAPE.mem_size_mib,
            kernel: Source::Fd(0),
            initrd: Some(Source::Fd(1)),
            cmdline: CMDLINE.into(),
            drives: drives(2),
            vsock: Some(VsockConfig { guest_cid: GUEST_CID, broker_fd: 5 }),
            net: None,
            entropy: true,
            serial: SerialConfig::Fd(6),
            allow_snapshots: true,
        };
        let (kernel, initrd) = (File::open(self.lib.join("guest/vmlinux"))?, File::open(initrd)?);
        let [runtime, code, scratch] = self.files(scratch)?;
        vm.make(&Request::Configure(config), &[&kernel, &initrd, &runtime, &code, &scratch])?;
        vm.call(&Request::Start, &[])?;
        match self.initialise(&mut vm) {
            Ok(snapshot) => vm.stop().map(|()| snapshot),
            Err(error) => Err(error.context(format!("console: {}", vm.last_words()))),
        }
    }

    /// Brings the function to its snapshot.
    fn initialise(&self, vm: &mut Vm) -> Result<Snapshot> {
        let mut guest = Guest::new(vm.connection()?);
        guest.expect("hello", |message| matches!(message, GuestMessage::Hello(_)).then_some(()))?;
        guest.send(&HostMessage::Start(start(self.subject, self.kernel)?))?;
        guest.expect("init done", |message| matches!(message, GuestMessage::InitDone(_)).then_some(()))?;
        ensure!(guest.log().contains("INIT_REPORT Init Duration: "), "no INIT_REPORT: {}", guest.log());
        guest.send(&HostMessage::Freeze)?;
        let frozen = guest.expect("frozen", |message| match message {
            GuestMessage::Frozen(report) => Some(report.clone()),
            _ => None,
        })?;
        println!("driver: frozen {:?}", frozen.steps);
        Snapshot::take(vm, self.folder, Take::Full)
    }

    /// So many clones at once; what each of them sampled.
    fn clones(&self, snapshot: &Snapshot, scratch: &Path, first: usize, count: usize) -> Result<Vec<Value>> {
        let mut running = Vec::new();
        for number in first..first + count {
            let mut vm = Vm::spawn(&self.lib.join("vmm"))?;
            vm.call(&Request::Prepare(SHAPE), &[])?;
            let own = self.folder.join(format!("scratch-{number}"));
            let copied = Command::new("cp").arg("--sparse=always").args([scratch, &own]).status()?;
            ensure!(copied.success(), "copy the scratch image");
            let generation = random::<16>()?;
            let shown = match self.kernel {
                Kernel::Told => generation,
                Kernel::Untold => snapshot.generation()?,
            };
            let began = Instant::now();
            self.load(&mut vm, snapshot, &own, shown)?;
            fs::remove_file(own)?;
            running.push(Loaded { vm, began, shown, generation });
        }
        running.into_iter().map(meet).collect()
    }

    fn load(&self, vm: &mut Vm, snapshot: &Snapshot, scratch: &Path, generation: [u8; 16]) -> Result<()> {
        let config = LoadConfig {
            state: Source::Fd(0),
            memory: MEMORY,
            key: key(),
            drives: drives(4),
            vsock: Some(VsockConfig { guest_cid: GUEST_CID, broker_fd: 7 }),
            net: None,
            serial: SerialConfig::Fd(8),
            generation,
            identity: None,
            prefetch: None,
            learn: false,
            track_changes: false,
            resume: true,
            allow_snapshots: true,
        };
        let ([state, table, slots, asks], [runtime, code, scratch]) =
            (snapshot.handed()?, self.files(scratch)?);
        let files = [&state, &table, &slots, &asks, &runtime, &code, &scratch];
        match vm.make(&Request::Load(config), &files)? {
            Response::Loaded(_) => Ok(()),
            other => bail!("not loaded: {other:?}"),
        }
    }

    fn files(&self, scratch: &Path) -> Result<[File; 3]> {
        let scratch = File::options().read(true).write(true).open(scratch)?;
        Ok([File::open(&self.runtime)?, File::open(&self.code)?, scratch])
    }
}

/// Makes a resumed guest unique and asks it what it drew.
fn meet(mut clone: Loaded) -> Result<Value> {
    let met = clone.vm.connection().and_then(|connection| become_unique(connection, &clone));
    match met {
        Ok(answer) => clone.vm.stop().map(|()| answer),
        Err(error) => {
            let condition = clone.vm.condition();
            Err(error.context(format!("vmm: {condition}; console: {}", clone.vm.last_words())))
        }
    }
}

fn become_unique(connection: File, clone: &Loaded) -> Result<Value> {
    let &Loaded { vm: _, began, shown, generation } = clone;
    let mut guest = Guest::new(connection);
    let hello = guest.expect("resumed", |message| match message {
        GuestMessage::Resumed(hello) => Some(hello.clone()),
        _ => None,
    })?;
    ensure!(hello.protocol_version == PROTOCOL_VERSION);
    let (shown, seen) = (generation_counter(&shown), hello.generation_counter);
    ensure!(seen == Some(shown), "the VMClock page says {seen:?}, not {shown}");
    guest.send(&HostMessage::MakeUnique(unique(generation, began)?))?;
    let report = guest.expect("unique", |message| match message {
        GuestMessage::Unique(report) => Some(report.clone()),
        _ => None,
    })?;
    guest.expect("restore done", |message| matches!(message, GuestMessage::RestoreDone(_)).then_some(()))?;
    println!("driver: clone {}", one_line(&report, began));
    ensure!(guest.log().contains("RESTORE_REPORT Restore Duration: "), "no RESTORE_REPORT: {}", guest.log());
    let answer = guest.invoke()?;
    serde_json::from_slice(&answer).context("understand the function's answer")
}

fn one_line(report: &GateReport, began: Instant) -> String {
    let steps: Vec<String> =
        report.steps.iter().map(|step| format!("{}={}", step.name, step.duration_us)).collect();
    let (restored_us, gate_us) = (began.elapsed().as_micros(), report.duration_us);
    format!("restored_us {restored_us} gate_us {gate_us} {}", steps.join(" "))
}

/// What was seen so far, and by how many.
struct Verdict {
    subject: &'static Subject,
    seen: BTreeMap<String, BTreeSet<String>>,
    shared: BTreeMap<String, usize>,
}

impl Verdict {
    fn of(subject: &'static Subject) -> Self {
        Self { subject, seen: BTreeMap::new(), shared: BTreeMap::new() }
    }

    fn take(&mut self, answer: &Value) -> Result<()> {
        ensure!(answer["restored"] == true, "the hooks did not run: {answer}");
        let mut note = |name: &str, value: String| {
            if !self.seen.entry(name.to_owned()).or_default().insert(value) {
                *self.shared.entry(name.to_owned()).or_default() += 1;
            }
        };
        for name in self.subject.distinct() {
            let value = &answer["after"][name];
            ensure!(!value.is_null(), "no {name} in {answer}");
            note(name, value.to_string());
            // A clone that repeats what the original drew is no better.
            if let Some(before) = answer["before"].get(name).filter(|before| *before == value) {
                note("drawn before the snapshot", format!("{name} {before}"));
                note("drawn before the snapshot", format!("{name} {before}"));
            }
        }
        let spinner = answer["after"]["spinner"].as_array().context("a spinner")?;
        ensure!(!spinner.is_empty());
        for value in spinner {
            note("spinner", value.to_string());
        }
        Ok(())
    }

    fn tell(&self, clones: usize) -> Result<()> {
        let counted: usize = self.seen.values().map(BTreeSet::len).sum();
        ensure!(self.shared.is_empty(), "{clones} clones share: {:?}", self.shared);
        println!("driver: {clones} clones, {counted} values, none twice");
        Ok(())
    }
}

fn drives(first: usize) -> Vec<DriveConfig> {
    let drive = |id: &str, fd, access| DriveConfig { id: id.into(), source: Source::Fd(fd), access };
    vec![
        drive("runtime", first, DriveAccess::ReadOnly),
        drive("code", first + 1, DriveAccess::ReadOnly),
        drive("scratch", first + 2, DriveAccess::ReadWrite),
    ]
}

fn start(subject: &Subject, kernel: Kernel) -> Result<Start> {
    let age = (kernel == Kernel::Untold).then(|| ("AGE_S".into(), UNTOLD_AGE_S.into()));
    Ok(Start {
        function_name: "unique".into(),
        account_id: "000000000000".into(),
        function_version: "1".into(),
        runtime: subject.runtime.into(),
        runtime_version: String::new(),
        handler: subject.handler.into(),
        memory_mib: MEMORY_MIB,
        init_timeout_ms: 130_000,
        timeout_ms: 60_000,
        region: "us-east-1".into(),
        log_group: "/aws/lambda/unique".into(),
        log_stream: "proof".into(),
        wall_clock_unix_ns: now_ns(),
        entropy: random()?,
        environment: age.into_iter().collect(),
        platform_environment: vec![("AWS_EXECUTION_ENV".into(), format!("AWS_Lambda_{}", subject.runtime))],
        credentials: Some(credentials()),
        initialization_type: InitializationType::SnapStart,
        code: CodeLayout::Alone,
        container: None,
        log_format: LogFormat::Text,
    })
}

fn unique(generation: [u8; 16], began: Instant) -> Result<Unique> {
    let machine_id = random::<16>()?;
    let name = format!("{:032x}", u128::from_be_bytes(machine_id));
    Ok(Unique {
        entropy: Seed::new(random()?),
        wall_clock_unix_ns: now_ns(),
        generation,
        generation_counter: generation_counter(&generation),
        instance_id: name.clone(),
        hostname: format!("tb-{}", &name[..12]),
        machine_id,
        boot_id: random()?,
        credentials: Some(credentials()),
        elapsed_us: u64::try_from(began.elapsed().as_micros())?,
        hook_timeout_ms: 10_000,
        restore_timeout_ms: RESTORE_LIMIT_MS,
    })
}

fn credentials() -> Credentials {
    Credentials {
        access_key_id: "ASIAPROOF".into(),
        secret_access_key: "none".into(),
        session_token: "none".into(),
        expiration: "2037-12-31T23:59:59Z".into(),
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn random<const LEN: usize>() -> Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    getrandom::fill(&mut bytes).context("draw random bytes")?;
    Ok(bytes)
}

fn scratch_image(folder: &Path) -> Result<PathBuf> {
    let image = folder.join("scratch.img");
    File::create(&image)?.set_len(SCRATCH_BYTES)?;
    let made = Command::new("mkfs.ext4").args(["-q", "-F", "-O", "^has_journal"]).arg(&image).status()?;
    ensure!(made.success(), "mkfs.ext4");
    Ok(image)
}
