//! What somebody tries who took a `vmm` over: one thing at a time, by name, from whichever thread calls. Each ends in an outcome,
//! or in the end of the process.

#![expect(unsafe_code, reason = "system calls as a hostile program makes them")]

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::libc;
use nix::sys::stat::Mode;

/// Where the launcher hands over the directory of the process.
const PROCESS: RawFd = 6;

/// The first descriptor behind the standard ones.
const FIRST: RawFd = 3;

/// An abstract socket on the host, for datagrams; whoever has this tried makes it.
pub const HOSTS_SOCKET: &[u8] = b"tinderbox-jail-probe";

/// Numbers of processes and descriptors that are looked at.
const NUMBERS: i32 = 256;

/// More than a sandbox can have, of anything.
const TOO_MANY: usize = 100_000;

/// Behind the end of a disk and of a memory of the machines that are tried, bytes.
const PAST: libc::off_t = 1 << 30;

/// Memory that is taken at a time.
const PIECE: usize = 1 << 20;

type Attempt = fn() -> Result<String, Errno>;

/// Every attempt by its name. Calls that no sandbox may make at all are in [`CALLS`].
const ATTEMPTS: &[(&str, Attempt)] = &[
    ("list the root", || list(b"/\0")),
    ("open a file of the host", || opened("/etc/passwd", OFlag::O_RDONLY)),
    ("open the root's parent", || list(b"/..\0")),
    ("open /dev/kvm by its path", || opened("/dev/kvm", OFlag::O_RDWR)),
    ("open /dev/kvm anew by its descriptor", || of_process("fd/4", OFlag::O_RDWR)),
    ("open /dev/userfaultfd anew by its descriptor", || of_process("fd/5", OFlag::O_RDWR)),
    ("open /proc", || opened("/proc/self/status", OFlag::O_RDONLY)),
    ("open control groups", || opened("/sys/fs/cgroup/cgroup.procs", OFlag::O_WRONLY)),
    ("create a file", || opened("/file", OFlag::O_CREAT | OFlag::O_WRONLY)),
    ("create a file in its process's directory", || of_process("file", OFlag::O_CREAT | OFlag::O_WRONLY)),
    ("see other processes", other_processes),
    ("see the kernel's files beside processes", || of_process("../kallsyms", OFlag::O_RDONLY)),
    ("change a sysctl", || of_process("../sys/kernel/core_pattern", OFlag::O_WRONLY)),
    ("write to its program", || of_process("exe", OFlag::O_WRONLY)),
    ("make a user namespace by clone", || clone_with(libc::CLONE_NEWUSER)),
    ("make a network by clone", || clone_with(libc::CLONE_NEWNET)),
    ("make processes by clone", || clone_with(libc::CLONE_NEWPID)),
    ("make mounts by clone", || clone_with(libc::CLONE_NEWNS)),
    ("make a host name by clone", || clone_with(libc::CLONE_NEWUTS)),
    ("make queues by clone", || clone_with(libc::CLONE_NEWIPC)),
    ("make control groups by clone", || clone_with(libc::CLONE_NEWCGROUP)),
    ("have a capability in the bounding set", || prctl(libc::PR_CAPBSET_READ, 21, 0)),
    ("raise an ambient capability", || prctl(libc::PR_CAP_AMBIENT, 2, 21)),
    ("change the securebits", || prctl(libc::PR_SET_SECUREBITS, 0, 0)),
    ("take no_new_privs back", || prctl(libc::PR_SET_NO_NEW_PRIVS, 0, 0)),
    ("raise a limit", raise_limit),
    ("make sockets of a pair that is no unix one", || call(libc::SYS_socketpair, [16, 3, 0, 0])),
    ("send to a socket of the host by its path", || send_to(b"/run/systemd/journal/socket")),
    ("send to a socket of the host by its name", || send_to(&[b"\0", HOSTS_SOCKET].concat())),
    ("wake another process", wake_others),
    ("write to what it was handed to read", write_to_all),
    ("write past the end of its disk", write_past_all),
    ("make memory runnable", make_runnable),
    ("create a file without a name", || opened("/", OFlag::O_TMPFILE | OFlag::O_WRONLY)),
    ("become another program", || call(libc::SYS_execveat, [PROCESS.into(), 0, 0, 0])),
    ("make another machine", || every_descriptor(KVM_CREATE_VM, Some(0))),
    ("make another userfaultfd", || every_descriptor(USERFAULTFD_IOC_NEW, Some(0))),
    ("make a tap of another name", || every_descriptor(TUNSETIFF, None)),
    ("map memory to run", || call(libc::SYS_mmap, [0, 4096, 7, 0x22])),
    ("take descriptors", take_descriptors),
    ("take processes", take_processes),
    ("take pairs of sockets", take_sockets),
    ("take memory", take_memory),
];

