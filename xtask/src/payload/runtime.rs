//! Runtimes: one read-only erofs a Lambda runtime, the root file system that functions see, built from `image/runtimes`, byte
//! for byte the same from the same packages. It stays in the cache: what the appliance carries is a pack of its chunks
//! (`docs/chunk-format.md`), which a node reads from as its sandboxes do from the image.

use super::erofs;
use super::rootfs;
use super::spec::Spec;
use crate::cache;
use crate::context::Context;
use crate::hash::{Inputs, file_sha256};
use crate::progress::Step;
use crate::setup;
use crate::toolbox::Toolbox;
use anyhow::{Context as _, Result, ensure};
use chunk_store::{ChunkSize, Kind, Salt, write_pack};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The runtimes of this node, by their Lambda names.
pub(crate) const NAMES: &[&str] = &["java21", "nodejs20.x", "provided.al2023", "python3.13"];
/// Raise when the way an image is made changes, or to take newer packages.
const RECIPE: &str = "runtime 4";
/// Raise when packs change.
const PACK_RECIPE: &str = "runtime-pack 1";
/// Not compressed. python3.13 would be 48 instead of 83 MB with lz4hc, but the first import of the runtime client in a
/// fresh guest would cost 187 to 196 instead of 145 million instructions (16 to 64 KiB clusters; counted, nested SVM),
/// and every sandbox pays that while the node keeps one copy.
///
/// The last three: every file on a multiple of 16 blocks, so that it is the same chunks in every image, with its end there and
/// not among metadata, which is behind all files (`docs/adr/0009-erofs-for-runtimes-and-code.md`). Only of a tar.
const MKFS: &[&str] =
    &["-T0", "--all-root", "-x-1", "--quiet", "--dsunit=16", "-Enoinline_data", "--sort=none"];
/// The tar's files are in the order of their names; times and owners are the image's.
const TAR: &[&str] = &["--create", "--sort=name", "--format=gnu", "--mtime=@0", "--owner=0", "--group=0"];

/// Packs one runtime unless this very pack is there.
pub(crate) fn ensure_pack(ctx: &Context, name: &str) -> Result<PathBuf> {
    let image = ensure(ctx, name)?;
    let (_, key) = describe(ctx, name)?;
    let key = Inputs::new(PACK_RECIPE).text("image", &key).key();
    if let Some(dir) = ctx.cache.find("runtime-pack", &key) {
        return Ok(pack_in(&dir, name));
    }
    let step = ctx.progress.step(format!("packing the runtime {name}"));
    let dir = ctx.cache.artefact("runtime-pack", &key, &step, |out| pack(&image, &pack_in(out, name)))?;
    step.done();
    Ok(pack_in(&dir, name))
}

/// Cuts an image into chunks that anybody may have, and packs them.
pub(crate) fn pack(image: &Path, out: &Path) -> Result<()> {
    let content = File::open(image).with_context(|| format!("open {}", image.display()))?;
    let file = File::create(out).with_context(|| format!("create {}", out.display()))?;
    write_pack(&content, Kind::Image, ChunkSize::IMAGE, &Salt::public(), &file)
        .map(drop)
        .with_context(|| format!("pack {}", image.display()))
}

/// Builds the image of one runtime unless this very one is there.
pub(crate) fn ensure(ctx: &Context, name: &str) -> Result<PathBuf> {
    let (spec, key) = describe(ctx, name)?;
    if let Some(dir) = ctx.cache.find("runtime", &key) {
        return Ok(image_in(&dir, name));
    }
    setup::ensure_packages(ctx)?;
    let step = ctx.progress.step(format!("building the runtime image {name}"));
    let dir = ctx.cache.artefact("runtime", &key, &step, |out| build(ctx, &step, &spec, name, &key, out))?;
    step.done();
    Ok(image_in(&dir, name))
}

/// Builds image and pack once more and compares them with those in the cache.
pub(crate) fn check_reproducible(ctx: &Context, name: &str) -> Result<()> {
    let first = [file_sha256(&ensure(ctx, name)?)?, file_sha256(&ensure_pack(ctx, name)?)?];
    let (spec, key) = describe(ctx, name)?;
    let step = ctx.progress.step(format!("building the runtime image {name} again"));
    let _lock = ctx.cache.lock("runtime-again", &step)?;
    let out = ctx.cache.dir("runtime-again")?.join(name);
    cache::remove_tree(&out)?;
    fs::create_dir(&out)?;
    build(ctx, &step, &spec, name, &key, &out)?;
    pack(&image_in(&out, name), &pack_in(&out, name))?;
    let again = [file_sha256(&image_in(&out, name))?, file_sha256(&pack_in(&out, name))?];
    ensure!(
        first == again,
        "{name} is not reproducible: {first:?} and {again:?} (kept in {})",
        out.display()
    );
    cache::remove_tree(&out)?;
    step.done();
    println!("{name}: {} twice, packed as {}", first[0], first[1]);
    Ok(())
}

pub(super) fn describe(ctx: &Context, name: &str) -> Result<(Spec, String)> {
    let runtimes = ctx.path("image/runtimes");
    let spec = Spec::read(&runtimes.join(name))?;
    let mut inputs = Inputs::new(RECIPE).text("mkfs", &MKFS.join(" ")).tree(&runtimes.join(name))?;
    for overlay in &spec.files.overlays {
        inputs = inputs.tree(&runtimes.join(overlay))?;
    }
    Ok((spec, inputs.key()))
}

pub(super) fn image_in(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.erofs"))
}

pub(super) fn pack_in(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.pack"))
}

fn build(ctx: &Context, step: &Step, spec: &Spec, name: &str, key: &str, out: &Path) -> Result<()> {
    let root = out.join("work/root");
    fs::create_dir_all(&root)?;
    rootfs::assemble(ctx, step, spec, &ctx.path("image/runtimes"), name, &root)?;
    make_image(ctx, step, name, key, out)
}

/// Makes the image of what is in `out/work/root`, which is gone afterwards.
pub(super) fn make_image(ctx: &Context, step: &Step, name: &str, key: &str, out: &Path) -> Result<()> {
    step.note("making the file system");
    let work = out.join("work");
    let root = work.join("root");
    let tar = ctx.cmd("tar", "runtimes", step).args(TAR).arg("--directory").arg(&root);
    tar.arg("--file").arg(work.join("root.tar")).arg(".").run()?;
    let (image, out_text) = (image_in(out, name), out.to_str().context("the cache's path is not UTF-8")?);
    let mut args: Vec<String> = MKFS.iter().map(|&arg| arg.to_owned()).collect();
    args.extend([
        "-U".to_owned(),
        uuid(key),
        "--tar=f".to_owned(),
        format!("{out_text}/{name}.erofs"),
        format!("{out_text}/work/root.tar"),
    ]);
    let cmd = Toolbox::ensure(ctx)?.cmd("mkfs.erofs", &args, &[out]);
    cmd.log(ctx.cache.log("runtimes"))
        .step(step)
        .run()
        .with_context(|| format!("make {}", image.display()))?;
    erofs::check_aligned(&image)?;
    cache::remove_tree(&work)
}

/// The key's first half as an identifier of the file system: fixed by the content, different between runtimes.
fn uuid(key: &str) -> String {
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32];
    parts.map(|part| key.get(part).unwrap_or_default()).join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_makes_a_uuid() {
        assert_eq!(uuid("0123456789abcdef0123456789abcdef"), "01234567-89ab-cdef-0123-456789abcdef");
    }
}
