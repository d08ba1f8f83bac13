//! What host-agent and guest-init say to each other over vsock: the messages and their framing.
//!
//! No I/O happens here: both sides hand bytes in and out, so the same code parses in the guest, in the agent, in the
//! tests and under the fuzzer. Each side treats the other's bytes as hostile: a frame is bounded before it is
//! buffered, and whatever does not decode ends the connection.
//!
//! guest-init opens one connection to [`HOST_CID`]:[`CONTROL_PORT`] as soon as it runs and keeps it until it is
//! resumed from a snapshot; at any other time the connection's end is the sandbox's end.
//!
//! ```text
//!  guest-init                         host-agent
//!     │ Hello ───────────────────────────►│
//!     │◄─────────────────────────── Start │   once: which function this sandbox is
//!     │ Log* ────────────────────────────►│
//!     │ InitDone | InitFailed ───────────►│   the runtime asked for its first invocation, or could not
//!     │◄────────────────── Invoke, Body*  │ ┐ at least one Body; Invoke may be sent right behind Start
//!     │ Log*, Response, Body* | Failed ──►│ │ one at a time; Log may come between them if the response is streamed: the answer
//!     │ Log*, Done ──────────────────────►│ ┘ runtime and extensions are done; says whether the sandbox takes another
//!     │ Ended ───────────────────────────►│   the runtime died between invocations; an Invoke that crosses this
//!     │◄──────────────────────── Shutdown │   message was not run
//!     │ Log*, ShutDown ──────────────────►│   the extensions have ended, or their time has: the agent destroys the machine
//! ```
//!
//! After [`GuestMessage::InitFailed`] the agent may still send one Invoke: init is then repeated under the function's
//! timeout, as Lambda does, and `Done` carries the answer with the request id in it. After an init that ran out of
//! time that is the only way to an answer.
//!
//! # Around a snapshot
//!
//! ```text
//!  guest-init                         host-agent
//!     │◄────────────────────────── Freeze │   after InitDone, no invocation under way; or instead of Start
//!     │ Log*, Frozen ────────────────────►│   the function's cgroup is frozen (verified), files are synced
//!     ┆                                   ┆   pause, snapshot, stop: the agent keeps its end open until the pause
//!     ┆         load, in a new VMM        ┆   the socket device ends the old connection (transport reset, virtio 1.3
//!     ┆                                   ┆   §5.10.6.7): the guest's event that it has been resumed
//!     │ Resumed ─────────────────────────►│   on a new connection
//!     │◄────────────────────── MakeUnique │
//!     │ Unique | GateFailed ─────────────►│   after Unique the function runs again
//!     │ Log*, RestoreDone|RestoreFailed ─►│   restore/next answered, hooks run, invocation/next asked for
//!     │◄────────────────── Invoke, Body*  │   as above
//! ```
//!
//! A *runtime snapshot* is taken before any Start: Freeze follows Hello, Start follows Unique, and InitDone or InitFailed
//! stands where RestoreDone or RestoreFailed would.
//!
//! A frozen original may be resumed itself: MakeUnique then comes over the old connection, without Resumed.

mod errors;
mod frame;
mod message;
mod restore;

pub use errors::timed_out_message;
pub use frame::{FrameError, FrameReader, encode};
pub use message::{
    BodyChunk, CodeLayout, Container, Fate, FunctionError, GuestMessage, Hello, HostMessage, InitFailure,
    InitReport, InvocationReport, Invoke, LogChunk, LogFormat, LogSource, Outcome, ResponseHead,
    ResponseMode, ShutdownNeeds, ShutdownReason, Start, SystemLogLevel,
};

pub use restore::{
    Credentials, FreezeReport, GateReport, GateStep, InitializationType, RestoreFailure, RestoreReport,
    ResumeHello, SEED_LEN, Seed, StepOutcome, Unique, generation_counter,
};

/// Version of this protocol; both sides refuse another.
pub const PROTOCOL_VERSION: u32 = 7;

/// Folder of a code image with layers that is the function's `/var/task` ([`CodeLayout::WithLayers`]).
pub const TASK_FOLDER: &str = "task";

/// Folder of such an image that is its `/opt`.
pub const LAYERS_FOLDER: &str = "opt";

/// The host's vsock address (virtio 1.3 §5.10.4).
pub const HOST_CID: u32 = 2;

/// The vsock port on the host that guest-init connects to.
pub const CONTROL_PORT: u32 = 1024;

/// Longest piece of an event, a response or a log in one message, in bytes.
pub const MAX_CHUNK_LEN: usize = 128 * 1024;

/// Longest event in bytes: Lambda's 6 MB.
pub const MAX_BODY_LEN: usize = 6 * 1024 * 1024;

/// Longest buffered response and longest error document in bytes: the figure in Lambda's own error message.
pub const MAX_RESPONSE_LEN: usize = MAX_BODY_LEN + 100;

/// Longest streamed response in bytes: Lambda's 200 MB.
pub const MAX_STREAM_LEN: usize = 200 * 1024 * 1024;

/// Longest encoded message in bytes, length prefix excluded. The longest is an error document with its envelope,
/// which has an error type and a request id of bounded length; a [`BodyChunk`] is far below.
pub const MAX_MESSAGE_LEN: usize = MAX_RESPONSE_LEN + 16 * 1024;
