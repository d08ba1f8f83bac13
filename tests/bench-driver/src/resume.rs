//! Cold starts of a Python hello through the node: booted, and resumed from the snapshot of its published version, one
//! clone and many at once, with what the snapshot is read from in the node's page cache and without.
//!
//! Every sample is a sandbox of its own. A call that comes alone ends its sandbox afterwards; of calls that come at once,
//! each holds its sandbox until all have theirs, which is told apart from what is measured.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::{
    Figure,
    node::{Answer, Caller, Function, SETTLE, SMALLEST_MIB, at_once, rest},
    note,
    plan::Plan,
    print,
    timing::{BOOT, SNAPSHOT, Timing},
};

const FUNCTION: &str = "resume";
/// A held call waits for all others.
const TIMEOUT_S: u32 = 120;
/// Of a lone clone's time, for each of those that come at once: one after the other is 1.
const HOLD_FACTOR: f64 = 1.5;
/// Share of a cold start that its phases explain when nothing was lost on the way: what is left is HTTP.
const EXPLAINED: f64 = 0.5;
/// More rounds than that may have to be repeated: the hold, doubled each time, was too short, or
/// sandboxes were lost.
const MAX_ROUNDS: usize = 5;
/// Of `Server-Timing`.
const RESUME_PHASES: &[&str] = &["place", "load", "unique", "gate", "hooks", "run"];
const BOOT_PHASES: &[&str] = &["place", "boot", "init", "run"];
const PAGE_CACHE: &str = "/proc/sys/vm/drop_caches";
/// Page cache, directory entries and inodes.
const DROP_ALL: &str = "3";

/// Whether the node's page cache holds the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cache {
    Warm,
    Dropped,
}

impl Cache {
    fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Dropped => "dropped",
        }
    }
}

/// Boots, publishes, resumes; prints as it goes, for it takes longer than all the rest.
pub(crate) fn measure(plan: &Plan) -> Result<()> {
    let caller = Caller::new(plan);
    let (zip, handler) = (&plan.resume_zip, "ends.handler");
    let runtime = plan.runtime.as_str();
    caller.create(&Function {
        name: FUNCTION,
        runtime,
        zip,
        handler,
        memory_mib: SMALLEST_MIB,
        timeout_s: TIMEOUT_S,
    })?;
    print(&boots(plan, &caller)?)?;
    let version = caller.publish(FUNCTION)?;
    let node = Clones { plan, version };
    let mut lone_us = 0.0;
    for cache in [Cache::Warm, Cache::Dropped] {
        if cache == Cache::Dropped && !plan.dropped {
            continue;
        }
        for concurrent in &plan.clones {
            let samples = node.sample(cache, *concurrent, lone_us)?;
            if *concurrent == 1 && cache == Cache::Warm {
                print(&parts("resume", RESUME_PHASES, &samples))?;
            }
            if *concurrent == 1 {
                lone_us = middle(&samples);
            }
            print(&resumes(&format!("{}_c{concurrent}", cache.name()), &samples))?;
        }
    }
    Ok(())
}

/// Cold starts of `$LATEST`, whose sandboxes are booted.
fn boots(plan: &Plan, caller: &Caller) -> Result<Vec<Figure>> {
    let mut samples = Vec::new();
    let mut tries = 0;
    while samples.len() < plan.cold_boots as usize {
        tries += 1;
        ensure!(tries < plan.cold_boots as usize + MAX_ROUNDS, "one boot after the other is lost");
        rest(SETTLE);
        let answer = caller.invoke(FUNCTION, None, &event(0))?;
        let sample = Sample::of(&answer, 0);
        samples.extend(sample.is_of_one_start(BOOT).then_some(sample));
        end(caller, FUNCTION, None)?;
    }
    let mut figures = vec![Figure::new(
        "boot_to_first_byte",
        "us",
        samples.iter().map(|sample| sample.first_byte_us).collect(),
    )];
    figures.extend(parts("boot", BOOT_PHASES, &samples));
    Ok(figures)
}

/// A cold start.
pub(crate) struct Sample {
    /// From the client's request to the head of the response, without the time that it was held.
    pub(crate) first_byte_us: f64,
    /// As the agent has it, with that time.
    answer: Timing,
    hold_us: f64,
    failed: bool,
}

impl Sample {
    pub(crate) fn of(answer: &Answer, hold_ms: u64) -> Self {
        let hold_us = hold_ms as f64 * 1e3;
        let first_byte_us = answer.first_byte_us - hold_us;
        Self { first_byte_us, answer: answer.timing.clone(), hold_us, failed: answer.failed }
    }

