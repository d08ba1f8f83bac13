//! Takes the figures: boots the appliance with the driver appended to its initrd and reads what the driver writes to
//! the serial line; looks at the sizes of what was built.

use super::figures::Samples;
use crate::context::Context;
use crate::image::{self, Netboot, Profile};
use crate::node::{self, Auth, Spec};
use crate::payload::{self, Payload};
use crate::qemu::accel::Accelerator;
use crate::run;
use anyhow::{Context as _, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The peer to hold against, when its program is given: no copy of it is ours to ship or build.
const PEER: &str = "FIRECRACKER";
/// Where the driver and what it needs are in the appliance.
const BENCH_DIR: &str = "usr/lib/tinderbox/bench";
const LIB_DIR: &str = "/usr/lib/tinderbox";
/// Of `image/mkosi.extra/etc/tinderbox/agent.toml`.
const STATE_DIR: &str = "/var/lib/tinderbox";
const FUNCTION: &str = "examples/python";
/// What answers with so much, or so late.
const ECHO: &str = "tests/functions/echo";
/// What a neighbour does.
const NOISY: &str = "tests/functions/noisy";
/// Laid beside the function where its sandboxes have to end, or to be held.
const ENDS: &str = "tests/functions/ends";
/// Boots of each VMM: enough for a median.
const BOOTS: u32 = 5;
/// Full snapshots of each VMM.
const SNAPSHOTS: u32 = 5;
/// Loads by each VMM, from nothing and into a blank machine.
const LOADS: u32 = 10;
/// Clones that touch memory, of each kind: each empties the page cache first.
const TOUCHES: u32 = 5;
/// Starts in a jail, whose mean counts.
const JAILED_STARTS: u32 = 40;
/// Network slots: enough for a median, half of them for each kind of egress.
const SLOTS: u32 = 40;
/// Functions created: enough for a median.
const CREATES: u32 = 5;
const WARM_INVOKES: u32 = 100;
const WARM_INVOKES_BY_EIGHT: u32 = 10;
/// Warm invocations of each open loop: enough for a tail.
const LOAD_CALLS: u32 = 500;
/// Invocations at once with the longest events and answers; the figures' names say so, too.
const BIG_CALLS: usize = 16;
/// Cold starts that boot: enough for a median.
const COLD_BOOTS: u32 = 5;
/// Clones at once.
const CLONES: &[usize] = &[1, 8, 32];
const ALONE: &[usize] = &[1];
/// Runtimes that are held against each other: what the figures call them, and the names that functions ask for. The first is one
/// of the node's, with 17 MB of files in it, the second the same with a gigabyte more.
const IMAGES: &[(&str, &str)] = &[("17mb", SHORT_RUNTIME), ("1gib", LONG_RUNTIME)];
const SHORT_RUNTIME: &str = "provided.al2023";
const LONG_RUNTIME: &str = "bench.long";
/// Starts on each, behind the first.
const IMAGE_BOOTS: u32 = 5;
/// Resumes with a recorded working set, and without.
const RECORDED_RESUMES: u32 = 5;
/// Resumes at once on a node that has nothing of the snapshot.
const CROWD: usize = 64;
/// Clones of each figure.
const CLONE_SAMPLES: u32 = 16;
/// Memory of the node: sixty-four sandboxes of 200 MiB, and the system in the initrd. What is not touched is not taken from the host.
const MEMORY_MIB: u32 = 15 * 1024;
/// Of the node's disk, which has room for the /tmp of all of them, 512 MiB each; the file is sparse.
const STATE_BYTES: u64 = 64 << 30;
/// Counted, the whole run takes some twenty minutes of the host's time on a busy machine.
const LIMIT: Duration = Duration::from_secs(40 * 60);

/// How the driver's lines begin.
const DRIVER_LINES: &str = "bench-";
const FIGURE: &str = "bench-figure: ";
const NOTE: &str = "bench-note: ";
const DONE: &str = "bench-done";
const FAILED: &str = "bench-failed: ";

/// What is measured together; the driver knows it by the same name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Part {
    /// Boots of a minimal guest, and the VMM's memory.
    Boot,
    /// Snapshots and loads of a minimal guest.
    Snapshot,
    /// Clones of a minimal guest that touches memory, with and without a working set, and a peer's.
    Touch,
    /// What a sandbox's jail and network slot cost.
    Jail,
    /// A function's first answer, and warm invocations.
    Invoke,
    /// Warm invocations beside a noisy neighbour.
    Fair,
    /// Cold starts of a function, booted and resumed.
    Resume,
    /// What snapshots of functions on one runtime have in common.
    Shared,
    /// First answers from a short image and from a long one.
    Images,
    /// Resumes by an agent that was started anew: with and without a working set, and many of what is not on the node.
    Restarted,
    /// Chunks, without a node.
    Chunks,
    /// An agent with many functions, without a node.
    Api,
    /// A million asynchronous calls, without a node.
    Events,
}

