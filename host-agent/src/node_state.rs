//! What the node's kernel says of how it is closed, looked at once, before the agent confines itself: told in the log, and to who
//! asks (`GET /tinderbox/node`). What it should say is in `docs/adr/0024-system-that-does-not-change.md`; this judges nothing.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::certificate::InUse;

/// Mitigations and what is left of holes, a file for each kind.
const VULNERABILITIES: &str = "/sys/devices/system/cpu/vulnerabilities";

/// What was in force when the kernel was locked down, which says it no more: features of its scheduler, and how long a turn is, ns.
const PROCESSORS: &str = "/run/tinderbox-processors";

/// Longest answer of the kernel's that is kept.
const MAX_LEN: usize = 1024;

/// Of one node. What is none could not be read.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct NodeState {
    /// The kernel's release.
    kernel: Option<String>,
    /// How the root was mounted: file system, where from, and whether it can be written.
    root: Option<String>,
    /// What root may do to the running kernel; see kernel_lockdown(7).
    lockdown: Option<String>,
    /// Whether modules can still be loaded: `1` when they cannot.
    modules_disabled: Option<String>,
    /// How many places the kernel swaps to.
    swaps: Option<usize>,
    /// Whether equal pages are merged: `0` when not.
    page_merging: Option<String>,
    /// Who has huge pages.
    huge_pages: Option<String>,
    /// Whether cores have two threads.
    smt: Option<String>,
    /// What ends a turn at a processor that others wait for, and when.
    turns: Option<String>,
    /// What the kernel does about each kind of hole in processors.
    vulnerabilities: BTreeMap<String, String>,
    /// The certificate that clients know it by, if they come by TLS: its SHA-256 is told.
    pub(crate) certificate: Option<InUse>,
    /// The version of landlock that confines the agent.
    pub(crate) landlock: u32,
}

impl NodeState {
    /// Of the node that this runs on.
    pub(crate) fn look() -> Self {
        Self {
            kernel: read("/proc/sys/kernel/osrelease"),
            root: read_all("/proc/self/mountinfo").and_then(|mounts| root(&mounts)),
            lockdown: read("/sys/kernel/security/lockdown").map(|text| chosen(&text)),
            modules_disabled: read("/proc/sys/kernel/modules_disabled"),
            swaps: read_all("/proc/swaps").map(|text| text.lines().skip(1).count()),
            page_merging: read("/sys/kernel/mm/ksm/run"),
            huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled").map(|text| chosen(&text)),
            smt: read("/sys/devices/system/cpu/smt/control"),
            turns: turns(PROCESSORS.as_ref()),
            vulnerabilities: vulnerabilities(VULNERABILITIES.as_ref()),
            certificate: None,
            landlock: 0,
        }
    }

    /// Kinds of holes that the kernel does not close.
    pub(crate) fn vulnerable(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.vulnerabilities.iter().map(|(name, state)| (name.as_str(), state.as_str()));
        all.filter(|(_, state)| state.starts_with("Vulnerable"))
    }
}

fn read_all(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = read_all(path)?;
    Some(text.trim().chars().take(MAX_LEN).collect())
}

/// Of a list with one word in brackets, that word: `none [integrity]`.
fn chosen(list: &str) -> String {
    let word = list.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    word.map_or(list, |(word, _)| word).to_owned()
}

/// File system, source and access of what is mounted at `/`: of the file system and not of this process's view, which is
/// read-only by its unit.
fn root(mountinfo: &str) -> Option<String> {
    let mut found = None;
    for line in mountinfo.lines() {
        let (mount, file_system) = line.split_once(" - ")?;
        // proc_pid_mountinfo(5): the fifth word is where; then type, source and the file system's own options.
        if mount.split(' ').nth(4) == Some("/") {
            let mut words = file_system.split(' ');
            let (kind, source, options) = (words.next()?, words.next()?, words.next()?);
            found = Some(format!("{kind} {source} {}", options.split(',').next()?));
        }
    }
    found
}

/// By a timer of its own, or by the next tick of the kernel's clock that finds it over.
fn turns(dir: &Path) -> Option<String> {
    let features = read(dir.join("features"))?;
    let by = if features.split_whitespace().any(|feature| feature == "HRTICK") { "timer" } else { "tick" };
    let ns: u64 = read(dir.join("base_slice_ns"))?.parse().ok()?;
    Some(format!("{by}, {ns} ns"))
}

fn vulnerabilities(dir: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return BTreeMap::new() };
    let states = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        Some((entry.file_name().into_string().ok()?, read(entry.path())?))
    });
    states.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_what_lies_on_top_and_as_its_file_system_has_it() {
        let disk = "21 1 254:0 / / ro,relatime shared:1 - erofs /dev/mapper/root ro,user_xattr,acl\n\
                    24 21 0:22 / /proc rw shared:2 - proc proc rw";
        assert_eq!(root(disk).as_deref(), Some("erofs /dev/mapper/root ro"));
        let memory = "1 1 0:2 / / ro shared:1 - rootfs rootfs rw,size=1901340k";
        assert_eq!(root(memory).as_deref(), Some("rootfs rootfs rw"));
        assert_eq!(root("24 21 0:22 / /proc rw - proc proc rw"), None);
    }

    #[test]
    fn a_choice_is_what_is_in_brackets() {
        assert_eq!(chosen("none integrity [confidentiality]"), "confidentiality");
        assert_eq!(chosen("none"), "none");
    }

    #[test]
    fn turns_end_by_a_timer_where_the_kernel_was_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let said = |features: &str, slice: &str| {
            std::fs::write(dir.path().join("features"), features).unwrap();
            std::fs::write(dir.path().join("base_slice_ns"), slice).unwrap();
            turns(dir.path())
        };
        assert_eq!(said("PLACE_LAG HRTICK NO_HRTICK_DL\n", "400000\n").as_deref(), Some("timer, 400000 ns"));
        assert_eq!(
            said("PLACE_LAG NO_HRTICK NO_HRTICK_DL\n", "700000\n").as_deref(),
            Some("tick, 700000 ns")
        );
        assert_eq!(said("HRTICK", "many"), None);
        assert_eq!(turns(&dir.path().join("elsewhere")), None);
    }

    #[test]
    fn holes_that_are_left_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for (name, state) in
            [("a", "Not affected\n"), ("b", "Vulnerable: no microcode\n"), ("c", "Mitigation: x\n")]
        {
            std::fs::write(dir.path().join(name), state).unwrap();
        }
        let state = NodeState { vulnerabilities: vulnerabilities(dir.path()), ..NodeState::default() };
        assert_eq!(state.vulnerable().collect::<Vec<_>>(), [("b", "Vulnerable: no microcode")]);
    }
}
