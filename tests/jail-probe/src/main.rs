//! A hostile program in the place of a `vmm`: tries, from inside its jail, what a `vmm` that was taken over would, one thing a
//! process, and says what came of each.
//!
//! ```text
//! jail-probe LAUNCHER        starts that launcher with this program, has everything tried, writes {"attempt": "outcome", …}
//! vmm --control-fd 3 …       what the launcher makes of it: waits for one attempt's name, tries, answers, waits to be ended
//! ```
//!
//! It has what a `vmm` has before it confines itself further (`vmm/src/confine.rs`): everything here is what the launcher's jail
//! alone withstands. An outcome is the kernel's error, `SIGSYS` for a process that the filter ended, `SIGKILL` for one that took
//! too much, or `done …`.

#![expect(unsafe_code, reason = "system calls as a hostile program makes them")]

mod attempts;
mod driver;

use std::os::fd::{BorrowedFd, RawFd};

use anyhow::{Context as _, Result};
use nix::unistd::{read, write};

/// Where the launcher hands over the control socket.
const CONTROL: RawFd = 3;

/// Said before an attempt is made.
const TRYING: &[u8] = b"trying";

/// Longest name of an attempt, and longest outcome, bytes.
const MAX_WORD: usize = 256;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [launcher] => driver::run(launcher.as_ref()),
        _ => serve(),
    }
}

fn serve() -> Result<()> {
    // SAFETY: the launcher has handed over the descriptor, and nothing else here knows it.
    let control = unsafe { BorrowedFd::borrow_raw(CONTROL) };
    // Calls that a vmm may make: it has no recvfrom.
    let mut name = [0; MAX_WORD];
    let len = read(control, &mut name).context("receive an attempt")?;
    let name = String::from_utf8_lossy(&name[..len]).into_owned();
    write(control, TRYING).context("say that it is tried")?;
    let outcome = attempts::make(&name);
    write(control, outcome.as_bytes()).context("say what came of it")?;
    // To its end, which is another one's doing.
    read(control, &mut [0]).context("wait")?;
    Ok(())
}
