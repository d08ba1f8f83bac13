//! Keeps guest-init able to act when the function takes all memory or all processors: deadlines are kept by it.
#![expect(unsafe_code, reason = "setpriority has no safe wrapper")]

use std::fs;
use std::io;

use nix::errno::Errno;

/// Never chosen by the out-of-memory killer (proc(5)).
const OOM_SCORE_ADJ: i16 = -1000;

/// Highest weight that a process can have without being a real-time one (sched(7)).
const NICE: libc::c_int = -20;

/// Exempts this process from the out-of-memory killer and puts it ahead of the function's processes.
///
/// # Errors
/// When the kernel refuses.
pub fn protect() -> io::Result<()> {
    set(OOM_SCORE_ADJ, NICE)
}

/// Makes the calling process, a copy of guest-init, an ordinary one again.
///
/// # Errors
/// When the kernel refuses.
pub fn unprotect() -> io::Result<()> {
    set(0, 0)
}

fn set(oom_score_adj: i16, nice: libc::c_int) -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", oom_score_adj.to_string())?;
    // SAFETY: setpriority takes numbers only; 0 is the calling process.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) })?;
    Ok(())
}
