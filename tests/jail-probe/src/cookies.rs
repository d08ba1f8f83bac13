//! Core scheduling as the kernel has it: threads with one cookie may run beside each other on a core, others may not.

use std::fs;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc;
use serde_json::json;

/// `linux/prctl.h`: what is asked for, and of whom.
const PR_SCHED_CORE: libc::c_int = 62;
const PR_SCHED_CORE_GET: u64 = 0;
const SCOPE_THREAD: u64 = 0;

/// Writes the cookies of all threads of these processes, `{"PID": [COOKIE, …], …}`; 0 is nobody's.
pub(crate) fn print(pids: &[String]) -> Result<()> {
    let mut cookies = serde_json::Map::new();
    for pid in pids {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("list {pid}"))?;
        let of_thread = |entry: std::io::Result<fs::DirEntry>| {
            let tid = entry?.file_name().to_string_lossy().parse().context("a thread's number")?;
            cookie(tid).with_context(|| format!("ask for the cookie of {tid}"))
        };
        let of_threads = threads.map(of_thread).collect::<Result<Vec<_>>>()?;
        cookies.insert(pid.clone(), json!(of_threads));
    }
    println!("{}", serde_json::Value::Object(cookies));
    Ok(())
}

fn cookie(tid: u64) -> Result<u64, Errno> {
    let mut cookie = 0_u64;
    // SAFETY: the call writes one u64, exclusively ours; the rest are numbers.
    let result = unsafe {
        libc::prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, tid, SCOPE_THREAD, std::ptr::from_mut(&mut cookie))
    };
    Errno::result(result).map(|_| cookie)
}
