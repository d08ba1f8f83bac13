//! A `vmm` process with a control socket, its guest's console and its guest's connections to the host.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use vmm_api::{Client, MAX_PACKET_LEN, Request, Response};

/// How long a guest may take for anything, ms: what a loaded, emulated machine needs, and no test waits longer. A guest
/// with four processors boots in 10 s when nothing else runs, and has been seen to take more than 60 s beside two others.
const PATIENCE_MS: i32 = 180_000;

/// What is shown of a console that does not end, at most.
const LAST_WORDS_LEN: usize = 64 * 1024;

/// How long a console says nothing before it is taken to have ended, ms.
const SILENCE_MS: u16 = 2_000;

/// One process.
pub(crate) struct Vm {
    client: Client,
    child: Child,
    broker: OwnedFd,
    their_broker: OwnedFd,
    console: BufReader<PipeReader>,
    their_console: Option<OwnedFd>,
    /// The guest's connection: its end would be news to the guest.
    stream: Option<File>,
}

impl Vm {
    /// A blank process.
    pub(crate) fn spawn(program: &Path) -> Result<Self> {
        let (ours, theirs) = pair()?;
        let child = Command::new(program)
            .args(["--control-fd", "0"])
            .stdin(Stdio::from(theirs))
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let (broker, their_broker) = pair()?;
        let (reader, writer) = std::io::pipe().context("make a console")?;
        Ok(Self {
            client: Client::new(ours),
            child,
            broker,
            their_broker,
            console: BufReader::new(reader),
            their_console: Some(writer.into()),
            stream: None,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a request; `files` come first among the descriptors, then broker and console.
    pub(crate) fn make(&mut self, request: &Request, files: &[&File]) -> Result<Response> {
        let console = self.their_console.take().context("a machine is made once")?;
        let mut fds: Vec<BorrowedFd<'_>> = files.iter().map(|file| file.as_fd()).collect();
        fds.extend([self.their_broker.as_fd(), console.as_fd()]);
        self.answer(request, &fds)
    }

    /// Sends a request with files.
    pub(crate) fn call(&self, request: &Request, files: &[&File]) -> Result<Response> {
        let fds: Vec<BorrowedFd<'_>> = files.iter().map(|file| file.as_fd()).collect();
        self.answer(request, &fds)
    }

    fn answer(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Response> {
        match self.client.call(request, fds).context("talk to the vmm")? {
            Response::Refused(refusal) => bail!("refused: {refusal:?}"),
            Response::Exited(exit) => bail!("the vmm ended: {exit:?}"),
            answer => Ok(answer),
        }
    }

    /// The next line of the guest.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        ensure!(
            self.console.read_until(b'\n', &mut line).context("read the console")? > 0,
            "the console ended"
        );
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// How the process fares, now and after a silence: whether its guest still does anything, for an error.
    pub(crate) fn condition(&mut self) -> String {
        match self.child.try_wait() {
            Ok(None) => {}
            other => return format!("ended: {other:?}"),
        }
        let metrics = || self.client.call(&Request::Metrics, &[]);
        let first = metrics();
        let came = poll(&mut [PollFd::new(self.broker.as_fd(), PollFlags::POLLIN)], SILENCE_MS);
        format!("{first:?}, then connections {came:?} and {:?}", metrics())
    }

    /// What the guest's console says until it falls silent, for an error.
    pub(crate) fn last_words(&mut self) -> String {
        drop(self.their_console.take());
        let mut said = self.console.buffer().to_vec();
        let mut piece = [0; 4096];
        while said.len() < LAST_WORDS_LEN {
            let mut waits = [PollFd::new(self.console.get_ref().as_fd(), PollFlags::POLLIN)];
            if poll(&mut waits, SILENCE_MS) != Ok(1) {
                break;
            }
            match self.console.get_mut().read(&mut piece) {
                Ok(len) if len > 0 => said.extend_from_slice(&piece[..len]),
                _ => break,
            }
        }
        String::from_utf8_lossy(&said).into_owned()
    }

    /// The guest's next connection.
    pub(crate) fn connection(&mut self) -> Result<File> {
        let mut buffer = vec![0; MAX_PACKET_LEN];
        wait(self.broker.as_fd()).context("wait for a connection")?;
        let (_, mut fds) =
            vmm_api::receive(self.broker.as_fd(), &mut buffer).context("wait for a connection")?;
        Ok(File::from(fds.pop().context("a connection is a descriptor")?))
    }

    /// What the guest says first on its next connection.
    pub(crate) fn greeting(&mut self) -> Result<String> {
        let mut stream = match self.connection() {
            Ok(stream) => stream,
            Err(error) => {
                let (condition, said) = (self.condition(), self.last_words());
                return Err(error.context(format!("vmm: {condition}; console: {said}")));
            }
        };
        let mut text = [0; 16];
        let len = stream.read(&mut text).context("read a greeting")?;
        self.stream = Some(stream);
        Ok(String::from_utf8_lossy(&text[..len]).trim_end().to_owned())
    }

    /// Ends the process.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.call(&Request::Stop, &[])?;
        let status = self.child.wait().context("wait for the vmm")?;
        ensure!(status.success(), "the vmm ended with {status}");
        Ok(())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Both fail only when the process is reaped already, which is what they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns when there is something to read.
pub(crate) fn wait(fd: BorrowedFd<'_>) -> Result<()> {
    let mut waits = [PollFd::new(fd, PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(PATIENCE_MS).context("a time to wait")?;
    ensure!(poll(&mut waits, patience)? == 1, "nothing came within {PATIENCE_MS} ms");
    Ok(())
}

fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .context("make a socket pair")
}
