//! The node's Lambda API, as a client on a keep-alive connection sees it.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use nix::{
    sys::time::TimeSpec,
    time::{ClockId, ClockNanosleepFlags, clock_nanosleep},
};
use serde_json::{Value, json};
use ureq::Agent;

use crate::{plan::Plan, timing::Timing};

const FUNCTIONS: &str = "/2015-03-31/functions";
/// How much there is of chunks.
const CHUNKS: &str = "/tinderbox/chunks";
/// Between two looks at an agent that is being started.
const START_INTERVAL: Duration = Duration::from_millis(100);
/// It is there within seconds; a counted one has taken half a minute.
const MAX_STARTS: usize = 3000;
/// Between two looks at a function that is not active yet: the node is at work for it, and a busy client would take
/// the only processor of a counted node from it.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// What the node does beside and after an answer (ends a sandbox, reserves the next blank machine) is over by then.
pub(crate) const SETTLE: Duration = Duration::from_secs(1);

/// Memory of the smallest function.
pub(crate) const SMALLEST_MIB: u32 = 128;
/// Memory that pays for a processor: a function with less that is called again and again has to wait for its quota.
pub(crate) const ONE_CPU_MIB: u32 = 1769;

/// A function to create.
pub(crate) struct Function<'a> {
    pub(crate) name: &'a str,
    pub(crate) runtime: &'a str,
    pub(crate) zip: &'a Path,
    pub(crate) handler: &'a str,
    pub(crate) memory_mib: u32,
    pub(crate) timeout_s: u32,
}

impl<'a> Function<'a> {
    /// One that answers with what its event says, after as long as that says (`tests/functions/echo`).
    pub(crate) fn echo(plan: &'a Plan, name: &'a str, memory_mib: u32, timeout_s: u32) -> Self {
        Self {
            name,
            runtime: &plan.runtime,
            zip: &plan.echo_zip,
            handler: "app.handler",
            memory_mib,
            timeout_s,
        }
    }
}

/// One answer.
pub(crate) struct Answer {
    /// From the request to the head of the response.
    pub(crate) first_byte_us: f64,
    /// From the request to the end of the response.
    pub(crate) whole_us: f64,
    pub(crate) timing: Timing,
    /// How long it is, in bytes.
    pub(crate) len: usize,
    /// Whether the function failed.
    pub(crate) failed: bool,
}

/// One connection.
pub(crate) struct Caller {
    http: Agent,
    endpoint: String,
}

