//! Create to first answer, warm invocations at concurrency 1 and 8, and what the agent spends on one.

use std::{fs, thread, time::Instant};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use serde_json::json;
use ureq::Agent;

use crate::{Figure, plan::Plan};

const FUNCTION: &str = "bench";
const EVENT: &str = r#"{"key":"value"}"#;
/// Callers of the concurrent figure.
const CALLERS: usize = 8;
const CREATE_PATH: &str = "/2015-03-31/functions";

/// Creates the function, calls it cold, then warm.
pub(crate) fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let caller = Caller::new(plan);
    let mut figures = vec![Figure {
        name: "create_to_first_answer",
        unit: "ms",
        samples: vec![create_and_call(plan, &caller)?],
    }];
    let agent = agent_pid()?;
    let cpu_before = cpu_ns(agent)?;
    let warm = (0..plan.warm_invokes).map(|_| caller.invoke_us()).collect::<Result<Vec<_>>>()?;
    let cpu_us = (cpu_ns(agent)? - cpu_before) as f64 / 1e3 / f64::from(plan.warm_invokes);
    figures.push(Figure { name: "warm_invoke_c1", unit: "us", samples: warm });
    figures.push(Figure { name: "agent_cpu_per_warm_invoke", unit: "us", samples: vec![cpu_us] });
    if plan.warm_invokes_by_eight > 0 {
        figures.push(Figure { name: "warm_invoke_c8", unit: "us", samples: by_eight(plan)? });
    }
    Ok(figures)
}

fn create_and_call(plan: &Plan, caller: &Caller) -> Result<f64> {
    let zip = fs::read(&plan.function_zip).context("read the function's zip")?;
    let body = json!({
        "FunctionName": FUNCTION,
        "Runtime": plan.runtime,
        "Handler": plan.handler,
        "Role": "arn:aws:iam::000000000000:role/bench",
        "MemorySize": 128,
        "Timeout": 60,
        "Code": { "ZipFile": BASE64.encode(&zip) },
    });
    let started = Instant::now();
    caller.post(CREATE_PATH, body.to_string().as_bytes()).context("create the function")?;
    caller.wait_until_active()?;
    caller.invoke_us()?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// Warm latencies with [`CALLERS`] callers at once; each first call, which may meet a cold sandbox, is left out.
fn by_eight(plan: &Plan) -> Result<Vec<f64>> {
    let mut samples = Vec::new();
    // The first round starts the sandboxes; only the second is counted, when all of them are warm.
    for (round, calls) in [1, plan.warm_invokes_by_eight].into_iter().enumerate() {
        let rounds = thread::scope(|scope| {
            let callers: Vec<_> = (0..CALLERS)
                .map(|_| {
                    scope.spawn(|| {
                        let caller = Caller::new(plan);
                        (0..calls).map(|_| caller.invoke_us()).collect::<Result<Vec<_>>>()
                    })
                })
                .collect();
            callers.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        if round == 1 {
            samples = rounds.concat();
        }
    }
    Ok(samples)
}

fn join(caller: thread::ScopedJoinHandle<'_, Result<Vec<f64>>>) -> Result<Vec<f64>> {
    caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))?
}

/// One keep-alive connection to the node.
struct Caller {
    http: Agent,
    endpoint: String,
}

impl Caller {
    fn new(plan: &Plan) -> Self {
        Self { http: Agent::new_with_defaults(), endpoint: plan.endpoint.clone() }
    }

    fn post(&self, path: &str, body: &[u8]) -> Result<Vec<u8>> {
        let mut response = self.http.post(format!("{}{path}", self.endpoint)).send(body)?;
        ensure!(response.headers().get("x-amz-function-error").is_none(), "the function failed");
        response.body_mut().read_to_vec().context("read the answer")
    }

    /// Microseconds of one invocation.
    fn invoke_us(&self) -> Result<f64> {
        let started = Instant::now();
        self.post(&format!("{CREATE_PATH}/{FUNCTION}/invocations"), EVENT.as_bytes())?;
        Ok(started.elapsed().as_secs_f64() * 1e6)
    }

    fn wait_until_active(&self) -> Result<()> {
        let url = format!("{}{CREATE_PATH}/{FUNCTION}/configuration", self.endpoint);
        loop {
            let text = self.http.get(&url).call()?.body_mut().read_to_string()?;
            let configuration: serde_json::Value = serde_json::from_str(&text)?;
            match configuration["State"].as_str() {
                Some("Active") => return Ok(()),
                Some("Pending") => thread::yield_now(),
                other => anyhow::bail!("the function is {other:?}"),
            }
        }
    }
}

/// The agent's process id.
fn agent_pid() -> Result<u32> {
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
