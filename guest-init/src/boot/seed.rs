//! Gives the kernel what only the host knows: fresh entropy and the time. Before any of the customer's code runs, at a
//! boot and after every resume.
#![expect(unsafe_code, reason = "the random device's ioctls have no safe wrapper")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use zeroize::Zeroize;

use super::BootError;

/// Node of the kernel's generator: made when there is none, as the guest has no devtmpfs.
const NODE: &str = "/dev/urandom";

/// `struct rand_pool_info` with room for one seed (random(4)).
#[repr(C)]
struct RandPoolInfo<const LEN: usize> {
    entropy_bits: libc::c_int,
    len: libc::c_int,
    bytes: [u8; LEN],
}

/// `RNDADDENTROPY`: the kernel's header declares it with `int[2]`, whatever is passed.
const RNDADDENTROPY: libc::Ioctl =
    nix::request_code_write!(b'R', 0x03, size_of::<[libc::c_int; 2]>()) as libc::Ioctl;

nix::ioctl_none!(
    /// `RNDRESEEDCRNG`.
    reseed_generator,
    b'R',
    0x07
);

/// Credits the host's bytes and rekeys the generator from them.
///
/// # Errors
/// [`BootError::Entropy`].
pub fn credit_entropy<const LEN: usize>(seed: [u8; LEN]) -> Result<(), BootError> {
    credit(seed).and_then(|()| reseed()).map_err(BootError::Entropy)
}

/// Credits the host's bytes; writing them to the device would not.
///
/// # Errors
/// The kernel's.
pub fn credit<const LEN: usize>(bytes: [u8; LEN]) -> io::Result<()> {
    let len = libc::c_int::try_from(LEN).map_err(io::Error::other)?;
    let mut info = RandPoolInfo { entropy_bits: 8 * len, len, bytes };
    let device = device()?;
    // SAFETY: RNDADDENTROPY reads a rand_pool_info and then `len` bytes behind its head; `info` has that layout
    // (repr(C), two ints, the bytes), `len` is the length of its array, and it lives across the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const info) };
    info.bytes.zeroize();
    Errno::result(result)?;
    Ok(())
}

/// Makes the kernel rekey its generator at once, and with it every process's share of it (vDSO).
///
/// # Errors
/// The kernel's.
pub fn reseed() -> io::Result<()> {
    let device = device()?;
    // SAFETY: RNDRESEEDCRNG takes no argument; the descriptor is open.
    unsafe { reseed_generator(device.as_raw_fd()) }?;
    Ok(())
}

/// Fresh bytes of the kernel's generator, for what guest-init itself has to make up.
///
/// # Errors
/// The kernel's.
pub fn random<const LEN: usize>() -> io::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    // SAFETY: getrandom writes at most `LEN` bytes to `bytes`, which has that many and is exclusively borrowed.
    let len = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), LEN, 0) };
    // Up to 256 bytes come whole (getrandom(2)); nobody here asks for more.
    if Errno::result(len)?.unsigned_abs() == LEN {
        Ok(bytes)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn device() -> io::Result<File> {
    match mknod(NODE, SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), makedev(1, 9)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    OpenOptions::new().write(true).open(NODE)
}

/// Sets the wall clock to the host's.
///
/// # Errors
/// [`BootError::Clock`].
pub fn set_clock(unix_ns: u64) -> Result<(), BootError> {
    let now = TimeSpec::from_duration(Duration::from_nanos(unix_ns));
    clock_settime(ClockId::CLOCK_REALTIME, now).map_err(BootError::Clock)
}
