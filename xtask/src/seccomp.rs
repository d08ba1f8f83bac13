//! `cargo xtask seccomp`: takes the rules out of the VMM's system call filters, one at a time, and runs the tests of the `vmm`
//! program, which need a /dev/kvm and no more. A rule that no test misses is either one too many or one that no test exercises.
//!
//! The program is built with `--cfg without_rule`, in a target folder of its own: what else is built has no way to leave a rule
//! out.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail, ensure};

use crate::context::Context;

/// Which rule is left out: `FILTER:INDEX`.
const LEFT_OUT: &str = "TINDERBOX_WITHOUT_RULE";

/// Longer than the tests take; a test that waits for what a thread without its rule never does has missed it.
const TIMEOUT_S: &str = "60";

/// What `timeout` exits with when it was needed.
const TIMED_OUT: i32 = 124;

/// Take each rule out of the VMM's system call filters and see that a test misses it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only rules that have this in their filter, place or name, such as `io:` or `SYS_mremap`.
    part: Option<String>,
}

/// A rule, and where it is.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    /// `FILTER:INDEX`.
    place: String,
    name: String,
    reason: String,
}

/// What became of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Missed,
}

/// Fails when the tests do not pass with all rules, or pass without one of them that [`UNPROVOKED`] does not name.
pub(crate) fn run(args: &Args, ctx: &Context) -> Result<()> {
    let step = ctx.progress.step("building the VMM and its tests so that rules can be left out");
    let rules = rules(&text(&tests(ctx, &["--lib", "--", "--nocapture", "print_every_rule"], None)?)?);
    ensure!(!rules.is_empty(), "the VMM's tests print no rules");
    ensure!(verdict(ctx, None)? == Verdict::Passed, "the VMM's tests do not pass with all rules");
    step.done();
    let chosen = |rule: &&Rule| {
        args.part.as_ref().is_none_or(|part| rule.place.contains(part) || rule.name.contains(part))
    };
    let mut redundant = Vec::new();
    for rule in rules.iter().filter(chosen) {
        let step = ctx.progress.step(format!("without {} {}", rule.place, rule.name));
        if verdict(ctx, Some(&rule.place))? == Verdict::Passed {
            redundant.push(rule);
        }
        step.done();
    }
    for rule in &redundant {
        let Rule { place, name, reason } = rule;
        let why = unprovoked(rule).unwrap_or("and nobody knows why");
        println!("{place:<12} {name:<20} no test misses it ({reason}): {why}");
    }
    let unexplained = redundant.iter().filter(|rule| unprovoked(rule).is_none()).count();
    if unexplained > 0 {
        bail!("{unexplained} rules are missed by no test");
    }
    Ok(())
}

/// Runs tests of the package `vmm`, built with the filters' way to leave a rule out.
fn tests(ctx: &Context, arguments: &[&str], left_out: Option<&str>) -> Result<Output> {
    let mut command = Command::new("timeout");
    let limit = if left_out.is_some() { TIMEOUT_S } else { "0" };
    command.args([limit, "cargo", "test", "--quiet", "--package", "vmm"]).args(arguments);
    command.env("CARGO_TARGET_DIR", folder(&ctx.target_dir())).env("RUSTFLAGS", "--cfg without_rule");
    command.env_remove(LEFT_OUT).current_dir(&ctx.root);
    if let Some(place) = left_out {
        command.env(LEFT_OUT, place);
    }
    command.output().context("run the VMM's tests")
}

fn folder(target_dir: &Path) -> std::path::PathBuf {
    target_dir.join("seccomp")
}

fn text(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn verdict(ctx: &Context, left_out: Option<&str>) -> Result<Verdict> {
    let output = tests(ctx, &["--test", "it"], left_out)?;
    match output.status.code() {
        Some(0) => Ok(Verdict::Passed),
        // A test that fails makes cargo exit with 101.
        Some(101 | TIMED_OUT) => Ok(Verdict::Missed),
        _ => bail!("the VMM's tests did not run: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// The rules in what the test prints.
fn rules(printed: &str) -> Vec<Rule> {
    let rule = |line: &str| {
        let mut fields = line.split_once("rule\t")?.1.split('\t').map(String::from);
        Some(Rule { place: fields.next()?, name: fields.next()?, reason: fields.next()? })
    };
    printed.lines().filter_map(rule).collect()
}

/// Rules that are there for what no test provokes at will, by the beginning of their reasons, and why. The command names those that
/// no test has missed.
const UNPROVOKED: &[(&str, &str)] = &[
    (
        "the allocator",
        "how a thread's heap grows is its libc's matter, and differs with what was freed before",
    ),
    ("abort", "a confined thread aborts when an invariant is broken, and none is known to break"),
    ("contended channels", "two threads have to meet within a few instructions"),
    (
        "where the clock cannot be read without the kernel",
        "whether the vDSO reads the clock is the host's matter",
    ),
    ("a second vCPU that waited", "two vCPUs have to meet within the read of a chunk"),
    ("the end of a thread", "the pager's thread may end with its process"),
    ("load: features that this host has more of", "the tests load on the host that saved"),
    ("load: the guest's TSC rate", "the tests load on the host that saved"),
];

/// Why no test provokes a rule's call.
fn unprovoked(rule: &Rule) -> Option<&'static str> {
    UNPROVOKED.iter().find(|(reason, _)| rule.reason.starts_with(reason)).map(|(_, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_from_what_is_printed_around_them() {
        let printed =
            "running 1 test\nrule\tvcpu:0\tSYS_read\teventfds; files\n.rule\tio:3\tSYS_close\tdrop\nok\n";
        let found: Vec<_> =
            rules(printed).into_iter().map(|rule| (rule.place, rule.name, rule.reason)).collect();
        let expected = [("vcpu:0", "SYS_read", "eventfds; files"), ("io:3", "SYS_close", "drop")];
        assert_eq!(found, expected.map(|(place, name, reason)| (place.into(), name.into(), reason.into())));
    }
}
