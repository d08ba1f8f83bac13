//! What the runtime's process gives up before it becomes the customer's code.
#![expect(unsafe_code, reason = "prctl's capability calls and signal dispositions have no safe wrapper")]

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;

use nix::errno::Errno;
use nix::sys::prctl::set_no_new_privs;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chdir, setgroups, setresgid, setresuid, setsid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::{FUNCTION_GID, FUNCTION_UID};
use crate::boot::protect;

/// Limits of the process, soft and hard alike.
const LIMITS: &[(Resource, u64)] = &[
    // Lambda's quota for file descriptors.
    (Resource::RLIMIT_NOFILE, 1024),
    // Lambda's quota for processes and threads; the cgroup counts them too.
    (Resource::RLIMIT_NPROC, 1024),
    // A core dump would fill /tmp with what nobody reads.
    (Resource::RLIMIT_CORE, 0),
];

/// Highest capability number to look for. The kernel says EINVAL at the first that does not exist; 64 fit its masks.
const MAX_CAPABILITY: libc::c_ulong = 63;

/// Gives everything up, in an order in which each step is still permitted, and ends up in a folder that the function's user can enter.
pub(super) fn apply(filter: &BpfProgram, folder: &CStr) -> nix::Result<()> {
    setsid()?;
    reset_signals()?;
    for &(resource, limit) in LIMITS {
        setrlimit(resource, limit, limit)?;
    }
    protect::unprotect().map_err(errno)?;
    umask(Mode::from_bits_truncate(0o022));
    if !cfg!(feature = "rooted") {
        become_nobody(filter)?;
    }
    chdir(folder)
}

/// Has no right from here on, and gets none.
fn become_nobody(filter: &BpfProgram) -> nix::Result<()> {
    drop_bounding_set()?;
    setgroups(&[])?;
    let (uid, gid) = (Uid::from_raw(FUNCTION_UID), Gid::from_raw(FUNCTION_GID));
    setresgid(gid, gid, gid)?;
    // Leaving uid 0 clears the permitted, effective and ambient capabilities (capabilities(7)).
    setresuid(uid, uid, uid)?;
    set_no_new_privs()?;
    seccompiler::apply_filter(filter).map_err(|_| Errno::last())
}

/// Denies `AF_VSOCK`, as on a machine that has none: the function must not speak to the agent in guest-init's place.
pub(super) fn socket_filter() -> io::Result<BpfProgram> {
    let family = libc::AF_VSOCK.unsigned_abs().into();
    let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, family);
    let rule = condition.and_then(|condition| SeccompRule::new(vec![condition]));
    let rules = BTreeMap::from([(libc::SYS_socket, vec![rule.map_err(io::Error::other)?])]);
    let deny = SeccompAction::Errno(libc::EAFNOSUPPORT.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, deny, TargetArch::x86_64)
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)
}

/// Rust ignores SIGPIPE, and an ignored signal stays ignored across exec.
fn reset_signals() -> nix::Result<()> {
    // SAFETY: the default disposition runs no code of ours.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    Ok(())
}

fn drop_bounding_set() -> nix::Result<()> {
    for capability in 0..=MAX_CAPABILITY {
        // SAFETY: PR_CAPBSET_DROP takes a number and no pointer.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        match Errno::result(result) {
            Ok(_) => {}
            Err(Errno::EINVAL) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn errno(error: io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
