//! When a guest's first instruction runs: the node's kernel says it, by its trace of entries into guests, of every VMM in
//! the same way. What a VMM answers to a load is its own idea of when that is.
//!
//! Switched on from before a load until its first entry, so that nothing else is slowed down by it; at that time no other
//! guest of the node runs.

use std::{
    fs::{self, File},
    io::Read,
    os::fd::AsFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    poll::{PollFd, PollFlags, poll},
    time::{ClockId, clock_gettime},
};

const TRACING: &str = "/sys/kernel/tracing";
const EVENT: &str = "events/kvm/kvm_entry/enable";
/// A load's guest enters within milliseconds of the answer, or never.
const PATIENCE_MS: u16 = 60_000;
/// Some fifty lines, of which the first is wanted.
const READ_LEN: usize = 4096;

/// The kernel's trace, which says nothing yet.
pub(crate) struct Entries;

impl Entries {
    /// Mounts what the appliance does not need.
    pub(crate) fn open() -> Result<Self> {
        match mount(Some("tracefs"), TRACING, Some("tracefs"), MsFlags::empty(), None::<&str>) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => return Err(error).with_context(|| format!("mount {TRACING}")),
        }
        write("trace_clock", "mono")?;
        Ok(Self)
    }

    /// Starts to listen; the moment from which [`Listening::first`] counts is the caller's.
    pub(crate) fn listen(&self) -> Result<Listening> {
        // Opening it like this empties it.
        File::create(format!("{TRACING}/trace")).context("empty the trace")?;
        write(EVENT, "1")?;
        Ok(Listening)
    }
}

/// The trace is on; off again when dropped.
pub(crate) struct Listening;

impl Listening {
    /// Microseconds from `began` to the first entry into a guest.
    pub(crate) fn first(self, began: Moment) -> Result<f64> {
        let mut trace = File::open(format!("{TRACING}/trace_pipe")).context("open the trace")?;
        let came = poll(&mut [PollFd::new(trace.as_fd(), PollFlags::POLLIN)], PATIENCE_MS)?;
        ensure!(came == 1, "no guest was entered within {PATIENCE_MS} ms");
        let mut buffer = vec![0; READ_LEN];
        let len = trace.read(&mut buffer).context("read the trace")?;
        let text = String::from_utf8_lossy(&buffer[..len]);
        let entered = first_entry(&text).with_context(|| format!("find an entry in {text:?}"))?;
        Ok((entered - began.0.as_secs_f64()) * 1e6)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // A trace that stays on slows guests down a little, and the next one to write it says why it cannot.
        let _ = write(EVENT, "0");
    }
}

/// A point of the clock that the trace is written by.
#[derive(Clone, Copy)]
pub(crate) struct Moment(Duration);

impl Moment {
    pub(crate) fn now() -> Result<Self> {
        Ok(Self(clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the clock")?.into()))
    }

    /// Microseconds since then.
    pub(crate) fn elapsed_us(self) -> Result<f64> {
        Ok((Self::now()?.0 - self.0).as_secs_f64() * 1e6)
    }
}

/// Seconds of the first entry: `vcpu0-515 [000] d..1. 337.918318: kvm_entry: vcpu 0, rip 0x…`.
fn first_entry(trace: &str) -> Option<f64> {
    let before = trace.lines().find_map(|line| line.split_once(": kvm_entry: "))?.0;
    before.rsplit(' ').next()?.parse().ok()
}

fn write(file: &str, text: &str) -> Result<()> {
    let path = format!("{TRACING}/{file}");
    fs::write(&path, text).with_context(|| format!("write {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_is_found_behind_what_else_is_said() {
        let trace = "CPU:0 [LOST 3 EVENTS]\n fc_vcpu 0-515     [000] d..1.   337.918318: kvm_entry: vcpu 0, rip 0x1\n \
                     fc_vcpu 0-515     [000] d..1.   338.000000: kvm_entry: vcpu 0, rip 0x2\n";
        assert_eq!(first_entry(trace), Some(337.918_318));
        assert_eq!(first_entry("kvm_exit"), None);
    }
}
