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
    Response(Vec<u8>),
    /// Its response was streamed, to the end.
    Streamed,
    /// An error document, its own or the platform's.
    Error(FunctionError),
    /// Its time was up.
    TimedOut,
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
    /// Bytes of a streamed response.
    streamed: usize,
}

impl ReplyReader {
    /// For the event with that request id, whose response is wanted in that way.
    pub(crate) fn new(request_id: String, wanted: ResponseMode) -> Self {
        Self { request_id, wanted, state: State::Waiting, body: Vec::new(), streamed: 0 }
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
                Ok(Progress::Answered(ReplyResult::Error(bounded(error)?)))
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
            self.streamed += len;
            if self.streamed > MAX_STREAM_LEN {
                return Err(Breach::StreamTooLong);
            }
            let piece = Bytes::from(chunk.bytes);
            return Ok(if chunk.last { Progress::Last(piece) } else { Progress::Part(Part::Piece(piece)) });
        }
        if self.body.len() + len > MAX_RESPONSE_LEN {
            return Err(Breach::ResponseTooLong);
        }
        if self.body.is_empty() {
            self.body = chunk.bytes;
        } else {
            self.body.extend_from_slice(&chunk.bytes);
        }
        Ok(match self.state {
            State::Answered => Progress::Answered(ReplyResult::Response(std::mem::take(&mut self.body))),
            _ => Progress::Waiting,
        })
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
            Outcome::Failed(error) | Outcome::Exited(error) => Some(ReplyResult::Error(bounded(error)?)),
            Outcome::TimedOut => Some(ReplyResult::TimedOut),
        };
        let end = (report.fate == Fate::Ended).then_some(reason);
        Ok(Reply { result, end, shutdown: report.shutdown })
    }
}

