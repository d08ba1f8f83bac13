//! Makes a Debian 12 machine able to build and test: packages and the tool chroot. Quick when there is nothing to do,
//! so every command that needs it simply calls [`ensure_packages`].

use crate::apt::{self, Apt, KEYRING};
use crate::cmd::{Cmd, is_root};
use crate::context::Context;
use crate::toolbox::Toolbox;
use anyhow::{Context as _, Result, bail};
use std::path::Path;

/// From the release itself.
const PACKAGES: &[&str] = &[
    // guest kernel
    "bc",
    "bison",
    "flex",
    "gcc",
    "libc6-dev",
    "libelf-dev",
    "libssl-dev",
    "make",
    "patch",
    "xz-utils",
    "zstd",
    "cpio",
    // tool chroot, and what enters it
    "mmdebstrap",
    "util-linux",
    "debian-archive-keyring",
    // the fuzz targets' driver
    "g++",
    // booting the appliance
    "openssh-client",
    "ovmf",
    // the gateway's tests
    "iproute2",
    "nftables",
    // the tests' clients (boto3 and version 1 of the aws CLI come by pip, into a venv)
    "awscli",
    "python3-venv",
    "curl",
];
/// From backports: QEMU 10 emulates nested SVM well, and 6.12 is the guest's kernel.
const BACKPORTS: &[&str] = &["linux-source-6.12", "qemu-system-x86", "qemu-utils"];
/// Written only when the machine has no backports.
const BACKPORTS_SOURCE: &str = "/etc/apt/sources.list.d/tinderbox-backports.sources";

#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args, ctx: &Context) -> Result<()> {
    ensure_packages(ctx)?;
    let toolbox = Toolbox::ensure(ctx)?;
    ctx.progress.say(format!("packages are installed; image tools are in {}", toolbox.root().display()));
    Ok(())
}

/// Installs what is missing, saying so first; without the right to, prints the command that would and fails.
pub(crate) fn ensure_packages(ctx: &Context) -> Result<()> {
    let missing = apt::missing(PACKAGES)?;
    let missing_backports = apt::missing(BACKPORTS)?;
    if missing.is_empty() && missing_backports.is_empty() {
        return Ok(());
    }
    let apt = Apt::of_host()?;
    if apt.codename() != "bookworm" {
        bail!(
            "this machine is Debian {}, setup knows bookworm; install yourself: {}",
            apt.codename(),
            [missing, missing_backports].concat().join(" ")
        );
    }
    let plan = Plan::new(&apt, missing, missing_backports)?;
    ctx.progress.say(plan.announcement());
    if !is_root() && !Cmd::new("sudo").args(["-n", "true"]).succeeds() {
        bail!("not root, and sudo asks for a password. Run this, then start again:\n{}", plan.shell_lines());
    }
    plan.carry_out(ctx)
}

/// What is to be done to the machine.
struct Plan {
    suite: String,
    /// Content of [`BACKPORTS_SOURCE`], if it has to be written.
    source: Option<String>,
    packages: Vec<&'static str>,
    backports: Vec<&'static str>,
}

impl Plan {
    fn new(apt: &Apt, packages: Vec<&'static str>, backports: Vec<&'static str>) -> Result<Plan> {
        let suite = format!("{}-backports", apt.codename());
        let source = if backports.is_empty() || apt.has_suite(&suite) {
            None
        } else {
            Some(format!(
                "Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n",
                apt.mirror()?
            ))
        };
        Ok(Plan { suite, source, packages, backports })
    }

    fn announcement(&self) -> String {
        let mut text = format!("Installing Debian packages: {}", self.packages.join(" "));
        if !self.backports.is_empty() {
            text += &format!("\nand from {}: {}", self.suite, self.backports.join(" "));
        }
        if self.source.is_some() {
            text += &format!("\nafter adding {} to apt's sources ({BACKPORTS_SOURCE})", self.suite);
        }
        text
    }

    /// The same by hand.
    fn shell_lines(&self) -> String {
        let mut lines = Vec::new();
        if let Some(source) = &self.source {
            lines.push(format!("sudo tee {BACKPORTS_SOURCE} >/dev/null <<'EOF'\n{source}EOF"));
        }
        lines.push("sudo apt-get update".to_owned());
        for args in self.installs() {
            lines.push(format!("sudo apt-get {}", args.join(" ")));
        }
        lines.join("\n")
    }

    fn carry_out(&self, ctx: &Context) -> Result<()> {
        let step = ctx.progress.step("installing Debian packages");
        let _lock = ctx.cache.lock("setup", &step)?;
        let apt_get = || {
            let cmd = Cmd::privileged("env").args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]);
            // Another apt (unattended upgrades) may hold the lock: wait for it, but not for ever.
            cmd.args(["-o", "DPkg::Lock::Timeout=300"]).log(ctx.cache.log("setup")).step(&step)
        };
        if let Some(source) = &self.source {
            let write = Cmd::privileged("tee").arg(BACKPORTS_SOURCE).stdin(source.as_str());
            write.run().context("add backports to apt's sources")?;
        }
        apt_get().arg("update").run()?;
        for args in self.installs() {
            apt_get().args(args).run()?;
        }
        step.done();
        Ok(())
    }

    fn installs(&self) -> Vec<Vec<&str>> {
        let common = ["install", "--yes", "--no-install-recommends"];
        let mut installs = Vec::new();
        if !self.packages.is_empty() {
            installs.push([&common[..], &self.packages].concat());
        }
        if !self.backports.is_empty() {
            installs.push([&common[..], &["-t", &self.suite], &self.backports].concat());
        }
        installs
    }
}

/// The kernel source that [`BACKPORTS`] installs.
pub(crate) fn kernel_source() -> &'static Path {
    Path::new("/usr/src/linux-source-6.12.tar.xz")
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "main/binary-amd64/Packages.xz' x 0 ";

    fn apt(suites: &[&str]) -> Apt {
        let lines: Vec<String> =
            suites.iter().map(|suite| format!("'http://deb.test/d/dists/{suite}/{INDEX}")).collect();
        Apt::new("bookworm", &lines.join("\n"))
    }

    #[test]
    fn backports_are_added_from_the_host_s_own_mirror_when_they_are_needed_and_missing() {
        let plan = Plan::new(&apt(&["bookworm"]), vec!["bc"], vec!["qemu-utils"]).unwrap();
        let lines = plan.shell_lines();
        assert!(lines.contains("URIs: http://deb.test/d\nSuites: bookworm-backports\n"), "{lines}");
        assert!(lines.contains("--no-install-recommends bc\n"), "{lines}");
        assert!(lines.ends_with("-t bookworm-backports qemu-utils"), "{lines}");
        assert!(plan.announcement().contains(BACKPORTS_SOURCE));
    }

    #[test]
    fn nothing_is_added_to_a_machine_that_has_backports_or_needs_none() {
        let has = Plan::new(&apt(&["bookworm", "bookworm-backports"]), vec![], vec!["qemu-utils"]).unwrap();
        let needs_none = Plan::new(&apt(&["bookworm"]), vec!["bc"], vec![]).unwrap();
        assert!(has.source.is_none() && needs_none.source.is_none());
    }
}
