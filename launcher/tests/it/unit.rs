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

use crate::user::User;

/// Who the appliance's users are.
const USERS: &str = include_str!("../../../image/mkosi.extra/usr/lib/sysusers.d/tinderbox.conf");

/// `linux/capability.h`: those of our units.
const CAPABILITIES: &[(&str, u32)] = &[
    ("CAP_KILL", 5),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
    ("CAP_SETPCAP", 8),
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_ADMIN", 21),
];

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

    /// Who its program is.
    pub(crate) fn who(self) -> User {
        User { number: self.user, capabilities: self.capabilities }
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
            self.who().become_it()
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
