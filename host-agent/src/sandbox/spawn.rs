//! Starts `vmm` processes so that none outlives the agent and none inherits more than it is given.
//!
//! Every fork happens on one thread that lives as long as the spawner: the parent-death signal is tied to the thread
//! that forked, and runtime threads come and go. What runs between fork and exec is three system calls.

#![expect(unsafe_code, reason = "code between fork and exec, and close_range, which no wrapper offers")]

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    process::Stdio,
    thread,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    libc,
    sys::{prctl, signal::Signal},
};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::{mpsc, oneshot},
};

/// First descriptor after the standard ones.
const FIRST_FD: libc::c_uint = 3;

struct Order {
    control: OwnedFd,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// Starts processes of one program.
#[derive(Debug)]
pub(crate) struct Spawner {
    /// Not longer than the pool's bound on concurrent starts.
    orders: mpsc::UnboundedSender<Order>,
}

impl Spawner {
    /// Spawner of `program`. Call from within the runtime that will wait for the processes.
    pub(crate) fn new(program: PathBuf) -> io::Result<Self> {
        let (orders, mut inbox) = mpsc::unbounded_channel::<Order>();
        let runtime = Handle::current();
        thread::Builder::new().name("vmm-spawner".into()).spawn(move || {
            let _context = runtime.enter();
            while let Some(order) = inbox.blocking_recv() {
                // A receiver that is gone drops the child, which kills it.
                drop(order.reply.send(spawn(&program, order.control)));
            }
        })?;
        Ok(Self { orders })
    }

    /// A process that serves `control` and has nothing else: no environment, no input, no output but stderr.
    pub(crate) async fn spawn(&self, control: OwnedFd) -> io::Result<Child> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the spawner's thread has ended");
        self.orders.send(Order { control, reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn spawn(program: &std::path::Path, control: OwnedFd) -> io::Result<Child> {
    let mut command = Command::new(program);
    command
        .arg("--control-fd")
        .arg(control.as_raw_fd().to_string())
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let before_exec = move || Ok(leave_only(&control)?);
    // SAFETY: the closure runs after fork in a child of a threaded process, so it must be async-signal-safe: it makes
    // three system calls, allocates nothing and takes no lock.
    unsafe { command.pre_exec(before_exec) };
    command.spawn()
}

/// Ties the process to its parent and lets `control` alone survive the exec.
fn leave_only(control: &OwnedFd) -> Result<(), Errno> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // SAFETY: with CLOSE_RANGE_CLOEXEC the call closes nothing and touches no memory; it marks descriptors of this
    // process, which is about to exec.
    let result = unsafe { libc::close_range(FIRST_FD, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
    Errno::result(result)?;
    fcntl(control, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}
