//! What the tests need of Go: the example function, and the client that is made of AWS's SDK. The toolchain and the SDK are Debian's,
//! unpacked into the cache and not installed; modules are not fetched from anywhere.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cache;
use crate::context::Context;
use crate::hash::Inputs;
use crate::payload::extract_packages;
use crate::progress::Step;
use crate::toolbox;

/// Raise to take newer packages of the release.
const TOOLCHAIN: &str = "go 1";
const PACKAGES: &[&str] = &["golang-1.24-go", "golang-github-aws-aws-sdk-go-v2-dev"];
const GOROOT: &str = "usr/lib/go-1.24";
const GOPATH: &str = "usr/share/gocode";
/// The SDK's clients, hundreds of megabytes of them, and which of them stay.
const SERVICES: &str = "usr/share/gocode/src/github.com/aws/aws-sdk-go-v2/service";
const KEPT: &[&str] = &["internal", "lambda"];

const RECIPE: &str = "go-programs 1";
const EXAMPLE: &str = "examples/go";
const CLIENT: &str = "tests/clients/go";
/// Static, and the same wherever the checkout is.
const SETTINGS: &[(&str, &str)] = &[
    ("CGO_ENABLED", "0"),
    ("GO111MODULE", "off"),
    ("GOENV", "off"),
    ("GOFLAGS", "-trimpath"),
    ("GOTOOLCHAIN", "local"),
];

/// Static programs.
pub(crate) struct Programs {
    /// The `bootstrap` of `examples/go`.
    pub(crate) example: PathBuf,
    /// `tests/clients/go`.
    pub(crate) client: PathBuf,
}

/// Builds both unless they are there.
pub(crate) fn programs(ctx: &Context) -> Result<Programs> {
    let (example, client) = (ctx.path(EXAMPLE), ctx.path(CLIENT));
    let recipe = Inputs::new(RECIPE).text("toolchain", &toolchain_key());
    let settings = SETTINGS.iter().fold(recipe, |inputs, (name, value)| inputs.text(name, value));
    let key = settings.tree(&example)?.tree(&client)?.key();
    let step = ctx.progress.step("building the example in Go and AWS's SDK for Go");
    let made = ctx.cache.artefact("go-programs", &key, &step, |out| {
        let toolchain = toolchain(ctx)?;
        build(ctx, &step, &toolchain, &example, &out.join("bootstrap"))?;
        build(ctx, &step, &toolchain, &client, &out.join("client"))
    })?;
    step.done();
    Ok(Programs { example: made.join("bootstrap"), client: made.join("client") })
}

fn toolchain_key() -> String {
    let inputs = Inputs::new(TOOLCHAIN).text("suite", toolbox::SUITE);
    inputs.text("packages", &PACKAGES.join(" ")).text("kept", &KEPT.join(" ")).key()
}

/// The folder below which `GOROOT` and `GOPATH` are.
fn toolchain(ctx: &Context) -> Result<PathBuf> {
    let step = ctx.progress.step("unpacking Go and AWS's SDK for it");
    let made = ctx.cache.artefact("go", &toolchain_key(), &step, |out| {
        let root = out.join("root");
        fs::create_dir(&root).context("make a folder for Go")?;
        extract_packages(ctx, &step, PACKAGES, &root)?;
        for entry in fs::read_dir(root.join(SERVICES)).context("list the SDK's clients")? {
            let entry = entry.context("list the SDK's clients")?;
            if !KEPT.iter().any(|kept| entry.file_name() == *kept) {
                cache::remove_tree(&entry.path())?;
            }
        }
        Ok(())
    })?;
    step.done();
    Ok(made.join("root"))
}

/// The program in one folder.
fn build(ctx: &Context, step: &Step, toolchain: &Path, folder: &Path, program: &Path) -> Result<()> {
    let goroot = toolchain.join(GOROOT);
    // Nothing but packages of the standard library and of the SDK is found: there is no module, and no proxy is asked for one.
    let cmd = ctx
        .cmd(goroot.join("bin/go"), "go", step)
        .args(["build", "-buildvcs=false", "-ldflags=-s -w", "-o"])
        .arg(program);
    let cmd = SETTINGS.iter().fold(cmd.arg("."), |cmd, (name, value)| cmd.env(name, value));
    let cmd = cmd.env("GOROOT", &goroot).env("GOPATH", toolchain.join(GOPATH));
    let cmd = cmd.env("GOCACHE", ctx.cache.dir("go-build")?).dir(folder);
    cmd.run().with_context(|| format!("build {}", folder.display()))
}
