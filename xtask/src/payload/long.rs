//! A runtime with a gigabyte of files beside its own, which nothing in it reads: for the measurement that an image's length does
//! not count. Nothing of it is shipped.

use super::runtime::{self, image_in, make_image, pack_in};
use crate::context::Context;
use crate::hash::Inputs;
use crate::progress::Step;
use crate::toolbox::Toolbox;
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

const RECIPE: &str = "runtime-long 1";
/// The tool chroot's programs and libraries, 270 MB in 6,000 files, so often.
const COPIES: usize = 4;
/// What the image has at least, 1 GiB.
const LEAST_LEN: u64 = 1 << 30;

/// The pack of the long runtime that is made of `name`.
pub(crate) fn ensure_pack(ctx: &Context, name: &str) -> Result<PathBuf> {
    let image = runtime::ensure(ctx, name)?;
    let (_, key) = runtime::describe(ctx, name)?;
    let toolbox = Toolbox::ensure(ctx)?;
    let tools = toolbox.root().to_string_lossy().into_owned();
    let key = Inputs::new(RECIPE).text("image", &key).text("tools", &tools).key();
    if let Some(dir) = ctx.cache.find("runtime-long", &key) {
        return Ok(pack_in(&dir, name));
    }
    let step = ctx.progress.step(format!("making {name} a gigabyte longer"));
    let dir = ctx.cache.artefact("runtime-long", &key, &step, |out| {
        fill(ctx, &step, &toolbox, &image, out)?;
        make_image(ctx, &step, name, &key, out)?;
        let long = image_in(out, name);
        let len = fs::metadata(&long)?.len();
        ensure!(len >= LEAST_LEN, "{} has {len} bytes only", long.display());
        runtime::pack(&long, &pack_in(out, name))?;
        fs::remove_file(&long).context("remove a long image")
    })?;
    step.done();
    Ok(pack_in(&dir, name))
}

/// What is in the image, and the files that make it long.
fn fill(ctx: &Context, step: &Step, toolbox: &Toolbox, image: &Path, out: &Path) -> Result<()> {
    let root = out.join("work/root");
    fs::create_dir_all(&root)?;
    let (text, from) = (root.to_str().context("the cache's path is not UTF-8")?, image.to_string_lossy());
    let extract = [format!("--extract={text}"), "--overwrite".to_owned(), from.into_owned()];
    let run = |program: &str, args: &[String]| {
        let cmd = toolbox.cmd(program, args, &[out, image]).log(ctx.cache.log("runtimes"));
        cmd.step(step).run()
    };
    run("fsck.erofs", &extract)?;
    for number in 0..COPIES {
        run("cp", &["--archive".to_owned(), "/usr".to_owned(), format!("{text}/ballast-{number}")])?;
    }
    Ok(())
}
