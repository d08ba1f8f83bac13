//! Control groups (cgroup v2): one for each sandbox, below one that systemd has handed over. Used by the launcher only.
//!
//! Works on descriptors alone, so that whoever uses it may be in a room without any path. Nothing is in a group before its
//! limits are: a process begins in it (`CLONE_INTO_CGROUP`).

use std::fmt;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::launch::Allotment;

/// Name of the group that the sandboxes' are in.
const PARENT: &str = "sandboxes";

/// A VMM has at most six vCPU threads, an I/O thread and a pager; one that ends is counted a moment longer.
const MAX_THREADS: u32 = 16;

/// Over which time a quota is counted, µs: the kernel's default.
const PERIOD_US: u32 = 100_000;

/// The kernel takes no less, µs.
const MIN_QUOTA_US: u64 = 1_000;

const CPU_MAX: &str = "cpu.max";

/// A bound on processor time, as `cpu.max` has it: so many µs of each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuQuota {
    quota_us: u64,
}

impl CpuQuota {
    /// `part` of `whole` processors' time: `of(1, 2)` is half of one.
    #[must_use]
    pub fn of(part: u32, whole: u32) -> Self {
        let quota_us = u64::from(part) * u64::from(PERIOD_US) / u64::from(whole.max(1));
        Self { quota_us: quota_us.max(MIN_QUOTA_US) }
    }

    /// Not more than the other.
    #[must_use]
    pub fn within(self, other: Self) -> Self {
        Self { quota_us: self.quota_us.min(other.quota_us) }
    }
}

impl fmt::Display for CpuQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {PERIOD_US}", self.quota_us)
    }
}

/// A file of a group and what is written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Whose file it is: `memory` of `memory.max`.
    pub controller: &'static str,
    /// Its name.
    pub file: &'static str,
    /// What is written.
    pub value: String,
    /// Why.
    pub reason: &'static str,
}

/// What is set on a sandbox's group before anything is in it.
#[must_use]
pub fn settings(allotment: &Allotment) -> Vec<Setting> {
    let setting = |controller, file, value: String, reason| Setting { controller, file, value, reason };
    let bytes = u64::from(allotment.memory_mib) << 20;
    let quota = CpuQuota::of(allotment.cpu_percent, 100);
    vec![
        setting("memory", "memory.max", bytes.to_string(), "takes no memory of another sandbox"),
        setting("memory", "memory.swap.max", "0".into(), "guest memory must not reach a disk"),
        setting("memory", "memory.oom.group", "1".into(), "half a machine is of no use"),
        setting("cpu", "cpu.weight", allotment.cpu_weight.to_string(), "its share when processors are short"),
        setting("cpu", CPU_MAX, quota.to_string(), "its vCPUs' time and what serving them takes"),
        setting("pids", "pids.max", MAX_THREADS.to_string(), "its threads are known"),
    ]
}

/// A step that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{what} of the control group {group}")]
pub struct GroupError {
    what: &'static str,
    group: String,
    source: Errno,
}

/// The group of all sandboxes.
#[derive(Debug)]
pub struct Groups {
    dir: OwnedFd,
    controllers: Vec<String>,
}

/// The group of one.
#[derive(Debug)]
pub struct Group {
    dir: OwnedFd,
    name: String,
}

impl Groups {
    /// Below `delegated`, which has no process itself, with these controllers. What an earlier launcher left there is ended
    /// and removed.
    ///
    /// # Errors
    /// A group that cannot be made, a controller that is not there, or processes that do not end.
    pub fn open(delegated: &Path, controllers: &[String]) -> Result<Self, GroupError> {
        let failed = |what| move |source| GroupError { what, group: PARENT.to_owned(), source };
        let above = open(delegated, DIR, Mode::empty()).map_err(failed("opening what is above"))?;
        let above = Group { dir: above, name: delegated.display().to_string() };
        above.enable(controllers)?;
        match mkdirat(&above.dir, PARENT, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(source) => return Err(failed("making")(source)),
        }
        let dir = openat(&above.dir, PARENT, DIR, Mode::empty()).map_err(failed("opening"))?;
        let parent = Group { dir, name: PARENT.to_owned() };
        parent.clear()?;
        parent.enable(controllers)?;
        let groups = Self { dir: parent.dir, controllers: controllers.to_vec() };
        groups.remove_all()?;
        Ok(groups)
    }

    /// A group with these settings; those of controllers that there are not are left out.
    ///
    /// # Errors
    /// The kernel refused the group or a setting. There is none then.
    pub fn make(&self, name: &str, settings: &[Setting]) -> Result<Group, GroupError> {
        let failed = |what| move |source| GroupError { what, group: name.to_owned(), source };
        mkdirat(&self.dir, name, Mode::S_IRWXU).map_err(failed("making"))?;
        let is_there = |setting: &&Setting| self.controllers.iter().any(|name| name == setting.controller);
        let made = openat(&self.dir, name, DIR, Mode::empty()).map_err(failed("opening")).and_then(|dir| {
            let group = Group { dir, name: name.to_owned() };
            let set = |setting: &Setting| group.write(setting.file, &setting.value);
            settings.iter().filter(is_there).try_for_each(set).map(|()| group)
        });
        made.or_else(|error| self.remove(name).and(Err(error)))
    }

