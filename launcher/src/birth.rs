//! A process is made, goes into its room and becomes the program; whoever waits for that hears which step failed.

#![expect(unsafe_code, reason = "clone3 and what goes with it")]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use jail::{NAMESPACES, RoomPlan};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, execveat, pipe2};

use crate::describe;

/// A room takes milliseconds, a hundred of them under emulation on a busy machine.
const PATIENCE_MS: u16 = 20_000;

/// Longest that a process says of a step that failed, bytes: less than a pipe takes at once.
const MAX_SAID: usize = 400;

/// Descriptors that must not be in the place of one that is handed over are from here on.
pub(crate) const ABOVE: RawFd = 64;

/// `linux/sched.h`; libc's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// What every sandbox is started from.
#[derive(Debug)]
pub(crate) struct Program {
    /// The open file; a path leads nowhere from a room.
    pub(crate) file: OwnedFd,
    /// Its name and arguments.
    pub(crate) arguments: Vec<CString>,
}

/// Why a process did not become the program.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BirthError {
    /// Pipes, or the process itself.
    #[error("make a process")]
    Process(#[source] Errno),
    /// A step of its own; its own words.
    #[error("{0}")]
    Step(String),
    /// It takes too long.
    #[error("it was not in its room after {PATIENCE_MS} ms")]
    Late,
    /// Whoever wanted it is gone.
    #[error("the agent is gone")]
    Unwanted,
}

/// A process on its way into its room.
#[derive(Debug)]
pub(crate) struct Newborn {
    pub(crate) pid: Pid,
    /// Closed by `execve`; until then, what it says of a step that failed.
    words: OwnedFd,
}

impl Newborn {
    /// Makes a process in `group`, which is a control group's directory.
    pub(crate) fn make(
        plan: &RoomPlan,
        program: &Program,
        group: BorrowedFd<'_>,
    ) -> Result<Self, BirthError> {
        let (words, said) = pipe2(OFlag::O_CLOEXEC).map_err(BirthError::Process)?;
        let said = above(said).map_err(BirthError::Process)?;
        match clone_into(group).map_err(BirthError::Process)? {
            Some(pid) => Ok(Self { pid, words }),
            None => become_program(plan, program, said),
        }
    }

    /// Waits until it is the program. When it is not, it has ended or is to be ended.
    pub(crate) fn grown(&self, agent: BorrowedFd<'_>) -> Result<(), BirthError> {
        let mut fds =
            [PollFd::new(self.words.as_fd(), PollFlags::POLLIN), PollFd::new(agent, PollFlags::empty())];
        loop {
            match poll(&mut fds, PollTimeout::from(PATIENCE_MS)) {
                Err(Errno::EINTR) => {}
                Err(error) => return Err(BirthError::Process(error)),
                Ok(0) => return Err(BirthError::Late),
                Ok(_) => break,
            }
        }
        if !fds[0].any().unwrap_or(false) {
            return Err(BirthError::Unwanted);
        }
        let mut said = String::new();
        let words = self.words.try_clone().map_err(|_| BirthError::Process(Errno::EMFILE))?;
        // What is no text was cut off within a letter.
        drop(File::from(words).take(MAX_SAID as u64).read_to_string(&mut said));
        if said.is_empty() { Ok(()) } else { Err(BirthError::Step(said)) }
    }
}

/// The new process's number, in the old process.
fn clone_into(group: BorrowedFd<'_>) -> Result<Option<Pid>, Errno> {
    // SAFETY: the structure is plain numbers, for which zero says "nothing of the kind".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = NAMESPACES.bits() as u64 | CLONE_INTO_CGROUP;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = group.as_raw_fd() as u64;
    let len = size_of::<libc::clone_args>();
    // SAFETY: the call reads `len` bytes of the structure, which is that long. Without CLONE_VM it is a fork: this process has
    // one thread, so the new one finds every lock as free as it is here.
    let result = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&arguments), len) };
    let pid = Errno::result(result)? as libc::pid_t;
    Ok((pid > 0).then(|| Pid::from_raw(pid)))
}

/// The rest of the new process's life as ours.
fn become_program(plan: &RoomPlan, program: &Program, said: OwnedFd) -> ! {
    let problem = match plan.enter() {
        Ok(()) => {
            let (environment, flags) = ([] as [&CStr; 0], AtFlags::AT_EMPTY_PATH);
            let Err(error) = execveat(&program.file, c"", &program.arguments, &environment, flags);
            format!("become the program: {error}")
        }
        Err(error) => describe(&error),
    };
    // A launcher that does not listen has nothing to do but to see the end.
    drop(File::from(said).write_all(problem.as_bytes().get(..MAX_SAID).unwrap_or(problem.as_bytes())));
    std::process::exit(1)
}

/// A descriptor where nothing that is handed over takes its place.
pub(crate) fn above(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    let fd = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(ABOVE))?;
    // SAFETY: the call has just made the descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
