//! A launcher for the `vmm` that turns hostile, and the sandboxes that it makes.

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut, PipeReader, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};
use jail::launch::{ANSWER_FDS, Allotment, Answer, MAX_ANSWER_LEN};
use nix::cmsg_space;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    bind, connect, listen, recvmsg, sendmsg, socket, socketpair,
};
use nix::unistd::{Pid, chdir, chroot};
use vmm_api::Client;

/// Where the sandboxes' groups are, beside those of the node.
const GROUP: &str = "/sys/fs/cgroup/jail-probe";

/// Has the shell put what a launcher is handed where it looks for it, and become the launcher: its words are the arguments.
const HAND: &str = "exec \"$@\" 3<&0 4<>/dev/kvm 5<>/dev/userfaultfd";

/// What each attempt may have: less than its machine would take if its guest used all of it.
const ALLOTMENT: Allotment = Allotment { memory_mib: 96, cpu_weight: 100, cpu_percent: 100 };

/// A process in a room, its control socket and its standard error.
pub(crate) struct Sandbox {
    pub(crate) client: Client,
    pub(crate) stderr: PipeReader,
    end: File,
    status: File,
}

impl Sandbox {
    /// Ends it, if it has not ended, and says how it did, as `waitpid` does.
    pub(crate) fn end(mut self) -> Result<i32> {
        // There is no group to end when it has ended.
        drop(self.end.write_all(b"1"));
        let mut bytes = [0; 4];
        self.status.read_exact(&mut bytes).context("read a wait status")?;
        Ok(i32::from_le_bytes(bytes))
    }
}

/// Ends with this value.
pub(crate) struct Launcher {
    process: Child,
    agent: OwnedFd,
}

impl Launcher {
    /// Started with `vmm` as what it makes sandboxes of, and connected to as the agent is.
    pub(crate) fn start(program: &Path, vmm: &Path, dir: &Path) -> Result<Self> {
        let address = dir.join("socket");
        fs::create_dir_all(GROUP).context("make a control group")?;
        let listener = seqpacket()?;
        bind(listener.as_raw_fd(), &UnixAddr::new(&address)?).context("bind")?;
        listen(&listener, Backlog::new(1)?).context("listen")?;
        let process = Command::new("sh")
            .args(["-c", HAND, "sh"])
            .arg(program)
            .arg("--program")
            .arg(vmm)
            .args(["--group", GROUP, "--controllers", "cpu,memory,pids", "--agent", "0"])
            .args(["--disks", "", "--disk-mib-per-s", "1", "--disk-ops-per-s", "1"])
            .stdin(Stdio::from(listener))
            .spawn()
            .context("start the launcher")?;
        let launcher = Self { process, agent: seqpacket()? };
        connect(launcher.agent.as_raw_fd(), &UnixAddr::new(&address)?).context("connect to the launcher")?;
        Ok(launcher)
    }

    /// A process of its own.
    pub(crate) fn sandbox(&self) -> Result<Sandbox> {
        let (control, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let (stderr, writer) = io::pipe()?;
        let (end, status) = ask(&self.agent, &[theirs.as_raw_fd(), writer.as_raw_fd()])?;
        Ok(Sandbox { client: Client::new(control), stderr, end, status })
    }

    /// Ends it as a service is.
    pub(crate) fn end(mut self) -> Result<ExitStatus> {
        nix::sys::signal::kill(Pid::from_raw(self.process.id().try_into()?), Signal::SIGTERM)?;
        self.process.wait().context("wait for the launcher")
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // It may have ended as it was told.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A root that something is below, which systemd gives to a service and an initrd's first one is not: only such a one can be
/// left for another.
pub(crate) fn be_as_a_service(dir: &Path) -> Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("/"), dir, none, MsFlags::MS_REC | MsFlags::MS_BIND, none)?;
    chdir(dir)?;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none)?;
    chroot(".")?;
    Ok(chdir("/")?)
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

#[expect(unsafe_code, reason = "descriptors come as numbers")]
fn own(fd: RawFd) -> File {
    // SAFETY: recvmsg has just made the descriptor; nobody else owns it.
    unsafe { File::from_raw_fd(fd) }
}

fn seqpacket() -> Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).context("make a socket")
}
