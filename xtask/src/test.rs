//! `cargo xtask test`: sets the machine up, builds everything and passes every test.
//!
//! First the tests of every crate, then the tests of the booted appliance (`tests/it`), which learn from the environment
//! where things are. Tests are cargo's: this only prepares what they need and lets their output through.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::bench;
use crate::cmd::Cmd;
use crate::context::Context;
use crate::dev::{self, Host};
use crate::hash::Inputs;
use crate::image::{Netboot, Profile};
use crate::kernel::GuestKernel;
use crate::payload::{self, Payload};
use crate::setup;

/// What the clients' virtual environment is made from.
const REQUIREMENTS: &str = "tests/requirements.txt";
const RECIPE: &str = "test-venv 1";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out the tests that boot the appliance.
    #[arg(long, conflicts_with = "names")]
    no_node: bool,
    /// Leave out the comparison with the recorded figures.
    #[arg(long)]
    no_bench: bool,
    /// Only tests of the booted appliance whose name contains one of these.
    names: Vec<String>,
}

pub(crate) fn run(args: &Args, ctx: &Context) -> Result<()> {
    // Now: cargo may replace this very program while it builds the tests.
    let xtask = std::env::current_exe().context("find this program")?;
    setup::ensure_packages(ctx)?;
    if args.names.is_empty() {
        cargo_test(ctx, &["--workspace", "--exclude", "tests"], &[])?;
    }
    if args.no_node {
        return Ok(());
    }
    let environment = prepare(ctx, xtask)?;
    let mut arguments = vec!["--package", "tests", "--test", "it"];
    if !args.names.is_empty() {
        arguments.push("--");
        arguments.extend(args.names.iter().map(String::as_str));
    }
    tested?;
    if args.no_bench || !args.names.is_empty() {
        return Ok(());
    }
    bench::compare(ctx)
