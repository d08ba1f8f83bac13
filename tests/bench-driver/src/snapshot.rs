//! Snapshots and clones of a minimal guest, for our VMM and a peer: how long the guest stands still for a full snapshot,
//! and how long it takes from nothing, or from a blank machine, to a running clone.
//!
//! Both run the same kernel and initrd in the same memory, write new files of the same memory file system and read them
//! there, ours as encrypted chunks, and take turns. Snapshots are timed by whoever asked, loads by the node's kernel as well.

use std::{
    fs,
    io::{self, BufReader, PipeReader},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use serde_json::json;
use vmm_api::{LoadTimings, Shape};

use crate::{
    Figure,
    boot::write_config,
    entry::{Entries, Listening, Moment},
    node::micros,
    ours, peer,
    plan::Plan,
    process::{Guest, until_it_speaks, wait_for_line},
};

/// The smallest function's.
pub(crate) const SHAPE: Shape = Shape { vcpu_count: 1, mem_size_mib: 128 };
const CMDLINE: &str = "console=ttyS0 quiet loglevel=3 panic=-1 reboot=k probe=rest";
/// What the peer's figures end with.
pub(crate) const PEER: &str = ".firecracker";
/// The guest says it, and does nothing from then on.
const RESTING: &str = "probe: resting";

/// Snapshots each VMM's guest `plan.snapshots` times and loads the last one `plan.loads` times.
pub(crate) fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let folder = std::env::temp_dir().join("bench");
    fs::create_dir_all(&folder).context("make the folder of the snapshots")?;
    let (mut our_files, peer_files) = (ours::Snapshot::create(&folder)?, peer::Snapshot::new(&folder));
    let (mut our_pause, mut peer_pause) = (Vec::new(), Vec::new());
    for _ in 0..plan.snapshots {
        our_files = ours::Snapshot::create(&folder)?;
        our_pause.push(until_it_speaks(|| pause(plan, CMDLINE, &our_files))?);
        if let Some(program) = &plan.firecracker {
            peer_files.remove()?;
            peer_pause.push(until_it_speaks(|| pause_peer(plan, program, (&folder, CMDLINE), &peer_files))?);
        }
    }
    let our_files = our_files.keep()?;
    let entries = Entries::open()?;
    let (mut ours, mut peers) = (OurLoads::default(), PeerLoads::default());
    for _ in 0..plan.loads {
        ours.push(plan, &entries, &our_files)?;
        if let Some(program) = &plan.firecracker {
            peers.push(program, &folder, (&entries, &peer_files))?;
        }
    }
    let mut figures = vec![Figure::new("snapshot_pause", "us", our_pause)];
    figures.extend(ours.figures());
    if plan.firecracker.is_some() {
        figures.push(Figure::new("snapshot_pause.firecracker", "us", peer_pause));
        figures.extend(peers.figures());
    }
    fs::remove_dir_all(&folder).context("remove the snapshots")?;
    Ok(figures)
}

/// A snapshot of a guest that rests, for clones.
pub(crate) fn rested(plan: &Plan, folder: &Path) -> Result<ours::Kept> {
    let mut files = ours::Snapshot::create(folder)?;
    until_it_speaks(|| {
        files = ours::Snapshot::create(folder)?;
        pause(plan, CMDLINE, &files)
    })?;
    files.keep()
}

/// Microseconds from the request to pause to the end of the snapshot; none of a guest that fell silent.
pub(crate) fn pause(plan: &Plan, cmdline: &str, files: &ours::Snapshot) -> Result<Option<f64>> {
    let vmm = ours::Vmm::spawn(plan)?;
    let console: PipeReader = vmm.boot(plan, SHAPE, cmdline)?;
    if wait_for_line(&mut BufReader::new(console), RESTING)? == Guest::Silent {
        return Ok(None);
    }
    let began = Instant::now();
    vmm.snapshot(files)?;
    Ok(Some(micros(began)))
}

