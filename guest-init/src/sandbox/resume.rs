//! A sandbox around a snapshot: lets the function stand still, notices the resume, passes the gate, and lets the runtime
//! go on.

use std::time::Duration;

use guest_protocol::{GuestMessage, InitializationType, RestoreFailure, RestoreReport, Unique};
use tokio::time::Instant;

use super::{Launcher, Sandbox, SandboxError};
use crate::control::ControlError;
use crate::gate::{self, Machine};
use crate::lifecycle::{Event, Micros, Resume};
use crate::platform_log;
use crate::runtime_api::Reply;

impl<L: Launcher + Machine> Sandbox<L> {
    /// Tells the agent when nothing of the function's runs any more, and all that it wrote is told.
    pub(super) async fn freeze(&mut self) -> Result<(), SandboxError> {
        self.telemetry.settle().await;
        match gate::freeze(&mut self.launcher).await {
            Ok(report) => {
                self.flush().await;
                self.tell(GuestMessage::Frozen(report)).await
            }
            Err(report) => Err(SandboxError::NotFrozen(report)),
        }
    }

    /// The connection broke while the function stood still: this is a clone.
    pub(super) async fn resumed(&mut self) -> Result<(), SandboxError> {
        self.resumed_at = Some(self.connections.reconnect(&self.launcher).await?);
        Ok(())
    }

    pub(super) async fn make_unique(&mut self, unique: Unique) -> Result<(), SandboxError> {
        if !self.lifecycle.is_frozen() {
            return Err(ControlError::OutOfTurn("MakeUnique to a guest that is not frozen").into());
        }
        let received = Instant::now();
        let resumed = self.resumed_at.take().unwrap_or(received);
        let passed = gate::pass(
            &mut self.launcher,
            &unique,
            &self.connections.credentials,
            &self.connections.agent,
            resumed,
        );
        match passed.await {
            Ok(report) => {
                self.telemetry.go_on();
                self.tell(GuestMessage::Unique(report)).await?;
            }
            Err(report) => {
                if let Some(reason) = platform_log::failed_restore_d(&report) {
                    self.log(platform_log::Event::HookFailed(reason)).await?;
                }
                // What follows is the agent's: it destroys this guest.
                return self.tell(GuestMessage::GateFailed(report)).await;
            }
        }
        self.log(platform_log::Event::RestoreStart).await?;
        let limit = Duration::from_millis(unique.restore_timeout_ms.into());
        let resume = Resume {
            at: self.micros(resumed),
            elapsed_us: unique.elapsed_us,
            deadline: self.micros(received + limit),
        };
        self.happened(Event::Unique(resume)).await
    }

    /// The runtime asks to be snapshotted: it is answered after a resume.
    pub(super) async fn restore_next(&mut self, reply: Reply<()>) -> Result<(), SandboxError> {
        if self.start.initialization_type == InitializationType::SnapStart
            && self.holds(Event::RestoreNext).await?
        {
            self.restore_waiter = Some(reply);
            return Ok(());
        }
        let older = self.restore_waiter.replace(reply);
        match self.happened(Event::RestoreNext).await {
            Err(SandboxError::Refused(refusal)) => {
                if let Some(reply) = std::mem::replace(&mut self.restore_waiter, older) {
                    let _ = reply.send(Err(refusal));
                }
                Ok(())
            }
            other => other,
        }
    }

    /// A runtime whose connection broke meanwhile asks again, and is answered then.
    pub(super) fn answer_restore(&mut self) {
        if let Some(waiter) = self.restore_waiter.take() {
            let _ = waiter.send(Ok(()));
        }
    }

    pub(super) async fn restore_done(&mut self, duration_us: Micros) -> Result<(), SandboxError> {
        self.flush().await;
        self.log(platform_log::Event::RestoreDone(duration_us)).await?;
        let shutdown = self.companions.book.shutdown_needs();
        self.tell(GuestMessage::RestoreDone(RestoreReport { duration_us, shutdown })).await
    }

    pub(super) async fn restore_failed(&mut self, failure: RestoreFailure) -> Result<(), SandboxError> {
        self.flush().await;
        self.log(platform_log::Event::RestoreFailed(&failure)).await?;
        self.tell(GuestMessage::RestoreFailed(failure)).await
    }

    fn micros(&self, moment: Instant) -> Micros {
        let since = moment.saturating_duration_since(self.origin);
        Micros::try_from(since.as_micros()).unwrap_or(Micros::MAX)
    }
}
