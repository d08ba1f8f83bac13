//! What the appliance carries under /usr/lib/tinderbox: our programs, the guest's kernel and initrd, the runtimes.
//! Made outside of mkosi, so that a changed program never rebuilds the operating system. Units and configuration are
//! the image's: `image/`.

mod code;
mod erofs;
mod initrd;
mod java;
mod long;
mod programs;
mod rootfs;
mod runtime;
mod sources;
mod spec;

use crate::context::Context;
use crate::hash::Inputs;
use crate::kernel::GuestKernel;
use anyhow::{Context as _, Result};
pub(crate) use code::CodeBuilder;
pub(crate) use erofs::check_aligned;
pub(crate) use java::{Jdk, SCRATCH as JDK_SCRATCH};
pub(crate) use long::ensure_pack as long_runtime_pack;
use programs::Programs;
pub(crate) use programs::{STATIC, TARGET, Tests, build_for_a_test, build_static, build_tests_of};
pub(crate) use rootfs::extract_packages;
pub(crate) use runtime::{ensure as runtime_image, ensure_pack as runtime_pack};
use std::fs;
use std::path::{Path, PathBuf};

const RECIPE: &str = "payload 3";
const LIB: &str = "usr/lib/tinderbox";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build every runtime image, and a code image, a second time and fail when it differs.
    #[arg(long)]
    check_reproducible: bool,
}

pub(crate) fn run(args: &Args, ctx: &Context) -> Result<()> {
    if args.check_reproducible {
        runtime::NAMES.iter().try_for_each(|name| runtime::check_reproducible(ctx, name))?;
        return code::check(ctx);
    }
    let payload = Payload::ensure(ctx)?;
    println!("{}", payload.root().display());
    Ok(())
}

/// A complete payload.
pub(crate) struct Payload {
    root: PathBuf,
}

impl Payload {
    /// Builds what is not there yet. Quick when nothing changed: a few hashes.
    pub(crate) fn ensure(ctx: &Context) -> Result<Payload> {
        let kernel = GuestKernel::ensure(ctx)?;
        let programs = Programs::build(ctx)?;
        let mut files = vec![
            ("vmm".to_owned(), programs.vmm),
            ("launcher".to_owned(), programs.launcher),
            ("gateway".to_owned(), programs.gateway),
            ("host-agent".to_owned(), programs.host_agent),
            ("guest/vmlinux".to_owned(), kernel.vmlinux()),
            ("guest/initrd.cpio".to_owned(), ensure_initrd(ctx, &programs.guest_init)?),
        ];
        for name in runtime::NAMES {
            files.push((format!("runtimes/{name}.pack"), runtime::ensure_pack(ctx, name)?));
        }
        let mut inputs = Inputs::new(RECIPE);
        for (name, source) in &files {
            inputs = inputs.text("name", name).file(source)?;
        }
        let step = ctx.progress.step("collecting the payload");
        let root =
            ctx.cache.artefact("payload", &inputs.key(), &step, |out| collect(&files, &out.join(LIB)))?;
        ctx.cache.link_latest("payload", &root)?;
        Ok(Payload { root })
    }

    /// The folder that becomes `/`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

/// An initrd whose `/init` is this program.
pub(crate) fn ensure_initrd(ctx: &Context, init: &Path) -> Result<PathBuf> {
    let archive = initrd::with(init)?;
    let key = Inputs::new("initrd").bytes("archive", &archive).key();
    let step = ctx.progress.step("packing the guest's initrd");
    let make = |out: &Path| fs::write(out.join("initrd.cpio"), &archive).context("write the guest's initrd");
    Ok(ctx.cache.artefact("initrd", &key, &step, make)?.join("initrd.cpio"))
}

fn collect(files: &[(String, PathBuf)], lib: &Path) -> Result<()> {
    for (name, source) in files {
        let target = lib.join(name);
        fs::create_dir_all(target.parent().context("a file has a folder")?)?;
        fs::copy(source, &target)
            .with_context(|| format!("copy {} to {}", source.display(), target.display()))?;
    }
    Ok(())
}
