//! A `vmm` whose machine runs: asked by its guest.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use tiny_guest::Guest;
use vmm_api::{
    DriveAccess, DriveConfig, MachineConfig, Request, Response, SerialConfig, Source, VsockConfig,
};

use crate::launcher::Sandbox;

/// Whose thread is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Speaker {
    Vcpu,
    Io,
}

/// What the drive holds that may not be written.
const CONTENT: [u8; 512] = [7; 512];

/// How long a thread of a running machine is waited for before it is given something to do again, ms.
const PAUSE_MS: u16 = 20;

/// How often: a minute.
const PATIENCE: usize = 3_000;

pub(crate) fn attempt(sandbox: &mut Sandbox, speaker: Speaker, name: &str) -> Result<Option<String>> {
    let mut drive = tempfile::NamedTempFile::new().context("make a drive")?;
    drive.write_all(&CONTENT).context("write a drive")?;
    let scratch = tempfile::tempfile().context("make a disk")?;
    scratch.set_len(CONTENT.len() as u64).context("make a disk longer")?;
    start(sandbox, &request(speaker, name), drive.path(), scratch)?;
    let said = outcome(sandbox, name)?;
    let mut content = Vec::new();
    drive.rewind().and_then(|()| drive.read_to_end(&mut content)).context("read a drive")?;
    ensure!(content == CONTENT, "a drive was written");
    Ok(said)
}

/// What the guest says on its serial port.
fn request(speaker: Speaker, name: &str) -> String {
    let thread = match speaker {
        Speaker::Vcpu => "vcpu",
        Speaker::Io => "io",
    };
    format!("@hostile {thread} {name}\n")
}

fn start(sandbox: &Sandbox, says: &str, drive: &std::path::Path, scratch: File) -> Result<()> {
    let kernel = Guest::new().print(says).spin().kernel();
    let drive = File::open(drive).context("open a drive")?;
    let (broker, nobody) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    drop(nobody);
    let config = MachineConfig {
        vcpu_count: 1,
        mem_size_mib: 128,
        kernel: Source::Fd(0),
        initrd: None,
        cmdline: String::new(),
        drives: vec![
            DriveConfig { id: "code".into(), source: Source::Fd(1), access: DriveAccess::ReadOnly },
            DriveConfig { id: "scratch".into(), source: Source::Fd(2), access: DriveAccess::ReadWrite },
        ],
        vsock: Some(VsockConfig { guest_cid: 3, broker_fd: 3 }),
        net: None,
        entropy: true,
        serial: SerialConfig::Null,
        allow_snapshots: false,
    };
    call(
        sandbox,
        &Request::Configure(config),
        &[kernel.as_fd(), drive.as_fd(), scratch.as_fd(), broker.as_fd()],
    )?;
    // Its vCPU may have ended it before it answers.
    drop(sandbox.client.call(&Request::Start, &[]));
    Ok(())
}

fn call(sandbox: &Sandbox, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<()> {
    match sandbox.client.call(request, fds)? {
        Response::Ok => Ok(()),
        other => bail!("the vmm answers {other:?}"),
    }
}

/// What it says of the attempt after it has said that it tries; nothing when it was ended by then.
fn outcome(sandbox: &mut Sandbox, name: &str) -> Result<Option<String>> {
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
