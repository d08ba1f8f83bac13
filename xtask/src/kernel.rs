//! The guest kernel: Debian's source of 6.12 with our patches (`configs/kernel/patches`, each says why), and nothing
//! switched on but what `configs/kernel/guest.config` names. Gives an ELF `vmlinux` (entered at 64 bit) and a `bzImage`.
//! Not the appliance's kernel: that one is Debian's own.

mod implied;

use crate::cmd::Cmd;
use crate::context::Context;
use crate::hash::Inputs;
use crate::progress::Step;
use crate::{cache, setup};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Raise when the steps below change what comes out.
const RECIPE: &str = "kernel 3";
/// make writes about this many lines for our configuration.
const EXPECTED_LINES: u64 = 1760;
const SOURCE_PACKAGE: &str = "linux-source-6.12";
/// The tree inside the source archive has the package's name.
const SOURCE_TREE: &str = SOURCE_PACKAGE;
const FRAGMENT: &str = "configs/kernel/guest.config";
/// What those options bring along.
const IMPLIED: &str = "configs/kernel/implied.config";
/// Applied in the order of their names.
const PATCHES: &str = "configs/kernel/patches";
/// Three quarters of the source, of which nothing here is compiled (drivers' `Kconfig` files are still read).
const LEFT_OUT: [&str; 18] = [
    "Documentation/*/*",
    "arch/[!x]*.[chS]",
    "arch/[!x]*.dts*",
    "drivers/accel/*.[ch]",
    "drivers/clk/*.[ch]",
    "drivers/gpu/*.[ch]",
    "drivers/iio/*.[ch]",
    "drivers/infiniband/*.[ch]",
    "drivers/media/*.[ch]",
    "drivers/net/*/*.[ch]",
    "drivers/pinctrl/*.[ch]",
    "drivers/scsi/*.[ch]",
    "drivers/staging/*.[ch]",
    "drivers/usb/*.[ch]",
    "drivers/video/*.[ch]",
    "sound/*.[ch]",
    "tools/perf/*",
    "tools/testing/*",
];
/// Fixed, so that two builds of one source are equal byte for byte.
const IDENTITY: [(&str, &str); 4] = [
    ("KBUILD_BUILD_TIMESTAMP", "1970-01-01 00:00:00 UTC"),
    ("KBUILD_BUILD_USER", "tinderbox"),
    ("KBUILD_BUILD_HOST", "tinderbox"),
    ("KBUILD_BUILD_VERSION", "1"),
];

#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args, ctx: &Context) -> Result<()> {
    let kernel = GuestKernel::ensure(ctx)?;
    for file in [kernel.vmlinux(), kernel.bzimage()] {
        let kib = fs::metadata(&file)?.len() >> 10;
        println!("{} {kib} KiB", file.display());
    }
    Ok(())
}

/// A built guest kernel.
pub(crate) struct GuestKernel {
    dir: PathBuf,
}

impl GuestKernel {
    /// Builds the kernel unless this very one is there.
    pub(crate) fn ensure(ctx: &Context) -> Result<GuestKernel> {
        setup::ensure_packages(ctx)?;
        let source =
            Cmd::new("dpkg-query").args(["--show", "--showformat", "${Version}", SOURCE_PACKAGE]).read()?;
        let compiler = Cmd::new("gcc").arg("--version").read()?;
        let inputs = Inputs::new(RECIPE).text("source", &source).text("compiler", &compiler);
        let key = inputs.file(&ctx.path(FRAGMENT))?.tree(&ctx.path(PATCHES))?.key();
        let dir = match ctx.cache.find("kernel", &key) {
            Some(dir) => dir,
            None => {
                let step = ctx.progress.step(format!("building the guest kernel (Linux {source})"));
                let dir = ctx.cache.artefact("kernel", &key, &step, |out| build(ctx, &step, out))?;
                step.done();
                dir
            }
        };
        implied::check(&ctx.path(FRAGMENT), &ctx.path(IMPLIED), &dir.join("config"))?;
        ctx.cache.link_latest("kernel", &dir)?;
        Ok(GuestKernel { dir })
    }

    /// The ELF that the VMM starts.
    pub(crate) fn vmlinux(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }

    /// The same kernel for loaders that want the Linux boot protocol.
    pub(crate) fn bzimage(&self) -> PathBuf {
        self.dir.join("bzImage")
    }
}

fn build(ctx: &Context, step: &Step, out: &Path) -> Result<()> {
    let work = out.join("work");
    fs::create_dir(&work)?;
    step.note("unpacking the source");
    unpack(ctx, step, &work)?;
    for patch in patches(&ctx.path(PATCHES))? {
        // No fuzz: a patch that does not fit exactly is looked at by a person.
        let apply = ctx.cmd("patch", "kernel", step).args(["--strip=1", "--fuzz=0", "--directory"]);
        apply.arg(work.join(SOURCE_TREE)).arg("--input").arg(&patch).run()?;
    }
    let objects = work.join("objects");
    fs::create_dir(&objects)?;
    let make = || {
        let cmd = ctx.cmd("make", "kernel", step).dir(work.join(SOURCE_TREE)).arg("ARCH=x86_64");
        // MAKEFLAGS of a calling make (or cargo) carries a job server that is not ours.
        let cmd = cmd.arg(format!("O={}", objects.display())).env_remove("MAKEFLAGS").env("LC_ALL", "C");
        // The assembler works while the compiler does; warnings about Linux are for its authors, and cost time.
        let cmd = cmd.arg("KCFLAGS=-pipe -w");
        IDENTITY.iter().fold(cmd, |cmd, (name, value)| cmd.env(name, value))
    };
    let fragment = ctx.path(FRAGMENT);
    make().env("KCONFIG_ALLCONFIG", &fragment).arg("allnoconfig").run()?;
    check_config(&fragment, &objects.join(".config"))?;
    let jobs = std::thread::available_parallelism().context("count processors")?;
    // One more than processors: somebody always waits for the disk.
    make()
        .arg(format!("-j{}", jobs.get() + 1))
        .args(["vmlinux", "bzImage"])
        .expect_lines(EXPECTED_LINES)
        .run()?;

    keep(ctx, step, &objects, out)?;
    step.note("removing the build tree");
    cache::remove_tree(&work)
}

