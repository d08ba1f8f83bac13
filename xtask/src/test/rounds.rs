//! The tests of booted machines: in which processes they run, and which of them run again.
//!
//! An emulated machine has one processor and takes one of ours, so tests that use the same one gain nothing from running at a time,
//! and more machines at work than there are processors only bring every one of them closer to its time limits. So tests run in
//! groups, each a process with one thread that boots what it needs: those that have the test host for themselves, and those that
//! share a node. As many groups run at a time as there are processors, one less while figures are compared on one.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context as _, Result};

use crate::cache;
use crate::context::Context;
use crate::dev::Host;
use crate::lost;
use crate::qemu::accel::Accelerator;

/// Modules of `tests/it` that use the test host and no other machine.
const ON_HOST: &[&str] = &[
    "appliance",
    "booted_host",
    "buckets",
    "events",
    "guest_root",
    "hostile_client",
    "hostile_vmm",
    "jail",
    "kills",
    "logs",
    "machine",
    "network",
    "registries",
    "snapshots",
    "uniqueness",
];

/// Modules that share a node, about as much work each; those that are named nowhere are a group of their own.
const ON_A_NODE: [&[&str]; 3] = [
    &["api", "auth", "chunks", "command_line", "conformance", "constraints", "containers", "cores", "deploy"],
    &["examples", "extensions", "faults", "guest_user", "image", "invoke"],
    &["restore_hooks", "runtimes", "sdks", "snapstart", "urls"],
];

/// Where the tests keep the disks of their nodes, and write down which of them failed.
const STATE: &str = "TINDERBOX_TEST_STATE";
/// How often tests that failed with an emulated machine run again: on a bad day one in two machines broke that ran for ten
/// minutes, and what is left takes less each time.
const MAX_AGAIN: usize = 3;
/// libtest's exit code when tests failed, and nothing else.
const SOME_FAILED: i32 = 101;

/// Runs the tests with these in their names, or all of them, and those again that an emulated machine took with it; whether
/// all passed. An error only when they did not run. One of the processors is somebody else's until `other_work` returns.
pub(super) fn pass(
    ctx: &Context,
    names: &[String],
    environment: &[(&str, PathBuf)],
    other_work: impl FnOnce() + Send,
) -> Result<bool> {
    // Disks of the tests' nodes: ours alone, somebody else may test on this machine, too.
    let state = ctx.cache.process_dir("test-state")?;
    let mut groups = first(names);
    let (mut again, mut other_work) = (0, Some(other_work));
    let passed = loop {
        let folder = state.join(again.to_string());
        let round = Round::run(ctx, &groups, environment, &folder, other_work.take())?;
        let lost = if again < MAX_AGAIN { tests_of_lost_machines(ctx, &round)? } else { None };
        let Some(tests) = lost else { break round.passed() };
        groups = vec![[vec!["--exact".to_owned()], tests].concat()];
        again += 1;
    };
    cache::remove_tree(&state)?;
    Ok(passed)
}

/// libtest's arguments in each process.
fn first(names: &[String]) -> Vec<Vec<String>> {
    if !names.is_empty() {
        return vec![names.to_vec()];
    }
    let groups = [ON_HOST].into_iter().chain(ON_A_NODE);
    let named = groups.clone().map(|modules| modules.iter().map(|module| format!("{module}::")).collect());
    let skipped = groups.flatten().flat_map(|module| ["--skip".to_owned(), format!("{module}::")]);
    named.chain([skipped.collect()]).map(one_at_a_time).collect()
}

fn one_at_a_time(mut arguments: Vec<String>) -> Vec<String> {
    arguments.push("--test-threads=1".to_owned());
    arguments
}

/// How the tests of the appliance went.
struct Round {
    began: SystemTime,
    groups: Vec<Ended>,
}

