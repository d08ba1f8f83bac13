//! Machines of the tests that ended by themselves, and the tests that they took with them.
//!
//! Under QEMU's emulation with a thread for each processor a node's own kernel breaks at times (README, known gaps). The tests
//! that were waiting for an answer fail for it, and what they would have found stays hidden: they are run again, a few times
//! at most, with a message that cannot be overlooked. On hardware there is no second run.
//!
//! `xtask node` writes a note beside the state disk of a machine that ends before it is to; the tests write down when which
//! of them failed. Only when every failure came with such an end, and every failure is written down, may they run again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

/// What the tests write, a line a failure: milliseconds since 1970, then the test's name.
const FAILURES: &str = "failed";
/// Follows the state disk's name.
const NOTE: &str = "ended";
/// Linux waits 10 s after a panic before it resets, and answers nobody meanwhile.
const SILENCE: Duration = Duration::from_secs(15);

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

/// What is known after `failed` tests failed. `more` are ends of machines that leave no note. None when a failure needs
/// another explanation.
pub(crate) fn find(folder: &Path, failed: usize, more: &[(SystemTime, String)]) -> Result<Option<Lost>> {
    let mut ends = more.to_vec();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == NOTE) {
            ends.push((entry.metadata()?.modified()?, fs::read_to_string(entry.path())?));
        }
    }
    let Some(first) = ends.iter().map(|(time, _)| *time).min() else { return Ok(None) };
    let text = fs::read_to_string(folder.join(FAILURES)).unwrap_or_default();
    let (mut tests, mut explained) = (Vec::new(), true);
    for line in text.lines() {
        let Some((time, test)) = line.split_once(' ') else { return Ok(None) };
        let Ok(millis) = time.parse() else { return Ok(None) };
        explained &= UNIX_EPOCH + Duration::from_millis(millis) + SILENCE >= first;
        tests.push(test.to_owned());
    }
    tests.sort();
    tests.dedup();
    let all = tests.len() == failed;
    let machines = ends.into_iter().map(|(_, what)| what).collect();
    Ok((explained && all && failed > 0).then_some(Lost { machines, tests }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: SystemTime, test: &str) -> String {
        format!("{} {test}\n", time.duration_since(UNIX_EPOCH).unwrap().as_millis())
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
        let lost = find(folder(&failures, true).path(), 2, &[]).unwrap().unwrap();
        assert_eq!(lost.tests, ["a::one", "b::two"]);
        assert_eq!(lost.machines, ["it ended"]);
        let host = [(now, "the host".to_owned())];
        assert!(find(folder(&failures, false).path(), 2, &host).unwrap().is_some());
    }

    #[test]
    fn no_other_failure_is_run_again() {
        let now = SystemTime::now();
        let failure = at(now, "a::one");
        let earlier = at(now - Duration::from_secs(60), "b::two");
        let cases = [
            (failure.clone(), 1, false, "every machine is there"),
            (earlier + &failure, 2, true, "one failed before the end"),
            (failure.clone(), 2, true, "one failed that nobody wrote down"),
            (String::new(), 0, true, "none failed"),
            ("nonsense\n".to_owned(), 1, true, "what cannot be read"),
            (format!("x {failure}"), 1, true, "a time that is none"),
        ];
        for (failures, failed, ended, why) in cases {
            assert_eq!(find(folder(&failures, ended).path(), failed, &[]).unwrap(), None, "{why}");
        }
    }
}
