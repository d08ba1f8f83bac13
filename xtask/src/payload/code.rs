//! Code images as a node makes them, made here: by its own helpers, and by the tool chroot's mkfs.erofs, which is of the release
//! that the appliance is made of. For checks and for measurements; nothing of it is shipped.

use super::erofs;
use super::programs::Programs;
use crate::context::Context;
use crate::hash::file_sha256;
use crate::progress::Step;
use crate::run;
use crate::toolbox::Toolbox;
use anyhow::{Context as _, Result, ensure};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Where mkfs.erofs is in the chroot, and in the appliance.
const MKFS: &str = "/usr/bin/mkfs.erofs";

/// What the image that is checked has in it: files that are shorter than a block, than a chunk, and than neither.
const SAMPLE: &[(&str, usize)] =
    &[("app.py", 100), ("data.json", 5_000), ("library.so", 200_000), ("table.bin", 65_536)];

/// Makes code images.
pub(crate) struct CodeBuilder {
    host_agent: PathBuf,
    toolbox: Toolbox,
}

impl CodeBuilder {
    /// Builds the node's program unless it is there.
    pub(crate) fn new(ctx: &Context) -> Result<CodeBuilder> {
        Ok(CodeBuilder { host_agent: Programs::build(ctx)?.host_agent, toolbox: Toolbox::ensure(ctx)? })
    }

    /// The image that a node makes of a zip, in `dir`, which is there and has nothing in it.
    pub(crate) fn image(&self, ctx: &Context, step: &Step, zip: &Path, dir: &Path) -> Result<PathBuf> {
        let zip = File::open(zip).with_context(|| format!("open {}", zip.display()))?;
        let unzip = ctx.cmd(&self.host_agent, "code", step).args(["unzip-code", "--dir"]).arg(dir);
        unzip.stdin_file(zip).run().context("unpack a function's code")?;
        let program = self.host_agent.to_str().context("the agent's path is not UTF-8")?;
        let folder = dir.to_str().context("the cache's path is not UTF-8")?;
        let args = ["pack-code", "--mkfs", MKFS, "--dir", folder];
        let pack = self.toolbox.cmd(program, args, &[&self.host_agent, dir]);
        pack.log(ctx.cache.log("code")).step(step).run().context("make a code image")?;
        fs::remove_file(dir.join("code.tar")).context("remove the tar of a code image")?;
        Ok(dir.join("code.erofs"))
    }
}

/// Fails unless the same code gives the same image twice, in which every file begins with a chunk.
pub(crate) fn check(ctx: &Context) -> Result<()> {
    let builder = CodeBuilder::new(ctx)?;
    let step = ctx.progress.step("building a code image twice");
    let dir = ctx.cache.process_dir("code")?;
    let source = dir.join("source");
    fs::create_dir_all(&source).with_context(|| format!("create {}", source.display()))?;
    for (name, len) in SAMPLE {
        fs::write(source.join(name), "x".repeat(*len)).context("write a sample of code")?;
    }
    let zip = dir.join("code.zip");
    fs::write(&zip, run::zip_of(ctx, &source)?).context("write a sample's zip")?;
    let mut hashes = Vec::new();
    for name in ["once", "again"] {
        let out = dir.join(name);
        fs::create_dir(&out).with_context(|| format!("create {}", out.display()))?;
        let image = builder.image(ctx, &step, &zip, &out)?;
        erofs::check_aligned(&image)?;
        hashes.push(file_sha256(&image)?);
    }
    ensure!(hashes.first() == hashes.last(), "code images are not reproducible (kept in {})", dir.display());
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    step.done();
    println!("code: {} twice", hashes.concat().get(..64).unwrap_or_default());
    Ok(())
}
