//! Runs one executable of `restore.d`: as the function's user, in the function's view and process list, in a cgroup of
//! its own, as the function's is frozen.
//!
//! ```text
//! guest-init ──clone3──► usher (joins the keeper's namespaces; waits; ends with the hook's status) ──fork──► hook
//! ```
#![expect(unsafe_code, reason = "fork has no safe wrapper")]

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, setns};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, execve, fork, write};
use seccompiler::BpfProgram;

use super::confine;
use super::keeper::{close_all_but, exit_with, fork_into};
use super::program::TASK_ROOT_PATH;

/// The usher's status when the hook could not be started, as a shell's.
const NOT_STARTED: i32 = 127;

/// Added to the number of the signal that ended a hook, as a shell does.
const SIGNALLED: i32 = 128;

/// What an usher and its hook need, all made before the fork.
pub(super) struct Usher {
    /// A pidfd of the process whose namespaces are the function's.
    pub(super) keeper: OwnedFd,
    pub(super) program: CString,
    pub(super) environment: Vec<CString>,
    /// `/dev/null`: the hook's standard input.
    pub(super) null: OwnedFd,
    /// Its standard output and error.
    pub(super) output: OwnedFd,
    /// `cgroup.procs` of the hooks' cgroup.
    pub(super) cgroup_procs: OwnedFd,
    pub(super) filter: BpfProgram,
}

impl Usher {
    pub(super) fn start(self) -> io::Result<(Pid, OwnedFd)> {
        match fork_into(0)? {
            Some(child) => Ok(child),
            None => self.run(),
        }
    }

    fn run(self) -> ! {
        close_all_but(&[&self.keeper, &self.null, &self.output, &self.cgroup_procs]);
        let namespaces = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
        if setns(&self.keeper, namespaces).is_err() {
            exit_with(NOT_STARTED);
        }
        // SAFETY: this process has one thread, a copy of guest-init's only one, so the child may run any code.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                let _ = self.become_hook();
                exit_with(NOT_STARTED);
            }
            Ok(ForkResult::Parent { child }) => exit_with(status_of(child)),
            Err(_) => exit_with(NOT_STARTED),
        }
    }

    /// Returns only when it fails.
    fn become_hook(&self) -> nix::Result<()> {
        write(&self.cgroup_procs, b"0")?;
        nix::unistd::dup2_stdin(&self.null)?;
        nix::unistd::dup2_stdout(&self.output)?;
        nix::unistd::dup2_stderr(&self.output)?;
        confine::apply(&self.filter, TASK_ROOT_PATH)?;
        // Every descriptor but the three is close-on-exec.
        execve(&self.program, &[&self.program], &self.environment)?;
        Ok(())
    }
}

fn status_of(hook: Pid) -> i32 {
    loop {
        match waitpid(hook, None) {
            Ok(WaitStatus::Exited(_, code)) => return code,
            Ok(WaitStatus::Signaled(_, signal, _)) => return SIGNALLED + signal as i32,
            Err(nix::errno::Errno::EINTR) | Ok(_) => {}
            Err(_) => return NOT_STARTED,
        }
    }
}
