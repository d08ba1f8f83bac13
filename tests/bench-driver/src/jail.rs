//! What a jail costs: processor time from a request to the launcher to the end of a `vmm` that is told to end at once, against that of
//! the same program started by a plain fork; and what is left of it for a machine that waits blank, from the request to load a
//! snapshot to the answer. The launcher is one of our own, in a control group of its own, which counts the time of all that was ever
//! in it.

use std::{
    fs,
    io::Read as _,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use jail::launch::{ANSWER_FDS, Allotment, Answer, MAX_ANSWER_LEN};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, socketpair},
};

use crate::{
    Figure, hand,
    node::{SETTLE, rest},
    ours::{Jailed, Kept, Vmm},
    plan::Plan,
    server::Server,
    snapshot::{SHAPE, rested},
};

/// Counts both.
const GROUP: &str = "/sys/fs/cgroup/bench-jail";
/// On the disk that sandboxes use.
const STATE_DIR: &str = "/var/lib/tinderbox";
const CONTROLLERS: &str = "cpu,io,memory,pids";
/// That of a function of the smallest size.
const ALLOTMENT: Allotment = Allotment { memory_mib: 296, cpu_weight: 7, cpu_percent: 200 };

pub(crate) fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let _inside = Inside::enter()?;
    let launcher = Launcher::open(plan)?;
    // The first one meets a page cache without its program, and a launcher that has prepared nothing.
    launcher.start_one()?;
    rest(SETTLE);
    let jailed_us = mean_us(plan.jailed_starts, || launcher.start_one())?;
    let plain_us = mean_us(plan.jailed_starts, || start_plainly(plan))?;
    let mut figures = vec![
        Figure::new("jailed_start_cpu", "us", vec![jailed_us]),
        Figure::new("plain_start_cpu", "us", vec![plain_us]),
        Figure::new("jail_cpu_per_start", "us", vec![jailed_us - plain_us]),
    ];
    figures.extend(measure_blank(plan, &launcher)?);
    Ok(figures)
}

/// Machines of both kinds take turns.
fn measure_blank(plan: &Plan, launcher: &Launcher) -> Result<[Figure; 3]> {
    let folder = std::env::temp_dir().join("bench-blank");
    fs::create_dir_all(&folder).context("make the folder of the snapshot")?;
    let snapshot = rested(plan, &folder)?;
    let (mut jailed, mut plain, mut differences) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.loads {
        let in_jail = load_us(launcher.start_blank()?, &snapshot)?;
        let without = load_us(Vmm::spawn(plan)?, &snapshot)?;
        differences.push(in_jail - without);
        jailed.push(in_jail);
        plain.push(without);
    }
    fs::remove_dir_all(&folder).context("remove the snapshot")?;
    Ok([
        Figure::new("jailed_blank_load_cpu", "us", jailed),
        Figure::new("plain_blank_load_cpu", "us", plain),
        Figure::new("jail_cpu_per_blank_load", "us", differences),
    ])
}

/// Processor time of the group while this machine, which has nothing to do before, becomes a clone.
fn load_us(vmm: Vmm, snapshot: &Kept) -> Result<f64> {
    vmm.prepare(SHAPE)?;
    let handed = snapshot.handed()?;
    rest(SETTLE);
    let before = usage_us()?;
    vmm.load(&handed)?;
    Ok(usage_us()? - before)
}

/// Processor time of the group for each of so many.
fn mean_us(times: u32, start: impl Fn() -> Result<()>) -> Result<f64> {
    let before = usage_us()?;
    (0..times).try_for_each(|_| start())?;
    // What the launcher does behind its answer is part of the price.
    rest(SETTLE);
    Ok((usage_us()? - before) / f64::from(times))
}

/// `usage_usec` of the group.
fn usage_us() -> Result<f64> {
    let text = fs::read_to_string(format!("{GROUP}/cpu.stat")).context("read the group's time")?;
    let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    line.and_then(|number| number.parse().ok()).context("the group counts no time")
}

struct Launcher(Server);

impl Launcher {
    fn open(plan: &Plan) -> Result<Self> {
        let mut command = hand::launcher(&plan.launcher)?;
        command
            .arg("--program")
            .arg(&plan.vmm)
            .args(["--group", GROUP, "--controllers", CONTROLLERS, "--agent", "0"])
            .args(["--disks", STATE_DIR, "--disk-mib-per-s", "512", "--disk-ops-per-s", "20000"]);
        Server::start(&mut command, "launcher").map(Self)
    }

    /// Has a process started that is told to end, and waits until it has.
    fn start_one(&self) -> Result<()> {
        let (control, Jailed { end: _end, mut status }) = self.start()?;
        drop(control);
        let mut ended = Vec::new();
        status.read_to_end(&mut ended)?;
        ensure!(ended == [0; 4], "the process ended with {ended:?}");
        Ok(())
    }

    /// Has one started that waits for what it is to be.
    fn start_blank(&self) -> Result<Vmm> {
        let (control, process) = self.start()?;
        Ok(Vmm::jailed(control, process))
    }

    fn start(&self) -> Result<(OwnedFd, Jailed)> {
        let (ours, theirs) = control()?;
        let (_said, stderr) = std::io::pipe().context("make a pipe")?;
        let fds = [theirs.as_fd(), stderr.as_fd()];
        let (answer, fds) = self.0.ask(&ALLOTMENT.to_request(), &fds, MAX_ANSWER_LEN)?;
        match Answer::from_packet(&answer)? {
            Answer::Started { .. } => {}
            Answer::Failed { text } => bail!("the launcher started nothing: {text}"),
        }
        let [end, status, _quota] = <[OwnedFd; ANSWER_FDS]>::try_from(fds).map_err(|_| Errno::EBADMSG)?;
        Ok((ours, Jailed { end: end.into(), status: status.into() }))
    }
}

/// The same program by a plain fork, in the same group.
fn start_plainly(plan: &Plan) -> Result<()> {
    let (ours, theirs) = control()?;
    let mut child = Command::new(&plan.vmm)
        .args(["--control-fd", "0"])
        .stdin(Stdio::from(theirs))
        .spawn()
        .context("start a VMM")?;
    drop(ours);
    let status = child.wait().context("wait for a VMM")?;
    ensure!(status.success(), "a VMM ended with {status}");
    Ok(())
}

/// This process is in the group, and so is all that it starts, until this is dropped.
struct Inside {
    before: PathBuf,
}

impl Inside {
    fn enter() -> Result<Self> {
        let text = fs::read_to_string("/proc/self/cgroup").context("read this process's group")?;
        let path =
            text.trim_end().strip_prefix("0::/").context("this process is in no group of version 2")?;
        let place = Path::new(GROUP).join("starter");
        fs::create_dir_all(&place).context("make a control group")?;
        move_to(&place)?;
        Ok(Self { before: Path::new("/sys/fs/cgroup").join(path) })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // The group is there as long as its unit runs, which is this process.
        let _ = move_to(&self.before);
    }
}

fn move_to(group: &Path) -> Result<()> {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string()).context("enter a control group")
}

fn control() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .context("make a socket pair")
}
