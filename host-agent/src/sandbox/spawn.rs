//! Has `vmm` processes started by the launcher, each in a jail of its own, so that none outlives the agent.
//!
//! The agent has no right to make a jail, nor over what runs in one: users differ. What it is given of a process are three
//! descriptors: one that ends it, one that says how it has ended, one that changes its quota of the processors. One task has the connection, on which one request at a time
//! is answered; when that ends, the launcher ends every process.

use std::{
    fs::File,
    io::{self, Write as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::ExitStatusExt as _,
    },
    path::PathBuf,
    process::ExitStatus,
};

use jail::{
    CpuQuota,
    launch::{ANSWER_FDS, Allotment, Answer, AnswerError, MAX_ANSWER_LEN},
};
use nix::errno::Errno;
use tokio::{
    net::unix::pipe,
    sync::{mpsc, oneshot},
};

use super::packet::PacketSocket;

/// Written to end a process.
const END: &[u8] = b"1";

/// A wait status, as it is read.
type Status = [u8; 4];

/// Why there is no process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    /// The launcher does not run, or not for this user.
    #[error("connect to the launcher at {}", path.display())]
    Connect {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The connection broke off.
    #[error("talk to the launcher")]
    Talk(#[source] io::Error),
    /// It ended before it answered.
    #[error("the launcher ended")]
    Gone,
    /// It says something else.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// A step of the jail failed.
    #[error("the launcher started nothing: {0}")]
    Refused(String),
    /// A pipe for what the process says.
    #[error("make a pipe")]
    Pipe(#[source] io::Error),
}

struct Order {
    allotment: Allotment,
    control: OwnedFd,
    reply: oneshot::Sender<Result<Spawned, SpawnError>>,
}

/// A process, and what it says about itself.
pub(crate) type Spawned = (Process, pipe::Receiver);

/// Has processes started.
#[derive(Debug)]
pub(crate) struct Spawner {
    /// Not longer than the pool's bound on concurrent starts.
    orders: mpsc::UnboundedSender<Order>,
}

impl Spawner {
    /// By the launcher that listens at `path`. It need not run yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        let (orders, mut inbox) = mpsc::unbounded_channel::<Order>();
        tokio::spawn(async move {
            let mut launcher = Launcher { path, connection: None };
            while let Some(Order { allotment, control, reply }) = inbox.recv().await {
                // A receiver that is gone drops the process, which ends it.
                drop(reply.send(launcher.spawn(allotment, control).await));
            }
        });
        Self { orders }
    }

    /// A process that serves `control` and has nothing else of the agent's but its standard error.
    pub(crate) async fn spawn(&self, allotment: Allotment, control: OwnedFd) -> Result<Spawned, SpawnError> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order { allotment, control, reply }).map_err(|_| SpawnError::Gone)?;
        answer.await.map_err(|_| SpawnError::Gone)?
    }
}

/// The task's end of the connection.
struct Launcher {
    path: PathBuf,
    connection: Option<PacketSocket>,
}

impl Launcher {
    async fn spawn(&mut self, allotment: Allotment, control: OwnedFd) -> Result<Spawned, SpawnError> {
        let (said, stderr) = io::pipe().map_err(SpawnError::Pipe)?;
        let said = pipe::Receiver::from_owned_fd(said.into()).map_err(SpawnError::Pipe)?;
        let had_connection = self.connection.is_some();
        let request = allotment.to_request();
        let fds = [control.as_fd(), stderr.as_fd()];
        let process = match self.ask(&request, &fds).await {
            // The launcher was started anew since it was asked last: with it went every process that was there.
            Err(SpawnError::Gone | SpawnError::Talk(_)) if had_connection => self.ask(&request, &fds).await?,
            asked => asked?,
        };
        Ok((process, said))
    }

    async fn ask(&mut self, request: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Process, SpawnError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => PacketSocket::connect(&self.path)
                .map_err(|source| SpawnError::Connect { path: self.path.clone(), source })?,
        };
        connection.send(request, fds).await.map_err(SpawnError::Talk)?;
        let mut buffer = [0; MAX_ANSWER_LEN];
        let (len, fds) = connection.receive(&mut buffer).await.map_err(SpawnError::Talk)?;
        if len == 0 {
            return Err(SpawnError::Gone);
        }
        let answer = Answer::from_packet(&buffer[..len])?;
        // One that makes no sense is the last one of its connection.
        let is_right = fds.len() <= ANSWER_FDS;
        let mut fds = fds.into_iter();
        let process = match (answer, fds.next(), fds.next()) {
            (Answer::Started { slot }, Some(end), Some(status)) if is_right => {
                Ok(Process::new(slot, end, status, fds.next())?)
            }
            (Answer::Started { .. }, ..) => return Err(AnswerError(len).into()),
            (Answer::Failed { text }, ..) => Err(SpawnError::Refused(text)),
        };
        self.connection = Some(connection);
        process
    }
}

/// A process that runs, until it ends or this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    slot: u32,
    end: File,
    status: pipe::Receiver,
    quota: Option<File>,
}

impl Process {
    fn new(slot: u32, end: OwnedFd, status: OwnedFd, quota: Option<OwnedFd>) -> Result<Self, SpawnError> {
        let status = pipe::Receiver::from_owned_fd(status).map_err(SpawnError::Talk)?;
        Ok(Self { slot, end: end.into(), status, quota: quota.map(File::from) })
    }

    /// From here on it has no more of the processors than that; as before, where they are not counted.
    pub(crate) fn bound(&self, quota: CpuQuota) -> io::Result<()> {
        let Some(mut file) = self.quota.as_ref() else { return Ok(()) };
        match file.write_all(quota.to_string().as_bytes()) {
            // Its group goes with the process.
            Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(()),
            written => written,
        }
    }

    /// The number of its user, among those that are reserved for sandboxes.
    pub(crate) fn slot(&self) -> u32 {
        self.slot
    }

    /// Whether it has ended, and how.
    pub(crate) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let mut status = Status::default();
        // Past the runtime, which learns of the pipe's state only while it looks.
        match nix::unistd::read(&self.status, &mut status) {
            Err(Errno::EAGAIN) => Ok(None),
            read => exit_status(read?, status).map(Some),
        }
    }

    /// Ends it, whatever it is doing, and waits for that: when this returns its memory is free. The status tells a process
    /// that had ended by itself.
    pub(crate) async fn destroy(mut self) -> io::Result<ExitStatus> {
        self.kill();
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            self.status.readable().await?;
            // Clears a readiness that was not meant: the next wait is one.
            let mut status = Status::default();
            match self.status.try_read(&mut status) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return exit_status(read?, status),
            }
        }
    }

    fn kill(&mut self) {
        // The control group of a process that has ended is gone, and cannot be written to.
        drop(self.end.write_all(END));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What was read from the pipe, which holds all of it or has ended.
fn exit_status(len: usize, status: Status) -> io::Result<ExitStatus> {
    if len < status.len() {
        return Err(io::Error::other("the launcher ended before the process did"));
    }
    Ok(ExitStatus::from_raw(i32::from_le_bytes(status)))
}