/// The same of the peer's, whose files are in the folder.
pub(crate) fn pause_peer(
    plan: &Plan,
    program: &Path,
    (folder, cmdline): (&Path, &str),
    files: &peer::Snapshot,
) -> Result<Option<f64>> {
    let config = json!({
        "boot-source": {
            "kernel_image_path": plan.kernel,
            "initrd_path": plan.resting_initrd,
            "boot_args": cmdline,
        },
        "drives": [],
        "machine-config": { "vcpu_count": SHAPE.vcpu_count, "mem_size_mib": SHAPE.mem_size_mib },
    });
    let config: PathBuf = write_config(folder.join("resting.json"), &config)?;
    let mut peer = peer::Peer::spawn(program, folder, &["--config-file".into(), config])?;
    if peer.probe.wait_for_line(RESTING)? == Guest::Silent {
        return Ok(None);
    }
    let began = Instant::now();
    peer.snapshot(files)?;
    Ok(Some(micros(began)))
}

/// Removes a file that may be there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Microseconds of loads, from the same moment on.
#[derive(Default)]
struct Loads {
    /// To the first entry into the guest.
    entered: Vec<f64>,
    /// To the VMM's answer.
    answered: Vec<f64>,
}

impl Loads {
    fn push(&mut self, listening: Listening, began: Moment) -> Result<()> {
        self.answered.push(began.elapsed_us()?);
        self.entered.push(listening.first(began)?);
        Ok(())
    }

    fn figures(self, name: &str, whose: &str) -> [Figure; 2] {
        [
            Figure::new(format!("{name}{whose}"), "us", self.entered),
            Figure::new(format!("{name}_answered{whose}"), "us", self.answered),
        ]
    }
}

#[derive(Default)]
struct OurLoads {
    from_nothing: Loads,
    into_blank: Loads,
    timings: Vec<LoadTimings>,
}

impl OurLoads {
    fn push(&mut self, plan: &Plan, entries: &Entries, files: &ours::Kept) -> Result<()> {
        let handed = files.handed()?;
        let (listening, began) = (entries.listen()?, Moment::now()?);
        let vmm = ours::Vmm::spawn(plan)?;
        let timings = vmm.load(&handed)?;
        self.from_nothing.push(listening, began)?;
        self.timings.push(timings);
        drop(vmm);
        let blank = ours::Vmm::spawn(plan)?;
        blank.prepare(SHAPE)?;
        let handed = files.handed()?;
        let (listening, began) = (entries.listen()?, Moment::now()?);
        blank.load(&handed)?;
        self.into_blank.push(listening, began)
    }

    fn figures(self) -> Vec<Figure> {
        let part = |name: &str, of: fn(&LoadTimings) -> u64| {
            let us = self.timings.iter().map(|timings| of(timings) as f64).collect();
            Figure::new(format!("part_of_start_and_load_{name}"), "us", us)
        };
        let parts = [
            part("read", |timings| timings.read_us),
            part("prepare", |timings| timings.prepare_us),
            part("restore", |timings| timings.restore_us),
            part("load", |timings| timings.total_us),
        ];
        let from_nothing = self.from_nothing.figures("start_and_load", "");
        let into_blank = self.into_blank.figures("load_into_blank", "");
        [&from_nothing[..], &into_blank, &parts].concat()
    }
}

#[derive(Default)]
struct PeerLoads {
    from_nothing: Loads,
    load: Loads,
}

impl PeerLoads {
    fn push(&mut self, program: &Path, folder: &Path, run: (&Entries, &peer::Snapshot)) -> Result<()> {
        let (entries, files) = run;
        let (listening, began) = (entries.listen()?, Moment::now()?);
        let mut peer = peer::Peer::spawn(program, folder, &[])?;
        peer.load(files)?;
        self.from_nothing.push(listening, began)?;
        drop(peer);
        let mut peer = peer::Peer::spawn(program, folder, &[])?;
        let (listening, began) = (entries.listen()?, Moment::now()?);
        peer.load(files)?;
        self.load.push(listening, began)
    }

    fn figures(self) -> Vec<Figure> {
        let from_nothing = self.from_nothing.figures("start_and_load", PEER);
        let load = self.load.figures("load_into_blank", PEER);
        [from_nothing, load].concat()
    }
}
