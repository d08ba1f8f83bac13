//! `cargo xtask fuzz`: builds the targets of `tests/fuzz` with coverage feedback and runs each for a while.
//!
//! The toolchain is stable, so the coverage that libFuzzer needs comes from LLVM's own flags and there is no address
//! sanitizer: Rust's bounds and overflow checks, libFuzzer's memory limit and its timeout find what there is to find.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::context::Context;

/// The Rust target. It is named even on its own host, so that the flags below reach no build script or macro.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Coverage as libFuzzer reads it (LLVM's SanitizerCoverage: counters inline, a table of their places, operands of
/// comparisons), and every check that release builds leave out.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
    "--cfg=fuzzing",
];

/// More memory than any parser of ours may take from one input, MiB.
const MEMORY_LIMIT_MIB: u32 = 1024;

/// Longer than any input may take, in seconds; a target handles tens of thousands a second.
const INPUT_TIMEOUT_S: u32 = 10;

/// Run the fuzz targets.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long each target runs, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// The one target to run; all of them otherwise.
    target: Option<String>,
}

/// Builds the targets and runs each, as many at a time as there are processors. The corpus that a run finds grows in the cache; small seeds come from
/// `tests/fuzz/corpus/TARGET`. Fails when a target does not build, does not exist, or finds a crash; the message says
/// where the reproducer is.
pub(crate) fn run(args: &Args, ctx: &Context) -> Result<()> {
    let targets = match &args.target {
        Some(name) => vec![name.clone()],
        None => targets(&ctx.root)?,
    };
    ensure!(!targets.is_empty(), "tests/fuzz has no targets");
    let step = ctx.progress.step("building the fuzz targets");
    let binaries = build(&ctx.root, &ctx.target_dir(), &targets)?;
    step.done();
    let cache = ctx.cache.dir("fuzz")?;
    println!("{:<18} {:>12} {:>10} {:>10}", "target", "executions", "exec/s", "corpus");
    let cores = std::thread::available_parallelism().context("count processors")?.get();
    let waiting = Mutex::new(targets.iter().zip(binaries));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some((name, binary)) = next() {
            let step = ctx.progress.step(format!("fuzzing {name} for {} s", args.seconds));
            let figures = fuzz(&ctx.root, &cache, name, &binary, args.seconds)?;
            step.done();
            println!(
                "{name:<18} {:>12} {:>10} {:>10}",
                figures.executions, figures.per_second, figures.corpus
            );
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let done: Vec<Result<()>> = workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?)
            .collect();
        done.into_iter().collect()
    })
}

/// The targets' names: one file each.
fn targets(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("tests/fuzz/targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

fn build(root: &Path, target_dir: &Path, targets: &[String]) -> Result<Vec<PathBuf>> {
    let folder = target_dir.join("fuzz");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--release", "--package", "fuzz", "--target", TRIPLE]);
    cargo.args(targets.iter().flat_map(|name| ["--bin", name.as_str()]));
    // Instrumentation is not made for link-time optimisation, and a reproducer without line numbers is of little use.
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_STRIP", "none");
    cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only");
    cargo.env("RUSTFLAGS", FLAGS.join(" ")).env("CARGO_TARGET_DIR", &folder).current_dir(root);
    let status = cargo.status().context("start cargo build for the fuzz targets")?;
    ensure!(status.success(), "the fuzz targets do not build");
    Ok(targets.iter().map(|name| folder.join(TRIPLE).join("release").join(name)).collect())
}

/// What a run did, as libFuzzer counts it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    executions: u64,
    per_second: u64,
    corpus: usize,
}

fn fuzz(root: &Path, cache: &Path, name: &str, binary: &Path, seconds: u32) -> Result<Figures> {
    let corpus = cache.join("corpus").join(name);
    let crashes = cache.join("crashes").join(name);
    for folder in [&corpus, &crashes] {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let mut command = Command::new(binary);
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-rss_limit_mb={MEMORY_LIMIT_MIB}"));
    command.arg(format!("-timeout={INPUT_TIMEOUT_S}"));
    command.arg("-print_final_stats=1");
    // libFuzzer appends the file's name to this text, so the slash belongs to it.
    command.arg(format!("-artifact_prefix={}/", crashes.display()));
    command.arg(&corpus);
    let seeds = root.join("tests/fuzz/corpus").join(name);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("start fuzz target {name}"))?;
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{log}");
        let reproducer = reproducer(&log).unwrap_or("none was written");
        bail!("{name} found a crash ({}); reproducer: {reproducer}", output.status);
    }
    let (executions, per_second) =
        statistics(&log).with_context(|| format!("{name} printed no statistics"))?;
    let corpus = std::fs::read_dir(&corpus).with_context(|| format!("list {}", corpus.display()))?.count();
    Ok(Figures { executions, per_second, corpus })
}

/// The file that libFuzzer says it wrote.
fn reproducer(log: &str) -> Option<&str> {
    log.lines().find_map(|line| line.split_once("Test unit written to ")).map(|(_, path)| path.trim())
}

/// Executions and executions a second from the closing lines.
fn statistics(log: &str) -> Option<(u64, u64)> {
    let value = |key: &str| log.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    Some((value("stat::number_of_executed_units:")?, value("stat::average_exec_per_sec:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What lies in the repository, for each target; the rest is in the cache.
    const MAX_SEEDS: usize = 24;
    const MAX_SEED_LEN: u64 = 4096;

    #[test]
    fn the_closing_lines_are_read() {
        let log = "#2097152 pulse\nDone 10 runs\nstat::number_of_executed_units: 123456\n\
            stat::average_exec_per_sec:     41152\nstat::new_units_added: 3\n";
        assert_eq!(statistics(log), Some((123_456, 41_152)));
        assert_eq!(statistics("Done"), None);
    }

    /// Those that are called by their content were picked from what long runs had found: few, that reach the most together.
    #[test]
    fn every_target_has_seeds_which_are_few_and_small() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for name in targets(&root).expect("targets") {
            let seeds = std::fs::read_dir(root.join("tests/fuzz/corpus").join(&name));
            let seeds = seeds.unwrap_or_else(|error| panic!("seeds of {name}: {error}"));
            let lens = seeds.map(|seed| seed.and_then(|seed| seed.metadata()).expect("a file").len());
            let lens: Vec<u64> = lens.collect();
            assert!((1..=MAX_SEEDS).contains(&lens.len()), "{name}: {} seeds", lens.len());
            assert!(lens.iter().all(|len| *len < MAX_SEED_LEN), "{name}: seeds of {lens:?} bytes");
        }
    }

    #[test]
    fn the_reproducer_is_named() {
        let log = "==1== ERROR: libFuzzer: deadly signal\nartifact_prefix='/c/'; Test unit written to /c/crash-12ab\n";
        assert_eq!(reproducer(log), Some("/c/crash-12ab"));
        assert_eq!(reproducer("fine"), None);
    }
}
