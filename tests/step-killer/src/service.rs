//! The agent's service on this host and the sandboxes that it has: their processes, by control group.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::unistd::Pid;

/// The unit.
pub(crate) const UNIT: &str = "tinderbox-agent.service";
const GROUP: &str = "/sys/fs/cgroup/system.slice/tinderbox-agent.service";
const SANDBOXES: &str = "/sys/fs/cgroup/system.slice/tinderbox-launcher.service/sandboxes";
/// Every service is a child of it.
const SYSTEMD: i32 = 1;
/// `cgroup.events` has two lines.
const MAX_EVENTS_LEN: usize = 256;

/// A process of the service, or of a sandbox.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    parent: i32,
    /// File name of its program; empty when it has ended.
    pub(crate) program: String,
}

/// The processes of the service and of its sandboxes; none when it does not run.
pub(crate) fn processes() -> Vec<Process> {
    let sandboxes = fs::read_dir(SANDBOXES).into_iter().flatten().flatten().map(|entry| entry.path());
    let groups = std::iter::once(PathBuf::from(GROUP)).chain(sandboxes.filter(|path| path.is_dir()));
    let text: String =
        groups.map(|group| fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default()).collect();
    text.lines().filter_map(|line| Process::new(line.parse().ok()?)).collect()
}

/// The agent.
pub(crate) fn agent() -> Result<Pid> {
    let agent = processes().into_iter().find(|process| process.parent == SYSTEMD);
    Ok(agent.context("the agent does not run")?.pid)
}

/// The `vmm` that runs a function's code: of several, the one that was started last. One that waits for what it will be
/// has no code.
pub(crate) fn vmm_with_code() -> Result<Pid> {
    let running = processes().into_iter().filter(|process| process.program == "vmm" && process.has_code());
    running.map(|process| process.pid).max().context("no vmm runs a function's code")
}

/// Whether a process is one of the service, or of a sandbox.
pub(crate) fn has(pid: i32) -> bool {
    let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let group = format!("/sys/fs/cgroup{}", group.trim_end().trim_start_matches("0::"));
    group == GROUP || group.starts_with(SANDBOXES)
}

impl Process {
    fn new(pid: i32) -> Option<Self> {
        // The fields behind the name, which is in parentheses and may have any in itself: state, parent.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let program = program.file_name().map(|name| name.to_string_lossy().into_owned());
        Some(Self { pid: Pid::from_raw(pid), parent, program: program.unwrap_or_default() })
    }

    fn has_code(&self) -> bool {
        let Ok(files) = fs::read_dir(format!("/proc/{}/fd", self.pid)) else { return false };
        let mut targets = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        // Copies of its chunks.
        targets.any(|target| target.parent().is_some_and(|dir| dir.ends_with("chunks/cache")))
    }
}

/// The end of all processes that there are now.
#[derive(Debug)]
pub(crate) struct End {
    /// Become ready with `POLLPRI` when a group becomes empty, or is no more so.
    pub(crate) events: [File; 2],
    pids: Vec<Pid>,
}

impl End {
    pub(crate) fn of(processes: &[Process]) -> Result<Self> {
        let open = |group: &str| {
            let path = Path::new(group).join("cgroup.events");
            File::open(&path).with_context(|| format!("open {}", path.display()))
        };
        let pids = processes.iter().map(|process| process.pid).collect();
        Ok(Self { events: [open(GROUP)?, open(SANDBOXES)?], pids })
    }

    /// Whether all have ended. To be asked before each wait: it is what makes [`Self::events`] ready once more.
    pub(crate) fn has_come(&self) -> io::Result<bool> {
        for events in &self.events {
            match events.read_at(&mut [0; MAX_EVENTS_LEN], 0) {
                Ok(_) => {}
                // The group was removed.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => {}
                Err(error) => return Err(error),
            }
        }
        // The next agent may be in the group already.
        Ok(!processes().iter().any(|process| self.pids.contains(&process.pid)))
    }
}
