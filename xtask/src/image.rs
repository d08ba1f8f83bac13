//! The appliance's images, made by mkosi from `image/` in the tool chroot: the netboot pair (a kernel, and an initrd
//! that is the operating system with the payload appended) and the disk image (ESP with a unified kernel image, erofs
//! root, dm-verity). Everything is cached by the hash of its inputs; the operating system does not contain the payload,
//! so that a changed program costs a copy.

use crate::apt::{Apt, KEYRING};
use crate::context::Context;
use crate::cpio;
use crate::hash::Inputs;
use crate::payload::Payload;
use crate::progress::Step;
use crate::qemu::accel::Accelerator;
use crate::toolbox::{self, Toolbox};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Raise when the code below changes what comes out.
const RECIPE: &str = "image 1";
/// mkosi's lines for one image, most of them apt's and dpkg's.
const EXPECTED_LINES: u64 = 700;
/// Where mkosi looks for the profiles it is given.
const PROFILES: &str = "mkosi.profiles";
/// Partition and file system identifiers derive from it: the same inputs give the same image.
const SEED: &str = "7a1d3c52-6f0b-4c9e-9a55-7d1f0e2b4c11";
/// How the system is started, whoever loads the kernel (the disk's unified kernel image has the same from
/// `image/mkosi.profiles/disk`). `audit=0 quiet` halve the boot under emulation; without `no_timer_check` the kernel
/// panics when a busy host delays the first ticks of an emulated timer; any other panic restarts the node. Every mitigation
/// that the processor needs is on; guests that boot have huge pages; `/var` is memory
/// (docs/adr/0024-system-that-does-not-change.md). No `lockdown=`: a unit of the image's does that.
const KERNEL_COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=4 audit=0 no_timer_check panic=10 \
    mitigations=auto nosmt=force transparent_hugepage=always systemd.show_status=auto systemd.volatile=state";

/// An emulator forgets what it has translated of a guest's guest whenever that gives way, so that short turns at the processor are most
/// of what it does (docs/adr/0039-turns-that-end-in-time.md).
const LONG_TURNS: &str = " tinderbox.turns=kernel";

/// What the image raises lockdown by, from the root.
const LOCKDOWN: &str = "etc/tinderbox/lockdown.conf";

/// How the system is started when kernel and initrd are loaded directly.
pub(crate) fn command_line(accelerator: Accelerator) -> String {
    let turns = if accelerator == Accelerator::Emulated { LONG_TURNS } else { "" };
    format!("{KERNEL_COMMAND_LINE}{turns}")
}

/// Who an image is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Profile {
    /// What is shipped: no shell, no login.
    Production,
    /// Production with ssh and a few tools: for developers, tests of the VMM, benchmarks.
    Devtools,
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Who the netboot pair is for.
    #[arg(long, value_enum, default_value = "production")]
    profile: Profile,
    /// Build the disk image too.
    #[arg(long)]
    disk: bool,
}

pub(crate) fn run(args: &Args, ctx: &Context) -> Result<()> {
    let payload = Payload::ensure(ctx)?;
    let pair = Netboot::ensure(ctx, args.profile, &payload)?;
    let mut files = vec![pair.kernel, pair.initrd];
    if args.disk {
        files.push(disk(ctx, &payload)?);
    }
    for file in files {
        println!("{} {} KiB", file.display(), fs::metadata(&file)?.len() >> 10);
    }
    Ok(())
}

/// Kernel and initrd of a whole appliance.
pub(crate) struct Netboot {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
}

impl Netboot {
    /// Builds the pair unless this very one is there.
    pub(crate) fn ensure(ctx: &Context, profile: Profile, payload: &Payload) -> Result<Netboot> {
        let system = Build::new(ctx, "netboot", &["netboot", profile.name()])?.ensure(ctx)?;
        let parts = [system.join("netboot.cpio"), system.join("netboot.vmlinuz")];
        let key = Inputs::new(RECIPE)
            .text("system", &file_name(&system))
            .text("payload", &file_name(payload.root()));
        let step = ctx.progress.step("appending the payload to the system");
        let pair = ctx.cache.artefact("netboot", &key.key(), &step, |out| {
            with_tree(&parts[0], payload.root(), &out.join("initrd"))?;
            fs::copy(&parts[1], out.join("vmlinuz")).context("copy the kernel").map(drop)
        })?;
        Ok(Netboot { kernel: pair.join("vmlinuz"), initrd: pair.join("initrd") })
    }
}

