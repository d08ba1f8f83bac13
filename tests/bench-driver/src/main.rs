//! Takes the figures of `cargo xtask bench` from inside the booted appliance, where the clock is: under QEMU's
//! instruction counting the host's clock says nothing, the guest's says how many instructions ran.
//!
//! Not a test and not shipped: xtask appends it to the appliance's initrd with a unit that starts it. It reads its
//! plan from a file, prints the raw samples as one line of JSON and judges nothing; xtask makes the table.

mod boot;
mod invoke;
mod memory;
mod plan;
mod process;

use std::{env, fs};

use anyhow::{Context, Result};
use serde::Serialize;

use plan::Plan;

/// What precedes the JSON line on the console, so that xtask finds it among the log.
const REPORT_MARK: &str = "bench-report: ";
/// What precedes the error when there is no report.
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
        Ok(figures) => println!("{REPORT_MARK}{figures}"),
        Err(error) => println!("{FAILURE_MARK}{error:#}"),
    }
}

fn run() -> Result<String> {
    let path = env::args().nth(1).context("usage: bench-driver PLAN.json")?;
    let text = fs::read_to_string(&path).with_context(|| format!("read the plan {path}"))?;
    let plan: Plan = serde_json::from_str(&text).with_context(|| format!("parse the plan {path}"))?;
    let mut figures = boot::measure(&plan)?;
    figures.extend(invoke::measure(&plan)?);
    serde_json::to_string(&figures).context("write the report")
}
