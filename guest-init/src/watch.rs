//! Descriptors that the event loop watches without reading them itself: process descriptors, the kernel's notifications, the
//! errors of a socket.
#![expect(unsafe_code, reason = "the registration of a descriptor has no safe wrapper")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the event loop.
///
/// # Errors
/// When the kernel cannot watch such a descriptor.
pub fn watched(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the OwnedFd moves into the AsyncFd: the descriptor is open, stays the same and is closed only when the AsyncFd
    // gives it up; an OwnedFd answers `as_raw_fd` with the same number always.
    let fd = unsafe { AsyncFd::register_with_interest(fd, interest) }?;
    Ok(fd)
}
