//! The life of a sandbox whose guest is up: its init, its events, its end.

use std::{convert::Infallible, future::pending, io, process::ExitStatus, time::Duration};

use guest_protocol::{Invoke, Start};
use jail::CpuQuota;
use tokio::time::{sleep, timeout};

use super::{
    SandboxId,
    console::Captured,
    error::SandboxError,
    guest::{Guest, GuestError, Init, Lost, Outlets, Reply, ReplyResult},
    logs::Logs,
    packet::PacketSocket,
    resume::Origin,
    scratch::Image,
    vmm::Vmm,
};
use crate::{invoke::memory::Handout, network::Slot};

/// How long after the guest's own limit the agent ends a sandbox: room for the guest to kill the function's processes
/// and to report, and for a clock that runs a little slow under emulation.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// How long a sandbox serves its first event with all of its vCPUs' time, as it was started: a clone's first event touches what
/// memory and drives have not brought yet.
const UNBOUNDED: Duration = Duration::from_millis(100);

/// How long what a guest said before its machine ended may take to be read: it lies in a socket buffer.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A guest and everything that keeps it running.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(super) id: SandboxId,
    pub(super) vmm: Vmm,
    pub(super) guest: Guest,
    pub(super) logs: Logs,
    pub(super) init_failed: bool,
    /// What it may have of the processors when it serves, until it does.
    pub(super) quota: Option<CpuQuota>,
    /// Of a clone that has not answered an event yet.
    pub(super) origin: Option<Origin>,
    /// The image behind /tmp, to be saved with the machine.
    pub(super) scratch: Image,
    pub(super) serial: Captured,
    pub(super) stderr: Captured,
    /// Kept open, though nothing is taken from it any more: its end would be news to the VMM.
    pub(super) _broker: PacketSocket,
    /// Removed when the machine is gone.
    pub(super) _slot: Option<Slot>,
}

/// Bounds a sandbox that serves its first event, when it has had some time for that.
async fn bound_soon(vmm: &Vmm, quota: Option<CpuQuota>) -> Infallible {
    if let Some(quota) = quota {
        sleep(UNBOUNDED).await;
        vmm.bound(quota);
    }
    pending().await
}

impl Sandbox {
    /// Tells the guest what it is and waits for its init; the guest ends an init that takes longer than
    /// `start.init_timeout_ms`.
    pub(crate) async fn init(&mut self, start: Start) -> Result<Init, SandboxError> {
        let limit = Duration::from_millis(start.init_timeout_ms.into()) + GRACE;
        let done = timeout(limit, self.guest.init(start, &mut self.logs)).await;
        match done.unwrap_or(Err(GuestError::Io(io::ErrorKind::TimedOut.into()))) {
            Ok(init) => {
                self.init_failed = matches!(init, Init::Failed(_));
                Ok(init)
            }
            Err(GuestError::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
                Err(SandboxError::TimedOut { what: "end its init", limit })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Runs one event; `outlets` as of [`Guest::invoke`]. `Ok(None)`: it was not over within the function's timeout and some
    /// grace.
    pub(crate) async fn invoke(
        &mut self,
        invoke: Invoke,
        event: &Handout,
        outlets: Outlets<'_, impl FnOnce(ReplyResult) -> Option<ReplyResult>>,
    ) -> Result<Option<Reply>, Lost> {
        let timeout_ms = Duration::from_millis(invoke.timeout_ms.into());
        // An init that is repeated has the function's timeout for itself.
        let limit = if self.init_failed { timeout_ms * 2 } else { timeout_ms } + GRACE;
        self.init_failed = false;
        let quota = self.quota.take();
        let running = self.guest.invoke(invoke, event, outlets, &mut self.logs);
        let vmm = &self.vmm;
        let watched = async {
            let mut running = std::pin::pin!(running);
            tokio::select! {
                biased;
                reply = &mut running => reply,
                never = bound_soon(vmm, quota) => match never {},
                _ended = vmm.ended() => match timeout(LAST_WORDS, running).await {
                    Ok(reply) => reply,
                    Err(_) => Err(Lost::After(GuestError::Closed)),
                },
            }
        };
        let watched = timeout(limit, watched).await;
        if let Some(quota) = quota {
            vmm.bound(quota);
        }
        match watched {
            Ok(reply) => reply.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Waits until the sandbox is of no further use. Cancel-safe.
    pub(crate) async fn idle(&mut self) -> SandboxError {
        tokio::select! {
            biased;
            error = self.guest.idle(&mut self.logs) => error.into(),
            ended = self.vmm.ended() => ended.into(),
        }
    }

    /// Whether its function could not be initialised: it is again, at its first event.
    pub(crate) fn has_failed_init(&self) -> bool {
        self.init_failed
    }

    /// Its log.
    pub(crate) fn logs(&mut self) -> &mut Logs {
        &mut self.logs
    }

    /// Ends it as intended.
    pub(crate) async fn destroy(self) {
        if let Err(error) = self.vmm.destroy().await {
            tracing::error!(id = %self.id, %error, "a vmm could not be reaped");
        }
    }

    /// Ends it and says why, with what the guest's console and the VMM said last. A guest that went away by itself
    /// is given a moment, so that the VMM tells the rest.
    pub(crate) async fn destroy_because(self, error: &SandboxError) {
        let Self { id, vmm, serial, stderr, .. } = self;
        if matches!(error, SandboxError::Guest(GuestError::Closed)) {
            drop(timeout(LAST_WORDS, vmm.ended()).await);
        }
        let status = vmm.destroy().await;
        report(id, error, status, serial, stderr).await;
    }
}

pub(super) async fn report(
    id: SandboxId,
    error: &SandboxError,
    status: io::Result<ExitStatus>,
    serial: Captured,
    stderr: Captured,
) {
    // "signal: 9" is our own doing; anything else is how the process ended before.
    let vmm = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    let (serial, stderr) = tokio::join!(serial.last_words(), stderr.last_words());
    tracing::warn!(%id, error = super::describe(error), vmm, serial, stderr, "a sandbox was lost");
}