fn bounded(error: FunctionError) -> Result<FunctionError, Breach> {
    match error.payload.len() {
        len if len > MAX_RESPONSE_LEN => Err(Breach::ErrorLen(len)),
        _ => Ok(error),
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
mod tests {
    use guest_protocol::ResponseHead;
    use proptest::prelude::*;

    use super::*;

    fn head(id: &str) -> GuestMessage {
        let content_type = "application/json".into();
        GuestMessage::Response(ResponseHead {
            request_id: id.into(),
            content_type,
            mode: ResponseMode::Buffered,
        })
    }

    fn streamed() -> GuestMessage {
        let (content_type, mode) = ("text/x".into(), ResponseMode::Streamed);
        GuestMessage::Response(ResponseHead { request_id: "r1".into(), content_type, mode })
    }

    fn body(bytes: &[u8], last: bool) -> GuestMessage {
        GuestMessage::Body(BodyChunk { bytes: bytes.into(), last })
    }

    fn done(id: &str, outcome: Outcome) -> GuestMessage {
        let (fate, duration_us, max_memory_used_mib) = (Fate::Reusable, 1, 1);
        GuestMessage::Done(InvocationReport {
            request_id: id.into(),
            outcome,
            fate,
            duration_us,
            max_memory_used_mib,
            shutdown: ShutdownNeeds::None,
        })
    }

    fn check(messages: impl IntoIterator<Item = GuestMessage>) -> Result<Option<ReplyResult>, Breach> {
        let mut reader = ReplyReader::new("r1".into(), ResponseMode::Buffered);
        let mut answer = None;
        for message in messages {
            match reader.accept(message)? {
                Progress::Answered(result) => answer = Some(result),
                Progress::Ended(reply) => return Ok(answer.or(reply.result)),
                Progress::Waiting | Progress::Part(_) | Progress::Last(_) => {}
            }
        }
        Ok(None)
    }

    #[test]
    fn a_streamed_response_is_given_away_and_counted() {
        let mut reader = ReplyReader::new("r1".into(), ResponseMode::Streamed);
        assert_eq!(reader.accept(streamed()), Ok(Progress::Part(Part::Head("text/x".into()))));
        for _ in 0..MAX_STREAM_LEN / MAX_CHUNK_LEN {
            let part = reader.accept(body(&[1; MAX_CHUNK_LEN], false)).unwrap();
            assert!(matches!(part, Progress::Part(Part::Piece(piece)) if piece.len() == MAX_CHUNK_LEN));
        }
        assert!(reader.body.is_empty());
        let mut longer = ReplyReader { state: State::Body(ResponseMode::Streamed), ..reader };
        assert_eq!(longer.accept(body(b"x", false)), Err(Breach::StreamTooLong));
        let mut reader = ReplyReader::new("r1".into(), ResponseMode::Streamed);
        reader.accept(streamed()).unwrap();
        assert_eq!(reader.accept(body(b"", true)), Ok(Progress::Last(Bytes::new())));
        let reply = Reply { result: None, end: None, shutdown: ShutdownNeeds::None };
        assert_eq!(reader.accept(done("r1", Outcome::Succeeded)), Ok(Progress::Ended(reply)));
        // Nobody asked for this one.
        assert_eq!(check([streamed()]), Err(Breach::Unasked));
    }

    #[test]
    fn a_response_is_put_together() {
        let reply = check([head("r1"), body(b"ab", false), body(b"c", true), done("r1", Outcome::Succeeded)]);
        assert_eq!(reply, Ok(Some(ReplyResult::Response(b"abc".into()))));
    }

    #[test]
    fn a_failure_forgets_what_was_sent() {
        let error = FunctionError { error_type: "E".into(), payload: b"{}".into() };
        let failed = done("r1", Outcome::Failed(error.clone()));
        let answer = Ok(Some(ReplyResult::Error(error.clone())));
        assert_eq!(check([head("r1"), body(b"ab", false), failed.clone()]), answer);
        assert_eq!(check([head("r1"), body(b"ab", false), GuestMessage::Failed(error), failed]), answer);
    }

    #[test]
    fn an_answer_stands() {
        let error = FunctionError { error_type: "E".into(), payload: b"{}".into() };
        let mut reader = ReplyReader::new("r1".into(), ResponseMode::Buffered);
        reader.accept(head("r1")).unwrap();
        let answer = ReplyResult::Response(b"ab".into());
        assert_eq!(reader.accept(body(b"ab", true)), Ok(Progress::Answered(answer)));
        assert!(reader.accept(GuestMessage::Failed(error)).is_err());
        let mut late = done("r1", Outcome::TimedOut);
        if let GuestMessage::Done(report) = &mut late {
            report.fate = Fate::Ended;
        }
        let (end, shutdown) = (Some(ShutdownReason::Timeout), ShutdownNeeds::None);
        let reply = Reply { result: None, end, shutdown };
        assert_eq!(reader.accept(late), Ok(Progress::Ended(reply)));
    }

    #[test]
    fn breaches_are_named() {
        let whole = |len| {
            let mut messages = vec![head("r1")];
            messages.extend((0..len).map(|_| body(&[0; MAX_CHUNK_LEN], false)));
            messages
        };
        for (messages, expected) in [
            (vec![body(b"x", true)], "body while no response has begun"),
            (vec![head("r1"), head("r1")], "response while a response is being sent"),
            (vec![head("r2")], "response of another invocation"),
            (vec![done("r2", Outcome::TimedOut)], "report of another invocation"),
            (vec![done("r1", Outcome::Succeeded)], "done while no response has begun"),
            (vec![head("r1"), body(b"", false)], "a piece of 0 bytes"),
            (vec![head("r1"), body(&[0; MAX_CHUNK_LEN + 1], true)], "a piece of 131073 bytes"),
            (whole(49), "a response of more than 6291556 bytes"),
        ] {
            assert_eq!(check(messages).unwrap_err().to_string(), expected);
        }
    }

    proptest! {
        #[test]
        fn any_order_of_messages_ends_in_a_reply_or_a_breach_and_never_holds_too_much(
            kinds in prop::collection::vec(0..6u8, 0..80)
        ) {
            let mut reader = ReplyReader::new("r1".into(), ResponseMode::Streamed);
            for &kind in &kinds {
                let message = match kind {
                    0 if kinds.len() % 2 == 0 => streamed(),
                    0 => head("r1"),
                    1 => body(&[1; MAX_CHUNK_LEN], false),
                    2 => body(b"", true),
                    3 => done("r1", Outcome::Succeeded),
                    4 if kinds.len() % 3 == 0 => done("r1", Outcome::TimedOut),
                    4 => GuestMessage::Failed(FunctionError::new("T", "m")),
                    _ => body(&[1; MAX_CHUNK_LEN / 2], false),
                };
                let result = reader.accept(message);
                prop_assert!(reader.body.len() <= MAX_RESPONSE_LEN);
                if matches!(result, Ok(Progress::Ended(_)) | Err(_)) {
                    break;
                }
            }
        }
    }
}