    /// Whether this is a start of that kind and nothing else. A guest may be lost, the agent
    /// starts another one, and the phases are that one's alone.
    pub(crate) fn is_of_one_start(&self, way: &str) -> bool {
        let explained = self.answer.total_us() - self.hold_us;
        let is_whole = !self.failed && explained > EXPLAINED * self.first_byte_us;
        let is = is_whole && self.answer.way.as_deref() == Some(way);
        if !is {
            note(&format!("a start was lost: {:.0} us, {:?}", self.first_byte_us, self.answer));
        }
        is
    }

    /// What came before the load: a client's request counts as part of the resume, waiting for room does not.
    fn before_load_us(&self) -> f64 {
        self.answer.us("queue") + self.answer.us("place")
    }
}

/// What the handler in front of the function takes: how long it holds its answer.
pub(crate) fn event(hold_ms: u64) -> String {
    format!(r#"{{"key":"value","hold_ms":{hold_ms}}}"#)
}

/// It exits instead of answering, and its sandbox with it.
const END: &str = r#"{"end":true}"#;

/// Ends the sandbox that takes the call.
pub(crate) fn end(caller: &Caller, function: &str, version: Option<&str>) -> Result<()> {
    ensure!(caller.invoke(function, version, END)?.failed, "the function did not end");
    Ok(())
}

struct Clones<'a> {
    plan: &'a Plan,
    version: String,
}

impl Clones<'_> {
    /// As many rounds as the plan says.
    fn sample(&self, cache: Cache, concurrent: usize, lone_us: f64) -> Result<Vec<Sample>> {
        let mut hold_ms = match concurrent {
            1 => 0,
            _ => (lone_us / 1e3 * HOLD_FACTOR) as u64 * concurrent as u64,
        };
        let rounds = (self.plan.clone_samples as usize).div_ceil(concurrent);
        let mut samples = Vec::new();
        let mut tries = 0;
        while samples.len() < rounds * concurrent {
            tries += 1;
            ensure!(tries < rounds + MAX_ROUNDS, "{concurrent} calls at once do not get a clone each");
            let round = self.round(cache, concurrent, hold_ms)?;
            if round.iter().any(|sample| sample.answer.way.is_none()) {
                // One has met the sandbox of another.
                hold_ms *= 2;
                continue;
            }
            samples.extend(round.into_iter().filter(|sample| sample.is_of_one_start(SNAPSHOT)));
        }
        Ok(samples)
    }

    fn round(&self, cache: Cache, concurrent: usize, hold_ms: u64) -> Result<Vec<Sample>> {
        rest(SETTLE);
        if cache == Cache::Dropped {
            drop_page_cache()?;
        }
        let (version, event) = (Some(self.version.as_str()), event(hold_ms));
        let answers = at_once(self.plan, concurrent, |caller| caller.invoke(FUNCTION, version, &event))?;
        at_once(self.plan, concurrent, |caller| end(caller, FUNCTION, version))?;
        Ok(answers.iter().map(|answer| Sample::of(answer, hold_ms)).collect())
    }
}

/// The time of a clone in the middle of them.
pub(crate) fn middle(samples: &[Sample]) -> f64 {
    let mut times: Vec<f64> = samples.iter().map(|sample| sample.first_byte_us).collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}

pub(crate) fn drop_page_cache() -> Result<()> {
    // What was not written yet cannot be dropped.
    nix::unistd::sync();
    fs::write(PAGE_CACHE, DROP_ALL).with_context(|| format!("write {PAGE_CACHE}"))
}

/// From the load's request to running vCPUs, to a unique guest, to the first byte at the client; and all that the client
/// waited for, which is what came before the load as well.
fn resumes(which: &str, samples: &[Sample]) -> Vec<Figure> {
    let figure = |name: &str, of: &dyn Fn(&Sample) -> f64| {
        Figure::new(format!("{name}_{which}"), "us", samples.iter().map(of).collect())
    };
    vec![
        figure("resume_to_vcpu", &|sample| sample.answer.us("load")),
        figure("resume_to_unique", &|sample| sample.answer.us("load") + sample.answer.us("unique")),
        figure("resume_to_first_byte", &|sample| sample.first_byte_us - sample.before_load_us()),
        figure("restore_to_first_byte", &|sample| sample.first_byte_us),
    ]
}

/// Where the time goes, by the agent's clock.
fn parts(of: &str, phases: &[&str], samples: &[Sample]) -> Vec<Figure> {
    let part = |phase: &&str| {
        let us = samples.iter().map(|sample| sample.answer.us(phase)).collect();
        Figure::new(format!("part_of_{of}_{phase}"), "us", us)
    };
    phases.iter().map(part).collect()
}
