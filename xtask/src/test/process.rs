//! One process of tests: what its lines tell, and its end when there is no more time.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Instant;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process_group};

/// libtest's exit code when tests failed, and nothing else.
const SOME_FAILED: i32 = 101;

/// How a process ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    /// So many tests failed, and nothing else did.
    Failed(usize),
    /// Something else than tests failed.
    Broken,
    /// It was ended as there was no more time, and so many tests had failed.
    OutOfTime(usize),
}

impl Verdict {
    /// Whether nothing failed.
    pub(super) fn is_well(&self) -> bool {
        matches!(self, Self::Passed | Self::OutOfTime(0))
    }
}

/// Runs libtest, passes its lines on, and ends it with all that it has started when it is not done by then. The verdict, and the
/// tests that came to an end.
pub(super) fn run(libtest: &mut Command, until: Option<Instant>) -> Result<(Verdict, BTreeSet<String>)> {
    if until.is_some() {
        // Only then: a user's Ctrl-C reaches what is in the terminal's group.
        libtest.process_group(0);
    }
    let mut child = libtest.stdout(Stdio::piped()).spawn().context("start the tests")?;
    let group = Pid::from_child(&child);
    let lines = BufReader::new(child.stdout.take().context("the tests' output")?).lines();
    let (running, ended) = mpsc::channel::<()>();
    let (seen, is_late) = std::thread::scope(|scope| {
        let clock = until.map(|until| {
            scope.spawn(move || {
                let left = until.saturating_duration_since(Instant::now());
                let is_late = ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout);
                // Nobody has waited for it yet, so the number is its own.
                is_late && kill_process_group(group, Signal::KILL).is_ok()
            })
        });
        let seen = Seen::of(lines);
        drop(running);
        (seen, clock.is_some_and(|clock| clock.join().unwrap_or(false)))
    });
    let status = child.wait().context("wait for the tests")?;
    let seen = seen?;
    let verdict = match (status.code(), seen.failures) {
        (Some(0), _) => Verdict::Passed,
        (Some(SOME_FAILED), Some(count)) => Verdict::Failed(count),
        (None, _) if is_late => Verdict::OutOfTime(seen.failed.len()),
        _ => Verdict::Broken,
    };
    Ok((verdict, seen.finished))
}

/// What libtest has said.
#[derive(Default)]
struct Seen {
    finished: BTreeSet<String>,
    failed: BTreeSet<String>,
    /// By its last line.
    failures: Option<usize>,
}

impl Seen {
    fn of(lines: impl Iterator<Item = std::io::Result<String>>) -> Result<Self> {
        let mut seen = Self::default();
        for line in lines {
            let line = line.context("read the tests' output")?;
            println!("{line}");
            seen.failures = failures(&line).or(seen.failures);
            if let Some((test, has_failed)) = end_of_test(&line) {
                seen.finished.insert(test.to_owned());
                if has_failed {
                    seen.failed.insert(test.to_owned());
                }
            }
        }
        Ok(seen)
    }
}

/// The test that a line tells the end of, and whether it failed: `test a::b ... ok`.
fn end_of_test(line: &str) -> Option<(&str, bool)> {
    let (test, end) = line.strip_prefix("test ")?.split_once(" ... ")?;
    match end {
        "ok" | "ignored" => Some((test, false)),
        "FAILED" => Some((test, true)),
        _ => None,
    }
}

/// The number in libtest's last line: `test result: FAILED. 30 passed; 50 failed; …`.
fn failures(line: &str) -> Option<usize> {
    let counts = line.strip_prefix("test result: FAILED.")?;
    counts.split(';').find_map(|count| count.trim().strip_suffix(" failed")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ran(script: &str, limit: Option<Duration>) -> (Verdict, Vec<String>) {
        let until = limit.map(|limit| Instant::now() + limit);
        let (verdict, finished) = run(Command::new("sh").args(["-c", script]), until).unwrap();
        (verdict, finished.into_iter().collect())
    }

    #[test]
    fn a_process_is_known_by_its_lines_and_its_end() {
        let failed = "echo 'test a ... ok'; echo 'test b ... FAILED'; echo 'test result: FAILED. 1 passed; 1 failed;'; exit 101";
        for limit in [None, Some(Duration::from_secs(60))] {
            assert_eq!(ran("echo 'test a ... ok'", limit), (Verdict::Passed, vec!["a".to_owned()]));
            assert_eq!(ran(failed, limit), (Verdict::Failed(1), vec!["a".to_owned(), "b".to_owned()]));
            assert_eq!(ran("exit 101", limit).0, Verdict::Broken, "not even a last line");
            assert_eq!(ran("kill -KILL $$", limit).0, Verdict::Broken, "by somebody else");
        }
    }

    #[test]
    fn what_is_not_done_in_time_ends_with_all_that_it_has_started() {
        // The other one has the output open, too: this returns when both are gone.
        let late = "echo 'test a ... ok'; sleep 1000 & echo 'test b ... FAILED'; echo 'test c ... '; wait";
        let (verdict, finished) = ran(late, Some(Duration::from_millis(300)));
        assert_eq!(verdict, Verdict::OutOfTime(1));
        assert_eq!(finished, ["a", "b"]);
        assert!(!verdict.is_well() && Verdict::OutOfTime(0).is_well());
    }

    #[test]
    fn failures_are_counted_by_libtests_last_line() {
        let line = "test result: FAILED. 30 passed; 50 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9.00s";
        assert_eq!(failures(line), Some(50));
        for other in ["test result: ok. 80 passed; 0 failed;", "test a::b ... FAILED", "50 failed"] {
            assert_eq!(failures(other), None, "{other}");
        }
    }
}
