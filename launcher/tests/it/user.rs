//! Somebody: a user with some capabilities. A child becomes it before it executes a program of ours; a thread becomes it to try what
//! another process of the very same user gets of that program. The tests of all programs share it.

#![expect(unsafe_code, reason = "credentials of one thread, and what has no wrapper")]

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::thread;

use nix::errno::Errno;
use nix::libc;

/// `linux/capability.h`: a bit, and the last one that there is.
const CAP_SYS_ADMIN: u64 = 1 << 21;
const LAST_CAPABILITY: u32 = 40;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Who it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    pub(crate) number: u32,
    /// A bit for each.
    pub(crate) capabilities: u64,
}

impl User {
    /// The calling thread is this user from here on, with these capabilities, which what it executes inherits. System calls alone,
    /// and nothing is allocated.
    pub(crate) fn become_it(self) -> io::Result<()> {
        let prctl = |option, first: u64, second: u64| {
            // SAFETY: what is asked for here takes numbers.
            Errno::result(unsafe { libc::prctl(option, first, second, 0_u64, 0_u64) }).map(drop)
        };
        let has = |number: &u32| self.capabilities & 1 << number != 0;
        for number in (0..=LAST_CAPABILITY).filter(|number| !has(number)) {
            prctl(libc::PR_CAPBSET_DROP, number.into(), 0)?;
        }
        prctl(libc::PR_SET_KEEPCAPS, 1, 0)?;
        let user = libc::c_long::from(self.number);
        // libc's wrappers make it so for all threads.
        let call = |number, arguments: [libc::c_long; 3]| {
            let [first, second, third] = arguments;
            // SAFETY: the calls take numbers; of no groups none is read.
            Errno::result(unsafe { libc::syscall(number, first, second, third) }).map(drop)
        };
        call(libc::SYS_setgroups, [0; 3])?;
        call(libc::SYS_setresgid, [user; 3])?;
        call(libc::SYS_setresuid, [user; 3])?;
        let mask = self.capabilities as u32;
        // Version 3: effective, permitted, inheritable, of the first 32 and of the others.
        let (header, sets) = ([CAPABILITY_VERSION_3, 0], [mask, mask, mask, 0, 0, 0]);
        // SAFETY: the call reads two and six numbers, which are there.
        Errno::result(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })?;
        for number in (0..=LAST_CAPABILITY).filter(has) {
            prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, number.into())?;
        }
        Ok(())
    }

    /// Another process of this user's, which is in no room, gets nothing of `pid`, though all of a process that has not closed itself.
    #[track_caller]
    pub(crate) fn gets_nothing_of(self, pid: u32) {
        let mut open = Command::new("cat");
        open.stdin(Stdio::piped()).stdout(Stdio::piped());
        // SAFETY: between fork and exec it makes system calls alone, and allocates nothing.
        unsafe { open.pre_exec(move || self.become_it()) };
        let mut open = open.spawn().expect("these tests need root");
        // It runs when it answers.
        let (Some(asked), Some(answer)) = (&mut open.stdin, &mut open.stdout) else { panic!("piped") };
        asked.write_all(b"?").and_then(|()| answer.read_exact(&mut [0])).expect("an answer");
        let [all, nothing] = [open.id(), pid].map(|pid| {
            let trying = move || self.become_it().map(|()| attempts(pid));
            let attempts = thread::spawn(trying).join().expect("a thread").expect("these tests need root");
            attempts.into_iter().filter(|(_, is_let)| *is_let).map(|(what, _)| what).collect::<Vec<_>>()
        });
        drop(open.stdin.take());
        open.wait().expect("its end");
        assert_eq!(all.len(), ATTEMPTS, "of one that is open: {all:?}");
        // That capability reads every process's map, of late.
        let maps = if self.capabilities & CAP_SYS_ADMIN == 0 { "" } else { "memory map" };
        assert_eq!(nothing.into_iter().find(|what| *what != maps), None, "is to be had");
    }
}

const ATTEMPTS: usize = 9;

/// What may be had of a process, and whether the kernel lets the calling thread.
fn attempts(pid: u32) -> [(&'static str, bool); ATTEMPTS] {
    let path = |name: &str| format!("/proc/{pid}/{name}");
    let read =
        |name| allowed(File::open(path(name)).and_then(|mut file| io::copy(&mut file, &mut io::sink())));
    [
        ("environment", read("environ")),
        ("memory map", read("maps")),
        ("memory", allowed(File::open(path("mem")))),
        ("descriptors", allowed(fs::read_dir(path("fd")))),
        ("program", allowed(fs::read_link(path("exe")))),
        ("root", allowed(fs::read_dir(path("root/")))),
        ("a descriptor's copy", allowed(copy_descriptor(pid))),
        ("memory, by a call", allowed(read_memory(pid))),
        ("trace", allowed(trace(pid))),
    ]
}

/// Any other error comes after the kernel has looked at who asks.
fn allowed<T>(result: io::Result<T>) -> bool {
    !result.is_err_and(|error| matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)))
}

fn copy_descriptor(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers.
    let process = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the call has just made the descriptor; nobody else owns it.
    let process = unsafe { OwnedFd::from_raw_fd(process as i32) };
    // SAFETY: the call takes numbers; 2 is standard error's.
    let copy = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), 2, 0) })?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(copy as i32) })
}

/// Of an address where nothing is.
fn read_memory(pid: u32) -> io::Result<()> {
    let mut byte = 0_u8;
    let ours = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let theirs = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 1 };
    // SAFETY: the call writes one byte at most, exclusively ours; the other address is another process's matter.
    Errno::result(unsafe {
        libc::process_vm_readv(pid as i32, &raw const ours, 1, &raw const theirs, 1, 0)
    })?;
    Ok(())
}

/// Until this thread ends.
fn trace(pid: u32) -> io::Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_SEIZE takes numbers; no option is set.
    Errno::result(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid as libc::pid_t, nothing, nothing) })?;
    Ok(())
}