impl Round {
    /// Each group in a folder of its own below this one.
    fn run(
        ctx: &Context,
        groups: &[Vec<String>],
        environment: &[(&str, PathBuf)],
        folder: &Path,
        other_work: Option<impl FnOnce() + Send>,
    ) -> Result<Round> {
        let began = SystemTime::now();
        let run = |(number, arguments): (usize, &Vec<String>)| {
            let folder = folder.join(number.to_string());
            fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["test", "--package", "tests", "--test", "it", "--"]).args(arguments);
            cargo.envs(environment.iter().map(|(name, value)| (name, value))).env(STATE, &folder);
            let (passed, failed) = process(cargo.current_dir(&ctx.root))?;
            Ok(Ended { folder, passed, failed })
        };
        let at_once = std::thread::available_parallelism().map_or(1, NonZero::get);
        let (waiting, ended) = (Mutex::new(groups.iter().enumerate()), Mutex::new(Vec::new()));
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
        let groups = || {
            while let Some(group) = next() {
                let result = run(group);
                ended.lock().unwrap_or_else(PoisonError::into_inner).push(result);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..at_once {
                scope.spawn(groups);
            }
            if let Some(work) = other_work {
                work();
            }
            groups();
        });
        let ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Round { began, groups: ended.into_iter().collect::<Result<_>>()? })
    }

    fn passed(&self) -> bool {
        self.groups.iter().all(|group| group.passed)
    }
}

/// How one group ended.
struct Ended {
    /// Where it left its notes.
    folder: PathBuf,
    passed: bool,
    /// None when something else than tests failed.
    failed: Option<usize>,
}

/// Whether it passed, and how many tests failed, unless something else did.
fn process(cargo: &mut Command) -> Result<(bool, Option<usize>)> {
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("start cargo test")?;
    let mut failed = None;
    for line in BufReader::new(child.stdout.take().context("cargo's output")?).lines() {
        let line = line.context("read cargo's output")?;
        println!("{line}");
        failed = failures(&line).or(failed);
    }
    let status = child.wait().context("wait for cargo test")?;
    if status.success() {
        return Ok((true, Some(0)));
    }
    Ok((false, failed.filter(|_| status.code() == Some(SOME_FAILED))))
}

/// The number in libtest's last line: `test result: FAILED. 30 passed; 50 failed; …`.
fn failures(line: &str) -> Option<usize> {
    let counts = line.strip_prefix("test result: FAILED.")?;
    counts.split(';').find_map(|count| count.trim().strip_suffix(" failed")?.parse().ok())
}

/// The tests that failed because the emulation of their machine did, when all of them did so.
fn tests_of_lost_machines(ctx: &Context, tested: &Round) -> Result<Option<Vec<String>>> {
    if tested.passed() || !Accelerator::detect(ctx)?.0.is_slow() {
        return Ok(None);
    }
    let host = Host::lost(ctx, tested.began)?;
    let (mut machines, mut tests) = (BTreeSet::new(), Vec::new());
    for group in tested.groups.iter().filter(|group| !group.passed) {
        let Some(failed) = group.failed else { return Ok(None) };
        let Some(lost) = lost::find(&group.folder, failed, host.clone())? else { return Ok(None) };
        machines.extend(lost.machines);
        tests.extend(lost.tests);
    }
    for machine in machines {
        ctx.progress.say(format!("WARNING: {machine}"));
    }
    ctx.progress.say(format!(
        "WARNING: an emulated machine can break (README, known gaps); the {} tests that failed with it run again",
        tests.len()
    ));
    Ok(Some(tests))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_that_use_the_host_use_no_other_machine_and_have_their_own_process() {
        let folder = Context::new().unwrap().path("tests/it");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
            if has(&["use crate::host", "use crate::kills"]) && has(&["#[test]", "in_both_lives! {"]) {
                let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
                assert!(!has(&["Node::shared()", "Node::alone()", "Node::boot("]), "{name} uses nodes, too");
                found.push(name);
            }
        }
        found.sort();
        assert_eq!(found, ON_HOST);
    }

    #[test]
    fn every_test_runs_in_one_process() {
        let groups = first(&[]);
        let (rest, named) = groups.split_last().unwrap();
        let named: Vec<&String> = named.iter().flatten().filter(|word| *word != "--test-threads=1").collect();
        let skipped = rest.chunks_exact(2).map(|pair| (&*pair[0], &pair[1]));
        assert_eq!(
            skipped.collect::<Vec<_>>(),
            named.iter().map(|name| ("--skip", *name)).collect::<Vec<_>>()
        );
        let folder = Context::new().unwrap().path("tests/it");
        for name in named {
            assert!(folder.join(name.replace("::", ".rs")).is_file(), "there is no {name}");
        }
        assert!(groups.iter().all(|group| group.last().unwrap() == "--test-threads=1"));
        assert_eq!(first(&["a".to_owned()]), [["a"]]);
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
