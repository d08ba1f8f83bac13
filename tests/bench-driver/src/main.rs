//! Takes the figures of `cargo xtask bench` from inside the booted appliance, where the clock is: under QEMU's
//! instruction counting the host's clock says nothing, the guest's says how many instructions ran.
//!
//! Not a test and not shipped: xtask appends it to the appliance's initrd with a unit that starts it. It reads its
//! plan from a file, prints the raw samples of each figure as a line of JSON and judges nothing; xtask makes the table.

mod boot;
mod entry;
mod fair;
mod hand;
mod images;
mod invoke;
mod jail;
mod load;
mod memory;
mod node;
mod ours;
mod payloads;
mod peer;
mod plan;
mod process;
mod restarted;
mod resume;
mod server;
mod shared;
mod slots;
mod snapshot;
mod timing;
mod touch;

use std::{env, fs};

use anyhow::{Context, Result};
use serde::Serialize;

use node::Caller;
use plan::{Part, Plan};

/// What precedes a figure on the console, so that xtask finds it among the log.
const FIGURE_MARK: &str = "bench-figure: ";
/// What precedes a line for people.
const NOTE_MARK: &str = "bench-note: ";
/// The last line, when everything was measured.
const DONE_MARK: &str = "bench-done";
/// The last line when not; the error follows.
const FAILURE_MARK: &str = "bench-failed: ";

/// One after the other. Those that other snapshots would be shared with come after the one that counts what is shared.
const ORDER: &[Part] = &[
    Part::Boot,
    Part::Snapshot,
    Part::Touch,
    Part::Jail,
    Part::Invoke,
    Part::Fair,
    Part::Shared,
    Part::Resume,
    Part::Images,
    Part::Restarted,
];

/// Raw samples of one figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// Name in the table and in the JSON file; never reused for another meaning.
    pub(crate) name: String,
    /// `ms`, `us`, `bytes`, `ratio`.
    pub(crate) unit: &'static str,
    /// In the order taken.
    pub(crate) samples: Vec<f64>,
}

impl Figure {
    /// A figure's samples.
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, samples: Vec<f64>) -> Self {
        Self { name: name.into(), unit, samples }
    }
}

fn main() {
    match run() {
        Ok(()) => println!("{DONE_MARK}"),
        Err(error) => println!("{FAILURE_MARK}{error:#}"),
    }
}

fn run() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let path = arguments.next().context("usage: bench-driver PLAN.json")?;
    if path == hand::NAME {
        return hand::become_it(arguments);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("read the plan {path}"))?;
    let plan: Plan = serde_json::from_str(&text).with_context(|| format!("parse the plan {path}"))?;
    // The agent may still be on its way; what asks nothing of it does not wait.
    if plan.parts.iter().any(|part| !matches!(part, Part::Boot | Part::Snapshot | Part::Touch | Part::Jail)) {
        Caller::new(&plan).wait_until_there()?;
    }
    for part in ORDER {
        if plan.parts.contains(part) {
            measure(*part, &plan)?;
        }
    }
    Ok(())
}

fn measure(part: Part, plan: &Plan) -> Result<()> {
    match part {
        Part::Boot => print(&boot::measure(plan)?),
        Part::Snapshot => print(&snapshot::measure(plan)?),
        Part::Touch => print(&touch::measure(plan)?),
        Part::Jail => print(&[jail::measure(plan)?, slots::measure(plan)?].concat()),
        Part::Invoke => {
            print(&invoke::measure(plan)?)?;
            print(&load::measure(plan)?)?;
            print(&payloads::measure(plan)?)
        }
        Part::Fair => print(&fair::measure(plan)?),
        Part::Resume => resume::measure(plan),
        Part::Shared => print(&shared::measure(plan)?),
        Part::Images => print(&images::measure(plan)?),
        Part::Restarted => restarted::measure(plan),
    }
}

/// Hands figures to xtask.
fn print(figures: &[Figure]) -> Result<()> {
    for figure in figures {
        println!("{FIGURE_MARK}{}", serde_json::to_string(figure).context("write a figure")?);
    }
    Ok(())
}

/// Tells people of something that is not as it should be, and that the figures leave out.
fn note(text: &str) {
    println!("{NOTE_MARK}{text}");
}
