//! Machines of the tests that ended by themselves, and the tests that they took with them.
//!
//! Under QEMU's emulation a node's own kernel broke at times (docs/adr/0010), and may again. The tests that were waiting for
//! an answer fail for it, and what they would have found stays hidden: they are run again, a few times at most, with a message
//! that cannot be overlooked. On hardware there is no second run.
//!
//! `xtask node` writes a note beside the state disk of a machine that ends before it is to; the tests write down when which
//! of them failed on which machine. Only when every failure came with the end of its own machine, and every failure is
//! written down, may they run again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

/// What the tests write, a line a failure: milliseconds since 1970, the machine, the test.
const FAILURES: &str = "failed";
/// Follows the state disk's name.
const NOTE: &str = "ended";
/// Linux waits 10 s after a panic before it resets, and answers nobody meanwhile.
const SILENCE: Duration = Duration::from_secs(15);

/// The machine that leaves no note: the test host.
pub(crate) const HOST: &str = "host";

/// Where the note about the machine with this state disk is.
pub(crate) fn note(state: &Path) -> PathBuf {
    state.with_added_extension(NOTE)
}

/// What ended, and what is to run again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) machines: Vec<String>,
    pub(crate) tests: Vec<String>,
}

/// What is known after `failed` tests failed; `host` is when the test host ended, and what to say of it. None when a failure
/// needs another explanation.
pub(crate) fn find(folder: &Path, failed: usize, host: Option<(SystemTime, String)>) -> Result<Option<Lost>> {
    let mut ends = BTreeMap::new();
    ends.extend(host.map(|end| (HOST.to_owned(), end)));
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        let path = entry.path();
        if let (true, Some(machine)) = (path.extension().is_some_and(|is| is == NOTE), path.file_stem()) {
            let end = (entry.metadata()?.modified()?, fs::read_to_string(&path)?);
            ends.insert(machine.to_string_lossy().into_owned(), end);
        }
    }
    let text = fs::read_to_string(folder.join(FAILURES)).unwrap_or_default();
    let tests: Option<BTreeSet<String>> = text.lines().map(|line| explained(line, &ends)).collect();
    let machines = ends.into_values().map(|(_, what)| what).collect();
    Ok(tests
        .filter(|tests| tests.len() == failed && failed > 0)
        .map(|tests| Lost { machines, tests: tests.into_iter().collect() }))
}

/// The test of one line, when it failed no earlier than its machine.
fn explained(line: &str, ends: &BTreeMap<String, (SystemTime, String)>) -> Option<String> {
    let (time, rest) = line.split_once(' ')?;
    let (machine, test) = rest.split_once(' ')?;
    let failed = UNIX_EPOCH.checked_add(Duration::from_millis(time.parse().ok()?))?;
    let (ended, _) = ends.get(machine)?;
    (failed + SILENCE >= *ended).then(|| test.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: SystemTime, test: &str) -> String {
        on("shared.img", time, test)
    }

    fn on(machine: &str, time: SystemTime, test: &str) -> String {
        format!("{} {machine} {test}\n", time.duration_since(UNIX_EPOCH).unwrap().as_millis())
    }

    fn folder(failures: &str, ended: bool) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FAILURES), failures).unwrap();
        if ended {
            fs::write(note(&folder.path().join("shared.img")), "it ended").unwrap();
        }
        folder
    }

    #[test]
    fn tests_that_failed_with_a_machine_run_again() {
        let now = SystemTime::now();
        let failures = at(now, "b::two") + &at(now + Duration::from_secs(60), "a::one");
        let lost = find(folder(&failures, true).path(), 2, None).unwrap().unwrap();
        assert_eq!(lost.tests, ["a::one", "b::two"]);
        assert_eq!(lost.machines, ["it ended"]);
        let on_host = on(HOST, now, "c::three");
        let host = || Some((now, "the host".to_owned()));
        assert!(find(folder(&on_host, false).path(), 1, host()).unwrap().is_some());
        assert!(find(folder(&(failures + &on_host), true).path(), 3, host()).unwrap().is_some());
    }

    #[test]
    fn no_other_failure_is_run_again() {
        let now = SystemTime::now();
        let failure = at(now, "a::one");
        let earlier = at(now - Duration::from_secs(60), "b::two");
        let cases = [
            (failure.clone(), 1, false, "every machine is there"),
            (earlier + &failure, 2, true, "one failed before the end"),
            (on(HOST, now, "c::three") + &failure, 2, true, "one failed whose machine was there"),
            (failure.clone(), 2, true, "one failed that nobody wrote down"),
            (String::new(), 0, true, "none failed"),
            ("nonsense\n".to_owned(), 1, true, "what cannot be read"),
            (format!("x {failure}"), 1, true, "a time that is none"),
        ];
        for (failures, failed, ended, why) in cases {
            assert_eq!(find(folder(&failures, ended).path(), failed, None).unwrap(), None, "{why}");
        }
    }
}
