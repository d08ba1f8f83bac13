//! What systemd gives a program of ours by its unit, and nothing beyond: what these tests can do, as root, and what it starts cannot,
//! is not the program's. The tests of launcher and gateway share it.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::libc;

/// Who the appliance's users are.
const USERS: &str = include_str!("../../../image/mkosi.extra/usr/lib/sysusers.d/tinderbox.conf");

/// `linux/capability.h`: those of our units, and the last one that there is.
const CAPABILITIES: &[(&str, u32)] = &[
    ("CAP_KILL", 5),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
    ("CAP_SETPCAP", 8),
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_ADMIN", 21),
];
const LAST_CAPABILITY: u32 = 40;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// The first descriptor that systemd hands over, and one that nothing is handed over as.
const FIRST: RawFd = 3;
const ABOVE: RawFd = 32;

/// Who a program is.
#[derive(Clone, Copy)]
pub(crate) struct Unit {
    pub(crate) user: u32,
    /// A bit for each.
    pub(crate) capabilities: u64,
}

impl Unit {
    /// By the text of a unit.
    pub(crate) fn new(text: &str) -> Self {
        let setting = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_else(|| panic!("the unit has no {name}"))
        };
        let bits = |names: &str| {
            let bit =
                |name| CAPABILITIES.iter().find(|(known, _)| *known == name).expect("one that is known").1;
            names.split(' ').fold(0, |bits, name| bits | 1 << bit(name))
        };
        let capabilities = bits(setting("CapabilityBoundingSet"));
        assert_eq!(capabilities, bits(setting("AmbientCapabilities")));
        let known = USERS.lines().find_map(|line| line.strip_prefix(&format!("u {} ", setting("User"))));
        let user = known.and_then(|rest| rest.split(' ').next()).expect("a user of the appliance's");
        Self { user: user.parse().expect("a number"), capabilities }
    }

    /// A command that begins as systemd has it: in that control group, if any, with those descriptors, as the unit's user and with its
    /// capabilities. What goes with it is to be kept until it has begun.
    pub(crate) fn command(
        self,
        program: &str,
        group: Option<&Path>,
        handed: Vec<OwnedFd>,
    ) -> (Command, Vec<OwnedFd>) {
        let processes = group.map(|group| group.join("cgroup.procs"));
        let processes = processes.map(|path| CString::new(path.as_os_str().as_bytes()).expect("a path"));
        let mut kept: Vec<_> = handed.into_iter().map(above).collect();
        let sources: Vec<_> = kept.iter().map(OwnedFd::as_raw_fd).collect();
        // The user has no way to where cargo puts it.
        let file = above(File::open(program).expect("it is built").into());
        let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
        kept.push(file);
        let step = move || {
            processes.as_deref().map_or(Ok(()), join)?;
            for (place, fd) in (FIRST..).zip(&sources) {
                // SAFETY: the call takes numbers. What is in that place is this process's alone, which executes something next.
                Errno::result(unsafe { libc::dup2(*fd, place) })?;
            }
            become_user(self)
        };
        // SAFETY: between fork and exec it makes system calls alone, and allocates nothing.
        unsafe { command.pre_exec(step) };
        (command, kept)
    }
}

/// None of what is handed over is in the place of another one.
fn above(fd: OwnedFd) -> OwnedFd {
    let copy = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(ABOVE)).expect("a descriptor");
    // SAFETY: the call has just made the descriptor; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(copy) }
}

fn join(processes: &CStr) -> io::Result<()> {
    // SAFETY: the path ends with NUL.
    let fd = Errno::result(unsafe { libc::open(processes.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) })?;
    // SAFETY: the call reads one byte, which is there.
    Errno::result(unsafe { libc::write(fd, b"0".as_ptr().cast(), 1) })?;
    Ok(())
}

fn become_user(unit: Unit) -> io::Result<()> {
    let prctl = |option, first: u64, second: u64| {
        // SAFETY: what is asked for here takes numbers.
        Errno::result(unsafe { libc::prctl(option, first, second, 0_u64, 0_u64) }).map(drop)
    };
    let has = |number: &u32| unit.capabilities & 1 << number != 0;
    for number in (0..=LAST_CAPABILITY).filter(|number| !has(number)) {
        prctl(libc::PR_CAPBSET_DROP, number.into(), 0)?;
    }
    prctl(libc::PR_SET_KEEPCAPS, 1, 0)?;
    let user = libc::c_long::from(unit.user);
    // libc's wrappers tell other threads, of which there are none here.
    let call = |number, arguments: [libc::c_long; 3]| {
        let [first, second, third] = arguments;
        // SAFETY: the calls take numbers; of no groups none is read.
        Errno::result(unsafe { libc::syscall(number, first, second, third) }).map(drop)
    };
    call(libc::SYS_setgroups, [0; 3])?;
    call(libc::SYS_setresgid, [user; 3])?;
    call(libc::SYS_setresuid, [user; 3])?;
    let mask = unit.capabilities as u32;
    // Version 3: effective, permitted, inheritable, of the first 32 and of the others.
    let (header, sets) = ([CAPABILITY_VERSION_3, 0], [mask, mask, mask, 0, 0, 0]);
    // SAFETY: the call reads two and six numbers, which are there.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })?;
    for number in (0..=LAST_CAPABILITY).filter(has) {
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, number.into())?;
    }
    Ok(())
}
