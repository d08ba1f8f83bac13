//! The tool chroot: Debian trixie with mkosi, systemd's image tools and erofs-utils, which bookworm has too old or not at
//! all. Made once by mmdebstrap; programs run in it in their own mount and PID namespace. No service runs there.

use crate::apt::{Apt, KEYRING};
use crate::cmd::Cmd;
use crate::context::Context;
use crate::hash::Inputs;
use crate::progress::Step;
use crate::setup;
use anyhow::{Context as _, Result};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The release the tools, the appliance and the runtimes are made of.
pub(crate) const SUITE: &str = "trixie";
/// Raise when the recipe below changes, or to take newer packages of the release.
const RECIPE: &str = "toolchroot 1";
const PACKAGES: &[&str] = &[
    "ca-certificates",
    "cpio",
    "cryptsetup-bin",
    "debian-archive-keyring",
    "dosfstools",
    "e2fsprogs",
    "erofs-utils",
    "fdisk",
    "gnupg",
    "jq",
    "kmod",
    "mkosi",
    "mtools",
    "openssl",
    "python3-cryptography",
    "python3-pefile",
    "sbsigntool",
    "squashfs-tools",
    "systemd",
    "systemd-boot-efi",
    "systemd-container",
    "systemd-cryptsetup",
    "systemd-repart",
    "systemd-ukify",
    "uidmap",
    "xz-utils",
    "zstd",
];
/// mmdebstrap writes about this many lines, one a phase.
const EXPECTED_LINES: u64 = 10;

/// The chroot, ready to run programs.
pub(crate) struct Toolbox {
    root: PathBuf,
}

impl Toolbox {
    /// Makes the chroot unless it is there.
    pub(crate) fn ensure(ctx: &Context) -> Result<Toolbox> {
        let key = Inputs::new(RECIPE).text("packages", &PACKAGES.join(" ")).key();
        if let Some(root) = ctx.cache.find("toolchroot", &key) {
            return Ok(Toolbox { root: root.join("root") });
        }
        setup::ensure_packages(ctx)?;
        let step = ctx.progress.step(format!("making the tool chroot (Debian {SUITE})"));
        let made =
            ctx.cache.artefact("toolchroot", &key, &step, |out| make(ctx, &step, &out.join("root")))?;
        step.done();
        Ok(Toolbox { root: made.join("root") })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A program of the chroot, with each of `binds` visible at its own path. It runs as root, with /proc, /dev and
    /// /sys, and sees the rest of the host not at all.
    pub(crate) fn cmd<I: IntoIterator<Item: AsRef<OsStr>>>(
        &self,
        program: &str,
        args: I,
        binds: &[&Path],
    ) -> Cmd {
        // The script is constant: paths and arguments reach it as parameters and are never parsed by the shell.
        const ENTER: &str = r#"
            set -e; root=$1; count=$2; shift 2
            mount --make-rprivate /
            mount --bind "$root" "$root"
            mount -t proc proc "$root/proc"
            mount --rbind /dev "$root/dev"
            mount --rbind /sys "$root/sys"
            mount -t tmpfs -o mode=1777 tmpfs "$root/run"
            while [ "$count" -gt 0 ]; do
                if [ -d "$1" ]; then mkdir -p "$root$1"; else mkdir -p "$root${1%/*}"; : >>"$root$1"; fi
                mount --rbind "$1" "$root$1"; shift; count=$((count-1))
            done
            exec chroot "$root" /usr/bin/env -i HOME=/root TERM=dumb LC_ALL=C.UTF-8 \
                PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@""#;
        let cmd = Cmd::privileged("unshare").args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            ENTER,
            "sh",
        ]);
        let cmd = cmd.arg(&self.root).arg(binds.len().to_string()).args(binds);
        cmd.arg(program).args(args)
    }
}

fn make(ctx: &Context, step: &Step, root: &Path) -> Result<()> {
    let sources = sources(&Apt::of_host()?)?;
    let cmd = Cmd::privileged("mmdebstrap")
        .args(["--variant=apt", "--mode=root", "--format=directory"])
        .arg(format!("--include={}", PACKAGES.join(",")))
        .args(["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*"])
        .arg(format!("--keyring={KEYRING}"))
        .arg(SUITE)
        .arg(root)
        .arg("-")
        .stdin(sources);
    let cmd = cmd.log(ctx.cache.log("toolchroot")).step(step).expect_lines(EXPECTED_LINES);
    cmd.run().with_context(|| format!("make the tool chroot {}", root.display()))
}

/// apt's sources for our release, from where this machine takes its own.
pub(crate) fn sources(apt: &Apt) -> Result<String> {
    let mut lines = format!("deb {} {SUITE} main\n", apt.mirror()?);
    if let Some(security) = apt.security_mirror() {
        lines += &format!("deb {security} {SUITE}-security main\n");
    }
    Ok(lines)
}
