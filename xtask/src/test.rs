//! `cargo xtask test`: sets the machine up, builds everything and passes every test.
//!
//! First the tests of every crate, then the tests of the booted appliance (`tests/it`), which learn from the environment
//! where things are. Tests are cargo's: this only prepares what they need and lets their output through.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::bench;
use crate::cache;
use crate::cmd::Cmd;
use crate::context::Context;
use crate::dev::{self, Host};
use crate::hash::Inputs;
use crate::image::{Netboot, Profile};
use crate::kernel::GuestKernel;
use crate::payload::{self, Payload};
use crate::setup;

/// What the clients' virtual environment is made from.
const REQUIREMENTS: &str = "tests/requirements.txt";
const RECIPE: &str = "test-venv 1";

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
    if args.names.is_empty() {
        cargo_test(ctx, &["--workspace", "--exclude", "tests"], &[])?;
    }
    if args.no_node {
        return Ok(());
    }
    let mut environment = prepare(ctx, xtask)?;
    // Disks of the tests' nodes: ours alone, somebody else may test on this machine, too.
    let state = ctx.cache.process_dir("test-state")?;
    environment.push(("TINDERBOX_TEST_STATE", state.clone()));
    let mut arguments = vec!["--package", "tests", "--test", "it"];
    if !args.names.is_empty() {
        arguments.push("--");
        arguments.extend(args.names.iter().map(String::as_str));
    }
    let host_was_there = Host::running(ctx)?.is_some();
    let tested = cargo_test(ctx, &arguments, &environment);
    cache::remove_tree(&state)?;
    if !host_was_there && Host::running(ctx)?.is_some() {
        dev::down(ctx)?;
    }
    tested?;
    if args.no_bench || !args.names.is_empty() {
        return Ok(());
    }
    bench::compare(ctx)
}

fn cargo_test(ctx: &Context, arguments: &[&str], environment: &[(&str, PathBuf)]) -> Result<()> {
    let status = Command::new(env!("CARGO"))
        .arg("test")
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir(&ctx.root)
        .status()
        .context("start cargo test")?;
    ensure!(status.success(), "cargo test {}: {status}", arguments.join(" "));
    Ok(())
}

/// Builds what the tests of the appliance use; the names are those that `tests/it` reads.
fn prepare(ctx: &Context, xtask: PathBuf) -> Result<Vec<(&'static str, PathBuf)>> {
    let payload = Payload::ensure(ctx)?;
    let programs = programs(ctx)?;
    Ok(vec![
        ("TINDERBOX_XTASK", xtask),
        ("TINDERBOX_PAYLOAD", payload.root().join("usr/lib/tinderbox")),
        ("TINDERBOX_NETBOOT_INITRD", Netboot::ensure(ctx, Profile::Production, &payload)?.initrd),
        ("TINDERBOX_BZIMAGE", GuestKernel::ensure(ctx)?.bzimage()),
        ("TINDERBOX_PROBE_INITRD", payload::ensure_initrd(ctx, &programs.join("guest-probe"))?),
        ("TINDERBOX_RUST_HELLO", programs.join("rust-hello")),
        ("TINDERBOX_UNIQUE_RUST", programs.join("unique-rust")),
        ("TINDERBOX_VM_DRIVER", programs.join("vm-driver")),
        ("TINDERBOX_UNGATED_INITRD", ungated_initrd(ctx)?),
        ("TINDERBOX_TEST_VENV", venv(ctx)?),
    ])
}

/// The folder with the programs that run in guests and on the test host: static, as there are no libraries for them.
fn programs(ctx: &Context) -> Result<PathBuf> {
    let step = ctx.progress.step("building the tests' guest programs");
    let folder =
        payload::build_static(ctx, &step, &["rust-hello", "unique-rust", "guest-probe", "vm-driver"])?;
    step.done();
    Ok(folder)
}

/// An initrd whose guest-init lets clones go on as they are.
fn ungated_initrd(ctx: &Context) -> Result<PathBuf> {
    let step = ctx.progress.step("building a guest-init without the gate");
    let program = payload::build_ungated(ctx, &step)?;
    step.done();
    payload::ensure_initrd(ctx, &program)
}

/// boto3 and the aws CLI. Scripts in `bin` name a folder that is gone once the artefact is in its place: the tests run
/// them through `bin/python`.
fn venv(ctx: &Context) -> Result<PathBuf> {
    let requirements = ctx.path(REQUIREMENTS);
    let python = Cmd::new("python3").arg("--version").read()?;
    let key = Inputs::new(RECIPE).text("python", python.trim()).file(&requirements)?.key();
    let step = ctx.progress.step("installing boto3 and the aws CLI");
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
