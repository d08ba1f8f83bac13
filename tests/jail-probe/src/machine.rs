//! A `vmm` whose machine runs: asked by its guest.

use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, poll};
use tiny_guest::Guest;
use vmm_api::{MachineConfig, Request, Response, SerialConfig, Source};

use crate::disks::Disks;
use crate::launcher::Sandbox;

/// Of a machine, MiB.
pub(crate) const MEM_SIZE_MIB: u32 = 128;

/// Whose thread is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Speaker {
    Vcpu,
    Io,
    /// Of a machine that was restored.
    Pager,
}

/// How long a thread of a running machine is waited for before it is given something to do again, ms.
const PAUSE_MS: u16 = 20;

/// How often: a minute.
const PATIENCE: usize = 3_000;

pub(crate) fn attempt(sandbox: &mut Sandbox, speaker: Speaker, name: &str) -> Result<Option<String>> {
    let disks = Disks::new()?;
    let guest = Guest::new().print(&request(speaker, name)).spin();
    start(sandbox, &guest, &disks, Fate::Serve)?;
    let said = outcome(sandbox, name)?;
    disks.check()?;
    Ok(said)
}

/// What the guest says on its serial port.
pub(crate) fn request(speaker: Speaker, name: &str) -> String {
    let thread = match speaker {
        Speaker::Vcpu => "vcpu",
        Speaker::Io => "io",
        Speaker::Pager => "pager",
    };
    format!("@hostile {thread} {name}\n")
}

/// What a machine is booted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Serve,
    Save,
}

/// Boots a guest.
pub(crate) fn start(sandbox: &Sandbox, guest: &Guest, disks: &Disks, fate: Fate) -> Result<()> {
    let kernel = guest.kernel();
    let config = MachineConfig {
        vcpu_count: 1,
        mem_size_mib: MEM_SIZE_MIB,
        kernel: Source::Fd(0),
        initrd: None,
        cmdline: String::new(),
        drives: Disks::drives(1),
        vsock: Disks::vsock(1),
        net: None,
        entropy: true,
        serial: SerialConfig::Null,
        allow_snapshots: fate == Fate::Save,
    };
    let fds: Vec<BorrowedFd<'_>> = [kernel.as_fd()].into_iter().chain(disks.fds()).collect();
    call(sandbox, &Request::Configure(config), &fds)?;
    // Its vCPU may have ended it before it answers.
    drop(sandbox.client.call(&Request::Start, &[]));
    Ok(())
}

/// Has it do something that has no answer of its own.
pub(crate) fn call(sandbox: &Sandbox, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<()> {
    match sandbox.client.call(request, fds)? {
        Response::Ok => Ok(()),
        other => bail!("the vmm answers {other:?}"),
    }
}

/// What it says of the attempt after it has said that it tries; nothing when it was ended by then.
pub(crate) fn outcome(sandbox: &mut Sandbox, name: &str) -> Result<Option<String>> {
    let tries = format!("hostile: trying {name}\n");
    let mut said = String::new();
    for _ in 0..PATIENCE {
        if poll(&mut [PollFd::new(sandbox.stderr.as_fd(), PollFlags::POLLIN)], PAUSE_MS)? == 0 {
            // Whatever it is asked, its I/O thread has something to do; one that has ended does not answer.
            drop(sandbox.client.call(&Request::Metrics, &[]));
            continue;
        }
        let mut bytes = [0; 4096];
        let len = sandbox.stderr.read(&mut bytes).context("read its log")?;
        said += &String::from_utf8_lossy(&bytes[..len]);
        let after = said.strip_prefix(&tries);
        match after.and_then(|after| after.split_once('\n')) {
            Some((outcome, _)) => {
                let outcome = outcome.strip_prefix("hostile: ").context("it says something else")?;
                return Ok(Some(outcome.to_owned()));
            }
            // Nothing that ends it before it tries counts.
            None if len == 0 => {
                ensure!(after.is_some(), "it ended before it tried: {said}");
                return Ok(None);
            }
            None => {}
        }
    }
    bail!("nothing came of it; it says {said:?}")
}
