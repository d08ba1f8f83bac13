//! Gives the kernel what only the host knows: fresh entropy and the time. Before any of the customer's code runs.
#![expect(unsafe_code, reason = "the random device's ioctls have no safe wrapper")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

use super::BootError;

const SEED_LEN: usize = 32;

/// `struct rand_pool_info` with room for one seed (random(4)).
#[repr(C)]
struct RandPoolInfo {
    entropy_bits: libc::c_int,
    len: libc::c_int,
    bytes: [u8; SEED_LEN],
}

nix::ioctl_write_ptr_bad!(
    /// `RNDADDENTROPY`: the kernel's header declares it with `int[2]`, whatever is passed.
    add_entropy,
    nix::request_code_write!(b'R', 0x03, size_of::<[libc::c_int; 2]>()),
    RandPoolInfo
);
nix::ioctl_none!(
    /// `RNDRESEEDCRNG`.
    reseed,
    b'R',
    0x07
);

/// Credits the host's bytes and makes the kernel rekey its generator from them at once; writing them to the device
/// would do neither.
///
/// # Errors
/// [`BootError::Entropy`].
pub fn credit_entropy(seed: [u8; SEED_LEN]) -> Result<(), BootError> {
    credit(seed).map_err(BootError::Entropy)
}

fn credit(bytes: [u8; SEED_LEN]) -> io::Result<()> {
    const NODE: &str = "/dev/urandom";
    match mknod(NODE, SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), makedev(1, 9)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let device = OpenOptions::new().write(true).open(NODE)?;
    let info =
        RandPoolInfo { entropy_bits: 8 * SEED_LEN as libc::c_int, len: SEED_LEN as libc::c_int, bytes };
    // SAFETY: RNDADDENTROPY reads a rand_pool_info and then `len` bytes behind its head; `info` has that layout
    // (repr(C), two ints, the bytes), `len` is the length of its array, and it lives across the call.
    unsafe { add_entropy(device.as_raw_fd(), &raw const info) }?;
    // SAFETY: RNDRESEEDCRNG takes no argument; the descriptor is open.
    unsafe { reseed(device.as_raw_fd()) }?;
    Ok(())
}

/// Sets the wall clock to the host's.
///
/// # Errors
/// [`BootError::Clock`].
pub fn set_clock(unix_ns: u64) -> Result<(), BootError> {
    let now = TimeSpec::from_duration(Duration::from_nanos(unix_ns));
    clock_settime(ClockId::CLOCK_REALTIME, now).map_err(BootError::Clock)
}
