//! What a guest may answer, in which order, and what it may not.

use guest_protocol::ResponseHead;
use proptest::prelude::*;

use super::*;

fn head(id: &str) -> GuestMessage {
    let content_type = "application/json".into();
    GuestMessage::Response(ResponseHead { request_id: id.into(), content_type, mode: ResponseMode::Buffered })
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
    assert_eq!(reply, Ok(Some(ReplyResult::Response("abc".into()))));
}

#[test]
fn a_failure_forgets_what_was_sent() {
    let error = FunctionError { error_type: "E".into(), payload: b"{}".into() };
    let failed = done("r1", Outcome::Failed(error.clone()));
    let answer = Ok(Some(ReplyResult::Error("{}".into())));
    assert_eq!(check([head("r1"), body(b"ab", false), failed.clone()]), answer);
    assert_eq!(check([head("r1"), body(b"ab", false), GuestMessage::Failed(error), failed]), answer);
}

#[test]
fn an_answer_stands() {
    let error = FunctionError { error_type: "E".into(), payload: b"{}".into() };
    let mut reader = ReplyReader::new("r1".into(), ResponseMode::Buffered);
    reader.accept(head("r1")).unwrap();
    let answer = ReplyResult::Response("ab".into());
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
fn an_answer_says_what_it_may_become_before_it_is_read() {
    let mut reader = ReplyReader::new("r1".into(), ResponseMode::Buffered);
    let error = FunctionError { error_type: "E".into(), payload: vec![0; 7] };
    assert_eq!(reader.wants(&done("r1", Outcome::Exited(error.clone()))), Some(7));
    assert_eq!((reader.wants(&head("r1")), reader.has_begun()), (None, false));
    reader.accept(head("r1")).unwrap();
    assert!(reader.has_begun());
    assert_eq!(reader.wants(&body(b"whole", true)), Some(5));
    assert_eq!(reader.wants(&body(b"part", false)), Some(MAX_RESPONSE_LEN));
    reader.accept(body(b"part", false)).unwrap();
    assert_eq!(reader.wants(&body(b"part", false)), None, "it has been asked for");
    assert_eq!(reader.wants(&GuestMessage::Failed(error)), Some(7));
}

#[test]
fn what_there_is_no_memory_for_is_read_to_its_end_and_within_its_bound() {
    let mut reader = ReplyReader::new("r1".into(), ResponseMode::Buffered);
    reader.accept(head("r1")).unwrap();
    reader.discard();
    assert_eq!(reader.accept(body(b"ab", false)), Ok(Progress::Waiting));
    assert_eq!((reader.wants(&body(b"c", true)), reader.body.len()), (None, 0));
    assert_eq!(reader.accept(body(b"c", true)), Ok(Progress::Answered(ReplyResult::Unkept)));
    let mut reader = ReplyReader { state: State::Body(ResponseMode::Buffered), ..reader };
    let last = (0..50).map(|_| reader.accept(body(&[0; MAX_CHUNK_LEN], false))).last();
    assert_eq!(last, Some(Err(Breach::ResponseTooLong)));
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
