//! What a guest may answer to an event, and in which order. Pure: messages in, what they come to or a breach out.
//!
//! ```text
//!  Waiting ──Response──► Body ──Body(last)──► Answered ──Done──► Ended
//!     │                   │ Failed             ▲ │
//!     └──Failed───────────┴────────────────────┘ │
//!     └──Done(any failure)┴──────────────────────┴────────────► Ended
//! ```
//!
//! An answer stands, whatever becomes of the sandbox behind it: its caller may have it. A response that is streamed is given
//! away piece by piece, and nothing of it is kept.

use bytes::Bytes;
use guest_protocol::{
    BodyChunk, Fate, FunctionError, GuestMessage, InvocationReport, MAX_CHUNK_LEN, MAX_RESPONSE_LEN,
    MAX_STREAM_LEN, Outcome, ResponseMode, ShutdownNeeds, ShutdownReason,
};

use crate::invoke::memory::Room;

/// A rule of the protocol that a guest broke.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Breach {
    /// A message out of its place.
    #[error("{message} while {state}")]
    Unexpected {
        /// What came.
        message: &'static str,
        /// What the guest was doing.
        state: &'static str,
    },
    /// About an invocation that does not run.
    #[error("{0} of another invocation")]
    OtherRequest(&'static str),
    /// A response beyond [`MAX_RESPONSE_LEN`].
    #[error("a response of more than {MAX_RESPONSE_LEN} bytes")]
    ResponseTooLong,
    /// A streamed response beyond [`MAX_STREAM_LEN`].
    #[error("a streamed response of more than {MAX_STREAM_LEN} bytes")]
    StreamTooLong,
    /// A response in pieces that nobody asked for.
    #[error("a streamed response to an event that wants it whole")]
    Unasked,
    /// A piece that is empty without being the last, or beyond [`MAX_CHUNK_LEN`].
    #[error("a piece of {0} bytes")]
    PieceLen(usize),
    /// An error document beyond [`MAX_RESPONSE_LEN`].
    #[error("an error document of {0} bytes")]
    ErrorLen(usize),
}

impl Breach {
    /// `message` may not come while the guest is in `state`.
    pub(super) fn unexpected(message: &GuestMessage, state: &'static str) -> Self {
        Self::Unexpected { message: name(message), state }
    }
}

/// A finished invocation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// What the function answered; none when that was told before.
    pub(crate) result: Option<ReplyResult>,
    /// Why the sandbox takes no other event, if it does not.
    pub(crate) end: Option<ShutdownReason>,
    /// What its end needs.
    pub(crate) shutdown: ShutdownNeeds,
}

/// What a function answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReplyResult {
    /// Its response.
    Response(Bytes),
    /// Its response was streamed, to the end.
    Streamed,
    /// An error document, its own or the platform's.
    Error(Bytes),
    /// There was no memory for what it answered.
    Unkept,
    /// Its time was up.
    TimedOut,
}

impl ReplyResult {
    /// The same with its memory; what needs some and has none is not kept.
    pub(super) fn kept(self, room: Option<Room>) -> Self {
        match (self, room) {
            (Self::Response(body), Some(room)) => Self::Response(room.keep(body)),
            (Self::Error(document), Some(room)) => Self::Error(room.keep(document)),
            (Self::Response(_) | Self::Error(_), None) => Self::Unkept,
            (other, _) => other,
        }
    }
}

/// What a message comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing yet.
    Waiting,
    /// A part of a response that is streamed.
    Part(Part),
    /// The last part of one, if it has bytes: it is the answer.
    Last(Bytes),
    /// The answer, before the end.
    Answered(ReplyResult),
    /// The end.
    Ended(Reply),
}

/// A part of a response that is streamed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// It begins; its content type.
    Head(String),
    /// Its next bytes, some.
    Piece(Bytes),
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Body(ResponseMode),
    Answered,
}

/// Collects the reply to one event.
#[derive(Debug)]
pub(crate) struct ReplyReader {
    request_id: String,
    wanted: ResponseMode,
    state: State,
    body: Vec<u8>,
    /// There is no memory for its body.
    discards: bool,
    /// Bytes of a response that is streamed or discarded.
    passed: usize,
}

impl ReplyReader {
    /// For the event with that request id, whose response is wanted in that way.
    pub(crate) fn new(request_id: String, wanted: ResponseMode) -> Self {
        Self { request_id, wanted, state: State::Waiting, body: Vec::new(), discards: false, passed: 0 }
    }

    /// What an answer that this message begins may become, in bytes: there has to be memory for it first.
    pub(super) fn wants(&self, message: &GuestMessage) -> Option<usize> {
        let document = |error: &FunctionError| error.payload.len();
        match (&self.state, message) {
            (State::Body(ResponseMode::Buffered), GuestMessage::Body(chunk)) if self.body.is_empty() => {
                let len = if chunk.last { chunk.bytes.len() } else { MAX_RESPONSE_LEN };
                (!self.discards).then_some(len)
            }
            (State::Waiting | State::Body(_), GuestMessage::Failed(error)) => Some(document(error)),
            (State::Waiting | State::Body(_), GuestMessage::Done(report)) => match &report.outcome {
                Outcome::Failed(error) | Outcome::Exited(error) => Some(document(error)),
                Outcome::Succeeded | Outcome::TimedOut => None,
            },
            _ => None,
        }
    }

    /// There is no memory for what [`Self::wants`] said: it is read to its end, as the guest goes on, and thrown away.
    pub(super) fn discard(&mut self) {
        self.discards = true;
    }