impl Part {
    /// Whether it is measured on this machine.
    pub(super) fn needs_no_node(self) -> bool {
        matches!(self, Part::Chunks | Part::Api | Part::Events)
    }
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent<'a> {
    pub(super) parts: &'a [Part],
    /// Cold starts in crowds, and with a dropped page cache. They take longer than all the rest and vary by more than a
    /// comparison can allow.
    pub(super) crowds: bool,
}

/// Boots, runs the driver, returns its samples.
pub(super) fn measure(ctx: &Context, accelerator: Accelerator, extent: Extent<'_>) -> Result<Vec<Samples>> {
    let dir = ctx.cache.process_dir("bench")?;
    let outcome = measure_in(ctx, accelerator, extent, &dir);
    if outcome.is_ok() {
        fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    outcome
}

fn measure_in(
    ctx: &Context,
    accelerator: Accelerator,
    extent: Extent<'_>,
    dir: &Path,
) -> Result<Vec<Samples>> {
    let extra = dir.join("extra");
    write_extra(ctx, extent, &extra)?;
    let state = dir.join("state.img");
    let disk = File::create(&state).with_context(|| format!("create {}", state.display()))?;
    disk.set_len(STATE_BYTES).with_context(|| format!("size {}", state.display()))?;
    let spec = Spec {
        accelerator: Some(accelerator),
        memory_mib: MEMORY_MIB,
        auth: Auth::Optional,
        // Cold starts are boots here, and nothing is made beside what is measured.
        runtime_snapshots: false,
        extra: Some(extra),
        ..Spec::new(&state, dir)
    };
    let mut node = node::boot(ctx, &spec)?;
    let step = ctx.progress.step(format!("measuring ({})", accelerator.name()));
    let mut samples = Vec::new();
    // What asks nothing of the agent may be measured, or have failed, before that serves.
    let mut early = std::mem::take(&mut node.early).into_iter().filter(|line| line.contains(DRIVER_LINES));
    loop {
        let mut line = early.next().unwrap_or_default();
        if line.is_empty() {
            node.process.wait_for_line(DRIVER_LINES, LIMIT, |seen| line = seen.to_owned())?;
        }
        if let Some((_, json)) = line.split_once(FIGURE) {
            let figure: Samples = serde_json::from_str(json).context("read a figure of the driver")?;
            step.note(&figure.name);
            samples.push(figure);
        } else if let Some((_, note)) = line.split_once(NOTE) {
            ctx.progress.say(note);
        } else if let Some((_, error)) = line.split_once(FAILED) {
            bail!("the driver failed: {error}\n{}", node.process.last_words());
        } else if line.contains(DONE) {
            break;
        }
    }
    node.process.kill()?;
    step.done();
    Ok(samples)
}

/// The tree that is appended to the appliance's initrd: driver, plan, function, peer, and a unit that starts it all.
fn write_extra(ctx: &Context, extent: Extent<'_>, root: &Path) -> Result<()> {
    let bench = root.join(BENCH_DIR);
    fs::create_dir_all(&bench).with_context(|| format!("create {}", bench.display()))?;
    let copy = |from: &Path, name: &str| {
        fs::copy(from, bench.join(name)).with_context(|| format!("copy {}", from.display())).map(drop)
    };
    let (path, text) = image::traceable(ctx)?;
    let lockdown = root.join(path);
    fs::create_dir_all(lockdown.parent().unwrap_or(root))
        .context("create the folder of how it is locked down")?;
    fs::write(&lockdown, text).with_context(|| format!("write {}", lockdown.display()))?;
    let step = ctx.progress.step("building the benchmark's driver");
    let programs = payload::build_static(ctx, &step, &["bench-driver", "guest-probe"])?;
    copy(&programs.join("bench-driver"), "bench-driver")?;
    copy(&payload::ensure_initrd(ctx, &programs.join("guest-probe"))?, "resting.cpio")?;
    step.done();
    let peer = std::env::var_os(PEER).map(PathBuf::from);
    if let Some(peer) = &peer {
        copy(peer, "firecracker").with_context(|| format!("{PEER} names no program"))?;
    }
    fs::write(bench.join("function.zip"), run::zip_of(ctx, &ctx.path(FUNCTION))?)
        .context("write the function")?;
    let ending = dir_of_both(ctx, &root.with_file_name("ending"))?;
    fs::write(bench.join("resume.zip"), run::zip_of(ctx, &ending)?)
        .context("write the function that ends")?;
    fs::write(bench.join("noisy.zip"), run::zip_of(ctx, &ctx.path(NOISY))?)
        .context("write the noisy function")?;
    fs::write(bench.join("echo.zip"), run::zip_of(ctx, &ctx.path(ECHO))?)
        .context("write the function that echoes")?;
    let image_zip = write_images(ctx, extent, root)?;
    fs::write(bench.join("image.zip"), image_zip).context("write the function for images")?;
    let at = |name: &str| format!("/{BENCH_DIR}/{name}");
    let plan = serde_json::json!({
        "parts": extent.parts,
        "vmm": format!("{LIB_DIR}/vmm"),
        "launcher": format!("{LIB_DIR}/launcher"),
        "jailed_starts": JAILED_STARTS,
        "gateway": format!("{LIB_DIR}/gateway"),
        "slots": SLOTS,
        "kernel": format!("{LIB_DIR}/guest/vmlinux"),
        "initrd": format!("{LIB_DIR}/guest/initrd.cpio"),
        "firecracker": peer.map(|_| at("firecracker")),
        "resting_initrd": at("resting.cpio"),
        "boots": BOOTS,
        "snapshots": SNAPSHOTS,
        "loads": LOADS,
        "touches": TOUCHES,
        "endpoint": "http://127.0.0.1:9000",
        "function_zip": at("function.zip"),
        "runtime": "python3.13",
        "handler": "app.handler",
        "creates": CREATES,
        "warm_invokes": WARM_INVOKES,
        "warm_invokes_by_eight": WARM_INVOKES_BY_EIGHT,
        "echo_zip": at("echo.zip"),
        "load_calls": if extent.crowds { LOAD_CALLS } else { 0 },
        "big_calls": if extent.crowds { BIG_CALLS } else { 0 },
        "noisy_zip": at("noisy.zip"),
        "resume_zip": at("resume.zip"),
        "cold_boots": COLD_BOOTS,
        "clones": if extent.crowds { CLONES } else { ALONE },
        "dropped": extent.crowds,
        "clone_samples": CLONE_SAMPLES,
        "images": IMAGES.iter().map(|(name, runtime)| serde_json::json!({ "name": name, "runtime": runtime })).collect::<Vec<_>>(),
        "image_zip": at("image.zip"),
        "image_boots": IMAGE_BOOTS,
        "state_dir": STATE_DIR,
        "recorded_resumes": RECORDED_RESUMES,
        "crowd": if extent.crowds { CROWD } else { 0 },
    });
    fs::write(bench.join("plan.json"), plan.to_string()).context("write the plan")?;
    write_units(root, &at("bench-driver"), &at("plan.json"))
}

/// Lays the long runtime beside the node's own; the zip of a function for it.
fn write_images(ctx: &Context, extent: Extent<'_>, root: &Path) -> Result<Vec<u8>> {
    if !extent.parts.contains(&Part::Images) {
        return Ok(Vec::new());
    }
    let runtimes = root.join(LIB_DIR.trim_start_matches('/')).join("runtimes");
    fs::create_dir_all(&runtimes).with_context(|| format!("create {}", runtimes.display()))?;
    let pack = payload::long_runtime_pack(ctx, SHORT_RUNTIME)?;
    fs::copy(&pack, runtimes.join(format!("{LONG_RUNTIME}.pack"))).context("copy the long runtime")?;
    let step = ctx.progress.step("building a function for images");
    let program = payload::build_static(ctx, &step, &["rust-hello"])?.join("rust-hello");
    step.done();
    let folder = root.with_file_name("rust-hello");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    fs::copy(&program, folder.join("bootstrap")).with_context(|| format!("copy {}", program.display()))?;
    run::zip_of(ctx, &folder)
}

/// The function and what stands in front of it, in one folder.
fn dir_of_both(ctx: &Context, folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    for (from, name) in [(FUNCTION, "app.py"), (ENDS, "ends.py")] {
        let from = ctx.path(from).join(name);
        fs::copy(&from, folder.join(name)).with_context(|| format!("copy {}", from.display()))?;
    }
    Ok(folder.to_owned())
}

/// A unit for the driver, wanted by the agent's.
fn write_units(root: &Path, driver: &str, plan: &str) -> Result<()> {
    let units = root.join("usr/lib/systemd/system");
    let drop_in = units.join("tinderbox-agent.service.d");
    fs::create_dir_all(&drop_in).with_context(|| format!("create {}", drop_in.display()))?;
    // Mounts of its own, as the launcher's unit has: the root of an initrd cannot be left, a bind mount of it can.
    let unit = format!(
        "[Unit]\nAfter=tinderbox-agent.service\n\n\
         [Service]\nType=exec\nExecStart={driver} {plan}\nStandardOutput=tty\nTTYPath=/dev/ttyS0\nPrivateMounts=yes\n"
    );
    fs::write(units.join("tinderbox-bench.service"), unit).context("write the driver's unit")?;
    fs::write(drop_in.join("bench.conf"), "[Unit]\nWants=tinderbox-bench.service\n")
        .context("write the agent's drop-in")
}

/// Sizes of what is shipped.
pub(super) fn sizes(ctx: &Context) -> Result<Vec<Samples>> {
    let payload = Payload::ensure(ctx)?;
    let Netboot { kernel, initrd } = Netboot::ensure(ctx, Profile::Production, &payload)?;
    let lib = payload.root().join(LIB_DIR.trim_start_matches('/'));
    let files = [
        ("size.netboot_kernel", kernel),
        ("size.netboot_initrd", initrd),
        ("size.vmm", lib.join("vmm")),
        ("size.launcher", lib.join("launcher")),
        ("size.host_agent", lib.join("host-agent")),
        ("size.guest_kernel", lib.join("guest/vmlinux")),
        ("size.guest_initrd", lib.join("guest/initrd.cpio")),
        ("size.runtime_python_pack", lib.join("runtimes/python3.13.pack")),
        ("size.runtime_provided_pack", lib.join("runtimes/provided.al2023.pack")),
    ];
    files.iter().map(|(name, path)| size_of(name, path)).collect()
}

fn size_of(name: &str, path: &Path) -> Result<Samples> {
    let meta = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
    Ok(super::size(name, meta.len()))
}
