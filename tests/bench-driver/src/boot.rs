//! Boot to guest-init, and the VMM's own memory, for our VMM and a peer that boots the same kernel and initrd.
//!
//! The end of a boot is the line that guest-init writes to the console before anything else, seen by the parent of
//! the VMM: the same event, seen the same way, for every VMM. The two take turns, so a drift of the machine meets both.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    Figure, memory,
    plan::Plan,
    process::{Guest, Probe, until_it_speaks},
};

/// Memory of the probe guest, MiB: the smallest function's.
const GUEST_MEMORY_MIB: u32 = 128;
/// guest-init powers off right after its line.
const CMDLINE: &str = "console=ttyS0 quiet loglevel=3 panic=-1 reboot=k tinderbox.mode=boot-probe";
/// First words of guest-init.
const UP_LINE: &str = "guest-init: up";

/// Boots each VMM `plan.boots` times.
pub(crate) fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let folder = std::env::temp_dir().join("bench");
    fs::create_dir_all(&folder).context("make the folder of the boot probes")?;
    let mut ours = Samples::default();
    let mut peer = Samples::default();
    for _ in 0..plan.boots {
        let config = our_config(plan, &folder)?;
        ours.push(until_it_speaks(|| boot(&plan.vmm, &["--config".into(), config.clone()]))?);
        if let Some(firecracker) = &plan.firecracker {
            let config = peer_config(plan, &folder)?;
            let arguments = ["--no-api".into(), "--config-file".into(), config];
            peer.push(until_it_speaks(|| boot(firecracker, &arguments))?);
        }
    }
    let mut figures = ours.figures(["boot_to_guest_init", "vmm_private_memory"]);
    if plan.firecracker.is_some() {
        figures.extend(peer.figures(["boot_to_guest_init.firecracker", "vmm_private_memory.firecracker"]));
    }
    Ok(figures)
}

#[derive(Default)]
struct Samples {
    boot_ms: Vec<f64>,
    private_bytes: Vec<f64>,
}

impl Samples {
    fn push(&mut self, (boot_ms, private_bytes): (f64, f64)) {
        self.boot_ms.push(boot_ms);
        self.private_bytes.push(private_bytes);
    }

    fn figures(self, [boot, memory]: [&'static str; 2]) -> Vec<Figure> {
        vec![Figure::new(boot, "ms", self.boot_ms), Figure::new(memory, "bytes", self.private_bytes)]
    }
}

/// One boot: milliseconds from spawning the VMM to [`UP_LINE`], and the VMM's private bytes at that moment; none of a guest
/// that fell silent.
fn boot(vmm: &Path, arguments: &[PathBuf]) -> Result<Option<(f64, f64)>> {
    let started = Instant::now();
    let mut probe = Probe::spawn(vmm, arguments)?;
    if probe.wait_for_line(UP_LINE)? == Guest::Silent {
        return Ok(None);
    }
    let boot_ms = started.elapsed().as_secs_f64() * 1e3;
    let private_bytes = memory::private_bytes_beyond_guest(probe.stop()?, GUEST_MEMORY_MIB)?;
    probe.finish()?;
    Ok(Some((boot_ms, private_bytes as f64)))
}

fn our_config(plan: &Plan, folder: &Path) -> Result<PathBuf> {
    let config = json!({
        "vcpu_count": 1,
        "mem_size_mib": GUEST_MEMORY_MIB,
        "kernel": { "path": plan.kernel },
        "initrd": { "path": plan.initrd },
        "cmdline": CMDLINE,
        "serial": "stdout",
    });
    write_config(folder.join("vmm.json"), &config)
}

fn peer_config(plan: &Plan, folder: &Path) -> Result<PathBuf> {
    let config = json!({
        "boot-source": {
            "kernel_image_path": plan.kernel,
            "initrd_path": plan.initrd,
            "boot_args": CMDLINE,
        },
        "drives": [],
        "machine-config": { "vcpu_count": 1, "mem_size_mib": GUEST_MEMORY_MIB },
    });
    write_config(folder.join("firecracker.json"), &config)
}

/// Writes a VMM's configuration.
pub(crate) fn write_config(path: PathBuf, config: &serde_json::Value) -> Result<PathBuf> {
    fs::write(&path, config.to_string()).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
