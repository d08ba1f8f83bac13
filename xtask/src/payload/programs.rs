//! The programs of the appliance, built in release mode by cargo. vmm, launcher, gateway and guest-init are static: the first runs in a
//! jail with nothing to load, the next two have capabilities and load nothing, the last is in a guest without libraries. host-agent is not: glibc's resolver loads its parts
//! at run time, from the very glibc it was linked to, which a static program cannot carry.

use super::sources::Sources;
use crate::built::{As, executable};
use crate::cmd::Cmd;
use crate::context::Context;
use crate::hash::Inputs;
use crate::progress::Step;
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

const RECIPE: &str = "programs 2";

/// Named, so that flags for it do not reach build scripts and macros, which run on the host.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";
pub(crate) const STATIC: &str = "-C target-feature=+crt-static";

/// Where the built programs are.
pub(crate) struct Programs {
    pub(crate) vmm: PathBuf,
    pub(crate) launcher: PathBuf,
    pub(crate) gateway: PathBuf,
    pub(crate) guest_init: PathBuf,
    pub(crate) host_agent: PathBuf,
}

impl Programs {
    pub(crate) fn build(ctx: &Context) -> Result<Programs> {
        let step = ctx.progress.step("building vmm, launcher, gateway, guest-init and host-agent");
        // Flags change what cargo considers fresh: a folder of its own for each set keeps both fresh.
        let fixed = build(ctx, &step, "static", STATIC, &["vmm", "launcher", "gateway", "guest-init"], &[])?;
        let dynamic = build(ctx, &step, "dynamic", "", &["host-agent"], &[])?;
        step.done();
        Ok(Programs {
            vmm: fixed.join("vmm"),
            launcher: fixed.join("launcher"),
            gateway: fixed.join("gateway"),
            guest_init: fixed.join("guest-init"),
            host_agent: dynamic.join("host-agent"),
        })
    }
}

/// Programs that are no part of the payload (the tests' and the benchmark's), static so that they run in any guest; the
/// folder they are in.
pub(crate) fn build_static(ctx: &Context, step: &Step, packages: &[&str]) -> Result<PathBuf> {
    build(ctx, step, "static", STATIC, packages, &[])
}

/// A program that was built with a feature which is for a test alone, as one that leaves something out to show what that was for. In a
/// folder of its own, from which no payload takes anything.
pub(crate) fn build_for_a_test(ctx: &Context, step: &Step, package: &str, feature: &str) -> Result<PathBuf> {
    let folder = build(ctx, step, "lesser", STATIC, &[package], &[feature])?;
    Ok(folder.join(package))
}

/// Integration tests that run elsewhere.
pub(crate) struct Tests {
    pub(crate) tests: PathBuf,
    /// What they start, which they look for where it is here.
    pub(crate) program: PathBuf,
}

/// The integration tests of a package, static so that they run on a test host.
pub(crate) fn build_tests_of(ctx: &Context, step: &Step, package: &str) -> Result<Tests> {
    let target_dir = ctx.target_dir().join("static-tests");
    // And what only the tests know.
    Sources::of(ctx, &[package, "confined-libc", "launcher", "tiny-guest"])?.renew_for(ctx, &target_dir)?;
    let cargo = Cmd::new("cargo").args(["test", "--package", package, "--test", "it", "--no-run"]);
    let cargo = cargo.args(["--message-format=json", "--target", TARGET, "--target-dir"]).arg(&target_dir);
    step.note("compiling");
    let said = cargo.dir(&ctx.root).env("RUSTFLAGS", STATIC).env_remove("CARGO_ENCODED_RUSTFLAGS").read()?;
    Ok(Tests {
        tests: executable(&said, "it", As::Tests)?,
        program: executable(&said, package, As::Program)?,
    })
}

/// The folder with these packages' programs; cargo is asked when nothing was built from what is here now.
fn build(
    ctx: &Context,
    step: &Step,
    name: &str,
    flags: &str,
    packages: &[&str],
    features: &[&str],
) -> Result<PathBuf> {
    let sources = Sources::of(ctx, packages)?;
    let key = || {
        let inputs = Inputs::new(RECIPE).text("flags", flags).text("features", &features.join(","));
        Ok::<_, anyhow::Error>(sources.hash_into(ctx, inputs.text("packages", &packages.join(",")))?.key())
    };
    let before = key()?;
    ctx.cache.artefact("programs", &before, step, |out| {
        let target_dir = ctx.target_dir().join(name);
        sources.renew_for(ctx, &target_dir)?;
        cargo_build(ctx, step, &target_dir, flags, packages, features)?;
        let release = target_dir.join(TARGET).join("release");
        for program in &sources.programs {
            let built = release.join(program);
            sources.check(ctx, &built)?;
            fs::copy(&built, out.join(program)).with_context(|| format!("copy {}", built.display()))?;
        }
        ensure!(key()? == before, "what the programs are built from was changed meanwhile: build again");
        Ok(())
    })
}

fn cargo_build(
    ctx: &Context,
    step: &Step,
    target_dir: &Path,
    flags: &str,
    packages: &[&str],
    features: &[&str],
) -> Result<()> {
    // The one that runs us; started by hand, the one in the path, which knows its toolchain.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let cmd = ctx.cmd(cargo, "programs", step).dir(&ctx.root);
    let cmd = cmd.args(["build", "--release", "--target", TARGET, "--target-dir"]).arg(target_dir);
    let cmd = cmd.args(packages.iter().flat_map(|package| ["--package", package]));
    let cmd = cmd.args(features.iter().flat_map(|feature| ["--features", feature]));
    cmd.env("RUSTFLAGS", flags).env_remove("CARGO_ENCODED_RUSTFLAGS").run()
}
