//! One `vmm` process as the agent sees it: spawned, configured, started, watched, killed and reaped.
//!
//! Speaks vmm-api over the control socket; knows nothing of what runs in the guest. The process ends with the socket,
//! with the spawner's connection and with this value, whichever goes first.

use std::{io, os::fd::BorrowedFd, process::ExitStatus};

use jail::CpuQuota;
use tokio::net::unix::pipe;
use vmm_api::{
    LoadConfig, LoadReport, MAX_PACKET_LEN, MachineConfig, Request, Response, Shape, SnapshotConfig,
    SnapshotReport, WorkingSet,
};

use super::{
    machine,
    packet::PacketSocket,
    spawn::{Process, SpawnError, Spawner},
};

/// What [`VmmError::Refused`] calls the request to load a snapshot.
pub(crate) const LOAD: &str = "load";

/// Why a VMM is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VmmError {
    /// No process.
    #[error("start a vmm process")]
    Spawn(#[from] SpawnError),
    /// The control socket failed.
    #[error("talk to the vmm")]
    Control(#[source] io::Error),
    /// A request that cannot be sent.
    #[error("encode a request to the vmm")]
    Encode(#[from] vmm_api::EncodeError),
    /// Bytes that are no response.
    #[error("understand the vmm's answer")]
    Decode(#[from] vmm_api::DecodeError),
    /// The VMM does not accept the machine.
    #[error("the vmm refused {request}: {}{message}", field.as_ref().map(|f| format!("{f}: ")).unwrap_or_default())]
    Refused {
        /// What was asked.
        request: &'static str,
        /// The field that is wrong, if one is.
        field: Option<String>,
        /// The VMM's words.
        message: String,
    },
    /// An answer to something else.
    #[error("the vmm answered {0} to a request that has no such answer")]
    Unexpected(&'static str),
    /// The guest or the process ended.
    #[error("the vmm ended ({0})")]
    Ended(&'static str),
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Vmm {
    process: Process,
    control: PacketSocket,
}

impl Vmm {
    /// A process that waits for its configuration and has what a machine of that shape may have, and what it writes about
    /// itself.
    pub(crate) async fn spawn(spawner: &Spawner, shape: Shape) -> Result<(Self, pipe::Receiver), VmmError> {
        let (control, theirs) = PacketSocket::pair().map_err(VmmError::Control)?;
        let (process, stderr) = spawner.spawn(machine::allotment(shape), theirs).await?;
        tracing::debug!(slot = process.slot(), "a vmm is in its jail");
        Ok((Self { process, control }, stderr))
    }

    /// Builds the machine from the descriptors that `config` names by position, and runs it.
    pub(crate) async fn run(&self, config: MachineConfig, fds: &[BorrowedFd<'_>]) -> Result<(), VmmError> {
        self.done("configure", &Request::Configure(config), fds).await?;
        self.done("start", &Request::Start, &[]).await
    }

    /// Reserves a machine of that shape for a later [`Self::load`].
    pub(crate) async fn prepare(&self, shape: Shape) -> Result<(), VmmError> {
        self.done("prepare", &Request::Prepare(shape), &[]).await
    }

    /// Makes the machine of a snapshot, as `config` says.
    pub(crate) async fn load(
        &self,
        config: LoadConfig,
        fds: &[BorrowedFd<'_>],
    ) -> Result<LoadReport, VmmError> {
        match self.call(LOAD, &Request::Load(config), fds).await? {
            Response::Loaded(report) => Ok(report),
            other => Err(VmmError::Unexpected(name(&other))),
        }
    }

    /// Stops the machine and writes it to files. It stays paused.
    pub(crate) async fn snapshot(
        &self,
        config: SnapshotConfig,
        fds: &[BorrowedFd<'_>],
    ) -> Result<SnapshotReport, VmmError> {
        self.done("pause", &Request::Pause, &[]).await?;
        match self.call("snapshot", &Request::Snapshot(config), fds).await? {
            Response::Snapshotted(report) => Ok(report),
            other => Err(VmmError::Unexpected(name(&other))),
        }
    }

    /// What the clone had to wait for.
    pub(crate) async fn working_set(&self) -> Result<WorkingSet, VmmError> {
        match self.call("working_set", &Request::WorkingSet, &[]).await? {
            Response::WorkingSet(working_set) => Ok(working_set),
            other => Err(VmmError::Unexpected(name(&other))),
        }
    }

    /// Waits for the end of the guest or the process. Cancel-safe.
    pub(crate) async fn ended(&self) -> VmmError {
        match self.receive().await {
            Ok(response) => VmmError::Unexpected(name(&response)),
            Err(error) => error,
        }
    }

    /// Bounds what it has of the processors from here on.
    pub(crate) fn bound(&self, quota: CpuQuota) {
        if let Err(error) = self.process.bound(quota) {
            tracing::error!(slot = self.process.slot(), %error, "a vmm keeps the quota that it was started with");
        }
    }

    /// Whether the process has ended by itself, and how.
    pub(crate) fn reap(&mut self) -> io::Result<Option<ExitStatus>> {
        self.process.try_wait()
    }

    /// Its number: the tests' launcher has no users to tell and says this.
    #[cfg(test)]
    pub(crate) fn pid(&self) -> u32 {
        self.process.slot()
    }

    /// Ends the process, whatever it is doing, and reaps it: when this returns its memory is free. There is nothing
    /// to save in a sandbox, so no time is spent on asking. The status tells a process that had ended by itself.
    pub(crate) async fn destroy(self) -> io::Result<ExitStatus> {
        self.process.destroy().await
    }

    /// A request whose answer says no more than that it is done.
    async fn done(
        &self,
        request: &'static str,
        message: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), VmmError> {
        match self.call(request, message, fds).await? {
            Response::Ok => Ok(()),
            other => Err(VmmError::Unexpected(name(&other))),
        }
    }

    async fn call(
        &self,
        request: &'static str,
        message: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Response, VmmError> {
        let packet = vmm_api::encode(message)?;
        if let Err(error) = self.control.send(&packet, fds).await {
            // A process that ended before it read the request has more to say than the broken pipe.
            return Err(match self.receive().await {
                Err(ended @ VmmError::Ended(_)) => ended,
                _ => VmmError::Control(error),
            });
        }
        match self.receive().await? {
            Response::Refused(refusal) => {
                Err(VmmError::Refused { request, field: refusal.field, message: refusal.message })
            }
            answer => Ok(answer),
        }
    }

    /// The next message; the guest's end and the socket's are errors.
    async fn receive(&self) -> Result<Response, VmmError> {
        // The buffer is made when there is something to put into it: a sandbox is watched far more often than it ends.
        self.control.readable().await.map_err(VmmError::Control)?;
        let mut buffer = vec![0; MAX_PACKET_LEN];
        let (len, _fds) = self.control.receive(&mut buffer).await.map_err(VmmError::Control)?;
        if len == 0 {
            return Err(VmmError::Ended("its control socket closed"));
        }
        match vmm_api::decode(&buffer[..len])? {
            Response::Exited(vmm_api::Exit::Reset) => Err(VmmError::Ended("the guest reset or powered off")),
            Response::Exited(vmm_api::Exit::Crashed) => Err(VmmError::Ended("the guest crashed")),
            Response::Exited(vmm_api::Exit::Failed) => Err(VmmError::Ended("the vmm failed")),
            response => Ok(response),
        }
    }
}

fn name(response: &Response) -> &'static str {
    match response {
        Response::Ok => "ok",
        Response::Refused(_) => "refused",
        Response::Metrics(_) => "metrics",
        Response::WorkingSet(_) => "working_set",
        Response::Loaded(_) => "loaded",
        Response::Snapshotted(_) => "snapshotted",
        Response::Exited(_) => "exited",
    }
}