    /// Removes a group whose processes have ended.
    ///
    /// # Errors
    /// There is none, or they have not.
    pub fn remove(&self, name: &str) -> Result<(), GroupError> {
        let failed = |source| GroupError { what: "removal", group: name.to_owned(), source };
        unlinkat(&self.dir, name, UnlinkatFlags::RemoveDir).map_err(failed)
    }

    /// Ends every process of every sandbox.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill_all(&self) -> Result<(), GroupError> {
        write(&self.dir, "cgroup.kill", "1").map_err(|source| GroupError {
            what: "killing",
            group: PARENT.to_owned(),
            source,
        })
    }

    /// Removes what an earlier launcher left.
    fn remove_all(&self) -> Result<(), GroupError> {
        let failed = |source| GroupError { what: "listing", group: PARENT.to_owned(), source };
        let mut listing = Dir::openat(&self.dir, ".", DIR, Mode::empty()).map_err(failed)?;
        for entry in listing.iter() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy();
            // Groups are called by numbers; everything else is a file of the kernel's.
            if name.bytes().all(|byte| byte.is_ascii_digit()) {
                self.remove(&name)?;
            }
        }
        Ok(())
    }
}

impl Group {
    /// Where a process is started in it.
    #[must_use]
    pub fn as_dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// The file to which a `1` is written to end all that is in it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn end(&self) -> Result<OwnedFd, GroupError> {
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        openat(&self.dir, "cgroup.kill", flags, Mode::empty()).map_err(self.failed("opening cgroup.kill"))
    }

    /// The file to which another [`CpuQuota`] is written; none where nobody counts processors.
    ///
    /// # Errors
    /// The kernel's.
    pub fn quota(&self) -> Result<Option<OwnedFd>, GroupError> {
        match openat(&self.dir, CPU_MAX, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()) {
            Err(Errno::ENOENT) => Ok(None),
            opened => opened.map(Some).map_err(self.failed("opening cpu.max")),
        }
    }

    /// Ends all that is in it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&self) -> Result<(), GroupError> {
        self.write("cgroup.kill", "1")
    }

    fn enable(&self, controllers: &[String]) -> Result<(), GroupError> {
        let enable = |name: &String| self.write("cgroup.subtree_control", &format!("+{name}"));
        controllers.iter().try_for_each(enable)
    }

    /// Ends what is in it and below, and waits for that.
    fn clear(&self) -> Result<(), GroupError> {
        self.kill()?;
        while self.is_populated()? {
            std::thread::yield_now();
        }
        Ok(())
    }

    fn is_populated(&self) -> Result<bool, GroupError> {
        let file = openat(&self.dir, "cgroup.events", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        let mut text = String::new();
        let read = file.map(File::from).and_then(|mut file| {
            file.read_to_string(&mut text).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
        });
        read.map_err(self.failed("reading cgroup.events"))?;
        Ok(text.contains("populated 1"))
    }

    fn write(&self, file: &'static str, value: &str) -> Result<(), GroupError> {
        write(&self.dir, file, value).map_err(self.failed(file))
    }

    fn failed(&self, what: &'static str) -> impl Fn(Errno) -> GroupError {
        move |source| GroupError { what, group: self.name.clone(), source }
    }
}

const DIR: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_RDONLY).union(OFlag::O_CLOEXEC);

fn write(dir: impl AsFd, file: &str, value: &str) -> Result<(), Errno> {
    let file = openat(dir, file, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    File::from(file)
        .write_all(value.as_bytes())
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allotment_is_what_its_group_says() {
        let settings = settings(&Allotment { memory_mib: 264, cpu_weight: 7, cpu_percent: 250 });
        let said: Vec<_> = settings.iter().map(|setting| (setting.file, setting.value.as_str())).collect();
        let expected = [
            ("memory.max", "276824064"),
            ("memory.swap.max", "0"),
            ("memory.oom.group", "1"),
            ("cpu.weight", "7"),
            ("cpu.max", "250000 100000"),
            ("pids.max", "16"),
        ];
        assert_eq!(said, expected);
        assert!(settings.iter().all(|setting| setting.file.starts_with(setting.controller)));
    }

    #[test]
    fn a_quota_is_a_part_of_each_period_and_never_less_than_the_kernel_takes() {
        let said = |part, whole| CpuQuota::of(part, whole).to_string();
        assert_eq!(
            [said(128, 1769), said(3538, 1769), said(1, 1769), said(1, 0)],
            ["7235 100000", "200000 100000", "1000 100000", "100000 100000"]
        );
        assert_eq!(CpuQuota::of(3, 1).within(CpuQuota::of(2, 1)), CpuQuota::of(2, 1));
    }
}
