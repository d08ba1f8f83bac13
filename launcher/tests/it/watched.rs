//! A launcher whose system calls somebody sees before the kernel does them, so that any one of them can be made to fail: a filter that
//! asks (`SECCOMP_RET_USER_NOTIF`) is on it from before its first instruction. Nothing of the launcher knows of it.

use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::host::{Launcher, ROOT};
use crate::program::STAYS;

/// Every call of a process on its way into its room, and those by which the launcher makes one, but for waits, the allocator's, and
/// the closing of descriptors.
const SEEN: &[libc::c_long] = &[
    libc::SYS_pipe2,
    libc::SYS_mkdirat,
    libc::SYS_openat,
    libc::SYS_write,
    libc::SYS_clone3,
    libc::SYS_sendmsg,
    libc::SYS_rt_sigprocmask,
    libc::SYS_setsid,
    libc::SYS_prctl,
    libc::SYS_unshare,
    libc::SYS_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_move_mount,
    libc::SYS_fchdir,
    libc::SYS_pivot_root,
    libc::SYS_umount2,
    libc::SYS_chdir,
    libc::SYS_fcntl,
    libc::SYS_dup2,
    libc::SYS_close_range,
    libc::SYS_prlimit64,
    libc::SYS_setgroups,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_capset,
    libc::SYS_seccomp,
    libc::SYS_execveat,
];

/// `linux/prctl.h`.
const PR_SCHED_CORE: u64 = 62;

/// What fails, fails so.
const REFUSED: Errno = Errno::EPERM;

/// Whose call is to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The launcher's own, from when it begins with a sandbox to its answer.
    Launcher,
    /// The process's that it makes.
    Newborn,
}

#[derive(Debug)]
struct Aim {
    whose: Whose,
    /// Calls that are let be before it.
    left: usize,
    /// Whether calls count: a launcher has begun.
    has_begun: bool,
    /// The process and the number of the call that failed.
    hit: Option<(u32, libc::c_long)>,
}

/// The launcher, and where the next failure is set.
pub(crate) struct Watched {
    pub(crate) launcher: Launcher,
    aim: Arc<Mutex<Option<Aim>>>,
}

impl Watched {
    /// It believes that it may keep sandboxes from each other's cores.
    pub(crate) fn start() -> Self {
        let aim = Arc::new(Mutex::new(None));
        let aimed = Arc::clone(&aim);
        let (send, listener) = mpsc::channel();
        let started = thread::spawn(move || {
            send.send(listen()).expect("somebody waits");
            Launcher::start(ROOT, STAYS)
        });
        let listener = listener.recv().expect("its thread runs");
        thread::spawn(move || watch(&listener, &aimed));
        Self { launcher: started.join().expect("a launcher"), aim }
    }

    /// One call is to fail, after so many others.
    pub(crate) fn fail(&self, whose: Whose, left: usize) {
        let aim = Aim { whose, left, has_begun: whose == Whose::Newborn, hit: None };
        *self.aim.lock().expect("a lock") = Some(aim);
    }

    /// None is to fail any more; the process and the number of the one that did.
    pub(crate) fn be_done(&self) -> Option<(u32, libc::c_long)> {
        self.aim.lock().expect("a lock").take().and_then(|aim| aim.hit)
    }
}

/// Puts the filter on the calling thread and what it starts.
fn listen() -> OwnedFd {
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let answer = |action| statement((libc::BPF_RET | libc::BPF_K) as u16, action);
    // Its number is the first of what is known of a call.
    let mut program = vec![statement((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0)];
    for number in SEEN {
        let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        program.push(libc::sock_filter { code, jt: 0, jf: 1, k: *number as u32 });
        program.push(answer(libc::SECCOMP_RET_USER_NOTIF));
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let (operation, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: the call reads a program that is as long as it says.
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const filter) };
    let fd = Errno::result(fd).expect("these tests need root");
    // SAFETY: the call has just made the descriptor; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// Answers until nobody is left to ask.
fn watch(listener: &OwnedFd, aim: &Mutex<Option<Aim>>) {
    let mut launcher = None;
    loop {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            continue;
        }
        if fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)) {
            return;
        }
        // SAFETY: both structures are plain numbers, for which zero says "nothing".
        let (mut asked, mut answer) =
            unsafe { std::mem::zeroed::<(libc::seccomp_notif, libc::seccomp_notif_resp)>() };
        // SAFETY: the call writes one structure, exclusively ours.
        let got =
            unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) };
        // Whoever asked may have been killed since.
        if got != 0 {
            continue;
        }
        answer.id = asked.id;
        let mut aim = aim.lock().expect("a lock");
        if aim.as_mut().is_some_and(|aim| aim.is_at(&asked, &mut launcher)) {
            answer.error = -(REFUSED as i32);
        } else if asked.data.nr != libc::SYS_prctl as i32 || asked.data.args[0] != PR_SCHED_CORE {
            answer.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        }
        drop(aim);
        // SAFETY: the call reads one structure.
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const answer) };
    }
}

impl Aim {
    /// Whether this is the call. The launcher is who asks first, for a pipe.
    fn is_at(&mut self, asked: &libc::seccomp_notif, launcher: &mut Option<u32>) -> bool {
        let number = libc::c_long::from(asked.data.nr);
        let launcher = *launcher.get_or_insert(asked.pid);
        let whose = if asked.pid == launcher { Whose::Launcher } else { Whose::Newborn };
        if whose == Whose::Launcher {
            self.has_begun = self.has_begun || number == libc::SYS_pipe2;
        }
        let counts = number != libc::SYS_fcntl || asked.data.args[1] == libc::F_DUPFD_CLOEXEC as u64;
        if self.hit.is_some() || !self.has_begun || whose != self.whose || !counts {
            return false;
        }
        if number == libc::SYS_sendmsg {
            // The answer: nothing after it belongs to this sandbox.
            self.left = usize::MAX;
        }
        let is_it = self.left == 0;
        self.left = self.left.saturating_sub(1);
        if is_it {
            self.hit = Some((asked.pid, number));
        }
        is_it
    }
}
