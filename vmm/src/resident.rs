//! A machine that never runs. As long as one exists, KVM leaves the code of the host's kernel as it is.
//!
//! What only matters while there are machines is behind static keys in the host's kernel: branches that are switched by
//! rewriting the instruction. The first machine rewrites the scheduler (preemption notifiers), the end of the last one
//! undoes it, and every vCPU whose local APIC the guest has not switched on yet does the same to KVM. Each rewriting
//! interrupts every processor of the host three times, whatever runs on it. On a node whose machines come and go that is for
//! nothing: one machine with one vCPU that was never started keeps all of these keys as they are. See
//! `docs/adr/0017-resident-machine.md`.

use std::convert::Infallible;
use std::io::{self, Write as _};

use nix::unistd::pause;

use crate::confine;
use crate::host_files::HostFiles;
use crate::machine::bare_machine;
use crate::supervisor::RunError;

/// Said when the machine exists and the process can do nothing but wait.
const STAYS: &str = "vmm: a machine that never runs stays";

/// Makes the machine, says so on the standard output, and keeps it until a signal ends the process.
///
/// # Errors
/// A host without KVM, or one that does not let the process confine itself.
pub fn stay() -> Result<Infallible, RunError> {
    let filter = confine::resident_filter().compile()?;
    let _machine = bare_machine(&HostFiles::Paths).map_err(|error| RunError::Prepare(error.into()))?;
    confine::plan().enter()?;
    filter.apply()?;
    // A closed output is no reason to end.
    let _ = writeln!(io::stdout(), "{STAYS}");
    loop {
        pause();
    }
}
