//! Takes the figures of `cargo xtask bench` from inside the booted appliance, where the clock is: under QEMU's
//! instruction counting the host's clock says nothing, the guest's says how many instructions ran.
//!
//! Not a test and not shipped: xtask appends it to the appliance's initrd with a unit that starts it. It reads its
//! plan from a file, prints the raw samples of each figure as a line of JSON and judges nothing; xtask makes the table.

mod boot;
mod invoke;
mod memory;
mod plan;
mod process;

use std::{env, fs};

use anyhow::{Context, Result};
use serde::Serialize;

use plan::Plan;

/// What precedes a figure on the console, so that xtask finds it among the log.
const FIGURE_MARK: &str = "bench-figure: ";
/// The last line, when everything was measured.
const DONE_MARK: &str = "bench-done";
/// The last line when not; the error follows.
const FAILURE_MARK: &str = "bench-failed: ";

/// Raw samples of one figure.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    /// Name in the table and in the JSON file; never reused for another meaning.
    pub(crate) name: &'static str,
    /// `ms`, `us`, `bytes`.
    pub(crate) unit: &'static str,
    /// In the order taken.
    pub(crate) samples: Vec<f64>,
}

fn main() {
    match run() {
        Ok(()) => println!("{DONE_MARK}"),
        Err(error) => println!("{FAILURE_MARK}{error:#}"),
    }
}

fn run() -> Result<()> {
    let path = env::args().nth(1).context("usage: bench-driver PLAN.json")?;
    let text = fs::read_to_string(&path).with_context(|| format!("read the plan {path}"))?;
    let plan: Plan = serde_json::from_str(&text).with_context(|| format!("parse the plan {path}"))?;
    print(&boot::measure(&plan)?)?;
    print(&invoke::measure(&plan)?)
}

fn print(figures: &[Figure]) -> Result<()> {
    for figure in figures {
        println!("{FIGURE_MARK}{}", serde_json::to_string(figure).context("write a figure")?);
    }
    Ok(())
}
