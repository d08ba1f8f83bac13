//! What host-agent and guest-init say to each other over vsock: the messages and their framing.
//!
//! No I/O happens here: both sides hand bytes in and out, so the same code parses in the guest, in the agent, in the
//! tests and under the fuzzer. Each side treats the other's bytes as hostile: a frame is bounded before it is
//! buffered, and whatever does not decode ends the connection.
//!
//! guest-init opens one connection to [`HOST_CID`]:[`CONTROL_PORT`] as soon as it runs and keeps it for its whole
//! life; the connection's end is the sandbox's end.
//!
//! ```text
//!  guest-init                         host-agent
//!     │ Hello ───────────────────────────►│
//!     │◄─────────────────────────── Start │   once: which function this sandbox is
//!     │ Log* ────────────────────────────►│
//!     │ InitDone | InitFailed ───────────►│   the runtime asked for its first invocation, or could not
//!     │◄────────────────── Invoke, Body*  │ ┐
//!     │ Log*, Response, Body* ───────────►│ │ one at a time
//!     │ Done ────────────────────────────►│ ┘
//!     │◄──────────────────────── Shutdown │
//! ```

mod frame;
mod message;

pub use frame::{FrameError, FrameReader, encode};
pub use message::{
    BodyChunk, FunctionError, GuestMessage, Hello, HostMessage, InitFailure, InitReport, InvocationReport,
    Invoke, LogChunk, LogSource, Outcome, ResponseHead, Start,
};

/// Version of this protocol; both sides refuse another.
pub const PROTOCOL_VERSION: u32 = 1;

/// The host's vsock address (virtio 1.3 §5.10.4).
pub const HOST_CID: u32 = 2;

/// The vsock port on the host that guest-init connects to.
pub const CONTROL_PORT: u32 = 1024;

/// Longest encoded message in bytes, length prefix excluded. A [`BodyChunk`] fits with room for its envelope.
pub const MAX_MESSAGE_LEN: usize = 160 * 1024;

/// Longest piece of an event, a response or a log in one message, in bytes.
pub const MAX_CHUNK_LEN: usize = 128 * 1024;

/// Longest event and longest buffered response in bytes: Lambda's 6 MB.
pub const MAX_BODY_LEN: usize = 6 * 1024 * 1024;
