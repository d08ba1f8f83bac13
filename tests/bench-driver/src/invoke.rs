//! Create to first answer, warm invocations at concurrency 1 and 8, reads of a configuration, and what the agent spends on one of them.

use std::{fs, time::Instant};

use anyhow::{Context, Result};

use crate::{
    Figure,
    node::{Caller, Function, SETTLE, SMALLEST_MIB, at_once, rest},
    plan::Plan,
};

const FUNCTION: &str = "bench";
const EVENT: &str = r#"{"key":"value"}"#;
const TIMEOUT_S: u32 = 60;
/// Callers of the concurrent figure.
const CALLERS: usize = 8;
/// Reads of a configuration: none starts anything, so that they cost little.
const READS: u32 = 300;

/// Creates the function and calls it cold, some times over, then warm, and deletes it: what comes next finds no idle
/// sandboxes.
pub(crate) fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let caller = Caller::new(plan);
    let mut first_answers = Vec::new();
    for number in 1..=plan.creates {
        first_answers.push(create_and_call(plan, &caller)?);
        if number < plan.creates {
            caller.delete(FUNCTION)?;
            rest(SETTLE);
        }
    }
    let mut figures = vec![Figure::new("create_to_first_answer", "ms", first_answers)];
    let (warm, cpu_us) = with_agents_cpu(plan.warm_invokes, || invoke_us(&caller))?;
    figures.push(Figure::new("warm_invoke_c1", "us", warm));
    figures.push(Figure::new("agent_cpu_per_warm_invoke", "us", vec![cpu_us]));
    let (reads, cpu_us) = with_agents_cpu(READS, || caller.read_us(FUNCTION))?;
    figures.push(Figure::new("read_c1", "us", reads));
    figures.push(Figure::new("agent_cpu_per_read", "us", vec![cpu_us]));
    if plan.warm_invokes_by_eight > 0 {
        figures.push(Figure::new("warm_invoke_c8", "us", by_eight(plan)?));
    }
    caller.delete(FUNCTION)?;
    Ok(figures)
}

/// The samples of so many calls, and the agent's processor time for each, µs.
fn with_agents_cpu(times: u32, call: impl Fn() -> Result<f64>) -> Result<(Vec<f64>, f64)> {
    let agent = agent_pid()?;
    let before = cpu_ns(agent)?;
    let samples = (0..times).map(|_| call()).collect::<Result<Vec<_>>>()?;
    Ok((samples, (cpu_ns(agent)? - before) as f64 / 1e3 / f64::from(times)))
}

fn create_and_call(plan: &Plan, caller: &Caller) -> Result<f64> {
    let started = Instant::now();
    let function = Function {
        name: FUNCTION,
        runtime: &plan.runtime,
        zip: &plan.function_zip,
        handler: &plan.handler,
        memory_mib: SMALLEST_MIB,
        timeout_s: TIMEOUT_S,
    };
    caller.create(&function)?;
    invoke_us(caller)?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// Warm latencies with [`CALLERS`] callers at once; each first call, which may meet a cold sandbox, is left out.
fn by_eight(plan: &Plan) -> Result<Vec<f64>> {
    let mut samples = Vec::new();
    // The first round starts the sandboxes; only the second is counted, when all of them are warm.
    for (round, calls) in [1, plan.warm_invokes_by_eight].into_iter().enumerate() {
        let rounds = at_once(plan, CALLERS, |caller| {
            (0..calls).map(|_| invoke_us(caller)).collect::<Result<Vec<_>>>()
        })?;
        if round == 1 {
            samples = rounds.concat();
        }
    }
    Ok(samples)
}

/// Microseconds of one invocation.
fn invoke_us(caller: &Caller) -> Result<f64> {
    Ok(caller.answer(FUNCTION, EVENT)?.whole_us)
}

/// The agent's process id.
pub(crate) fn agent_pid() -> Result<u32> {
    for entry in fs::read_dir("/proc").context("list /proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm.trim_end() == "host-agent" {
            return Ok(pid);
        }
    }
    anyhow::bail!("no host-agent runs here")
}

/// Time on a processor of all threads of a process, ns (`/proc/PID/task/TID/schedstat`, first field).
fn cpu_ns(pid: u32) -> Result<u64> {
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("list the agent's threads")? {
        let text = fs::read_to_string(thread?.path().join("schedstat")).context("read schedstat")?;
        total +=
            text.split(' ').next().and_then(|field| field.parse::<u64>().ok()).context("parse schedstat")?;
    }
    Ok(total)
}
