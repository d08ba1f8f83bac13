//! What is made by a JDK: the parts of a runtime's image that a program of the runtime's own makes ([`super::spec::Java`]), and
//! the tests' function in Java. The JDK is Debian's, unpacked and not installed, and runs where it is unpacked.

use super::rootfs::{copy_tree, extract_packages, remove_matching};
use super::spec::{Java, Spec, below};
use crate::context::Context;
use crate::progress::Step;
use crate::toolbox::Toolbox;
use anyhow::{Context as _, Result};
use std::fs;
use std::path::Path;

/// The runtime whose JDK it is.
const RUNTIME: &str = "java21";

/// Where a JDK finds what it works on in its root, for as long as it runs.
pub(crate) const SCRATCH: &str = "/tinderbox";

/// Enters a root, with what a JVM looks at; in the mount namespace of the tool chroot's command, so that nothing of it stays.
const ENTER: &str = r#"mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && exec chroot "$@""#;

/// A JDK in its root.
pub(crate) struct Jdk<'a> {
    ctx: &'a Context,
    step: &'a Step,
    root: &'a Path,
    home: String,
}

impl<'a> Jdk<'a> {
    /// Unpacks the one that java21 is made by into the empty folder `root`.
    pub(crate) fn extract(ctx: &'a Context, step: &'a Step, root: &'a Path) -> Result<Self> {
        let spec = Spec::read(&ctx.path("image/runtimes").join(RUNTIME))?;
        extract_packages(ctx, step, &spec.packages, root)?;
        for folder in ["/dev", "/proc", "/tmp"] {
            fs::create_dir_all(below(root, folder)).with_context(|| format!("create {folder}"))?;
        }
        let home = spec.java.with_context(|| format!("{RUNTIME} has no JDK"))?.jdk;
        Ok(Self { ctx, step, root, home })
    }

    /// Copies a folder to where its programs see it as `SCRATCH/name`.
    pub(crate) fn give(&self, folder: &Path, name: &Path) -> Result<()> {
        let target = below(self.root, SCRATCH).join(name);
        fs::create_dir_all(&target).with_context(|| format!("create {}", target.display()))?;
        copy_tree(folder, &target)
    }

    /// Runs one of its programs; paths are those of its root.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Result<()> {
        let root = self.root.to_str().context("the cache's path is not UTF-8")?;
        let program = format!("{}/bin/{program}", self.home);
        let args = ["-c", ENTER, "sh", root, program.as_str()].into_iter().chain(args.iter().copied());
        let cmd = Toolbox::ensure(self.ctx)?.cmd("sh", args, &[self.root]);
        cmd.log(self.ctx.cache.log("java")).step(self.step).run().with_context(|| format!("run {program}"))
    }
}

/// Runs a runtime's program in the image at `root`. `folder` is the runtime's.
pub(super) fn make(ctx: &Context, step: &Step, java: &Java, folder: &Path, root: &Path) -> Result<()> {
    let jdk = Jdk { ctx, step, root, home: java.jdk.clone() };
    for name in &java.folders {
        jdk.give(&folder.join(name), name)?;
    }
    let program = Path::new(SCRATCH).join(&java.program);
    let program = program.to_str().context("a path is not UTF-8")?;
    let temporary = format!("-Djava.io.tmpdir={SCRATCH}");
    // Neither leaves anything of the build's in the image's /tmp.
    jdk.run("java", &["-XX:-UsePerfData", &temporary, program, &java.jdk, SCRATCH])?;
    crate::cache::remove_tree(&below(root, SCRATCH))?;
    java.remove.iter().try_for_each(|pattern| remove_matching(root, pattern))
}