/// Writes an initrd with a tree laid over it; the new file's path.
pub(crate) fn with_tree(initrd: &Path, tree: &Path, out: &Path) -> Result<PathBuf> {
    let mut bytes = fs::read(initrd).with_context(|| format!("read {}", initrd.display()))?;
    bytes.resize(bytes.len().next_multiple_of(cpio::ALIGN), 0);
    bytes.extend(cpio::of_tree(tree)?);
    fs::write(out, bytes).with_context(|| format!("write {}", out.display()))?;
    Ok(out.to_owned())
}

/// The production disk image with this payload.
pub(crate) fn disk(ctx: &Context, payload: &Payload) -> Result<PathBuf> {
    let initrd = Build { config: "image/initrd", ..Build::new(ctx, "initrd", &[])? }
        .ensure(ctx)?
        .join("initrd.cpio.zst");
    let build = Build {
        initrd: Some(initrd),
        payload: Some(payload.root().to_owned()),
        ..Build::new(ctx, "disk", &["disk", Profile::Production.name()])?
    };
    Ok(build.ensure(ctx)?.join("disk.raw"))
}

impl Profile {
    /// The name of the mkosi profile.
    fn name(self) -> &'static str {
        match self {
            Profile::Production => "production",
            Profile::Devtools => "devtools",
        }
    }
}

/// One run of mkosi.
struct Build {
    /// What comes out, for messages and as the cache's kind.
    what: &'static str,
    profiles: Vec<&'static str>,
    /// The folder with `mkosi.conf`.
    config: &'static str,
    toolbox: Toolbox,
    initrd: Option<PathBuf>,
    payload: Option<PathBuf>,
}

impl Build {
    fn new(ctx: &Context, what: &'static str, profiles: &[&'static str]) -> Result<Build> {
        let toolbox = Toolbox::ensure(ctx)?;
        Ok(Build { what, profiles: profiles.into(), config: "image", toolbox, initrd: None, payload: None })
    }

    /// The folder with what mkosi made.
    fn ensure(&self, ctx: &Context) -> Result<PathBuf> {
        let mut inputs = Inputs::new(RECIPE)
            .text("seed", SEED)
            .text("profiles", &self.profiles.join(","))
            .text("tools", &file_name(self.toolbox.root().parent().unwrap_or(self.toolbox.root())));
        for (name, path) in self.sources(ctx)? {
            inputs = inputs.text("source", &name).tree(&path)?;
        }
        for (name, part) in [("initrd", &self.initrd), ("payload", &self.payload)] {
            if let Some(part) = part {
                inputs = inputs.text(name, "").tree(part)?;
            }
        }
        let (kind, key) = (format!("image-{}", self.what), inputs.key());
        if let Some(made) = ctx.cache.find(&kind, &key) {
            return Ok(made);
        }
        let profile = self.profiles.last().map_or(String::new(), |profile| format!(" ({profile})"));
        let step = ctx.progress.step(format!("building the appliance: {}{profile}", self.what));
        let made = ctx.cache.artefact(&kind, &key, &step, |out| self.make(ctx, &step, out))?;
        step.done();
        Ok(made)
    }

    /// What mkosi reads of its folder, which also holds runtimes (no part of the system) and the profiles
    /// of other images.
    fn sources(&self, ctx: &Context) -> Result<Vec<(String, PathBuf)>> {
        let folder = ctx.path(self.config);
        let entries = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
        let mut names: Vec<String> = self.profiles.iter().map(|name| format!("{PROFILES}/{name}")).collect();
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with("mkosi.") && name != PROFILES {
                names.push(name);
            }
        }
        names.sort();
        Ok(names.into_iter().map(|name| (name.clone(), folder.join(name))).collect())
    }

    fn make(&self, ctx: &Context, step: &Step, out: &Path) -> Result<()> {
        let work = ctx.cache.dir("mkosi")?;
        // Package downloads and package trees are shared by all images and survive a changed configuration.
        let _lock = ctx.cache.lock("mkosi", step)?;
        let folder = |name: &str| ctx.cache.dir(&format!("mkosi/{name}"));
        let (packages, workspace) = (folder("packages")?, folder("workspace")?);
        let trees = folder(&format!("trees-{}-{}", self.what, self.profiles.last().unwrap_or(&"")))?;
        let sandbox = folder("sandbox")?;
        write_apt_sources(&sandbox)?;
        let config = ctx.path(self.config);
        let mut args = vec!["--force".to_owned(), "--incremental=yes".into(), format!("--seed={SEED}")];
        let mut option = |name: &str, value: &Path| args.push(format!("--{name}={}", value.display()));
        option("directory", &config);
        option("sandbox-tree", &sandbox);
        option("package-cache-dir", &packages);
        option("cache-dir", &trees);
        option("workspace-dir", &workspace);
        option("output-dir", out);
        let mut binds = vec![config.as_path(), work.as_path(), out, Path::new("/etc/resolv.conf")];
        if let Some(initrd) = &self.initrd {
            option("initrd", initrd);
            binds.push(initrd);
        }
        if let Some(payload) = &self.payload {
            option("extra-tree", payload);
            binds.push(payload);
        }
        args.extend(self.profiles.iter().map(|profile| format!("--profile={profile}")));
        args.push("build".into());
        let cmd = self.toolbox.cmd("mkosi", args, &binds).log(ctx.cache.log("image")).step(step);
        cmd.expect_lines(EXPECTED_LINES).run().context("build the image with mkosi")
    }
}

