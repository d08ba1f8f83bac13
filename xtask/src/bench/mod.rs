//! `cargo xtask bench`: the product's figures, as a table and as JSON, held against limits, a peer and the past.
//!
//! A driver (`tests/bench-driver`) runs inside the booted appliance, because only the clock in there is meaningful
//! under emulation. Two modes: *wall clock* on hardware KVM, and *counted*, where one instruction is one virtual
//! nanosecond for host kernel, VMM and guest alike; the latter repeats on any machine and is compared with the figures
//! recorded in the repository.

mod api;
mod appliance;
mod chunks;
mod dedup;
mod figures;
mod recorded;
mod table;

use crate::context::Context;
use crate::qemu::accel::Accelerator;
use anyhow::{Context as _, Result, bail};
use appliance::{Extent, Part};
use clap::ValueEnum as _;
use figures::{Against, Figure, RATIO, Samples};
use std::fs;
use std::path::PathBuf;

/// Which clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Mode {
    /// Counted where the machine only emulates, wall clock where hardware KVM works.
    Auto,
    /// The machine's clock; meaningful on hardware KVM.
    Wall,
    /// One instruction is one nanosecond.
    Counted,
}

/// What to do with the recorded figures after a counted run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum History {
    /// Leave them alone.
    Ignore,
    /// Fail when a figure is over 5 % worse in two boots; leaves out what is not compared.
    Compare,
    /// Replace them by this run's, the middle of three boots: after a change that is meant.
    Record,
}

/// Parts with figures that are compared; the others take a disk's time, or the machine's own.
const COMPARED: &[Part] = &[Part::Boot, Part::Snapshot, Part::Jail, Part::Invoke, Part::Resume];

/// Boots whose middle is recorded: odd.
const RECORDED_BOOTS: usize = 3;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which clock.
    #[arg(long, value_enum, default_value = "auto")]
    mode: Mode,
    /// Measure only these parts.
    #[arg(long, value_enum, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// What to do with the figures recorded in configs/bench/counted.json.
    #[arg(long, value_enum, default_value = "ignore")]
    history: History,
    /// Write every figure to this file: name, value, unit, and the peer's or limit's value.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, ctx: &Context) -> Result<()> {
    let accelerator = accelerator(args.mode, ctx)?;
    if args.history != History::Ignore && accelerator != Accelerator::Counted {
        bail!("only counted figures are recorded and compared: add --mode counted");
    }
    if args.history == History::Record && !args.only.is_empty() {
        bail!("the record is of whole runs: leave out --only");
    }
    let compares = args.history == History::Compare;
    let parts = match args.only.as_slice() {
        [] if compares => COMPARED,
        [] => Part::value_variants(),
        only => only,
    };
    let mut figures = measure(ctx, accelerator, parts, !compares)?;
    println!("\n{}", table::render(&figures));
    // What is compared later is a boot's middle, not one boot's luck.
    if args.history == History::Record {
        let again = (1..RECORDED_BOOTS).map(|_| measure(ctx, accelerator, COMPARED, false));
        recorded::settle_on_medians(&mut figures, &again.collect::<Result<Vec<_>>>()?);
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&figures).context("write the figures")?;
        fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    match args.history {
        History::Ignore => Ok(()),
        History::Record => recorded::write(&ctx.root, &figures),
        History::Compare => settle(ctx, &figures, || measure(ctx, accelerator, parts, false)),
    }
}

/// A counted run compared with the recorded figures: a step of `cargo xtask test`.
pub(crate) fn compare(ctx: &Context) -> Result<()> {
    if recorded::read(&ctx.root)?.is_empty() {
        ctx.progress.say(format!("no figures are recorded in {}: nothing to compare with", recorded::FILE));
        return Ok(());
    }
    run(&Args { mode: Mode::Counted, history: History::Compare, only: Vec::new(), json: None }, ctx)
}

fn accelerator(mode: Mode, ctx: &Context) -> Result<Accelerator> {
    match mode {
        Mode::Counted => Ok(Accelerator::Counted),
        Mode::Wall => Ok(Accelerator::detect(ctx)?.0),
        Mode::Auto => Ok(match Accelerator::detect(ctx)?.0 {
            Accelerator::Kvm => Accelerator::Kvm,
            Accelerator::Emulated | Accelerator::Counted => Accelerator::Counted,
        }),
    }
}

fn measure(ctx: &Context, accelerator: Accelerator, parts: &[Part], crowds: bool) -> Result<Vec<Figure>> {
    let mut samples = Vec::new();
    let on_node: Vec<Part> = parts.iter().copied().filter(|part| !part.needs_no_node()).collect();
    if !on_node.is_empty() {
        samples.extend(appliance::measure(ctx, accelerator, Extent { parts: &on_node, crowds })?);
        samples.extend(appliance::sizes(ctx)?);
    }
    if parts.contains(&Part::Chunks) {
        samples.extend(chunks::measure(ctx)?);
    }
    if parts.contains(&Part::Api) {
        samples.extend(api::measure(ctx)?);
    }
    if parts.contains(&Part::Events) {
        samples.extend(api::measure_events(ctx)?);
    }
    Ok(figures::figures(&samples))
}

/// Whether the figures stand. In what order the only processor's processes take turns differs from boot to boot and moves all samples
/// of one, so what is worse is measured `again`, once, in another boot.
fn settle(ctx: &Context, figures: &[Figure], again: impl FnOnce() -> Result<Vec<Figure>>) -> Result<()> {
    // Those of promises are told in the table: they are aims.
    let missed =
        |figure: &&Figure| figure.unit != RATIO && figure.against.as_ref().is_some_and(Against::is_missed);
    if let Some(figure) = figures.iter().find(missed) {
        bail!("{} is over its limit", figure.name);
    }
    let recorded = recorded::read(&ctx.root)?;
    let first = recorded::regressions(&recorded, figures);
    if first.is_empty() {
        return Ok(());
    }
    ctx.progress.say(format!("worse than recorded, so measured again:\n{}", recorded::lines(&first)));
    let figures = again()?;
    println!("\n{}", table::render(&figures));
    let worse = recorded::in_both(first, &recorded::regressions(&recorded, &figures));
    if worse.is_empty() {
        return Ok(());
    }
    bail!(
        "figures are worse than recorded in {} in two boots (--history record accepts them):\n{}",
        recorded::FILE,
        recorded::lines(&worse)
    )
}

/// One sample of a size in bytes.
fn size(name: &str, bytes: u64) -> Samples {
    #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
    let bytes = bytes as f64;
    Samples { name: name.to_owned(), unit: "bytes".to_owned(), samples: vec![bytes] }
}
