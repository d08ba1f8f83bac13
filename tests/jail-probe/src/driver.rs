//! The other side: a launcher for this program, and whoever has it try everything.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use jail::launch::{ANSWER_FDS, Allotment, Answer, MAX_ANSWER_LEN};
use nix::cmsg_space;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    bind, connect, listen, recv, recvmsg, send, sendmsg, socket, socketpair,
};
use nix::unistd::{chdir, chroot};

use crate::{MAX_WORD, TRYING, attempts};

/// Where the sandboxes' groups are, beside those of the node.
const GROUP: &str = "/sys/fs/cgroup/jail-probe";

/// Has the shell put what a launcher is handed where it looks for it, and become the launcher: its words are the arguments.
const HAND: &str = "exec \"$@\" 3<&0 4<>/dev/kvm 5<>/dev/userfaultfd";

/// What each attempt may have.
const ALLOTMENT: Allotment = Allotment { memory_mib: 48, cpu_weight: 100, cpu_percent: 100 };

/// Has everything tried, and says what came of it.
pub(crate) fn run(launcher: &Path) -> Result<()> {
    let dir = tempfile::tempdir().context("make a directory")?;
    be_as_a_service(dir.path()).context("make a mount namespace")?;
    let address = dir.path().join("socket");
    fs::create_dir_all(GROUP).context("make a control group")?;
    let mut launcher = Launcher(start(launcher, &address)?);
    let agent = seqpacket()?;
    connect(agent.as_raw_fd(), &UnixAddr::new(&address)?).context("connect to the launcher")?;
    let mut outcomes = BTreeMap::new();
    for name in attempts::names() {
        outcomes.insert(name, outcome(&agent, name).with_context(|| name.to_owned())?);
    }
    drop(agent);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(launcher.0.id().try_into()?), Signal::SIGTERM)?;
    let status = launcher.0.wait().context("wait for the launcher")?;
    println!("{}", serde_json::json!({ "outcomes": outcomes, "launcher": status.to_string() }));
    Ok(())
}

/// Ends with this value.
struct Launcher(Child);

impl Drop for Launcher {
    fn drop(&mut self) {
        // It may have ended as it was told.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A root that something is below, which systemd gives to a service and an initrd's first one is not: only such a one can be
/// left for another.
fn be_as_a_service(dir: &Path) -> Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("/"), dir, none, MsFlags::MS_REC | MsFlags::MS_BIND, none)?;
    chdir(dir)?;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none)?;
    chroot(".")?;
    Ok(chdir("/")?)
}

fn start(launcher: &Path, address: &Path) -> Result<Child> {
    let listener = seqpacket()?;
    bind(listener.as_raw_fd(), &UnixAddr::new(address)?).context("bind")?;
    listen(&listener, Backlog::new(1)?).context("listen")?;
    Command::new("sh")
        .args(["-c", HAND, "sh"])
        .arg(launcher)
        .arg("--program")
        .arg(std::env::current_exe().context("find this program")?)
        .args(["--group", GROUP, "--controllers", "cpu,memory,pids", "--agent", "0"])
        .args(["--disks", "", "--disk-mib-per-s", "1", "--disk-ops-per-s", "1"])
        .stdin(Stdio::from(listener))
        .spawn()
        .context("start the launcher")
}

/// What comes of one attempt in a process of its own.
fn outcome(agent: &OwnedFd, name: &str) -> Result<String> {
    let (control, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let (_stderr, writer) = io::pipe()?;
    let (mut end, mut status) = ask(agent, &[theirs.as_raw_fd(), writer.as_raw_fd()])?;
    drop(theirs);
    send(control.as_raw_fd(), name.as_bytes(), MsgFlags::MSG_NOSIGNAL)?;
    let mut said = [0; MAX_WORD];
    // Nothing that ends it before it tries counts.
    let len = recv(control.as_raw_fd(), &mut said, MsgFlags::empty()).context("hear of its try")?;
    ensure!(&said[..len] == TRYING, "it says {:?}", String::from_utf8_lossy(&said[..len]));
    let len = recv(control.as_raw_fd(), &mut said, MsgFlags::empty()).context("hear of its outcome")?;
    drop(end.write_all(b"1"));
    let mut bytes = [0; 4];
    status.read_exact(&mut bytes).context("read a wait status")?;
    if len > 0 {
        return Ok(String::from_utf8_lossy(&said[..len]).into_owned());
    }
    let signal = Signal::try_from(i32::from_le_bytes(bytes) & 0x7f);
    Ok(signal.map_or_else(|_| format!("status {bytes:?}"), |signal| signal.to_string()))
}

/// A process: where it is ended, and where its wait status is read.
fn ask(agent: &OwnedFd, fds: &[RawFd]) -> Result<(File, File)> {
    let request = ALLOTMENT.to_request();
    let rights = [ControlMessage::ScmRights(fds)];
    sendmsg::<()>(agent.as_raw_fd(), &[IoSlice::new(&request)], &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    let mut buffer = [0; MAX_ANSWER_LEN];
    let mut space = cmsg_space!([RawFd; ANSWER_FDS]);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<()>(agent.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let raw: Vec<RawFd> = message
        .cmsgs()?
        .filter_map(|entry| match entry {
            ControlMessageOwned::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    let len = message.bytes;
    match (Answer::from_packet(&buffer[..len])?, &raw[..]) {
        (Answer::Started { .. }, &[end, status, quota]) => {
            drop(own(quota));
            Ok((own(end), own(status)))
        }
        (answer, _) => bail!("the launcher answers {answer:?}"),
    }
}

fn own(fd: RawFd) -> File {
    // SAFETY: recvmsg has just made the descriptor; nobody else owns it.
    unsafe { File::from_raw_fd(fd) }
}

fn seqpacket() -> Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).context("make a socket")
}