/// mkosi would write sources that name Debian's debug archive, which mirrors seldom carry: ours are the host's own.
fn write_apt_sources(sandbox: &Path) -> Result<()> {
    let folder = sandbox.join("etc/apt/sources.list.d");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let mut text = String::new();
    for line in toolbox::sources(&Apt::of_host()?)?.lines() {
        let mut words = line.split(' ');
        if let (Some(kind), Some(uri), Some(suite), Some(component)) =
            (words.next(), words.next(), words.next(), words.next())
        {
            text += &format!(
                "Types: {kind}\nURIs: {uri}\nSuites: {suite}\nComponents: {component}\nSigned-By: {KEYRING}\n\n"
            );
        }
    }
    fs::write(folder.join("mkosi.sources"), text).context("write mkosi's apt sources")
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What makes a node one on which something can be measured that a closed one keeps to itself, by tracing its kernel: a file,
/// by its path, to lay over the system's.
pub(crate) fn traceable(ctx: &Context) -> Result<(&'static str, String)> {
    let path = ctx.path(format!("image/mkosi.extra/{LOCKDOWN}"));
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok((LOCKDOWN, as_traceable(&text)))
}

/// Root may read the kernel's memory, and not change it.
fn as_traceable(lockdown: &str) -> String {
    lockdown.replace("confidentiality", "integrity")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_measured_differs_by_one_word() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/mkosi.extra").join(LOCKDOWN);
        let text = fs::read_to_string(path).unwrap();
        let traceable = as_traceable(&text);
        let differ =
            text.split_whitespace().zip(traceable.split_whitespace()).filter(|(one, other)| one != other);
        assert_eq!(differ.collect::<Vec<_>>(), [("confidentiality", "integrity")]);
    }

    #[test]
    fn both_forms_of_the_system_are_started_alike() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/mkosi.profiles/disk/mkosi.conf");
        let text = fs::read_to_string(path).unwrap();
        let (_, lines) = text.split_once("KernelCommandLine=\n").unwrap();
        let words: Vec<&str> = lines.lines().map_while(|line| line.strip_prefix("    ")).collect();
        let verity = format!("{KERNEL_COMMAND_LINE} systemd.verity_root_options=panic-on-corruption");
        assert_eq!(words.join(" "), verity, "only a disk can be changed behind its hashes");
    }
}