/// `linux/kvm.h`, `linux/userfaultfd.h`, `linux/if_tun.h`.
const KVM_CREATE_VM: libc::Ioctl = 0xae01;
const USERFAULTFD_IOC_NEW: libc::Ioctl = 0xaa00;
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;

/// Calls that end a sandbox.
const CALLS: &[(&str, libc::c_long)] = &[
    ("openat2", libc::SYS_openat2),
    ("connect", libc::SYS_connect),
    ("bind", libc::SYS_bind),
    ("kill", libc::SYS_kill),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("process_madvise", libc::SYS_process_madvise),
    ("mount", libc::SYS_mount),
    ("umount2", libc::SYS_umount2),
    ("move_mount", libc::SYS_move_mount),
    ("open_tree", libc::SYS_open_tree),
    ("fsopen", libc::SYS_fsopen),
    ("pivot_root", libc::SYS_pivot_root),
    ("chroot", libc::SYS_chroot),
    ("unshare", libc::SYS_unshare),
    ("setns", libc::SYS_setns),
    ("mknodat", libc::SYS_mknodat),
    ("memfd_create", libc::SYS_memfd_create),
    ("name_to_handle_at", libc::SYS_name_to_handle_at),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("bpf", libc::SYS_bpf),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("add_key", libc::SYS_add_key),
    ("request_key", libc::SYS_request_key),
    ("keyctl", libc::SYS_keyctl),
    ("setuid", libc::SYS_setuid),
    ("setresuid", libc::SYS_setresuid),
    ("setgroups", libc::SYS_setgroups),
    ("capset", libc::SYS_capset),
    ("personality", libc::SYS_personality),
    ("syslog", libc::SYS_syslog),
    ("init_module", libc::SYS_init_module),
    ("finit_module", libc::SYS_finit_module),
    ("kexec_load", libc::SYS_kexec_load),
    ("reboot", libc::SYS_reboot),
    ("swapon", libc::SYS_swapon),
    ("clock_settime", libc::SYS_clock_settime),
    ("sched_setscheduler", libc::SYS_sched_setscheduler),
    ("setpriority", libc::SYS_setpriority),
    ("shmget", libc::SYS_shmget),
    ("mq_open", libc::SYS_mq_open),
    ("fanotify_init", libc::SYS_fanotify_init),
    ("execve", libc::SYS_execve),
    ("fork", libc::SYS_fork),
    // Not ended: libc finds that there is none, and does without.
    ("clone3", libc::SYS_clone3),
];

/// Sockets of every family that a kernel of ours or of another's may have.
const FAMILIES: &[(&str, libc::c_int)] = &[
    ("a socket of unix", libc::AF_UNIX),
    ("a socket of inet", libc::AF_INET),
    ("a socket of inet6", libc::AF_INET6),
    ("a socket of netlink", libc::AF_NETLINK),
    ("a socket of packet", libc::AF_PACKET),
    ("a socket of vsock", libc::AF_VSOCK),
    ("a socket of alg", libc::AF_ALG),
    ("a socket of key", libc::AF_KEY),
    ("a socket of xdp", libc::AF_XDP),
    ("a socket of can", libc::AF_CAN),
    ("a socket of tipc", libc::AF_TIPC),
    ("a socket of rds", libc::AF_RDS),
    ("a socket of bluetooth", libc::AF_BLUETOOTH),
    ("a socket of nfc", libc::AF_NFC),
    ("a socket of x25", libc::AF_X25),
    ("a socket of pppox", libc::AF_PPPOX),
];

