//! The figures of an agent that has many functions, or many asynchronous calls, which need no guest: the driver (`tests/api-bench`) runs the payload's agent on this
//! machine, in the tool chroot, where mkfs.erofs is. What a request takes of a processor is counted on a node, too
//! (`agent_cpu_per_read`); how many there are in a second, and how late the latest is, needs processors and a clock.

use super::chunks::driven;
use super::figures::Samples;
use crate::context::Context;
use crate::payload::{self, Payload};
use crate::toolbox::Toolbox;
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::fs;

/// Of which reads are promised to be as quick as of one.
const FUNCTIONS: u32 = 10_000;
/// Connections at once.
const CALLERS: u32 = 16;
/// Reads by all of them: some seconds of them.
const READS: u32 = 40_000;

/// Asynchronous calls that wait; the figures' names say so, too.
const EVENTS: u32 = 1_000_000;
/// Connections by which they come: as many share a commit.
const EVENT_CALLERS: u32 = 256;

/// Everything that is measured of an agent with many functions.
pub(super) fn measure(ctx: &Context) -> Result<Vec<Samples>> {
    let what = format!("measuring the API with {FUNCTIONS} functions on this machine");
    let plan = json!({ "functions": FUNCTIONS, "callers": CALLERS, "reads": READS, "events": 0 });
    drive(ctx, &what, plan)
}

/// Everything that is measured of an agent with many asynchronous calls.
pub(super) fn measure_events(ctx: &Context) -> Result<Vec<Samples>> {
    let what = format!("measuring {EVENTS} asynchronous calls on this machine");
    let plan = json!({ "functions": 1, "callers": EVENT_CALLERS, "reads": 0, "events": EVENTS });
    drive(ctx, &what, plan)
}

fn drive(ctx: &Context, what: &str, mut plan: Value) -> Result<Vec<Samples>> {
    let lib_dir = Payload::ensure(ctx)?.root().join("usr/lib/tinderbox");
    let toolbox = Toolbox::ensure(ctx)?;
    let step = ctx.progress.step("building the driver for the API");
    let driver = payload::build_static(ctx, &step, &["api-bench"])?.join("api-bench");
    step.done();
    let dir = ctx.cache.process_dir("bench-api")?;
    let state = dir.join("state");
    fs::create_dir_all(&state).with_context(|| format!("create {}", state.display()))?;
    (plan["lib_dir"], plan["state_dir"]) = (json!(lib_dir), json!(state));
    let path = dir.join("plan.json");
    fs::write(&path, plan.to_string()).context("write the plan")?;
    let step = ctx.progress.step(what);
    let program = driver.to_str().context("the driver's path is not UTF-8")?;
    let said = toolbox.cmd(program, [&path], &[&driver, &lib_dir, &dir]).read()?;
    step.done();
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    driven(&said)
}
