//! Clones of a guest that touches 8 MiB of its memory, here and there, from a disk whose cache was dropped: with a recorded working
//! set, without one, and the peer's, which maps its file. From nothing to the guest's word that it has touched all of it.
//!
//! The guest goes round and round (`tests/guest-probe`): wherever in a round it was when it was saved, all is touched when it has
//! ended its second one.

use std::{fs, io::BufReader, path::Path, time::Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    Figure,
    node::micros,
    ours, peer,
    plan::Plan,
    process::{Guest, until_it_speaks, wait_for_line},
    resume::drop_page_cache,
    snapshot::{PEER, pause, pause_peer},
};

const CMDLINE: &str = "console=ttyS0 quiet loglevel=3 panic=-1 reboot=k probe=touch";
/// The guest says it after each of its rounds.
const ROUND: &str = "probe: a round";
/// Where the snapshots lie: on the agent's disk.
const FOLDER: &str = "bench";

pub(crate) fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let folder = plan.state_dir.join(FOLDER);
    fs::create_dir_all(&folder).context("make the folder of the snapshots")?;
    let (mut files, peer_files) = (ours::Snapshot::create(&folder)?, peer::Snapshot::new(&folder));
    until_it_speaks(|| {
        files = ours::Snapshot::create(&folder)?;
        pause(plan, CMDLINE, &files)
    })?;
    let memory = files.memory()?;
    let mut kept = files.keep()?;
    let clone = |kept: &ours::Kept| touch(plan, &kept.handed()?).map(|(us, _)| us);
    let unrecorded = samples(plan, || clone(&kept))?;
    let (_, pages) = touch(plan, &kept.handed()?.telling())?;
    ensure!(!pages.is_empty(), "a clone waits for no page");
    kept.prefetch(pages, &memory, &folder.join("ours.prefetch"))?;
    let recorded = samples(plan, || clone(&kept))?;
    let mut figures = vec![
        Figure::new("touch_unrecorded_dropped", "us", unrecorded),
        Figure::new("touch_recorded_dropped", "us", recorded),
    ];
    if let Some(program) = &plan.firecracker {
        until_it_speaks(|| {
            peer_files.remove()?;
            pause_peer(plan, program, (&folder, CMDLINE), &peer_files)
        })?;
        let peers = samples(plan, || touch_peer(program, &folder, &peer_files))?;
        figures.push(Figure::new(format!("touch_recorded_dropped{PEER}"), "us", peers));
    }
    fs::remove_dir_all(&folder).context("remove the snapshots")?;
    Ok(figures)
}

/// So many, each from a disk.
fn samples(plan: &Plan, mut sample: impl FnMut() -> Result<f64>) -> Result<Vec<f64>> {
    let dropped = || drop_page_cache().and_then(|()| sample());
    std::iter::repeat_with(dropped).take(plan.touches as usize).collect()
}

/// Microseconds, and the pages that the clone has waited for.
fn touch(plan: &Plan, handed: &ours::Handed) -> Result<(f64, Vec<u32>)> {
    let began = Instant::now();
    let vmm = ours::Vmm::spawn(plan)?;
    let mut console = BufReader::new(vmm.load_touching(handed)?);
    wait_for_rounds(|| wait_for_line(&mut console, ROUND))?;
    Ok((micros(began), vmm.waited_for()?))
}

fn touch_peer(program: &Path, folder: &Path, files: &peer::Snapshot) -> Result<f64> {
    let began = Instant::now();
    let mut peer = peer::Peer::spawn(program, folder, &[])?;
    peer.load(files)?;
    wait_for_rounds(|| peer.probe.wait_for_line(ROUND))?;
    Ok(micros(began))
}

/// The end of the round that the guest was in, and of all of the next one.
fn wait_for_rounds(mut wait: impl FnMut() -> Result<Guest>) -> Result<()> {
    for _ in 0..2 {
        if wait()? == Guest::Silent {
            bail!("a clone falls silent");
        }
    }
    Ok(())
}
