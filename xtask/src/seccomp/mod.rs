//! `cargo xtask seccomp`: takes the rules out of the system call filters of `vmm`, `launcher`, `gateway` and the agent with its helpers, one
//! at a time, and runs the tests of that program, which need root and a /dev/kvm and no more, until one misses the rule. A rule that no
//! test misses is either one too many or one that no test exercises.
//!
//! ```text
//! build with --cfg without_rule ─► run each test with all rules: its time
//! for each filter: leave all of its rules out ─► the tests that have to do with it
//! for each rule:   leave it out ─► those tests, quickest first, until one fails twice (`search`)
//! ```

mod program;
mod search;
mod unprovoked;

use std::fs::File;
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;

use anyhow::{Context as _, Result, bail};

use crate::context::Context;
use program::{Bench, Built, Program, Test};
use search::{Measured, Search, Trial, in_parallel};

/// Take each rule out of our programs' system call filters and see that a test misses it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this program's.
    #[arg(long, value_enum)]
    program: Option<Program>,
    /// Only rules that have this in their filter, place or name, such as `io:` or `SYS_mremap`.
    part: Option<String>,
    /// How many tests run at once; as many as there are processors, if nothing is said.
    #[arg(long)]
    jobs: Option<std::num::NonZeroUsize>,
}

/// A rule, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// `FILTER:INDEX`.
    place: String,
    name: String,
    reason: String,
}

impl Rule {
    fn filter(&self) -> &str {
        self.place.split(':').next().unwrap_or_default()
    }
}

/// Fails when the tests do not pass with all rules, or pass without one of them that nobody explains.
pub(crate) fn run(args: &Args, ctx: &Context) -> Result<()> {
    let programs =
        Program::ALL.into_iter().filter(|program| args.program.is_none_or(|only| only == *program));
    let mut owed = 0;
    for program in programs {
        owed += of_program(program, args, ctx)?;
    }
    if owed > 0 {
        bail!("{owed} rules are missed by no test, and nobody knows why");
    }
    Ok(())
}

/// Says which rules no test misses, and why that is so; how many are not explained.
fn of_program(program: Program, args: &Args, ctx: &Context) -> Result<usize> {
    let package = program.package();
    let step = ctx.progress.step(format!("building {package} and its tests so that rules can be left out"));
    let Built { mut rules, tests } = program.build(ctx, &step)?;
    step.done();
    rules.retain(|rule| {
        args.part.as_ref().is_none_or(|part| rule.place.contains(part) || rule.name.contains(part))
    });
    let redundant = redundant(program, &rules, &tests, args, ctx)?;
    let redundant: Vec<_> = redundant.into_iter().map(|rule| (rule, unprovoked::explained(rule))).collect();
    for (Rule { place, name, reason }, why) in &redundant {
        let why = why.unwrap_or("and nobody knows why");
        println!("{place:<14} {name:<20} no test misses it ({reason}): {why}");
    }
    let owed = redundant.iter().filter(|(_, why)| why.is_none()).count();
    let (missed, explained) = (rules.len() - redundant.len(), redundant.len() - owed);
    println!(
        "{package}: of {} rules a test misses {missed}, {explained} are explained, {owed} are not",
        rules.len()
    );
    Ok(owed)
}

/// The rules that no test misses. By which test the others are missed is in a log.
fn redundant<'a>(
    program: Program,
    rules: &'a [Rule],
    tests: &[Test],
    args: &Args,
    ctx: &Context,
) -> Result<Vec<&'a Rule>> {
    let package = program.package();
    let bench = Bench::of(program, ctx)?;
    let workers = match args.jobs {
        Some(jobs) => jobs.get(),
        None => available_parallelism().context("count processors")?.get(),
    };
    let search = Search { run: |test: &Test, trial: Trial<'_>| bench.run(test, trial), workers };
    let step = ctx.progress.step(format!("{package}: {} tests with all rules", tests.len()));
    let measured = search.measure(tests)?;
    step.done();
    let mut filters: Vec<&str> = rules.iter().map(Rule::filter).collect();
    filters.dedup();
    let mut chosen: Vec<(&Rule, usize)> = Vec::new();
    let mut of_filters: Vec<Vec<Measured<Test>>> = Vec::new();
    for filter in filters {
        let step = ctx.progress.step(format!("{package}: which tests have to do with {filter}"));
        chosen
            .extend(rules.iter().filter(|rule| rule.filter() == filter).map(|rule| (rule, of_filters.len())));
        of_filters.push(search.of_filter(filter, &measured)?);
        step.done();
    }
    let path = ctx.cache.log(&format!("seccomp-{package}"));
    let log = Mutex::new(File::create(&path).with_context(|| format!("create {}", path.display()))?);
    let step = ctx.progress.step(format!(
        "{package}: {} rules, by whom each is missed: {}",
        rules.len(),
        path.display()
    ));
    let done = AtomicU64::new(0);
    let missed = in_parallel(workers, &chosen, |(rule, filter)| {
        let by = search.missed_by(&rule.place, &of_filters[*filter])?;
        let by_whom = by.map_or_else(|| "no test".to_owned(), |by| by.test.to_string());
        let line = format!("{:<14} {:<20} {by_whom}", rule.place, rule.name);
        step.at(done.fetch_add(1, Ordering::Relaxed) + 1, rules.len() as u64);
        step.note(&line);
        let mut log = log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        writeln!(log, "{line}").context("write a log")?;
        Ok(by.is_some())
    })?;
    step.done();
    Ok(chosen.into_iter().zip(missed).filter(|(_, missed)| !missed).map(|((rule, _), _)| rule).collect())
}
