//! What the agent and its children do, as it happens: files through fanotify, whose permission events hold a process
//! up until they are answered, and lines through the journal.

use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::{fs, io};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyEvent, FanotifyResponse, InitFlags, MarkFlags, MaskFlags, Response,
};

use crate::plan::{STATE_DIR, Sign};
use crate::service;

const PERMISSIONS: MaskFlags =
    MaskFlags::FAN_OPEN_PERM.union(MaskFlags::FAN_OPEN_EXEC_PERM).union(MaskFlags::FAN_ACCESS_PERM);
/// As much of the journal as is read at a time.
const MAX_READ: usize = 64 * 1024;

/// Somebody does something to a file. Held up until it is dropped, when it asked for permission.
#[derive(Debug)]
pub(crate) struct Deed<'a> {
    group: &'a Fanotify,
    event: FanotifyEvent,
    pub(crate) path: String,
}

impl Deed<'_> {
    pub(crate) fn pid(&self) -> i32 {
        self.event.pid()
    }

    /// Whether it is what was waited for.
    pub(crate) fn is(&self, sign: &Sign) -> bool {
        let kind = match sign {
            Sign::Opens(_) => MaskFlags::FAN_OPEN_PERM,
            Sign::Runs(_) => MaskFlags::FAN_OPEN_EXEC_PERM,
            Sign::Reads(_) => MaskFlags::FAN_ACCESS_PERM,
            Sign::Writes(_) => MaskFlags::FAN_MODIFY,
            Sign::Says(_) => return false,
        };
        let is_it = match sign {
            Sign::Runs(program) => self.is_of(program),
            sign => sign.is_about(&self.path),
        };
        self.event.mask().intersects(kind) && is_it && service::has(self.pid())
    }

    /// Whether it is done to that file, by whatever name: the launcher runs `vmm` from a mount that nobody else sees.
    fn is_of(&self, path: &str) -> bool {
        let Some(fd) = self.event.fd() else { return false };
        let file = |path: &str| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        let done_to = file(&format!("/proc/self/fd/{}", fd.as_raw_fd()));
        done_to.is_some() && done_to == file(path)
    }
}

impl Drop for Deed<'_> {
    fn drop(&mut self) {
        let asks = self.event.mask().intersects(PERMISSIONS);
        if let Some(fd) = self.event.fd().filter(|_| asks) {
            // Who is dead waits for no answer.
            let _ = self.group.write_response(FanotifyResponse::new(fd, Response::FAN_ALLOW));
        }
    }
}

/// Files that are watched.
#[derive(Debug)]
pub(crate) struct Files(Fanotify);

impl Files {
    pub(crate) fn new() -> Result<Self> {
        let flags = InitFlags::FAN_CLASS_CONTENT | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK;
        let files = EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC | EventFFlags::O_LARGEFILE;
        let files = Self(Fanotify::init(flags, files).context("fanotify_init")?);
        // The kernel asks nobody about reads of a file that was opened while nobody wanted to be asked: from here on somebody does,
        // whatever is watched for. Nothing is run from there.
        let always = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
        let marked = files.0.mark(always, MaskFlags::FAN_OPEN_EXEC_PERM, AT_FDCWD, Some(STATE_DIR));
        marked.with_context(|| format!("fanotify_mark {STATE_DIR}"))?;
        Ok(files)
    }

    /// From now on that kind of deed is told.
    pub(crate) fn watch_for(&self, sign: &Sign) -> Result<()> {
        self.mark(MarkFlags::FAN_MARK_ADD, sign)
    }

    /// From now on it is not.
    pub(crate) fn forget(&self, sign: &Sign) -> Result<()> {
        self.mark(MarkFlags::FAN_MARK_REMOVE, sign)
    }

    /// Files that come and go are watched with their whole file system, others by themselves.
    fn mark(&self, what: MarkFlags, sign: &Sign) -> Result<()> {
        let (path, mask) = match sign {
            Sign::Opens(path) if path.starts_with(STATE_DIR) => {
                (STATE_DIR, MaskFlags::FAN_OPEN_PERM | MaskFlags::FAN_ONDIR)
            }
            Sign::Opens(path) => (path.as_str(), MaskFlags::FAN_OPEN_PERM),
            Sign::Runs(path) => (path.as_str(), MaskFlags::FAN_OPEN_EXEC_PERM),
            Sign::Reads(path) if path.starts_with(STATE_DIR) => (STATE_DIR, MaskFlags::FAN_ACCESS_PERM),
            Sign::Reads(path) => (path.as_str(), MaskFlags::FAN_ACCESS_PERM),
            Sign::Writes(_) => (STATE_DIR, MaskFlags::FAN_MODIFY),
            Sign::Says(_) => return Ok(()),
        };
        let what = if path == STATE_DIR { what | MarkFlags::FAN_MARK_FILESYSTEM } else { what };
        self.0.mark(what, mask, AT_FDCWD, Some(path)).with_context(|| format!("fanotify_mark {path}"))
    }

    /// What was done since the last call.
    pub(crate) fn deeds(&self) -> Result<Vec<Deed<'_>>> {
        let events = match self.0.read_events() {
            Ok(events) => events,
            Err(Errno::EAGAIN) => return Ok(Vec::new()),
            Err(errno) => return Err(errno).context("read fanotify's events"),
        };
        let deed = |event: FanotifyEvent| {
            let fd = event.fd()?.as_raw_fd();
            let path = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
            Some(Deed { group: &self.0, path: path.to_string_lossy().into_owned(), event })
        };
        Ok(events.into_iter().filter_map(deed).collect())
    }
}

impl AsFd for Files {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The agent's log as it is written, what its functions print included.
#[derive(Debug)]
pub(crate) struct Journal {
    follower: Child,
    output: ChildStdout,
    partial: String,
}

impl Journal {
    /// Follows it. Returns when nothing that is written from now on is missed.
    pub(crate) fn follow() -> Result<Self> {
        let mut follower = Command::new("journalctl")
            .args(["--follow", "--lines=1", "--output=cat", "--unit", service::UNIT])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start journalctl")?;
        let output = follower.stdout.take().context("journalctl's output")?;
        let mut journal = Self { follower, output, partial: String::new() };
        // The line before the first one: with it the journal is being followed.
        while journal.lines()?.is_empty() {}
        Ok(journal)
    }

    /// Lines that were finished since the last call; waits for something to be written.
    pub(crate) fn lines(&mut self) -> Result<Vec<String>> {
        let mut bytes = [0; MAX_READ];
        let len = self.output.read(&mut bytes).context("read the journal")?;
        if len == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof)).context("journalctl ended");
        }
        self.partial.push_str(&String::from_utf8_lossy(&bytes[..len]));
        let Some((whole, rest)) = self.partial.rsplit_once('\n') else { return Ok(Vec::new()) };
        let lines = whole.lines().map(str::to_owned).collect();
        self.partial = rest.to_owned();
        Ok(lines)
    }
}

impl AsFd for Journal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.follower.kill());
        drop(self.follower.wait());
    }
}
