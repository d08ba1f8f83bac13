//! What a sandbox is connected to, how a resumed one finds its agent again, and why one ends.

use guest_protocol::{FreezeReport, GuestMessage, PROTOCOL_VERSION, ResumeHello};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::control::{Agent, ControlError, Dial, Gone, Request};
use crate::gate::Machine;
use crate::lifecycle::Refusal;
use crate::runtime_api::{Call, CredentialStore};

/// Why a sandbox ended before the agent asked for it.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The connection to the agent ended or broke.
    #[error("the agent is gone")]
    AgentGone,
    /// There is no agent for a resumed guest.
    #[error("cannot connect to the agent after a resume")]
    Reconnect(#[source] std::io::Error),
    /// The function did not stand still.
    #[error("the function cannot be frozen: {0:?}")]
    NotFrozen(FreezeReport),
    /// A drive could not be taken from its driver, or given back.
    #[error("cannot exchange the function's drives")]
    Drives(#[source] std::io::Error),
    /// The kernel gave no random bytes.
    #[error("cannot draw random bytes")]
    Random(#[source] std::io::Error),
    /// The agent does not keep to the protocol.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The agent sent an invocation or a Freeze that the sandbox cannot take.
    #[error("the agent asked for something out of turn: {0}")]
    Refused(#[from] Refusal),
    /// The function's output pipe could not be read.
    #[error("cannot read the function's output")]
    Output(#[from] std::io::Error),
}

impl From<Gone> for SandboxError {
    fn from(_: Gone) -> Self {
        Self::AgentGone
    }
}

/// The queues that a sandbox is connected to.
pub struct Connections {
    /// From the agent.
    pub requests: mpsc::Receiver<Result<Request, ControlError>>,
    /// To the agent.
    pub agent: Agent,
    /// Makes a connection to the agent of a resumed guest.
    pub dial: Dial,
    /// From the Runtime API.
    pub calls: mpsc::Receiver<Call>,
    /// Where the Runtime API listens, `host:port`.
    pub runtime_api: String,
    /// What the Runtime API's credentials endpoint answers.
    pub credentials: CredentialStore,
}

/// What a connection yields when it has ended, as against a message that may not be.
pub(crate) fn is_broken(request: Option<&Result<Request, ControlError>>) -> bool {
    matches!(request, None | Some(Err(ControlError::Stream(_))))
}

impl Connections {
    /// Connects to the agent of a resumed guest and says hello. Returns when the guest learned of the resume.
    ///
    /// # Errors
    /// [`SandboxError`] when there is no agent.
    pub async fn reconnect<M: Machine>(&mut self, machine: &M) -> Result<Instant, SandboxError> {
        let resumed = Instant::now();
        let link = (self.dial)().await.map_err(SandboxError::Reconnect)?;
        self.requests = link.requests;
        self.agent.switch(link.outgoing).await?;
        let hello = ResumeHello {
            protocol_version: PROTOCOL_VERSION,
            generation_counter: machine.generation_counter(),
        };
        self.agent.send(GuestMessage::Resumed(hello)).await?;
        Ok(resumed)
    }
}
