//! What the longest payloads take of the agent's memory when many come at once: each call brings 6 MB and takes 6 MB with it.

use std::fs;

use anyhow::{Context as _, Result};

use crate::{
    Figure,
    invoke::agent_pid,
    node::{Caller, Function, SETTLE, at_once, rest},
    plan::Plan,
};

const FUNCTION: &str = "payloads";
const TIMEOUT_S: u32 = 300;
/// Of a function that reads and writes 6 MB of JSON, and pays for enough of a processor to do so.
const MEMORY_MIB: u32 = 512;
/// Lambda's longest event and answer.
const MAX_LEN: usize = 6 * 1024 * 1024;
/// Around what is said: `{"wait_s":0.5,"say":""}`, and quotes in the answer.
const AROUND: usize = 32;
/// How long each function holds its event: until all of them have theirs.
const WAIT_S: f64 = 0.5;

/// The largest that the agent has been beyond what it was, and that by the bytes that came and went.
pub(crate) fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    if plan.big_calls == 0 {
        return Ok(Vec::new());
    }
    let caller = Caller::new(plan);
    caller.create(&Function::echo(plan, FUNCTION, MEMORY_MIB, TIMEOUT_S))?;
    let event = |len: usize| format!(r#"{{"wait_s":{WAIT_S},"say":"{}"}}"#, "x".repeat(len));
    let call = |event: &str| at_once(plan, plan.big_calls, |caller| Ok(caller.answer(FUNCTION, event)?.len));
    // Sandboxes, connections and threads are there before anything is looked at.
    call(&event(1))?;
    rest(SETTLE);
    let agent = agent_pid()?;
    let before = status_bytes(agent, "VmRSS")?;
    // From now on the largest is of what is now (proc_pid_clear_refs(5)).
    fs::write(format!("/proc/{agent}/clear_refs"), "5")
        .context("forget the largest that the agent has been")?;
    let event = event(MAX_LEN - AROUND);
    let answered: usize = call(&event)?.iter().sum();
    let grown = status_bytes(agent, "VmHWM")?.saturating_sub(before) as f64;
    let payloads = (event.len() * plan.big_calls + answered) as f64;
    caller.delete(FUNCTION)?;
    rest(SETTLE);
    Ok(vec![
        Figure::new("agent_memory_6mb_c16", "bytes", vec![grown]),
        Figure::new("agent_memory_6mb_of_payloads", "ratio", vec![grown / payloads]),
    ])
}

/// A line of `/proc/PID/status`.
fn status_bytes(pid: u32, name: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("read the agent's status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).context("the status has the line")?;
    Ok(kib.parse::<u64>().context("a number of KiB")? * 1024)
}
