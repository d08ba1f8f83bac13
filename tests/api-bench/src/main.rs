//! Takes the figures of `cargo xtask bench` that need an agent and no guest: how many reads of a configuration it answers when it
//! has many functions, how long it takes to list them, and what they, or a million asynchronous calls, take of its memory. On the machine that xtask runs on:
//! clients and agent share its processors, and the clock is its own.
//!
//! Not a test and not shipped. It reads its plan from a file and prints the raw samples of each figure as a line of JSON, as
//! `tests/bench-driver` does; xtask makes the table.

mod agent;
mod connection;
mod events;
mod functions;
mod lists;
mod reads;
mod signed;

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use agent::Agent;

/// What precedes a figure.
const FIGURE_MARK: &str = "bench-figure: ";

/// What to measure with, as xtask wrote it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    /// Our programs and the runtimes, as in the appliance.
    lib_dir: PathBuf,
    /// An empty folder for the agent's state.
    state_dir: PathBuf,
    /// How many functions there are.
    functions: u32,
    /// Connections at once, each with one request at a time.
    callers: u32,
    /// Reads of a configuration, by all of them.
    reads: u32,
    /// Asynchronous calls that wait, if they are what is measured.
    events: u32,
}

/// Raw samples of one figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// Name in the table and in the JSON file; never reused for another meaning.
    pub(crate) name: String,
    /// `ms`, `us`, `bytes`, `ratio`.
    pub(crate) unit: String,
    /// In the order taken.
    pub(crate) samples: Vec<f64>,
}

impl Figure {
    pub(crate) fn new(name: &str, unit: &str, samples: Vec<f64>) -> Self {
        Self { name: name.to_owned(), unit: unit.to_owned(), samples }
    }
}

fn main() -> Result<()> {
    let Some(path) = env::args().nth(1) else { bail!("usage: api-bench PLAN.json") };
    let text = fs::read_to_string(&path).with_context(|| format!("read the plan {path}"))?;
    let plan: Plan = serde_json::from_str(&text).with_context(|| format!("parse the plan {path}"))?;
    if plan.events > 0 {
        return print(&events::measure(&plan)?);
    }
    let agent = Agent::start(&plan, "")?;
    let before = agent.resident_bytes()?;
    functions::create(&plan, &agent)?;
    let grown = agent.resident_bytes()?.saturating_sub(before);
    print(&[Figure::new("api_memory_of_all", "bytes", vec![grown as f64])])?;
    print(&reads::measure(&plan, &agent)?)?;
    print(&lists::measure(&plan, &agent)?)
}

fn print(figures: &[Figure]) -> Result<()> {
    for figure in figures {
        println!("{FIGURE_MARK}{}", serde_json::to_string(figure).context("write a figure")?);
    }
    Ok(())
}
