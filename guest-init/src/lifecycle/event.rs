//! What the state machine takes and what it gives: plain values.

use guest_protocol::{Fate, FunctionError, InitFailure, InitializationType, Outcome, RestoreFailure};

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
    /// The runtime asks for its next invocation, and extensions are not done: what has begun lasts until they are.
    Held,
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
    /// The runtime has run its hooks and asks to be snapshotted.
    RestoreNext,
    /// The runtime says that it could not be restored.
    RestoreError(FunctionError),
    /// The agent wants the function to stand still.
    Freeze,
    /// The guest has become unique, and the function is thawed.
    Unique(Resume),
    /// The runtime's process ended and everything that it started with it.
    Exited(Exit),
    /// An extension failed or exited, and its error is the function's.
    ExtensionFailed(FunctionError),
    /// The moment that [`super::Lifecycle::deadline`] named has come.
    Deadline,
}

/// What the state machine needs to know of a resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// When the guest learned of it.
    pub at: Micros,
    /// What the host had spent on it before, µs.
    pub elapsed_us: Micros,
    /// When the runtime must have asked for an invocation.
    pub deadline: Micros,
}

/// How long inits may take, and what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Limit of the first init, µs.
    pub init_timeout_us: Micros,
    /// Whether a snapshot is to be taken.
    pub initialization_type: InitializationType,
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
    InitDone {
        /// From the start of the runtime's process.
        duration_us: Micros,
    },
    /// Tell the agent that init failed, and why in one word.
    InitFailed(InitFailure, InitStatus),
    /// Let the function stand still and tell the agent.
    Freeze,
    /// Answer the runtime's `restore/next`.
    AnswerRestore,
    /// Tell the agent that the runtime is restored.
    RestoreDone {
        /// From the load of the snapshot.
        duration_us: Micros,
    },
    /// Tell the agent that it could not be restored.
    RestoreFailed(RestoreFailure),
    /// Send the response's document.
    SendResponse,
    /// Send the error that is the invocation's answer.
    SendError(FunctionError),
    /// The runtime has been initialised; extensions have not.
    InitRuntimeDone,
    /// The runtime is done with the invocation; extensions are not.
    RuntimeDone(Finished),
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
    /// From delivery to the end of the answer, and what extensions took behind the runtime.
    pub duration_us: Micros,
    /// The first part of that.
    pub runtime_us: Micros,
    /// Duration of the init before it; only for the first invocation of a sandbox whose init succeeded.
    pub init_us: Option<Micros>,
    /// The restore before it; only for the first invocation after a resume.
    pub restored: Option<Restored>,
    /// The time it was given, ms.
    pub timeout_ms: u32,
}

/// A restore, as REPORT tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// All of it, µs.
    pub total_us: Micros,
    /// From the thaw on: the function's own code, µs.
    pub billed_us: Micros,
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
    /// There is no such call in an environment that is not to be snapshotted.
    #[error("404 page not found")]
    NotSnapStart,
    /// The agent sent an invocation while one was under way, or to a sandbox that takes none.
    #[error("the sandbox cannot take this now")]
    Busy,
}
