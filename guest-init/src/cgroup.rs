//! The function's cgroup: what it may use, what it has used, and the switch that ends it.

use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Lambda's quota for processes and threads of a function.
const MAX_PROCESSES: u32 = 1024;

const MIB: u64 = 1024 * 1024;

/// Controllers that the function's cgroup needs.
const CONTROLLERS: &str = "+memory +pids";

/// The function's cgroup. guest-init itself stays in the root, which has no limits.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// Makes it below the mounted hierarchy.
    ///
    /// # Errors
    /// When the kernel lacks a controller.
    pub fn create(hierarchy: &Path, memory_mib: u32) -> io::Result<Self> {
        write(&hierarchy.join("cgroup.subtree_control"), CONTROLLERS)?;
        let dir = hierarchy.join("function");
        fs::create_dir(&dir)?;
        let cgroup = Self { dir };
        cgroup.set("memory.max", u64::from(memory_mib) * MIB)?;
        // One process killed for memory leaves a function in no state to go on: end all of them.
        cgroup.set("memory.oom.group", 1)?;
        cgroup.set("pids.max", MAX_PROCESSES.into())?;
        // Absent from kernels without swap, which is as good.
        match cgroup.set("memory.swap.max", 0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(cgroup),
        }
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

fn has_oom_kill(events: &str) -> bool {
    let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.is_some_and(|count| count.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_events_tell_of_a_kill() {
        let events = |kills| format!("low 0\nhigh 0\nmax 12\noom 1\noom_kill {kills}\noom_group_kill 0\n");
        assert!(has_oom_kill(&events(3)));
        assert!(!has_oom_kill(&events(0)));
        assert!(!has_oom_kill(""));
    }
}
