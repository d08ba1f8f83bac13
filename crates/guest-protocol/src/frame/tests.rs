//! Properties of the framing: what is encoded is decoded, however the bytes are cut; no bytes make it panic.

use proptest::prelude::*;

use super::*;
use crate::{
    BodyChunk, Fate, FunctionError, GuestMessage, HostMessage, InvocationReport, Invoke, LogChunk, LogSource,
    Outcome, ResponseHead, Start,
};

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..600)
}

fn function_error() -> impl Strategy<Value = FunctionError> {
    (".*", bytes()).prop_map(|(error_type, payload)| FunctionError { error_type, payload })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Succeeded),
        Just(Outcome::TimedOut),
        function_error().prop_map(Outcome::Failed),
        function_error().prop_map(Outcome::Exited),
    ]
}

fn guest_message() -> impl Strategy<Value = GuestMessage> {
    let log = (any::<bool>(), bytes()).prop_map(|(platform, bytes)| {
        let source = if platform { LogSource::Platform } else { LogSource::Function };
        GuestMessage::Log(LogChunk { source, bytes })
    });
    let done = (".*", outcome(), any::<bool>(), any::<u64>()).prop_map(|(request_id, outcome, ended, us)| {
        GuestMessage::Done(InvocationReport {
            request_id,
            outcome,
            fate: if ended { Fate::Ended } else { Fate::Reusable },
            duration_us: us,
            max_memory_used_mib: 7,
        })
    });
    let head = (".*", ".*").prop_map(|(request_id, content_type)| {
        GuestMessage::Response(ResponseHead { request_id, content_type })
    });
    let body =
        (bytes(), any::<bool>()).prop_map(|(bytes, last)| GuestMessage::Body(BodyChunk { bytes, last }));
    prop_oneof![log, done, head, body, function_error().prop_map(GuestMessage::Ended)]
}

fn host_message() -> impl Strategy<Value = HostMessage> {
    let start = (".*", proptest::collection::vec((".*", ".*"), 0..5), any::<[u8; 32]>()).prop_map(
        |(name, environment, entropy)| {
            HostMessage::Start(Start {
                function_name: name.clone(),
                function_version: "$LATEST".into(),
                handler: name,
                memory_mib: 128,
                init_timeout_ms: 10_000,
                timeout_ms: 3_000,
                region: "us-east-1".into(),
                log_group: "/aws/lambda/x".into(),
                log_stream: "2026".into(),
                wall_clock_unix_ns: u64::MAX,
                entropy,
                environment: environment.clone(),
                platform_environment: environment,
            })
        },
    );
    let invoke = (".*", any::<u32>(), proptest::option::of(".*")).prop_map(|(id, n, context)| {
        HostMessage::Invoke(Invoke {
            request_id: id,
            timeout_ms: n,
            invoked_function_arn: "arn".into(),
            trace_id: "Root=1".into(),
            client_context: context.clone(),
            cognito_identity: context,
            event_len: n,
        })
    });
    prop_oneof![start, invoke, Just(HostMessage::Shutdown)]
}

/// Pushes `bytes` in pieces of the given lengths (repeated) and collects what comes out.
fn read_in_pieces<M: serde::de::DeserializeOwned>(bytes: &[u8], piece_lens: &[usize]) -> Vec<M> {
    let mut reader = FrameReader::default();
    let mut messages = Vec::new();
    let mut rest = bytes;
    for len in piece_lens.iter().cycle() {
        let (piece, tail) = rest.split_at(rest.len().min(*len));
        reader.push(piece);
        while let Some(message) = reader.next_message().unwrap() {
            messages.push(message);
        }
        rest = tail;
        if rest.is_empty() {
            return messages;
        }
    }
    messages
}

proptest! {
    #[test]
    fn guest_messages_survive_any_cut(
        messages in proptest::collection::vec(guest_message(), 1..6),
        pieces in proptest::collection::vec(1_usize..300, 1..5),
    ) {
        let stream: Vec<u8> = messages.iter().flat_map(|m| encode(m).unwrap()).collect();
        prop_assert_eq!(read_in_pieces::<GuestMessage>(&stream, &pieces), messages);
    }

    #[test]
    fn host_messages_survive_any_cut(
        messages in proptest::collection::vec(host_message(), 1..6),
        pieces in proptest::collection::vec(1_usize..300, 1..5),
    ) {
        let stream: Vec<u8> = messages.iter().flat_map(|m| encode(m).unwrap()).collect();
        prop_assert_eq!(read_in_pieces::<HostMessage>(&stream, &pieces), messages);
    }

    #[test]
    fn no_bytes_panic(stream in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let mut reader = FrameReader::default();
        reader.push(&stream);
        while let Ok(Some(_)) = reader.next_message::<GuestMessage>() {}
        let mut reader = FrameReader::default();
        reader.push(&stream);
        while let Ok(Some(_)) = reader.next_message::<HostMessage>() {}
    }

    #[test]
    fn a_damaged_frame_never_panics(message in guest_message(), at in any::<prop::sample::Index>(), with: u8) {
        let mut frame = encode(&message).unwrap();
        let at = at.index(frame.len());
        frame[at] = with;
        let mut reader = FrameReader::default();
        reader.push(&frame);
        while let Ok(Some(_)) = reader.next_message::<GuestMessage>() {}
    }
}

#[test]
fn the_longest_error_fits_one_message() {
    let payload = vec![b'x'; crate::MAX_RESPONSE_LEN];
    let error = FunctionError { error_type: "Handled".into(), payload };
    assert!(encode(&GuestMessage::Ended(error)).is_ok());
}

#[test]
fn too_long_is_refused_by_both_sides() {
    let bytes = vec![0; crate::MAX_MESSAGE_LEN + 1];
    let chunk = GuestMessage::Body(BodyChunk { bytes, last: true });
    assert!(matches!(encode(&chunk), Err(FrameError::TooLong(_))));
    let mut reader = FrameReader::default();
    reader.push(&u32::MAX.to_le_bytes());
    assert!(matches!(reader.next_message::<GuestMessage>(), Err(FrameError::TooLong(_))));
}

#[test]
fn bytes_behind_a_message_are_refused() {
    let mut frame = encode(&HostMessage::Shutdown).unwrap();
    frame[0] += 1;
    frame.push(0);
    let mut reader = FrameReader::default();
    reader.push(&frame);
    assert!(matches!(reader.next_message::<HostMessage>(), Err(FrameError::Malformed(_))));
}
