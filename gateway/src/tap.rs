//! Taps: descriptors through which frames of one link come and go.

#![expect(unsafe_code, reason = "ioctls of /dev/net/tun, which no wrapper offers")]

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use crate::wires::tap_index;

/// `linux/if_tun.h`.
pub(crate) const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
pub(crate) const TUNSETIFINDEX: libc::c_ulong = 0x4004_54da;

/// Where taps come from: a directory that stays open when no path leads there any more.
#[derive(Debug)]
pub(crate) struct Taps(OwnedFd);

impl Taps {
    pub(crate) fn open() -> Result<Self, Errno> {
        let dir = open(
            Path::new("/dev/net"),
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self(dir))
    }

    /// A new link of this process's network, down, and its descriptor. It goes with the last copy of that.
    pub(crate) fn make(&self, slot: u32) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let tap = openat(self.0.as_fd(), "tun", flags, Mode::empty())?;
        let index = tap_index(slot);
        // SAFETY: the call reads one int, which `index` is as long as.
        Errno::result(unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETIFINDEX, std::ptr::from_ref(&index)) })?;
        // SAFETY: the structure is plain numbers, for which zero says nothing.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (place, byte) in request.ifr_name.iter_mut().zip(format!("s{slot}").bytes()) {
            *place = byte.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the call reads and writes one `ifreq`, exclusively ours, with a name that ends with a zero.
        Errno::result(unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETIFF, std::ptr::from_mut(&mut request)) })?;
        Ok(tap)
    }
}
