//! A million asynchronous calls that wait: what they take of the agent's memory, how soon another agent has found them, and what it takes
//! while all of them go, in the order of their age.
//!
//! Without a guest no call is delivered. So the agent may start one sandbox and no second one, and everything waits as it does for
//! a function that is at its limit; and then the function is deleted, and each of its events is read, and dropped, in its turn.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::{
    Figure, Plan,
    agent::Agent,
    connection::Connection,
    functions::{self, FUNCTIONS, name},
    signed,
};

/// Calls of one connection with one signature, which is good for five minutes.
const CALLS_A_SIGNATURE: usize = 1000;

/// Of the agent: as many deliveries at a time as there may be, which share a commit.
const CONFIG: &str = "[concurrency]\ngrowth = 1\ngrowth_s = 1000000\n[events]\nmax_deliveries = 1000\n";
/// Between two looks at what is left.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// What whole seconds of an age hide, and a look takes.
const BLUR_S: f64 = 2.0;

/// What the agent says of a function's events.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Standing {
    queued: u64,
    in_flight: u64,
    oldest_age_in_seconds: Option<u64>,
}

pub(crate) fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let agent = Agent::start(plan, CONFIG)?;
    functions::create(plan, &agent)?;
    let event = event()?;
    let mut connections = Vec::new();
    for _ in 0..plan.callers {
        let mut connection = Connection::open(agent.address)?;
        connection.ask(&event, 202)?;
        connections.push(connection);
    }
    let before = agent.resident_bytes()?;
    let began = Instant::now();
    // One of each connection waits already, and a queue that takes a million takes no more.
    let timed = plan.events.saturating_sub(plan.callers);
    accept(timed, connections)?;
    let accepted_us = began.elapsed().as_secs_f64() * 1e6;
    let grown = agent.resident_bytes()?.saturating_sub(before);
    drop(agent);

    let began = Instant::now();
    let agent = Agent::start(plan, CONFIG)?;
    let open_ms = began.elapsed().as_secs_f64() * 1e3;
    let drained_us = drain(plan, &agent)?;
    let largest = agent.largest_bytes()?.saturating_sub(before);
    let count = f64::from(plan.events);
    Ok(vec![
        Figure::new("events_1m_accept_interval", "us", vec![accepted_us / f64::from(timed)]),
        Figure::new("events_1m_memory", "bytes", vec![grown as f64]),
        Figure::new("events_1m_open", "ms", vec![open_ms]),
        Figure::new("events_1m_drain_interval", "us", vec![drained_us / count]),
        Figure::new("events_1m_drain_memory", "bytes", vec![largest as f64]),
    ])
}

/// An asynchronous call, signed now.
fn event() -> Result<Vec<u8>> {
    let path = format!("{FUNCTIONS}/{}/invocations", name(0));
    signed::request_with("POST", &path, r#"{"key":"value"}"#, &[("x-amz-invocation-type", "Event")])
}

/// Has so many accepted, by all connections at once.
fn accept(count: u32, connections: Vec<Connection>) -> Result<()> {
    let left = AtomicU32::new(count);
    let take = |mut connection: Connection| -> Result<()> {
        let next =
            || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        loop {
            let event = event()?;
            for _ in 0..CALLS_A_SIGNATURE {
                if !next() {
                    return Ok(());
                }
                connection.ask(&event, 202)?;
            }
        }
    };
    thread::scope(|scope| {
        let take = &take;
        let running: Vec<_> =
            connections.into_iter().map(|connection| scope.spawn(move || take(connection))).collect();
        let mut ended = running.into_iter().map(thread::ScopedJoinHandle::join);
        ended.try_for_each(|caller| caller.unwrap_or_else(|_| anyhow::bail!("a caller panicked")))
    })
}

/// Deletes the function and waits until nothing of it waits, µs; when the oldest one was accepted has to be later and later.
fn drain(plan: &Plan, agent: &Agent) -> Result<f64> {
    let mut connection = Connection::open(agent.address)?;
    let path = format!("/tinderbox/events/{}", name(0));
    let look = |connection: &mut Connection| -> Result<Standing> {
        // A signature is good for five minutes.
        let answer = connection.ask(&signed::request("GET", &path, "")?, 200)?;
        serde_json::from_slice(answer).context("understand how events stand")
    };
    let Standing { queued, in_flight, .. } = look(&mut connection)?;
    ensure!(queued + in_flight >= u64::from(plan.events), "{queued} and {in_flight} events wait");
    let began = Instant::now();
    let delete = signed::request("DELETE", &format!("{FUNCTIONS}/{}", name(0)), "")?;
    connection.ask(&delete, 204)?;
    let mut oldest_s = f64::MIN;
    loop {
        let Standing { queued, in_flight, oldest_age_in_seconds } = look(&mut connection)?;
        if queued + in_flight == 0 {
            return Ok(began.elapsed().as_secs_f64() * 1e6);
        }
        if let Some(age) = oldest_age_in_seconds {
            let accepted_s = began.elapsed().as_secs_f64() - age as f64;
            ensure!(accepted_s > oldest_s - BLUR_S, "an older event went after a younger one");
            oldest_s = oldest_s.max(accepted_s);
        }
        // Nobody wakes it; a client without a pause would take a processor from the agent.
        thread::park_timeout(LOOK_INTERVAL);
    }
}
