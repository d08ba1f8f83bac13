//! Reads of a function's configuration, by many connections at once, each function in turn.

use std::{thread, time::Instant};

use anyhow::{Context, Result};

use crate::{
    Figure, Plan,
    agent::Agent,
    connection::Connection,
    functions::{FUNCTIONS, name},
    signed,
};

/// How long each read takes, how much time there is from one answer to the next, and what the agent's processor time is of one.
pub(crate) fn measure(plan: &Plan, agent: &Agent) -> Result<Vec<Figure>> {
    let each = plan.reads / plan.callers;
    let mut requests = Vec::new();
    for number in 0..plan.functions {
        requests.push(signed::request("GET", &format!("{FUNCTIONS}/{}/configuration", name(number)), "")?);
    }
    // Connections and first answers are made before the clock runs.
    let connections = (0..plan.callers).map(|_| warm(agent, &requests)).collect::<Result<Vec<_>>>()?;
    let (started, before) = (Instant::now(), agent.cpu_s()?);
    let rounds: Vec<Result<Vec<f64>>> = thread::scope(|scope| {
        let read = |number: usize, connection: Connection| {
            // Each begins elsewhere, so that no two ask for the same.
            let own = requests.iter().cycle().skip(number * requests.len() / plan.callers as usize);
            let own = own.take(each as usize);
            scope.spawn(move || read_all(connection, own))
        };
        let connections = connections.into_iter().enumerate();
        let running: Vec<_> = connections.map(|(number, connection)| read(number, connection)).collect();
        let ended = running.into_iter().map(thread::ScopedJoinHandle::join);
        ended.map(|caller| caller.unwrap_or_else(|_| anyhow::bail!("a caller panicked"))).collect()
    });
    let (elapsed_us, cpu_us) = (started.elapsed().as_secs_f64() * 1e6, (agent.cpu_s()? - before) * 1e6);
    let samples = rounds.into_iter().collect::<Result<Vec<_>>>().context("read configurations")?.concat();
    let count = samples.len() as f64;
    Ok(vec![
        Figure::new("api_read_latency", "us", samples),
        Figure::new("api_read_interval", "us", vec![elapsed_us / count]),
        Figure::new("api_cpu_per_read", "us", vec![cpu_us / count]),
    ])
}

fn warm(agent: &Agent, requests: &[Vec<u8>]) -> Result<Connection> {
    let mut connection = Connection::open(agent.address)?;
    connection.ask(requests.first().context("there are functions")?, 200)?;
    Ok(connection)
}

/// How long each takes, µs.
fn read_all<'a>(mut connection: Connection, requests: impl Iterator<Item = &'a Vec<u8>>) -> Result<Vec<f64>> {
    let read = |request: &Vec<u8>| {
        let started = Instant::now();
        connection.ask(request, 200)?;
        Ok(started.elapsed().as_secs_f64() * 1e6)
    };
    requests.map(read).collect()
}