    /// Whether the function has begun to answer: it has run.
    pub(super) fn has_begun(&self) -> bool {
        self.state != State::Waiting
    }

    /// Takes the next message.
    pub(crate) fn accept(&mut self, message: GuestMessage) -> Result<Progress, Breach> {
        match (&self.state, message) {
            (State::Waiting, GuestMessage::Response(head)) => {
                self.of_this_request(&head.request_id, "response")?;
                if (head.mode, self.wanted) == (ResponseMode::Streamed, ResponseMode::Buffered) {
                    return Err(Breach::Unasked);
                }
                self.state = State::Body(head.mode);
                Ok(match head.mode {
                    ResponseMode::Buffered => Progress::Waiting,
                    ResponseMode::Streamed => Progress::Part(Part::Head(head.content_type)),
                })
            }
            (State::Body(mode), GuestMessage::Body(chunk)) => self.take(*mode, chunk),
            (State::Waiting | State::Body(_), GuestMessage::Failed(error)) => {
                self.state = State::Answered;
                self.body = Vec::new();
                Ok(Progress::Answered(self.error(error)?))
            }
            (_, GuestMessage::Done(report)) => {
                self.of_this_request(&report.request_id, "report")?;
                self.finish(report).map(Progress::Ended)
            }
            (state, message) => Err(Breach::unexpected(&message, doing(state))),
        }
    }

    fn of_this_request(&self, request_id: &str, what: &'static str) -> Result<(), Breach> {
        if request_id == self.request_id { Ok(()) } else { Err(Breach::OtherRequest(what)) }
    }

    fn take(&mut self, mode: ResponseMode, chunk: BodyChunk) -> Result<Progress, Breach> {
        let len = chunk.bytes.len();
        if len > MAX_CHUNK_LEN || (len == 0 && !chunk.last) {
            return Err(Breach::PieceLen(len));
        }
        if chunk.last {
            self.state = State::Answered;
        }
        if mode == ResponseMode::Streamed {
            self.passed += len;
            if self.passed > MAX_STREAM_LEN {
                return Err(Breach::StreamTooLong);
            }
            let piece = Bytes::from(chunk.bytes);
            return Ok(if chunk.last { Progress::Last(piece) } else { Progress::Part(Part::Piece(piece)) });
        }
        if self.body.len() + self.passed + len > MAX_RESPONSE_LEN {
            return Err(Breach::ResponseTooLong);
        }
        if self.discards {
            self.passed += len;
        } else if chunk.last && self.body.is_empty() {
            self.body = chunk.bytes;
        } else {
            // In place: a longer one would be beside the shorter one while it is copied.
            self.body.reserve_exact(MAX_RESPONSE_LEN - self.body.len());
            self.body.extend_from_slice(&chunk.bytes);
        }
        Ok(match self.state {
            State::Answered => Progress::Answered(self.response()),
            _ => Progress::Waiting,
        })
    }

    fn response(&mut self) -> ReplyResult {
        if self.discards {
            return ReplyResult::Unkept;
        }
        let mut body = std::mem::take(&mut self.body);
        if body.capacity() / 2 > body.len() {
            body.shrink_to_fit();
        }
        ReplyResult::Response(body.into())
    }

    fn error(&self, error: FunctionError) -> Result<ReplyResult, Breach> {
        match error.payload.len() {
            len if len > MAX_RESPONSE_LEN => Err(Breach::ErrorLen(len)),
            _ if self.discards => Ok(ReplyResult::Unkept),
            _ => Ok(ReplyResult::Error(error.payload.into())),
        }
    }

    fn finish(&mut self, report: InvocationReport) -> Result<Reply, Breach> {
        let reason = match report.outcome {
            Outcome::TimedOut => ShutdownReason::Timeout,
            _ => ShutdownReason::Failure,
        };
        let result = match report.outcome {
            _ if self.state == State::Answered => None,
            Outcome::Succeeded => {
                return Err(Breach::Unexpected { message: "done", state: doing(&self.state) });
            }
            Outcome::Failed(error) | Outcome::Exited(error) => Some(self.error(error)?),
            Outcome::TimedOut => Some(ReplyResult::TimedOut),
        };
        let end = (report.fate == Fate::Ended).then_some(reason);
        Ok(Reply { result, end, shutdown: report.shutdown })
    }
}

fn doing(state: &State) -> &'static str {
    match state {
        State::Waiting => "no response has begun",
        State::Body(_) => "a response is being sent",
        State::Answered => "an answer has been sent",
    }
}

fn name(message: &GuestMessage) -> &'static str {
    match message {
        GuestMessage::Hello(_) => "hello",
        GuestMessage::Log(_) => "log",
        GuestMessage::InitDone(_) => "init done",
        GuestMessage::InitFailed(_) => "init failed",
        GuestMessage::Response(_) => "response",
        GuestMessage::Body(_) => "body",
        GuestMessage::Failed(_) => "failed",
        GuestMessage::Done(_) => "done",
        GuestMessage::Ended(_) => "ended",
        GuestMessage::ShutDown => "shut down",
        GuestMessage::Frozen(_) => "frozen",
        GuestMessage::Resumed(_) => "resumed",
        GuestMessage::Unique(_) => "unique",
        GuestMessage::GateFailed(_) => "gate failed",
        GuestMessage::RestoreDone(_) => "restore done",
        GuestMessage::RestoreFailed(_) => "restore failed",
    }
}

#[cfg(test)]
mod tests;
