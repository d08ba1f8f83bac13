//! What whoever starts the launcher hands over, at known places: in the order of systemd's, where a unit's sockets come before the
//! files that it names (`Sockets=`, `OpenFile=`). So the launcher opens no device, and needs none in its sight.

#![expect(unsafe_code, reason = "what is handed over arrives as a number")]

use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;

use crate::birth::ABOVE;

const LISTENER: RawFd = 3;
const KVM: RawFd = 4;
const USERFAULTFD: RawFd = 5;

/// All of it, out of the way of what sandboxes are handed.
#[derive(Debug)]
pub(crate) struct Handed {
    /// Where the agent connects.
    pub(crate) listener: OwnedFd,
    pub(crate) kvm: OwnedFd,
    pub(crate) userfaultfd: OwnedFd,
}

impl Handed {
    /// Copies; the originals are only closed with the process or by what it executes.
    ///
    /// # Errors
    /// One that is not there.
    pub(crate) fn take() -> Result<Self, String> {
        let copy = |name: &str, fd| copy(fd).map_err(|error| format!("take {name} at {fd}: {error}"));
        Ok(Self {
            listener: copy("the listening socket", LISTENER)?,
            kvm: copy("/dev/kvm", KVM)?,
            userfaultfd: copy("/dev/userfaultfd", USERFAULTFD)?,
        })
    }
}

fn copy(fd: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes numbers, and says so when the first one is no descriptor.
    let copy = Errno::result(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, ABOVE) })?;
    // SAFETY: the call has just made the descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
