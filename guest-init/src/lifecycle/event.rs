//! What the state machine takes and what it gives: plain values.

use guest_protocol::{Fate, FunctionError, InitFailure, InitReport, Outcome};

use super::Exit;

/// A moment or a span in microseconds, on whatever clock the caller uses throughout.
pub type Micros = u64;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The agent sent an invocation, whole.
    Invoke {
        /// Of the invocation.
        request_id: String,
        /// Time it may take, ms.
        timeout_ms: u32,
    },
    /// The runtime asks for an invocation.
    Next,
    /// The runtime's connection broke before it had the invocation: it will ask again.
    Undelivered,
    /// The runtime answers an invocation; its document has been received.
    Answer {
        /// The invocation it names.
        request_id: String,
        /// What it says.
        answer: Answer,
    },
    /// The runtime says that it cannot start.
    InitError(FunctionError),
    /// The runtime's process ended and everything that it started with it.
    Exited(Exit),
    /// The moment that [`super::Lifecycle::deadline`] named has come.
    Deadline,
}

/// A runtime's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A response within the limit.
    Response,
    /// A response beyond the limit; it was not kept.
    TooLarge,
    /// The handler's error.
    Error(FunctionError),
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the runtime's process.
    Launch,
    /// End all processes of the function; [`Event::Exited`] follows.
    Kill,
    /// Hand the invocation to the runtime that asked for it.
    Deliver,
    /// The invocation has begun: write its START line.
    Begin {
        /// Of the invocation.
        request_id: String,
    },
    /// Tell the agent that init is done.
    InitDone(InitReport),
    /// Tell the agent that init failed, and why in one word.
    InitFailed(InitFailure, InitStatus),
    /// Send the response's document.
    SendResponse,
    /// Tell the agent how the invocation ended.
    Finish(Finished),
    /// Tell the agent that the runtime died between invocations.
    End(FunctionError),
}

/// How an init failed, as `INIT_REPORT` words it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitStatus {
    /// The runtime said so or exited.
    Error,
    /// It took too long.
    Timeout,
}

/// An ended invocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Of the invocation.
    pub request_id: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether another may follow.
    pub fate: Fate,
    /// From delivery to the end of the answer.
    pub duration_us: Micros,
    /// Duration of the init before it; only for the first invocation of a sandbox whose init succeeded.
    pub init_us: Option<Micros>,
    /// The time it was given, ms.
    pub timeout_ms: u32,
}

/// Why a call of the runtime is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The state does not allow the call.
    #[error(
        "State transition from {from} to {to} failed for runtime. Error: State transition is not allowed"
    )]
    InvalidTransition {
        /// Name of the state.
        from: &'static str,
        /// Name of the state that the call would lead to.
        to: &'static str,
    },
    /// The answer names another invocation than the current one.
    #[error("Invalid request ID")]
    InvalidRequestId,
    /// The agent sent an invocation while one was under way, or to a sandbox that takes none.
    #[error("the sandbox takes no invocation now")]
    Busy,
}
