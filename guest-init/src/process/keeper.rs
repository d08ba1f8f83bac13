//! The keeper: starts the runtime, reaps everything in its PID namespace, tells how the runtime ended, and ends.
//!
//! It runs in a copy of guest-init's single thread, so that ordinary code is safe in it after the fork.
#![expect(unsafe_code, reason = "clone3, fork, dup2 and close_range have no safe wrapper")]

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, execve, fork, write};
use seccompiler::BpfProgram;

use super::program::Program;
use super::status::Record;
use super::{confine, number, view};

/// The descriptor on which a waiting runtime is told its function.
const ORDERS_FD: libc::c_int = 3;

/// What the keeper and the runtime need, all made before the fork.
pub(super) struct Keeper {
    pub(super) root: PathBuf,
    pub(super) program: Program,
    pub(super) environment: Vec<CString>,
    /// `/dev/null`: the runtime's standard input.
    pub(super) null: OwnedFd,
    /// Its standard output and error.
    pub(super) output: OwnedFd,
    /// Where [`Record`]s go.
    pub(super) status: OwnedFd,
    /// `cgroup.procs` of the function's cgroup.
    pub(super) cgroup_procs: OwnedFd,
    /// What a runtime that waits to be told its function listens on: its descriptor 3.
    pub(super) orders: Option<OwnedFd>,
    /// Denies the function the socket families that lead out of the guest.
    pub(super) filter: BpfProgram,
}

impl Keeper {
    /// Starts the keeper; the caller keeps its process id and a pidfd.
    pub(super) fn start(self) -> io::Result<(Pid, OwnedFd)> {
        match fork_into(libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC)? {
            Some(child) => Ok(child),
            None => self.run(),
        }
    }

    fn run(self) -> ! {
        let mut kept = vec![&self.null, &self.output, &self.status, &self.cgroup_procs];
        kept.extend(&self.orders);
        close_all_but(&kept);
        if let Err(errno) = view::enter(&self.root) {
            self.tell(Record::Setup(errno as i32));
            exit_now();
        }
        // SAFETY: this process has one thread, a copy of guest-init's only one, so the child may run any code.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                let Err(record) = self.become_runtime();
                self.tell(record);
                exit_now();
            }
            Ok(ForkResult::Parent { child }) => {
                pass_on_signals(child);
                let Self { status, output, null, cgroup_procs, orders, .. } = self;
                drop((output, null, cgroup_procs, orders));
                tell(&status, Record::Ended(reap_until(child)));
                exit_now();
            }
            Err(errno) => {
                self.tell(Record::Setup(errno as i32));
                exit_now();
            }
        }
    }

    /// Does not return when it succeeds.
    fn become_runtime(&self) -> Result<Infallible, Record> {
        let setup = |errno: nix::Error| Record::Setup(errno as i32);
        write(&self.cgroup_procs, b"0").map_err(setup)?;
        nix::unistd::dup2_stdin(&self.null).map_err(setup)?;
        nix::unistd::dup2_stdout(&self.output).map_err(setup)?;
        nix::unistd::dup2_stderr(&self.output).map_err(setup)?;
        if let Some(orders) = &self.orders {
            inherit(orders).map_err(setup)?;
        }
        let Program { candidates, arguments, folder } = &self.program;
        confine::apply(&self.filter, folder).map_err(setup)?;
        // As execvp(3): what is not there is passed over, and what may not be run is remembered.
        let mut failed = Errno::ENOENT;
        for candidate in candidates {
            // Every other descriptor is close-on-exec.
            match execve(candidate, arguments, &self.environment) {
                Ok(never) => match never {},
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(Errno::EACCES) => failed = Errno::EACCES,
                Err(errno) => return Err(Record::Exec(errno as i32)),
            }
        }
        Err(Record::Exec(failed as i32))
    }

    fn tell(&self, record: Record) {
        tell(&self.status, record);
    }
}

