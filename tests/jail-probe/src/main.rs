//! Has a `vmm` that turns hostile (its feature of that name) try, from inside its jail, what somebody would who took it over, one thing a
//! process, and says what came of each.
//!
//! ```text
//! jail-probe LAUNCHER VMM    starts that launcher with that vmm and writes {"room": {"ATTEMPT": "OUTCOME", …}, "vcpu": …}
//! ```
//!
//! * `room`: before it has confined itself, as if it had forgotten to: what the launcher's jail alone withstands.
//! * `vcpu`, `io`: that thread of a machine that runs, with a guest of a few instructions that says so on its serial port, a drive and
//!   a socket device: what the `vmm` puts on itself comes to it.
//! * `restored vcpu`, `restored io`, `restored pager`: that thread of a machine that was prepared and then loaded from a snapshot.
//!
//! An outcome is the kernel's error, `SIGSYS` for a process that the filter ended, `SIGKILL` for one that took too much, or `done …`.

mod disks;
mod launcher;
mod machine;
mod restored;
mod room;

use std::collections::BTreeMap;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};

use launcher::{Launcher, Sandbox};
use machine::Speaker;
use restored::Snapshot;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [launcher, vmm] = &arguments[..] else { bail!("usage: jail-probe LAUNCHER VMM") };
    run(launcher.as_ref(), vmm.as_ref())
}

fn run(launcher: &Path, vmm: &Path) -> Result<()> {
    let dir = tempfile::tempdir().context("make a directory")?;
    launcher::be_as_a_service(dir.path()).context("make a mount namespace")?;
    let hosts = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let name = UnixAddr::new_abstract(attempts::HOSTS_SOCKET).context("name a socket")?;
    bind(hosts.as_raw_fd(), &name).context("bind a socket of the host")?;
    let launcher = Launcher::start(launcher, vmm, dir.path())?;
    let snapshot = &Snapshot::take(&launcher).context("take a snapshot")?;
    let booted = |speaker| move |sandbox: &mut Sandbox, name: &str| machine::attempt(sandbox, speaker, name);
    let restored =
        |speaker| move |sandbox: &mut Sandbox, name: &str| snapshot.attempt(sandbox, speaker, name);
    let places: [(&str, &Attempt<'_>); 6] = [
        ("room", &room::attempt),
        ("vcpu", &booted(Speaker::Vcpu)),
        ("io", &booted(Speaker::Io)),
        ("restored vcpu", &restored(Speaker::Vcpu)),
        ("restored io", &restored(Speaker::Io)),
        ("restored pager", &restored(Speaker::Pager)),
    ];
    let mut report = BTreeMap::new();
    for (name, attempt) in places {
        report.insert(name, every(&launcher, attempt).with_context(|| name.to_owned())?);
    }
    let status = launcher.end()?;
    println!("{}", serde_json::json!({ "outcomes": report, "launcher": status.to_string() }));
    Ok(())
}

/// Tries one thing in a sandbox; what the `vmm` says of it, or nothing if it was ended.
type Attempt<'a> = dyn Fn(&mut Sandbox, &str) -> Result<Option<String>> + 'a;

fn every(launcher: &Launcher, attempt: &Attempt<'_>) -> Result<BTreeMap<&'static str, String>> {
    let mut outcomes = BTreeMap::new();
    for name in attempts::names() {
        let mut sandbox = launcher.sandbox().with_context(|| name.to_owned())?;
        let said = attempt(&mut sandbox, name).with_context(|| name.to_owned())?;
        let status = sandbox.end().with_context(|| name.to_owned())?;
        let outcome = match said {
            Some(said) => said,
            None => {
                let signal = Signal::try_from(status & 0x7f);
                ensure!(signal.is_ok(), "{name}: it ended with status {status}");
                signal.map(|signal| signal.to_string())?
            }
        };
        outcomes.insert(name, outcome);
    }
    Ok(outcomes)
}
