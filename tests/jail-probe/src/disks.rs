//! What a machine is connected to, whether it was booted or restored: a drive that may not be written, one that may, and a socket device
//! with nobody at its other end.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use tempfile::NamedTempFile;
use vmm_api::{DriveAccess, DriveConfig, Source, VsockConfig};

/// What the drive holds that may not be written.
const CONTENT: [u8; 512] = [7; 512];

pub(crate) struct Disks {
    path: NamedTempFile,
    /// The same file, as a machine gets it.
    drive: File,
    scratch: File,
    broker: OwnedFd,
}

impl Disks {
    pub(crate) fn new() -> Result<Self> {
        let mut path = NamedTempFile::new().context("make a drive")?;
        path.write_all(&CONTENT).context("write a drive")?;
        let drive = File::open(path.path()).context("open a drive")?;
        let scratch = tempfile::tempfile().context("make a disk")?;
        scratch.set_len(CONTENT.len() as u64).context("make a disk longer")?;
        let (broker, _nobody) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok(Self { path, drive, scratch, broker })
    }

    /// Its descriptors beside a request.
    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.drive.as_fd(), self.scratch.as_fd(), self.broker.as_fd()]
    }

    /// The drives, whose descriptors are beside a request from `first` on.
    pub(crate) fn drives(first: usize) -> Vec<DriveConfig> {
        vec![
            DriveConfig { id: "code".into(), source: Source::Fd(first), access: DriveAccess::ReadOnly },
            DriveConfig {
                id: "scratch".into(),
                source: Source::Fd(first + 1),
                access: DriveAccess::ReadWrite,
            },
        ]
    }

    /// The socket device, likewise.
    pub(crate) fn vsock(first: usize) -> Option<VsockConfig> {
        Some(VsockConfig { guest_cid: 3, broker_fd: first + 2 })
    }

    /// An error when somebody has written to what may not be written.
    pub(crate) fn check(mut self) -> Result<()> {
        let mut content = Vec::new();
        let file = self.path.as_file_mut();
        file.rewind().and_then(|()| file.read_to_end(&mut content)).context("read a drive")?;
        ensure!(content == CONTENT, "a drive was written");
        Ok(())
    }
}
