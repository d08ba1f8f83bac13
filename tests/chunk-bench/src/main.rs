//! Takes the figures of `cargo xtask bench` that need chunks and no guest: how fast they are read and published, what a large
//! content takes, what a crowd costs. On the machine that xtask runs on, with its processor's own instructions: emulated ones
//! say nothing of a cipher.
//!
//! Not a test and not shipped. It reads its plan from a file and prints the raw samples of each figure as a line of JSON, as
//! `tests/bench-driver` does; xtask makes the table.

mod content;
mod crowd;
mod large;
mod publish;
mod read;

use std::{env, fs, path::PathBuf, time::Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// What precedes a figure.
const FIGURE_MARK: &str = "bench-figure: ";

/// What to measure with, as xtask wrote it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    /// The image of a runtime.
    image: PathBuf,
    /// The same, packed.
    pack: PathBuf,
    /// An empty folder on a disk.
    scratch: PathBuf,
    /// An empty folder in memory: what a disk takes to flush is not the product's.
    memory: PathBuf,
    /// Samples of each figure.
    rounds: u32,
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
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [plan] => {
            let text = fs::read_to_string(plan).with_context(|| format!("read the plan {plan}"))?;
            measure(&serde_json::from_str(&text).with_context(|| format!("parse the plan {plan}"))?)
        }
        // A process of its own, whose memory is that one content's.
        [large::SPARSE, pack, scratch] => print(&large::sparse(pack.as_ref(), scratch.as_ref())?),
        [large::FULL, scratch] => print(&large::full(scratch.as_ref())?),
        _ => bail!("usage: chunk-bench PLAN.json"),
    }
}

fn measure(plan: &Plan) -> Result<()> {
    print(&read::measure(plan)?)?;
    print(&publish::measure(plan)?)?;
    print(&large::measure(plan)?)?;
    print(&crowd::measure(plan)?)
}

fn print(figures: &[Figure]) -> Result<()> {
    for figure in figures {
        println!("{FIGURE_MARK}{}", serde_json::to_string(figure).context("write a figure")?);
    }
    Ok(())
}

/// Milliseconds since then.
pub(crate) fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
