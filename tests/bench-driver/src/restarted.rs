//! Resumes by an agent that has just been started, with something taken away from it before: the working set that a snapshot's
//! clones have recorded, or all copies of chunks that the node has.
//!
//! The agent is killed, which is what it has to stand at any moment; systemd starts it again.

use std::{fs, io, path::Path};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    Figure,
    invoke::agent_pid,
    node::{Caller, Function, SETTLE, SMALLEST_MIB, at_once, rest},
    note,
    plan::Plan,
    print,
    resume::{Sample, drop_page_cache, end, event, middle},
    timing::SNAPSHOT,
};

const FUNCTION: &str = "restarted";
/// A held call waits for all others.
const TIMEOUT_S: u32 = 300;
/// Clones that tell what they wait for; none later does.
const LESSONS: u32 = 4;
/// More samples than that may be lost.
const MAX_LOST: usize = 5;
/// Of a lone clone's time, for each of those that come at once.
const HOLD_FACTOR: f64 = 1.5;
/// In the agent's state: what is published, and copies of it.
const ROOTS: &str = "chunks/origin/roots";
const COPIES: &str = "chunks/cache";
/// What the label of a recorded working set has in it.
const RECORDED: &str = "-prefetch-";

/// Prints as it goes.
pub(crate) fn measure(plan: &Plan) -> Result<()> {
    let caller = Caller::new(plan);
    let (runtime, zip) = (&plan.runtime, &plan.resume_zip);
    caller.create(&Function {
        name: FUNCTION,
        runtime,
        zip,
        handler: "ends.handler",
        memory_mib: SMALLEST_MIB,
        timeout_s: TIMEOUT_S,
    })?;
    let node = Node { plan, version: caller.publish(FUNCTION)? };
    let recorded = node.recorded()?;
    let lone_us = middle(&recorded);
    print(&[
        figure("restore_recorded_dropped", &recorded),
        figure("restore_unrecorded_dropped", &node.unrecorded()?),
    ])?;
    if plan.crowd > 0 {
        print(&node.crowd(lone_us)?)?;
    }
    caller.delete(FUNCTION)
}

struct Node<'a> {
    plan: &'a Plan,
    version: String,
}

impl Node<'_> {
    /// Clones that find the working set that others have recorded.
    fn recorded(&self) -> Result<Vec<Sample>> {
        let caller = Caller::new(self.plan);
        for _ in 0..LESSONS {
            rest(SETTLE);
            caller.invoke(FUNCTION, Some(&self.version), &event(0))?;
            end(&caller, FUNCTION, Some(&self.version))?;
        }
        rest(SETTLE);
        self.resumes(|| Ok(()))
    }

    /// Clones of the same snapshot that find none.
    fn unrecorded(&self) -> Result<Vec<Sample>> {
        let roots = self.plan.state_dir.join(ROOTS);
        ensure!(forget_recorded(&roots)? > 0, "no working set is recorded in {}", roots.display());
        // One that was lost has told nothing, so there may be none.
        self.resumes(|| forget_recorded(&roots).map(drop))
    }

    /// So many clones, each by an agent of its own, from a disk.
    fn resumes(&self, before: impl Fn() -> Result<()>) -> Result<Vec<Sample>> {
        let wanted = self.plan.recorded_resumes as usize;
        let (mut samples, mut tries) = (Vec::new(), 0);
        while samples.len() < wanted {
            tries += 1;
            ensure!(tries <= wanted + MAX_LOST, "one resume after the other is lost");
            before()?;
            restart(self.plan)?;
            drop_page_cache()?;
            let caller = Caller::new(self.plan);
            let answer = caller.invoke(FUNCTION, Some(&self.version), &event(0))?;
            end(&caller, FUNCTION, Some(&self.version))?;
            // Its lesson is learned by then, and made what the next one would find.
            rest(SETTLE);
            let sample = Sample::of(&answer, 0);
            samples.extend(sample.is_of_one_start(SNAPSHOT).then_some(sample));
        }
        Ok(samples)
    }

    /// Many clones at once on a node that has no copy of anything, and how often it read the origin for each chunk.
    fn crowd(&self, lone_us: f64) -> Result<Vec<Figure>> {
        let crowd = self.plan.crowd;
        let mut hold_ms = (lone_us / 1e3 * HOLD_FACTOR) as u64 * crowd as u64;
        for _ in 0..MAX_LOST {
            restart_without_copies(self.plan)?;
            let (version, event) = (Some(self.version.as_str()), event(hold_ms));
            let answers = at_once(self.plan, crowd, |caller| caller.invoke(FUNCTION, version, &event))?;
            let (fetched, copies) = Caller::new(self.plan).fetched_and_copies()?;
            at_once(self.plan, crowd, |caller| end(caller, FUNCTION, version))?;
            let samples: Vec<Sample> = answers.iter().map(|answer| Sample::of(answer, hold_ms)).collect();
            let lost = samples.iter().filter(|sample| !sample.is_of_one_start(SNAPSHOT)).count();
            if lost == 0 {
                let reads = fetched as f64 / copies.max(1) as f64;
                return Ok(vec![
                    figure(&format!("restore_crowd_{crowd}"), &samples),
                    Figure::new(format!("crowd_{crowd}_origin_reads"), "ratio", vec![reads]),
                ]);
            }
            note(&format!("{lost} of {crowd} clones at once were lost, or met another's sandbox"));
            hold_ms *= 2;
        }
        bail!("{crowd} calls at once do not get a clone each")
    }
}

/// Ends the agent, and every sandbox with it, and waits for the next one.
fn restart(plan: &Plan) -> Result<()> {
    let agent = i32::try_from(agent_pid()?).context("process id")?;
    kill(Pid::from_raw(agent), Signal::SIGKILL).context("kill the agent")?;
    // What still answers is not the one that was killed once its socket is gone with it.
    rest(SETTLE);
    Caller::new(plan).wait_until_there()?;
    rest(SETTLE);
    Ok(())
}

/// The next agent, on a node that has no copy of any chunk.
pub(crate) fn restart_without_copies(plan: &Plan) -> Result<()> {
    fs::remove_dir_all(plan.state_dir.join(COPIES)).context("take the node's copies away")?;
    restart(plan)
}

fn figure(name: &str, samples: &[Sample]) -> Figure {
    Figure::new(name, "us", samples.iter().map(|sample| sample.first_byte_us).collect())
}

/// Deletes all recorded working sets; how many there were.
fn forget_recorded(roots: &Path) -> Result<usize> {
    let names = fs::read_dir(roots).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut forgotten = 0;
    for entry in names.with_context(|| format!("list {}", roots.display()))? {
        if entry.file_name().to_string_lossy().contains(RECORDED) {
            fs::remove_file(entry.path()).context("forget a working set")?;
            forgotten += 1;
        }
    }
    Ok(forgotten)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_working_sets_are_forgotten() {
        let folder = std::env::temp_dir().join(format!("roots-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for name in ["snapshot-0-prefetch-1", "snapshot-0-memory", "code-1"] {
            fs::write(folder.join(name), "").unwrap();
        }
        assert_eq!(forget_recorded(&folder).unwrap(), 1);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        fs::remove_dir_all(&folder).unwrap();
    }
}
