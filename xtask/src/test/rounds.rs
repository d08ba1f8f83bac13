//! The tests of booted machines: as many processes at a time as there are processors, which of them run again, and which are left out.
//!
//! An emulated machine has one processor and takes one of ours, so tests that use the same one gain nothing from running at a time,
//! and more machines at work than there are processors only bring every one of them closer to its time limits. So tests run in
//! groups, each a process with one thread that boots what it needs: those that have the test host for themselves, and those that
//! share a node. As many groups run at a time as there are processors, one less while figures are compared on one.
//!
//! Where there is a time by which to be done, what has not run by then is left out, said to be, and the first to run next time.

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result};

use super::groups::{self, Group, Process};
use super::process::{self, Verdict};
use crate::cache;
use crate::cmd::Cmd;
use crate::context::Context;
use crate::dev::Host;
use crate::lost;
use crate::qemu::accel::Accelerator;

/// Where the tests keep the disks of their nodes, and write down which of them failed.
const STATE: &str = "TINDERBOX_TEST_STATE";
/// How often tests that failed with an emulated machine run again: on a bad day one in two machines broke that ran for ten
/// minutes, and what is left takes less each time.
const MAX_AGAIN: usize = 3;
/// In the cache: the tests that were left out, a line each.
const LEFT_OUT: &str = "left-out";
/// libtest, and which tests.
const LIBTEST: [&str; 5] = ["test", "--package", "tests", "--test", "it"];

/// Tests to run.
pub(super) struct Plan<'a> {
    /// Words in their names; none for all of them.
    pub(super) names: &'a [String],
    /// What the tests are told of where things are.
    pub(super) environment: &'a [(&'a str, PathBuf)],
    /// What has not run by then is left out.
    pub(super) until: Option<Instant>,
}

/// Runs tests, and those again that an emulated machine took with it; whether none failed. An error only when they did not run. One
/// of the processors is somebody else's until `other_work` returns.
pub(super) fn pass(ctx: &Context, plan: &Plan<'_>, other_work: impl FnOnce() + Send) -> Result<bool> {
    // Disks of the tests' nodes: ours alone, somebody else may test on this machine, too.
    let state = ctx.cache.process_dir("test-state")?;
    let record = ctx.cache.dir(LEFT_OUT)?.join("tests");
    let mut groups = if plan.names.is_empty() {
        groups::of(&all(ctx)?, &left_out_before(&record)?)
    } else {
        vec![vec![Process::named(plan.names)]]
    };
    let (mut again, mut other_work, mut left_out) = (0, Some(other_work), BTreeSet::new());
    let passed = loop {
        let folder = state.join(again.to_string());
        let round = Round::run(ctx, &groups, plan, &folder, other_work.take())?;
        left_out.extend(round.left_out());
        let lost = if again < MAX_AGAIN { tests_of_lost_machines(ctx, &round)? } else { None };
        let Some(tests) = lost else { break round.passed() };
        groups = vec![vec![Process::of(tests)]];
        again += 1;
    };
    cache::remove_tree(&state)?;
    if plan.names.is_empty() {
        tell_left_out(ctx, &left_out, &record)?;
    }
    Ok(passed)
}

/// The names of all tests.
fn all(ctx: &Context) -> Result<BTreeSet<String>> {
    let listed = Cmd::new(env!("CARGO")).args(LIBTEST).args(["--", "--list", "--format", "terse"]);
    let listed = listed.dir(&ctx.root).read()?;
    Ok(listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

fn left_out_before(record: &Path) -> Result<BTreeSet<String>> {
    if !record.exists() {
        return Ok(BTreeSet::new());
    }
    let text = fs::read_to_string(record).with_context(|| format!("read {}", record.display()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn tell_left_out(ctx: &Context, tests: &BTreeSet<String>, record: &Path) -> Result<()> {
    let lines: String = tests.iter().map(|test| format!("{test}\n")).collect();
    fs::write(record, &lines).with_context(|| format!("write {}", record.display()))?;
    if !tests.is_empty() {
        ctx.progress.say(format!(
            "WARNING: there was no time for {} tests, which run first the next time:\n{lines}",
            tests.len()
        ));
    }
    Ok(())
}

/// How the tests of the appliance went.
struct Round {
    began: SystemTime,
    ended: Vec<Ended>,
}

impl Round {
    /// Each process in a folder of its own below this one.
    fn run(
        ctx: &Context,
        groups: &[Group],
        plan: &Plan<'_>,
        folder: &Path,
        other_work: Option<impl FnOnce() + Send>,
    ) -> Result<Round> {
        let began = SystemTime::now();
        let run = |process: &Process, folder: PathBuf| {
            fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(LIBTEST).arg("--").args(&process.arguments).current_dir(&ctx.root);
            cargo.envs(plan.environment.iter().map(|(name, value)| (name, value))).env(STATE, &folder);
            let (verdict, finished) = process::run(&mut cargo, plan.until)?;
            let is_cut = matches!(verdict, Verdict::OutOfTime(_));
            let left_out = if is_cut { &process.tests - &finished } else { BTreeSet::new() };
            Ok(Ended { folder, verdict, left_out })
        };
        let at_once = std::thread::available_parallelism().map_or(1, NonZero::get);
        let (waiting, ended) = (Mutex::new(groups.iter().enumerate()), Mutex::new(Vec::new()));
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
        let groups = || {
            while let Some((number, group)) = next() {
                for (process, place) in group.iter().zip(0..) {
                    let result = run(process, folder.join(format!("{number}-{place}")));
                    ended.lock().unwrap_or_else(PoisonError::into_inner).push(result);
                }
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
        Ok(Round { began, ended: ended.into_iter().collect::<Result<_>>()? })
    }

    fn passed(&self) -> bool {
        self.ended.iter().all(|process| process.verdict.is_well())
    }

    fn left_out(&self) -> impl Iterator<Item = String> {
        self.ended.iter().flat_map(|process| process.left_out.iter().cloned())
    }
}

/// How one process ended.
struct Ended {
    /// Where it left its notes.
    folder: PathBuf,
    verdict: Verdict,
    /// Tests for which there was no time.
    left_out: BTreeSet<String>,
}

/// The tests that failed because the emulation of their machine did, when all of them did so.
fn tests_of_lost_machines(ctx: &Context, tested: &Round) -> Result<Option<BTreeSet<String>>> {
    if tested.passed() || !Accelerator::detect(ctx)?.0.is_slow() {
        return Ok(None);
    }
    let host = Host::lost(ctx, tested.began)?;
    let (mut machines, mut tests) = (BTreeSet::new(), BTreeSet::new());
    for process in tested.ended.iter().filter(|process| !process.verdict.is_well()) {
        let (Verdict::Failed(failed) | Verdict::OutOfTime(failed)) = process.verdict else { return Ok(None) };
        let Some(lost) = lost::find(&process.folder, failed, host.clone())? else { return Ok(None) };
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
