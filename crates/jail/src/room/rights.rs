//! Users, capabilities, core scheduling: what a process is allowed by who it is.

#![expect(unsafe_code, reason = "prctl and capset as far as no wrapper offers them")]

use std::fs;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::CoreSharing;

/// Capabilities have numbers below this; today's last one is 40. The kernel says which it does not know.
const CAPABILITIES: libc::c_ulong = 64;

/// `linux/securebits.h`: none of them can be taken back, nor can what they are about be allowed again.
const SECUREBITS: libc::c_ulong = NO_ROOT | NO_SETUID_FIXUP_LOCKED | KEEP_CAPS_LOCKED | NO_AMBIENT;
const NO_ROOT: libc::c_ulong = 0b11;
const NO_SETUID_FIXUP_LOCKED: libc::c_ulong = 1 << 3;
const KEEP_CAPS_LOCKED: libc::c_ulong = 1 << 5;
const NO_AMBIENT: libc::c_ulong = 0b11 << 6;

/// `linux/capability.h`.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// `linux/prctl.h`, and of its scopes the one of a process.
const PR_SCHED_CORE: libc::c_int = 62;
const PR_SCHED_CORE_GET: libc::c_ulong = 0;
const PR_SCHED_CORE_CREATE: libc::c_ulong = 1;
const SCOPE_THREAD: libc::c_ulong = 0;
const SCOPE_PROCESS: libc::c_ulong = 1;

/// The kernel's word on threads of cores.
const THREADS_ARE_ON: &str = "/sys/devices/system/cpu/smt/active";

/// A capability that a program of ours keeps while it has no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Links, addresses, routes and filters.
    NetAdmin = 12,
}

/// `struct __user_cap_header_struct`, of the calling thread.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

/// `struct __user_cap_data_struct`: 32 capabilities of each set.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Whether this machine's cores have to be kept to one sandbox at a time, and can be.
///
/// # Errors
/// What says neither.
pub fn core_sharing() -> Result<CoreSharing, Errno> {
    let mut cookie = 0_u64;
    // SAFETY: PR_SCHED_CORE_GET writes one u64, exclusively ours; the rest are numbers, 0 being the calling thread.
    let result = unsafe {
        libc::prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, 0_u64, SCOPE_THREAD, std::ptr::from_mut(&mut cookie))
    };
    match Errno::result(result) {
        Ok(_) => Ok(CoreSharing::Refused),
        // A kernel without core scheduling does not say whether there are threads to keep apart.
        Err(Errno::EINVAL) if threads_are_on() => Ok(CoreSharing::Allowed),
        Err(Errno::ENODEV | Errno::EINVAL) => Ok(CoreSharing::Moot),
        Err(error) => Err(error),
    }
}

/// Whether a core has more than one thread that is on.
fn threads_are_on() -> bool {
    fs::read(THREADS_ARE_ON).is_ok_and(|text| text.trim_ascii() == b"1")
}

pub(super) fn schedule_apart() -> Result<(), Errno> {
    // SAFETY: PR_SCHED_CORE_CREATE takes numbers and writes nothing.
    let result = unsafe { libc::prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE, 0_u64, SCOPE_PROCESS, 0_u64) };
    Errno::result(result).map(drop)
}

/// No capability can be had by `execve`, by this process or by one that it makes. What is dropped already is only looked at: a drop is
/// a new set of credentials.
///
/// # Errors
/// The kernel's: the caller has `CAP_SETPCAP`, unless all are dropped.
pub fn drop_bounding_set() -> Result<(), Errno> {
    for capability in 0..CAPABILITIES {
        // SAFETY: PR_CAPBSET_READ takes a number.
        match Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0_u64, 0_u64, 0_u64) }) {
            Ok(0) => continue,
            Ok(_) => {}
            // Beyond the last one that the kernel knows.
            Err(Errno::EINVAL) if capability > 0 => break,
            Err(error) => return Err(error),
        }
        // SAFETY: PR_CAPBSET_DROP takes a number.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0_u64, 0_u64, 0_u64) };
        Errno::result(result)?;
    }
    Ok(())
}

/// Of what this process executes, nothing has a capability for being started by it: what a user who is not root is given, it is given
/// so that `execve` keeps it.
///
/// # Errors
/// The kernel's.
pub fn drop_ambient_set() -> Result<(), Errno> {
    let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong;
    // SAFETY: PR_CAP_AMBIENT takes numbers.
    let result = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, clear, 0_u64, 0_u64, 0_u64) };
    Errno::result(result).map(drop)
}

pub(super) fn lock_securebits() -> Result<(), Errno> {
    // SAFETY: PR_SET_SECUREBITS takes a number.
    let result = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECUREBITS, 0_u64, 0_u64, 0_u64) };
    Errno::result(result).map(drop)
}

pub(super) fn become_user(number: u32) -> Result<(), Errno> {
    let (user, group) = (Uid::from_raw(number), Gid::from_raw(number));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)
}

/// A change of user drops them for root alone, which a launcher need not be; this says it of all, also of those that `execve` would keep.
pub(super) fn drop_capabilities() -> Result<(), Errno> {
    set_capabilities(0)
}

/// Leaves the calling thread one capability, which is gone when it executes something, unless it is root.
///
/// # Errors
/// It does not have that one.
pub fn keep_capability(capability: Capability) -> Result<(), Errno> {
    set_capabilities(1 << capability as u32)
}

/// Of the first 32 those of `mask`, of the others none.
fn set_capabilities(mask: u32) -> Result<(), Errno> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let kept = CapabilityData { effective: mask, permitted: mask, inheritable: 0 };
    let sets = [kept, CapabilityData::default()];
    // SAFETY: version 3 of the call reads the header and two elements of data, which is what they are.
    let result = unsafe { libc::syscall(libc::SYS_capset, std::ptr::from_ref(&header), sets.as_ptr()) };
    Errno::result(result).map(drop)
}