/// Names of everything that is tried.
pub fn names() -> impl Iterator<Item = &'static str> {
    let calls = CALLS.iter().map(|call| call.0);
    ATTEMPTS.iter().map(|attempt| attempt.0).chain(FAMILIES.iter().map(|family| family.0)).chain(calls)
}

/// Tries what has this name. What came of it: the kernel's error (`EPERM`), or `done` and how much.
#[must_use]
pub fn make(name: &str) -> String {
    let attempt = ATTEMPTS.iter().find(|attempt| attempt.0 == name);
    let family = FAMILIES.iter().find(|family| family.0 == name);
    let made = match (attempt, family, CALLS.iter().find(|call| call.0 == name)) {
        (Some((_, attempt)), ..) => attempt(),
        (_, Some((_, family)), _) => {
            call(libc::SYS_socket, [(*family).into(), libc::SOCK_DGRAM.into(), 0, 0])
        }
        (.., Some((_, number))) => call(*number, [0; 4]),
        _ => return format!("there is no attempt {name}"),
    };
    made.map_or_else(|error| format!("{error:?}"), |what| format!("done {what}").trim_end().to_owned())
}

fn opened(path: &str, flags: OFlag) -> Result<String, Errno> {
    open(path, flags, Mode::S_IRWXU).map(|_| String::new())
}

fn of_process(path: &str, flags: OFlag) -> Result<String, Errno> {
    // SAFETY: the launcher has handed over the descriptor, and nothing here closes it.
    let process = unsafe { BorrowedFd::borrow_raw(PROCESS) };
    openat(process, path, flags, Mode::S_IRWXU).map(|_| String::new())
}

fn list(path: &[u8]) -> Result<String, Errno> {
    let path = std::ffi::CStr::from_bytes_with_nul(path).map_err(|_| Errno::EINVAL)?;
    names_in(open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?)
}

/// By number, of which a new namespace gives small ones.
fn other_processes() -> Result<String, Errno> {
    for number in 2..4096 {
        of_process(&format!("../{number}"), OFlag::O_PATH).map_or_else(
            |error| if error == Errno::ENOENT { Ok(()) } else { Err(error) },
            |_| Err(Errno::EEXIST),
        )?;
    }
    Err(Errno::ENOENT)
}

fn names_in(dir: OwnedFd) -> Result<String, Errno> {
    let mut names = Vec::new();
    for entry in Dir::from_fd(dir)?.iter() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend((!name.starts_with('.')).then_some(name));
    }
    names.sort();
    Ok(names.join(" "))
}

fn call(number: libc::c_long, [a, b, c, d]: [libc::c_long; 4]) -> Result<String, Errno> {
    // SAFETY: a call that the filter lets through gets null pointers, for which it answers EFAULT, or maps new memory.
    let result = unsafe { libc::syscall(number, a, b, c, d, -1, 0) };
    Errno::result(result).map(|_| String::new())
}

fn clone_with(namespace: libc::c_int) -> Result<String, Errno> {
    call(libc::SYS_clone, [libc::c_long::from(namespace | libc::SIGCHLD), 0, 0, 0])
}

fn prctl(option: libc::c_int, first: libc::c_ulong, second: libc::c_ulong) -> Result<String, Errno> {
    // SAFETY: these options take numbers.
    let result = unsafe { libc::prctl(option, first, second, 0_u64, 0_u64) };
    Errno::result(result).map(|value| value.to_string())
}

fn raise_limit() -> Result<String, Errno> {
    let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
    nix::sys::resource::setrlimit(limit, 1 << 20, 1 << 20).map(|()| String::new())
}

fn take_descriptors() -> Result<String, Errno> {
    for taken in 0..TOO_MANY {
        // SAFETY: the call makes a descriptor of a number, which stays open until the end of the process.
        let copy = unsafe { libc::fcntl(PROCESS, libc::F_DUPFD_CLOEXEC, 0) };
        if copy < 0 {
            return Ok(taken.to_string());
        }
    }
    Ok(TOO_MANY.to_string())
}

fn take_processes() -> Result<String, Errno> {
    for taken in 0..TOO_MANY {
        let thread = std::thread::Builder::new().spawn(|| {
            loop {
                std::thread::park();
            }
        });
        if thread.is_err() {
            return Ok(taken.to_string());
        }
    }
    Ok(TOO_MANY.to_string())
}

