//! The tests of booted machines: in which processes they run, and which of them run again.
//!
//! An emulated machine has one processor, so tests that use the same one gain nothing from running at a time. Those that have
//! the test host for themselves are one process with one thread, all others another beside it: libtest starts tests by
//! name, and would have all of its threads wait for the host.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context as _, Result, anyhow};

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

/// Where the tests keep the disks of their nodes, and write down which of them failed.
const STATE: &str = "TINDERBOX_TEST_STATE";
/// How often tests that failed with an emulated machine run again: on a bad day one in two machines broke that ran for ten
/// minutes, and what is left takes less each time.
const MAX_AGAIN: usize = 3;
/// libtest's exit code when tests failed, and nothing else.
const SOME_FAILED: i32 = 101;

/// Runs the tests with these in their names, or all of them, and those again that an emulated machine took with it; whether
/// all passed. An error only when they did not run.
pub(super) fn pass(ctx: &Context, names: &[String], environment: &[(&str, PathBuf)]) -> Result<bool> {
    // Disks of the tests' nodes: ours alone, somebody else may test on this machine, too.
    let state = ctx.cache.process_dir("test-state")?;
    let mut processes = first(names);
    let mut again = 0;
    let passed = loop {
        let folder = state.join(again.to_string());
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let round = Round::run(ctx, &processes, environment, folder)?;
        let lost = if again < MAX_AGAIN { tests_of_lost_machines(ctx, &round)? } else { None };
        let Some(tests) = lost else { break round.passed };
        processes = vec![[vec!["--exact".to_owned()], tests].concat()];
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
    let modules = || ON_HOST.iter().map(|module| format!("{module}::"));
    let on_host = ["--test-threads=1".to_owned()].into_iter().chain(modules());
    let others = modules().flat_map(|module| ["--skip".to_owned(), module]);
    vec![on_host.collect(), others.collect()]
}

/// How the tests of the appliance went.
struct Round {
    began: SystemTime,
    /// Where they left their notes.
    folder: PathBuf,
    passed: bool,
    /// How many failed, when nothing else went wrong.
    failed: Option<usize>,
}

impl Round {
    fn run(
        ctx: &Context,
        processes: &[Vec<String>],
        environment: &[(&str, PathBuf)],
        folder: PathBuf,
    ) -> Result<Round> {
        let began = SystemTime::now();
        let run = |arguments: &Vec<String>| {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["test", "--package", "tests", "--test", "it", "--"]).args(arguments);
            cargo.envs(environment.iter().map(|(name, value)| (name, value))).env(STATE, &folder);
            process(cargo.current_dir(&ctx.root))
        };
        let ended: Result<Vec<Ended>> = std::thread::scope(|scope| {
            let running: Vec<_> =
                processes.iter().map(|arguments| scope.spawn(move || run(arguments))).collect();
            let ended = running
                .into_iter()
                .map(|process| process.join().map_err(|_| anyhow!("a reader panicked"))?);
            ended.collect()
        });
        let ended = ended?;
        let failed = ended.iter().map(|ended| ended.failed).sum();
        Ok(Round { began, folder, passed: ended.iter().all(|ended| ended.passed), failed })
    }
}

/// How one process ended.
struct Ended {
    passed: bool,
    /// None when something else than tests failed.
    failed: Option<usize>,
}

fn process(cargo: &mut Command) -> Result<Ended> {
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("start cargo test")?;
    let mut failed = None;
    for line in BufReader::new(child.stdout.take().context("cargo's output")?).lines() {
        let line = line.context("read cargo's output")?;
        println!("{line}");
        failed = failures(&line).or(failed);
    }
    let status = child.wait().context("wait for cargo test")?;
    if status.success() {
        return Ok(Ended { passed: true, failed: Some(0) });
    }
    Ok(Ended { passed: false, failed: failed.filter(|_| status.code() == Some(SOME_FAILED)) })
}
/// The number in libtest's last line: `test result: FAILED. 30 passed; 50 failed; …`.
fn failures(line: &str) -> Option<usize> {
    let counts = line.strip_prefix("test result: FAILED.")?;
    counts.split(';').find_map(|count| count.trim().strip_suffix(" failed")?.parse().ok())
}

/// The tests that failed because the emulation of their machine did, when all of them did so.
fn tests_of_lost_machines(ctx: &Context, tested: &Round) -> Result<Option<Vec<String>>> {
    let Some(failed) = tested.failed.filter(|failed| *failed > 0) else { return Ok(None) };
    if !Accelerator::detect(ctx)?.0.is_slow() {
        return Ok(None);
    }
    let host = Host::lost(ctx, tested.began)?;
    let Some(lost) = lost::find(&tested.folder, failed, host)? else { return Ok(None) };
    for machine in &lost.machines {
        ctx.progress.say(format!("WARNING: {machine}"));
    }
    ctx.progress.say(format!(
        "WARNING: an emulated machine can break (README, known gaps); the {failed} tests that failed with it run again"
    ));
    Ok(Some(lost.tests))
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
        let [on_host, others] = first(&[]).try_into().unwrap();
        let skipped = others
            .chunks(2)
            .map(|pair| [&*pair[0], &*pair[1]])
            .map(|[skip, what]| (skip == "--skip").then_some(what));
        assert_eq!(skipped.collect::<Option<Vec<_>>>().unwrap(), on_host[1..]);
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
