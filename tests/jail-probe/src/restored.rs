//! A `vmm` whose machine was restored, as those of a node are: prepared first, then loaded, its memory read by chunks.
//!
//! Its guest says what is in its memory. So one snapshot does for all requests: each is written where the guest reads.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, bail, ensure};
use chunk_store::{ChunkSize, Kind, LocalContent};
use tiny_guest::Guest;
use vmm_api::{
    Grant, Identity, Key, LoadConfig, Request, Response, SerialConfig, Shape, SnapshotConfig, SnapshotKind,
    Source,
};

use crate::disks::Disks;
use crate::launcher::{Launcher, Sandbox};
use crate::machine::{self, Fate, MEM_SIZE_MIB, Speaker, call};

/// Where in the guest's memory the text is that it says, and what it says until its snapshot is taken.
const TEXT_AT: u32 = 0x20_0000;
const NOTHING: [u8; 4] = *b"...\n";

/// The longest text, with the zero behind it, bytes: a page.
const MAX_TEXT_LEN: usize = 4096;

/// How often a guest is looked at until it runs.
const PATIENCE: usize = 100_000;

/// Where what a machine is connected to is among the descriptors of its load.
const DISKS: usize = 4;

pub(crate) struct Snapshot {
    state: File,
    memory: File,
}

impl Snapshot {
    /// Of a machine that runs in a sandbox.
    pub(crate) fn take(launcher: &Launcher) -> Result<Self> {
        let sandbox = launcher.sandbox()?;
        let disks = Disks::new()?;
        let guest = Guest::new().store(TEXT_AT, u32::from_le_bytes(NOTHING)).print_text_for_ever(TEXT_AT);
        machine::start(&sandbox, &guest, &disks, Fate::Save)?;
        await_output(&sandbox)?;
        call(&sandbox, &Request::Pause, &[])?;
        let (state, memory) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let config = SnapshotConfig {
            state: Source::Fd(0),
            memory: Source::Fd(1),
            key: key(),
            kind: SnapshotKind::Full,
            identity: Identity::default(),
            track_changes: false,
        };
        let taken = sandbox.client.call(&Request::Snapshot(config), &[state.as_fd(), memory.as_fd()])?;
        ensure!(matches!(taken, Response::Snapshotted(_)), "the vmm answers {taken:?}");
        sandbox.end()?;
        Ok(Self { state, memory })
    }

    /// Restores it in a sandbox, with a guest that has this tried.
    pub(crate) fn attempt(
        &self,
        sandbox: &mut Sandbox,
        speaker: Speaker,
        name: &str,
    ) -> Result<Option<String>> {
        let mut text = machine::request(speaker, name).into_bytes();
        ensure!(text.len() < MAX_TEXT_LEN, "{name} is too long");
        text.resize(MAX_TEXT_LEN, 0);
        self.memory.write_all_at(&text, TEXT_AT.into()).context("write to a guest's memory")?;
        let disks = Disks::new()?;
        self.load(sandbox, &disks)?;
        let said = machine::outcome(sandbox, name)?;
        disks.check()?;
        Ok(said)
    }

    fn load(&self, sandbox: &Sandbox, disks: &Disks) -> Result<()> {
        call(sandbox, &Request::Prepare(Shape { vcpu_count: 1, mem_size_mib: MEM_SIZE_MIB }), &[])?;
        let config = LoadConfig {
            state: Source::Fd(0),
            memory: Grant { table: 1, slots: 2, asks: 3 },
            key: key(),
            drives: Disks::drives(DISKS),
            vsock: Disks::vsock(DISKS),
            net: None,
            serial: SerialConfig::Null,
            generation: [7; 16],
            identity: None,
            prefetch: None,
            learn: false,
            track_changes: false,
            resume: true,
            allow_snapshots: false,
        };
        let content =
            LocalContent::seal(&self.memory, Kind::Memory, ChunkSize::MEMORY, tempfile::tempfile()?)?;
        let memory = content.handed()?;
        let fds: Vec<BorrowedFd<'_>> = [self.state.as_fd()]
            .into_iter()
            .chain(memory.iter().map(|fd| fd.as_fd()))
            .chain(disks.fds())
            .collect();
        match sandbox.client.call(&Request::Load(config), &fds) {
            Ok(Response::Refused(refusal)) => bail!("the vmm refuses: {refusal:?}"),
            // A thread of it may have ended it before it answers.
            _ => Ok(()),
        }
    }
}

fn key() -> Key {
    Key::new([7; 32])
}

/// Waits until the guest has said something.
fn await_output(sandbox: &Sandbox) -> Result<()> {
    for _ in 0..PATIENCE {
        match sandbox.client.call(&Request::Metrics, &[])? {
            Response::Metrics(metrics) if metrics.exits.pio > 0 => return Ok(()),
            Response::Metrics(_) => {}
            other => bail!("the vmm answers {other:?}"),
        }
    }
    bail!("the guest says nothing")
}
