//! The figures of chunks, which need no guest: the driver (`tests/chunk-bench`) runs on this machine, not in the appliance. An
//! emulated processor has other instructions than a real one, and a counted one takes each of them for a nanosecond: neither says
//! anything of a cipher.

use super::dedup;
use super::figures::Samples;
use crate::context::Context;
use crate::payload;
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The runtime that is read and published: the larger one.
pub(super) const RUNTIME: &str = "python3.13";
/// Samples of what takes milliseconds, and one more to warm up.
const ROUNDS: u32 = 15;
/// Files that are no disk's.
const MEMORY: &str = "/dev/shm";
/// How the driver's lines begin.
const FIGURE: &str = "bench-figure: ";

/// Everything that is measured of chunks.
pub(super) fn measure(ctx: &Context) -> Result<Vec<Samples>> {
    let dir = ctx.cache.process_dir("bench-chunks")?;
    let mut samples = drive(ctx, &dir)?;
    samples.extend(dedup::measure(ctx, &dir.join("dedup"))?);
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    Ok(samples)
}

fn drive(ctx: &Context, dir: &Path) -> Result<Vec<Samples>> {
    let (image, pack) = (payload::runtime_image(ctx, RUNTIME)?, payload::runtime_pack(ctx, RUNTIME)?);
    let step = ctx.progress.step("building the driver for chunks");
    let programs = payload::build_static(ctx, &step, &["chunk-bench"])?;
    step.done();
    let step = ctx.progress.step("measuring chunks on this machine");
    let memory = Scratch::make(Path::new(MEMORY).join(format!("tinderbox-bench-{}", std::process::id())))?;
    let scratch = dir.join("scratch");
    fs::create_dir_all(&scratch).with_context(|| format!("create {}", scratch.display()))?;
    let plan = serde_json::json!({
        "image": image, "pack": pack, "scratch": scratch, "memory": memory.0, "rounds": ROUNDS,
    });
    let path = dir.join("plan.json");
    fs::write(&path, plan.to_string()).context("write the plan")?;
    let ran = Command::new(programs.join("chunk-bench")).arg(&path).output().context("start the driver")?;
    ensure!(ran.status.success(), "the driver failed: {}", String::from_utf8_lossy(&ran.stderr).trim_end());
    step.done();
    let said = String::from_utf8(ran.stdout).context("the driver's output")?;
    driven(&said)
}

/// The figures among what a driver on this machine has said.
pub(super) fn driven(said: &str) -> Result<Vec<Samples>> {
    let lines = said.lines().filter_map(|line| line.strip_prefix(FIGURE));
    lines.map(|json| serde_json::from_str(json).context("read a figure of the driver")).collect()
}

/// A folder that is gone with this.
struct Scratch(PathBuf);

impl Scratch {
    fn make(path: PathBuf) -> Result<Scratch> {
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is what memory is left for the machine, not what a run is worth failing for.
        let _ = fs::remove_dir_all(&self.0);
    }
}