fn unpack(ctx: &Context, step: &Step, to: &Path) -> Result<()> {
    let tar =
        ctx.cmd("tar", "kernel", step).args(["--use-compress-program=xz --threads=0", "--no-same-owner"]);
    let tar = tar.arg("--directory").arg(to).args(["--anchored", "--wildcards"]);
    let tar = LEFT_OUT.iter().fold(tar, |tar, part| tar.arg(format!("--exclude={SOURCE_TREE}/{part}")));
    tar.arg("--extract").arg("--file").arg(setup::kernel_source()).run()
}

fn patches(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries: std::io::Result<Vec<_>> = fs::read_dir(folder).and_then(Iterator::collect);
    let entries = entries.with_context(|| format!("list {}", folder.display()))?;
    let mut patches: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    patches.sort();
    Ok(patches)
}

/// Takes what is wanted out of the build tree.
fn keep(ctx: &Context, step: &Step, objects: &Path, out: &Path) -> Result<()> {
    let strip = ctx.cmd("strip", "kernel", step).args(["--strip-all", "-o"]).arg(out.join("vmlinux"));
    strip.arg(objects.join("vmlinux")).run()?;
    for (from, to) in
        [("arch/x86/boot/bzImage", "bzImage"), (".config", "config"), ("System.map", "System.map")]
    {
        fs::copy(objects.join(from), out.join(to)).with_context(|| format!("keep the kernel's {from}"))?;
    }
    Ok(())
}

/// Kconfig drops what it does not know or whose dependencies are off without a word: refuse that.
fn check_config(fragment: &Path, result: &Path) -> Result<()> {
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
    let (requested, result) = (read(fragment)?, read(result)?);
    let lost = lost_options(&requested, &result);
    if lost.is_empty() {
        return Ok(());
    }
    bail!(
        "{} asks for options that did not take (a missing dependency, a new name?):\n{}",
        fragment.display(),
        lost.join("\n")
    )
}

/// The option lines of `fragment` that `result` does not confirm. "Is not set" is confirmed by absence, too.
fn lost_options<'a>(fragment: &'a str, result: &str) -> Vec<&'a str> {
    let kept = |line: &str| match line.strip_prefix("# ").and_then(|rest| rest.strip_suffix(" is not set")) {
        Some(option) => {
            !result.lines().any(|have| have.strip_prefix(option).is_some_and(|rest| rest.starts_with('=')))
        }
        None => result.lines().any(|have| have == line),
    };
    let is_option = |line: &&str| {
        line.starts_with("CONFIG_") || (line.starts_with("# CONFIG_") && line.ends_with(" is not set"))
    };
    fragment.lines().filter(is_option).filter(|line| !kept(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_did_not_take_are_named() {
        let fragment =
            "# why\nCONFIG_A=y\nCONFIG_B=4\n# CONFIG_C is not set\n# CONFIG_D is not set\nCONFIG_E=y\n";
        let result = "CONFIG_A=y\nCONFIG_B=5\n# CONFIG_C is not set\nCONFIG_D=y\nCONFIG_EE=y\n";
        assert_eq!(lost_options(fragment, result), ["CONFIG_B=4", "# CONFIG_D is not set", "CONFIG_E=y"]);
    }

    #[test]
    fn every_patch_says_why_before_it_begins() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(PATCHES);
        for patch in patches(&folder).unwrap() {
            let text = fs::read_to_string(&patch).unwrap();
            let (why, _) = text.split_once("\n--- ").unwrap();
            assert!(why.contains("licence"), "{} does not name its licence", patch.display());
        }
    }

    #[test]
    fn the_kept_kernel_is_stripped_and_complete() {
        let dir = tempfile::tempdir().unwrap();
        let ctx = Context {
            root: dir.path().to_owned(),
            cache: cache::Cache::at(&dir.path().join("cache")).unwrap(),
            progress: crate::progress::Progress::new(),
        };
        let (objects, out) = (dir.path().join("objects"), dir.path().join("out"));
        fs::create_dir_all(objects.join("arch/x86/boot")).unwrap();
        fs::create_dir(&out).unwrap();
        // Any ELF with symbols: ourselves.
        fs::copy(std::env::current_exe().unwrap(), objects.join("vmlinux")).unwrap();
        for name in ["arch/x86/boot/bzImage", ".config", "System.map"] {
            fs::write(objects.join(name), name).unwrap();
        }
        keep(&ctx, &ctx.progress.step("test"), &objects, &out).unwrap();
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        assert!(size(&out.join("vmlinux")) < size(&objects.join("vmlinux")));
        let kernel = GuestKernel { dir: out.clone() };
        assert!(kernel.vmlinux().is_file() && kernel.bzimage().is_file());
        assert_eq!(fs::read_to_string(out.join("config")).unwrap(), ".config");
    }

    #[test]
    fn every_option_of_our_fragment_is_named_once() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(FRAGMENT);
        let text = fs::read_to_string(root).unwrap();
        let mut names: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# ").unwrap_or(line).strip_prefix("CONFIG_"))
            .filter_map(|rest| rest.split(['=', ' ']).next())
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
