//! The function's cgroup: what it may use, what it has used, and the switches that stop and end it. And the one of the
//! executables in `restore.d`, which run while the function's stands still.

use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sys::uio::pread;
use tokio::io::Interest;

use crate::watch::watched;

/// Lambda's quota for processes and threads of a function.
const MAX_PROCESSES: u32 = 1024;

const MIB: u64 = 1024 * 1024;

/// Controllers that the function's cgroup needs.
const CONTROLLERS: &str = "+memory +pids";

/// Memory of the executables in `restore.d` together, MiB: on top of the function's.
const HOOKS_MEMORY_MIB: u32 = 64;

/// Processes and threads of theirs.
const HOOKS_PROCESSES: u32 = 64;

/// Longest `cgroup.events` looked at: it has two short lines.
const MAX_EVENTS_LEN: usize = 256;

/// A cgroup of user code. guest-init itself stays in the root, which has no limits.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// The function's, below the mounted hierarchy; without a limit on memory yet.
    ///
    /// # Errors
    /// When the kernel lacks a controller.
    pub fn function(hierarchy: &Path) -> io::Result<Self> {
        write(&hierarchy.join("cgroup.subtree_control"), CONTROLLERS)?;
        Self::create(hierarchy.join("function"), MAX_PROCESSES)
    }

    /// That of the executables in `restore.d`. After [`Cgroup::function`].
    ///
    /// # Errors
    /// When the kernel lacks a controller.
    pub fn hooks(hierarchy: &Path) -> io::Result<Self> {
        let cgroup = Self::create(hierarchy.join("hooks"), HOOKS_PROCESSES)?;
        cgroup.limit_memory(HOOKS_MEMORY_MIB)?;
        Ok(cgroup)
    }

    fn create(dir: PathBuf, max_processes: u32) -> io::Result<Self> {
        fs::create_dir(&dir)?;
        let cgroup = Self { dir };
        // One process killed for memory leaves a function in no state to go on: end all of them.
        cgroup.set("memory.oom.group", 1)?;
        cgroup.set("pids.max", max_processes.into())?;
        // Absent from kernels without swap, which is as good.
        match cgroup.set("memory.swap.max", 0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(cgroup),
        }
    }

    /// Bounds the memory of its members.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn limit_memory(&self, mib: u32) -> io::Result<()> {
        self.set("memory.max", u64::from(mib) * MIB)
    }

    /// Lets every member stand still, and returns when the kernel says that all of them do (cgroups(7),
    /// `cgroup.events`).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn freeze(&self) -> io::Result<()> {
        let events = fs::File::open(self.dir.join("cgroup.events"))?;
        let events = watched(events.into(), Interest::PRIORITY)?;
        self.set("cgroup.freeze", 1)?;
        loop {
            // Reading is also what arms the next notification: read, then wait.
            let mut text = [0; MAX_EVENTS_LEN];
            let len = pread(events.get_ref(), &mut text, 0)?;
            if is_frozen(&String::from_utf8_lossy(text.get(..len).unwrap_or_default())) {
                return Ok(());
            }
            events.ready(Interest::PRIORITY).await?.clear_ready();
        }
    }

    /// Lets the members go on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn thaw(&self) -> io::Result<()> {
        self.set("cgroup.freeze", 0)
    }

    /// `cgroup.procs`, for a process to write "0" into and be a member.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn procs(&self) -> io::Result<OwnedFd> {
        Ok(fs::OpenOptions::new().write(true).open(self.dir.join("cgroup.procs"))?.into())
    }

    /// Kills every member, with no chance for one to escape by forking.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&self) -> io::Result<()> {
        self.set("cgroup.kill", 1)
    }

    /// Most memory that its members had at once, MiB rounded up; 0 when the kernel does not say.
    #[must_use]
    pub fn peak_mib(&self) -> u32 {
        let peak = fs::read_to_string(self.dir.join("memory.peak"));
        let bytes: u64 = peak.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        u32::try_from(bytes.div_ceil(MIB)).unwrap_or(u32::MAX)
    }

    /// Whether the kernel has killed a member for want of memory.
    #[must_use]
    pub fn was_out_of_memory(&self) -> bool {
        fs::read_to_string(self.dir.join("memory.events")).is_ok_and(|events| has_oom_kill(&events))
    }

    fn set(&self, file: &str, value: u64) -> io::Result<()> {
        write(&self.dir.join(file), &value.to_string())
    }
}

/// Writes to a file that is there: asked to make one, this file system says EACCES instead of ENOENT.
fn write(file: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}

fn is_frozen(events: &str) -> bool {
    events.lines().any(|line| line == "frozen 1")
}

fn has_oom_kill(events: &str) -> bool {
    let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.is_some_and(|count| count.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frozen_is_what_the_kernel_says_and_nothing_less() {
        assert!(is_frozen("populated 1\nfrozen 1\n"));
        assert!(!is_frozen("populated 1\nfrozen 0\n"));
        assert!(!is_frozen(""));
    }

    #[test]
    fn memory_events_tell_of_a_kill() {
        let events = |kills| format!("low 0\nhigh 0\nmax 12\noom 1\noom_kill {kills}\noom_group_kill 0\n");
        assert!(has_oom_kill(&events(3)));
        assert!(!has_oom_kill(&events(0)));
        assert!(!has_oom_kill(""));
    }
}