impl Caller {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self { http: Agent::new_with_defaults(), endpoint: plan.endpoint.clone() }
    }

    /// Creates a function whose published versions are snapshotted, and waits until it is active.
    pub(crate) fn create(&self, function: &Function<'_>) -> Result<()> {
        let zip = fs::read(function.zip).context("read the function's zip")?;
        let body = json!({
            "FunctionName": function.name,
            "Runtime": function.runtime,
            "Handler": function.handler,
            "Role": "arn:aws:iam::000000000000:role/bench",
            "MemorySize": function.memory_mib,
            "Timeout": function.timeout_s,
            "SnapStart": { "ApplyOn": "PublishedVersions" },
            "Code": { "ZipFile": BASE64.encode(&zip) },
        });
        let url = format!("{}{FUNCTIONS}", self.endpoint);
        self.http.post(url).send(body.to_string().as_bytes()).context("create the function")?;
        self.wait_until_active(function.name, None)
    }

    /// Lets a function's sandboxes that come after this out to everybody.
    pub(crate) fn let_out(&self, name: &str) -> Result<()> {
        let url = format!("{}/tinderbox/egress/{name}", self.endpoint);
        self.http.put(url).send(r#"{"Egress":"internet"}"#).context("let the function out")?;
        Ok(())
    }

    /// Deletes a function, and its idle sandboxes with it.
    pub(crate) fn delete(&self, name: &str) -> Result<()> {
        self.http
            .delete(format!("{}{FUNCTIONS}/{name}", self.endpoint))
            .call()
            .context("delete the function")?;
        Ok(())
    }

    /// Publishes a version and waits until it is active: its snapshot is there.
    pub(crate) fn publish(&self, name: &str) -> Result<String> {
        let url = format!("{}{FUNCTIONS}/{name}/versions", self.endpoint);
        let text = self.http.post(url).send("{}")?.body_mut().read_to_string()?;
        let published: Value = serde_json::from_str(&text).context("understand what was published")?;
        let version = published["Version"].as_str().context("a version has a number")?.to_owned();
        self.wait_until_active(name, Some(&version))?;
        Ok(version)
    }

    /// Invokes a function and waits for the answer.
    pub(crate) fn invoke(&self, name: &str, version: Option<&str>, event: &str) -> Result<Answer> {
        let url = self.url(name, "invocations", version);
        let started = Instant::now();
        let mut response = self.http.post(url).send(event.as_bytes())?;
        let first_byte_us = micros(started);
        let len = response.body_mut().read_to_vec().context("read the answer")?.len();
        let whole_us = micros(started);
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let timing = Timing::parse(header("server-timing").unwrap_or_default());
        let failed = header("x-amz-function-error").is_some();
        Ok(Answer { first_byte_us, whole_us, timing, len, failed })
    }

    /// The same of `$LATEST`, whose function must not fail.
    pub(crate) fn answer(&self, name: &str, event: &str) -> Result<Answer> {
        let answer = self.invoke(name, None, event).with_context(|| format!("call {name}"))?;
        ensure!(!answer.failed, "{name} failed");
        Ok(answer)
    }

    /// Reads a function's configuration; µs.
    pub(crate) fn read_us(&self, name: &str) -> Result<f64> {
        let url = self.url(name, "configuration", None);
        let started = Instant::now();
        self.http.get(url).call()?.body_mut().read_to_vec().context("read the configuration")?;
        Ok(micros(started))
    }

    /// What the node says of its chunks.
    pub(crate) fn chunks(&self) -> Result<Value> {
        let text = self.http.get(format!("{}{CHUNKS}", self.endpoint)).call()?.body_mut().read_to_string()?;
        serde_json::from_str(&text).context("understand what there is of chunks")
    }

    /// Chunks that the agent has fetched since it started, and copies that the node has.
    pub(crate) fn fetched_and_copies(&self) -> Result<(u64, u64)> {
        let chunks = self.chunks()?;
        let number =
            |name: &str| chunks["cache"][name].as_u64().with_context(|| format!("no {name} in {chunks}"));
        Ok((number("fetched")?, number("copies")?))
    }

    /// Waits until the agent answers.
    pub(crate) fn wait_until_there(&self) -> Result<()> {
        for _ in 0..MAX_STARTS {
            if self.chunks().is_ok() {
                return Ok(());
            }
            rest(START_INTERVAL);
        }
        bail!("the agent does not come back")
    }

    fn wait_until_active(&self, name: &str, version: Option<&str>) -> Result<()> {
        let url = self.url(name, "configuration", version);
        loop {
            let text = self.http.get(&url).call()?.body_mut().read_to_string()?;
            let configuration: Value = serde_json::from_str(&text)?;
            match configuration["State"].as_str() {
                Some("Active") => return Ok(()),
                Some("Pending") => rest(LOOK_INTERVAL),
                _ => bail!("the function cannot become active: {text}"),
            }
        }
    }

    fn url(&self, name: &str, what: &str, version: Option<&str>) -> String {
        let qualifier = version.map(|version| format!("?Qualifier={version}")).unwrap_or_default();
        format!("{}{FUNCTIONS}/{name}/{what}{qualifier}", self.endpoint)
    }
}

/// What so many callers, each on a connection of its own, did at once.
pub(crate) fn at_once<T: Send>(
    plan: &Plan,
    callers: usize,
    work: impl Fn(&Caller) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let running: Vec<_> = (0..callers).map(|_| scope.spawn(|| work(&Caller::new(plan)))).collect();
        let join = |caller: thread::ScopedJoinHandle<'_, Result<T>>| {
            caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))?
        };
        running.into_iter().map(join).collect()
    })
}

/// Keeps off the processor: what the node does meanwhile is not told to its clients, and nothing waits for its end but a
/// measurement that it would be in the way of.
pub(crate) fn rest(time: Duration) {
    // Cut short by no signal: there is no handler.
    let _ = clock_nanosleep(
        ClockId::CLOCK_MONOTONIC,
        ClockNanosleepFlags::empty(),
        &TimeSpec::from_duration(time),
    );
}

/// Microseconds since then.
pub(crate) fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}