/// A socket of its own is all that it takes to send somewhere.
fn send_to(address: &[u8]) -> Result<String, Errno> {
    let mut pair = [0; 2];
    // SAFETY: the call writes two descriptors, which stay open until the end of the process.
    Errno::result(unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, pair.as_mut_ptr()) })?;
    let mut bytes = [0_u8; 110];
    bytes[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
    bytes[2..2 + address.len()].copy_from_slice(address);
    // SAFETY: the call reads that many bytes of an array that is longer.
    let sent = unsafe {
        libc::sendto(pair[0], bytes.as_ptr().cast(), 1, 0, bytes.as_ptr().cast(), 2 + address.len() as u32)
    };
    Errno::result(sent).map(|_| String::new())
}

/// By the signal that wakes a vCPU: the only one that a thread may send.
fn wake_others() -> Result<String, Errno> {
    let mut woken = 0;
    for number in 2..NUMBERS {
        // SAFETY: the call takes numbers.
        let result = unsafe { libc::syscall(libc::SYS_tgkill, number, number, libc::SIGRTMIN()) };
        match Errno::result(result) {
            Ok(_) => woken += 1,
            Err(Errno::ESRCH) => {}
            Err(error) => return Err(error),
        }
    }
    if woken == 0 { Err(Errno::ESRCH) } else { Ok(woken.to_string()) }
}

/// How many files of those that it has take a byte.
fn write_to_all() -> Result<String, Errno> {
    let written = (FIRST..NUMBERS).filter(|fd| {
        // SAFETY: the call reads one byte of a constant.
        unsafe { libc::pwrite(*fd, b"x".as_ptr().cast(), 1, 0) == 1 }
    });
    Ok(written.count().to_string())
}

/// The first descriptor that does it, with this number beside it, or the address of zeros.
fn every_descriptor(request: libc::Ioctl, argument: Option<libc::c_long>) -> Result<String, Errno> {
    let mut zeros = [0_u8; 64];
    let argument = argument.unwrap_or(zeros.as_mut_ptr() as libc::c_long);
    for fd in FIRST..NUMBERS {
        // SAFETY: none of these requests has more than 64 bytes to read or write.
        if unsafe { libc::ioctl(fd, request, argument) } >= 0 {
            return Ok(format!("by {fd}"));
        }
    }
    Err(Errno::ENOTTY)
}

/// By a byte that is behind the end of whatever it has, and not behind where a launcher alone would stop it. A machine that was loaded has its files where a launcher's were.
fn write_past_all() -> Result<String, Errno> {
    let mut last = Errno::EBADF;
    for fd in FIRST..NUMBERS {
        // SAFETY: the call reads one byte of a constant.
        match Errno::result(unsafe { libc::pwrite(fd, b"x".as_ptr().cast(), 1, PAST) }) {
            Ok(_) => return Ok(format!("by {fd}")),
            // As it is the first process of its namespace, the signal that comes with it does not end it.
            Err(Errno::EFBIG) => return Err(Errno::EFBIG),
            Err(Errno::EBADF | Errno::EINVAL) => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn make_runnable() -> Result<String, Errno> {
    // SAFETY: new memory, which nobody else knows.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), 4096, 3, 0x22, -1, 0) };
    // SAFETY: it is the page that was just made.
    Errno::result(unsafe { libc::mprotect(memory, 4096, libc::PROT_READ | libc::PROT_EXEC) })
        .map(|_| String::new())
}

fn take_sockets() -> Result<String, Errno> {
    for taken in 0..TOO_MANY {
        let mut pair = [0; 2];
        // SAFETY: the call writes two descriptors, which stay open until the end of the process.
        let made = unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, pair.as_mut_ptr()) };
        if made < 0 {
            return Ok(taken.to_string());
        }
    }
    Ok(TOO_MANY.to_string())
}

fn take_memory() -> Result<String, Errno> {
    let mut taken = Vec::new();
    for _ in 0..TOO_MANY {
        taken.push(vec![1_u8; PIECE]);
    }
    Ok(format!("{} MiB", taken.len()))
}