/// Makes a descriptor the process's number 3, open across exec. Nothing else that is still needed has that number: what
/// else the process holds is close-on-exec and was used before.
fn inherit(orders: &OwnedFd) -> nix::Result<()> {
    // SAFETY: dup2 takes numbers; closing what has number 3 takes it from objects of the copy that are never used or
    // dropped again, as this process ends by `_exit` or `execve`.
    let result = unsafe { libc::dup2(orders.as_raw_fd(), ORDERS_FD) };
    nix::errno::Errno::result(result)?;
    if orders.as_raw_fd() == ORDERS_FD {
        // dup2 onto itself leaves the flag as it is.
        nix::fcntl::fcntl(orders, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
    }
    Ok(())
}

/// Forks a copy of this process into new namespaces: its process id and a pidfd, or `None` in the copy.
pub(super) fn fork_into(namespaces: libc::c_int) -> io::Result<Option<(Pid, OwnedFd)>> {
    let mut pidfd: libc::c_int = -1;
    let flags = namespaces | libc::CLONE_PIDFD;
    let args = libc::clone_args {
        flags: u64::from(flags.unsigned_abs()),
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    // SAFETY: without CLONE_VM and with no stack given, clone3 behaves as fork: the child runs on a copy of this memory.
    // `args` lives across the call, its size is its own, and `pidfd` points to an int that lives too. The process has
    // one thread (tokio's current_thread runtime without blocking calls), so no lock can be held by a thread that the
    // copy lacks.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    match pid {
        0 => Ok(None),
        pid if pid > 0 => {
            // SAFETY: the kernel has just opened this descriptor for us (CLONE_PIDFD) and nobody else has it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Some((Pid::from_raw(i32::try_from(pid).unwrap_or(-1)), pidfd)))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// The runtime, for the handler below.
static RUNTIME: AtomicI32 = AtomicI32::new(0);

/// PID 1 of a namespace hears a signal from outside only if it handles it: the runtime is meant.
fn pass_on_signals(runtime: Pid) {
    RUNTIME.store(runtime.as_raw(), Ordering::Relaxed);
    // SAFETY: the handler only reads an atomic and calls `kill`, which is async-signal-safe (signal-safety(7)).
    let _ = unsafe { signal(Signal::SIGTERM, SigHandler::Handler(pass_on)) };
}

extern "C" fn pass_on(number: libc::c_int) {
    let runtime = RUNTIME.load(Ordering::Relaxed);
    if runtime > 0 {
        // SAFETY: kill takes numbers. The runtime is this process's child and is reaped by it alone, after which it ends.
        unsafe { libc::kill(runtime, number) };
    }
}

/// Sends a signal to a keeper, which may be gone.
pub(super) fn signal_keeper(keeper: &OwnedFd, signal: Signal) {
    let number = signal as libc::c_int;
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: pidfd_send_signal takes numbers and a pointer that may be null (pidfd_send_signal(2)).
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, keeper.as_raw_fd(), number, none, 0) };
}

fn tell(status: &OwnedFd, record: Record) {
    // The pipe has room for every record there can be; without a reader nobody wants to know.
    let _ = write(status, &record.to_bytes());
}

/// Reaps whatever ends until the runtime does; its wait status.
fn reap_until(runtime: Pid) -> i32 {
    loop {
        match waitpid(None::<Pid>, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == runtime => return code << 8,
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == runtime => return signal as i32,
            // No child left without having seen the runtime's end: it was lost, as good as killed.
            Err(nix::errno::Errno::ECHILD) => return libc::SIGKILL,
            _ => {}
        }
    }
}

/// Closes every descriptor from 3 on, except these.
pub(super) fn close_all_but(keep: &[&OwnedFd]) {
    let mut keep: Vec<u32> = keep.iter().map(|fd| number(*fd)).collect();
    keep.sort_unstable();
    let mut first = 3;
    for kept in keep.into_iter().chain([u32::MAX]) {
        if first < kept {
            // SAFETY: close_range takes numbers only. No value in this process uses a closed descriptor again: the
            // copy of guest-init's objects is never dropped, as the process ends by `_exit` or `execve`.
            unsafe { libc::close_range(first, kept - 1, 0) };
        }
        first = kept.saturating_add(1);
    }
}

/// Ends the process without running any destructor of guest-init's copy.
pub(super) fn exit_now() -> ! {
    exit_with(0)
}

/// The same with a status.
pub(super) fn exit_with(status: i32) -> ! {
    // SAFETY: `_exit` has no conditions and does not return.
    unsafe { libc::_exit(status) }
}
