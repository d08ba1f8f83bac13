//! A launcher that runs, whoever asks it for something, and what it has started.

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut, PipeReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use jail::launch::{Allotment, Answer, MAX_ANSWER_LEN};
use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    bind, connect, listen, recvmsg, sendmsg, socket, socketpair,
};
use tempfile::TempDir;

use crate::program;
use crate::unit::Unit;

/// Every test's agent is root, as the tests are.
pub(crate) const ROOT: u32 = 0;

/// Where systemd has the launcher itself, below the group that it hands over.
const SUBGROUP: &str = "launcher";

/// What the appliance starts the launcher by.
pub(crate) fn unit() -> Unit {
    Unit::new(include_str!("../../../image/mkosi.extra/usr/lib/systemd/system/tinderbox-launcher.service"))
}

pub(crate) const SOME: Allotment = Allotment { memory_mib: 64, cpu_weight: 7, cpu_percent: 200 };

/// A launcher, in a directory and a control group of its own.
pub(crate) struct Launcher {
    pub(crate) process: Child,
    dir: TempDir,
    group: PathBuf,
}

impl Launcher {
    /// For `agent`, starting a program of these instructions.
    pub(crate) fn start(agent: u32, code: &[u8]) -> Self {
        Self::of_file(agent, &program::executable(code))
    }

    /// The same with any file as its program.
    pub(crate) fn of_file(agent: u32, file: &[u8]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("program");
        fs::write(&program, file).expect("a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a program");
        // Its user finds the way.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).expect("a directory");
        let group = new_group();
        let listener = listening(&dir.path().join("socket"));
        let (mut command, kept) = unit().command(
            env!("CARGO_BIN_EXE_launcher"),
            Some(&group.join(SUBGROUP)),
            vec![listener, device("/dev/kvm"), device("/dev/userfaultfd")],
        );
        let process = command
            .arg("--program")
            .arg(program)
            .arg("--group")
            .arg(&group)
            // The tests' machine may have its controllers elsewhere; the end-to-end tests look at limits.
            .args(["--controllers", "", "--agent", &agent.to_string()])
            .args(["--disks", "", "--disk-mib-per-s", "1", "--disk-ops-per-s", "1"])
            .stdin(Stdio::null())
            .spawn()
            .expect("start the launcher");
        drop(kept);
        Self { process, dir, group }
    }

    /// A connection to it.
    pub(crate) fn connect(&self) -> Agent {
        let socket = seqpacket();
        let address = UnixAddr::new(&self.dir.path().join("socket")).expect("an address");
        connect(socket.as_raw_fd(), &address).expect("connect");
        Agent { socket }
    }

    /// Processes in all of its sandboxes, and the number of their groups.
    pub(crate) fn population(&self) -> (Vec<i32>, usize) {
        let groups = fs::read_dir(self.group.join("sandboxes")).into_iter().flatten();
        let groups: Vec<_> =
            groups.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir()).collect();
        let pids = groups.iter().flat_map(|group| {
            let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            text.lines().map(|line| line.parse().expect("a number")).collect::<Vec<_>>()
        });
        (pids.collect(), groups.len())
    }

    /// The process of a sandbox.
    pub(crate) fn pid(&self, slot: u32) -> i32 {
        let text = fs::read_to_string(self.group.join(format!("sandboxes/{slot}/cgroup.procs")));
        text.expect("a group").trim_end().parse().expect("one process")
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
        drop(fs::write(self.group.join("cgroup.kill"), "1"));
        let sandboxes = self.group.join("sandboxes");
        for entry in
            fs::read_dir(&sandboxes).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir())
        {
            remove(&entry.path());
        }
        remove(&sandboxes);
        remove(&self.group.join(SUBGROUP));
        remove(&self.group);
    }
}

/// A control group's processes may be on their way out.
fn remove(group: &Path) {
    while let Err(error) = fs::remove_dir(group) {
        if error.raw_os_error() != Some(nix::libc::EBUSY) {
            return;
        }
        std::thread::yield_now();
    }
}

/// Whoever has a connection.
pub(crate) struct Agent {
    socket: OwnedFd,
}

/// What was started.
pub(crate) struct Started {
    pub(crate) slot: u32,
    end: File,
    status: PipeReader,
    /// What it would be told and would say.
    _others: (OwnedFd, PipeReader),
}

impl Agent {
    /// Asks for a process.
    pub(crate) fn start(&self) -> Result<Started, String> {
        let (control, theirs) = pair();
        let (stderr, writer) = io::pipe().expect("a pipe");
        match self.ask(&SOME.to_request(), &[theirs.as_fd(), writer.as_fd()]) {
            Some((Answer::Started { slot }, fds)) => {
                let mut fds = fds.into_iter();
                let (Some(end), Some(status)) = (fds.next(), fds.next()) else {
                    panic!("less than two descriptors")
                };
                Ok(Started { slot, end: end.into(), status: status.into(), _others: (control, stderr) })
            }
            Some((Answer::Failed { text }, fds)) => {
                assert!(fds.is_empty());
                Err(text)
            }
            None => panic!("no answer"),
        }
    }

    /// Sends anything; none when the launcher has ended the conversation.
    pub(crate) fn ask(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Option<(Answer, Vec<OwnedFd>)> {
        let raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(packet)], rights, flags, None).ok()?;
        let mut buffer = [0; MAX_ANSWER_LEN];
        let mut space = cmsg_space!([RawFd; 4]);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), flags).ok()?;
        let mut fds = Vec::new();
        for entry in message.cmsgs().expect("control messages") {
            let ControlMessageOwned::ScmRights(raw) = entry else { continue };
            // SAFETY: recvmsg has just made the descriptors; nobody else owns them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
        let len = message.bytes;
        (len > 0).then(|| (Answer::from_packet(&buffer[..len]).expect("an answer"), fds))
    }
}

impl Started {
    /// Ends it.
    pub(crate) fn end(&mut self) {
        self.end.write_all(b"1").expect("its group is there");
    }

    /// Waits for its end: its wait status; none when the launcher ended first.
    pub(crate) fn status(mut self) -> Option<i32> {
        let mut status = [0; 4];
        self.status.read_exact(&mut status).ok()?;
        Some(i32::from_le_bytes(status))
    }
}

pub(crate) fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .expect("a pair of sockets")
}

pub(crate) fn is_alive(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn seqpacket() -> OwnedFd {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("a socket")
}

fn listening(path: &Path) -> OwnedFd {
    let socket = seqpacket();
    bind(socket.as_raw_fd(), &UnixAddr::new(path).expect("an address")).expect("bind");
    listen(&socket, Backlog::new(1).expect("a number")).expect("listen");
    socket
}

fn device(path: &str) -> OwnedFd {
    File::options().read(true).write(true).open(path).expect("these tests need it").into()
}

/// A control group of cgroup v2, wherever that is mounted, and the launcher's own in it, both handed over to its user.
fn new_group() -> PathBuf {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let root =
        fields.into_iter().find(|fields| fields[2] == "cgroup2").expect("these tests need cgroup v2")[1];
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let group = Path::new(root).join(format!("launcher-test-{}-{number}", std::process::id()));
    for group in [&group, &group.join(SUBGROUP)] {
        fs::create_dir(group).expect("these tests need root");
        let user = Some(unit().user);
        let files = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"].map(|name| group.join(name));
        for path in files.iter().chain([group]) {
            chown(path, user, user).expect("a control group");
        }
    }
    group
}
