//! Descriptors at the places where the program expects them, and no other that outlives `execve`.

#![expect(unsafe_code, reason = "places are numbers, which no type of the standard library stands for")]

use std::os::fd::{IntoRawFd as _, RawFd};

use nix::errno::Errno;

use super::{Handed, mounts};

/// They are moved up here first, so that none is in another's place.
const ABOVE: RawFd = 64;

/// Puts what is handed at 0, 1, 2 … What is beyond closes with `execve`; until then it stays where it is, as long as that is not
/// one of the places.
pub(super) fn hand(handed: &[Handed]) -> Result<(), Errno> {
    let mut moved = Vec::with_capacity(handed.len());
    for handed in handed {
        moved.push(match handed {
            Handed::Open(fd) => above(*fd)?,
            Handed::OwnProcess => above(mounts::own_process()?.into_raw_fd())?,
        });
    }
    for (place, fd) in (0..).zip(&moved) {
        // SAFETY: nothing in this process, which becomes another program, uses what was at `place` before.
        Errno::result(unsafe { libc::dup2(*fd, place) })?;
    }
    let first = libc::c_uint::try_from(handed.len()).map_err(|_| Errno::EMFILE)?;
    // SAFETY: with CLOSE_RANGE_CLOEXEC the call closes nothing and touches no memory.
    let result =
        unsafe { libc::close_range(first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
    Errno::result(result).map(drop)
}

fn above(fd: RawFd) -> Result<RawFd, Errno> {
    // SAFETY: the call takes numbers and makes a descriptor; a number that is none is an error.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, ABOVE) })
}
