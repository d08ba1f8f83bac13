//! Properties of the framing: what is encoded is decoded, however the bytes are cut; no bytes make it panic.

use proptest::prelude::*;

use super::*;
use crate::{
    BodyChunk, CodeLayout, Credentials, Fate, FreezeReport, FunctionError, GateReport, GateStep,
    GuestMessage, HostMessage, InitializationType, InvocationReport, Invoke, LogChunk, LogFormat, LogSource,
    Outcome, ResponseHead, ResponseMode, RestoreFailure, RestoreReport, ResumeHello, Seed, ShutdownNeeds,
    ShutdownReason, Start, StepOutcome, Unique,
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
            shutdown: ShutdownNeeds::Internal,
        })
    });
    let modes = prop_oneof![Just(ResponseMode::Buffered), Just(ResponseMode::Streamed)];
    let head = (".*", ".*", modes).prop_map(|(request_id, content_type, mode)| {
        GuestMessage::Response(ResponseHead { request_id, content_type, mode })
    });
    let body =
        (bytes(), any::<bool>()).prop_map(|(bytes, last)| GuestMessage::Body(BodyChunk { bytes, last }));
    let error = prop_oneof![
        function_error().prop_map(GuestMessage::Ended),
        function_error().prop_map(GuestMessage::Failed)
    ];
    prop_oneof![log, done, head, body, error, restore_message()]
}

fn gate_steps() -> impl Strategy<Value = Vec<GateStep>> {
    let outcome =
        prop_oneof![Just(StepOutcome::Done), Just(StepOutcome::Skipped), ".*".prop_map(StepOutcome::Failed)];
    let step = (".*", any::<u64>(), outcome).prop_map(|(name, duration_us, outcome)| GateStep {
        name,
        duration_us,
        outcome,
    });
    proptest::collection::vec(step, 0..5)
}

fn restore_message() -> impl Strategy<Value = GuestMessage> {
    let report =
        || (gate_steps(), any::<u64>()).prop_map(|(steps, duration_us)| GateReport { steps, duration_us });
    let resumed = (any::<u32>(), any::<Option<u64>>()).prop_map(|(protocol_version, generation_counter)| {
        GuestMessage::Resumed(ResumeHello { protocol_version, generation_counter })
    });
    let failed =
        (function_error(), any::<bool>(), any::<u64>()).prop_map(|(error, timed_out, duration_us)| {
            GuestMessage::RestoreFailed(RestoreFailure { error, timed_out, duration_us })
        });
    prop_oneof![
        gate_steps().prop_map(|steps| GuestMessage::Frozen(FreezeReport { steps })),
        resumed,
        report().prop_map(GuestMessage::Unique),
        report().prop_map(GuestMessage::GateFailed),
        any::<u64>().prop_map(|duration_us| GuestMessage::RestoreDone(RestoreReport {
            duration_us,
            shutdown: ShutdownNeeds::External
        })),
        failed,
    ]
}

fn credentials() -> impl Strategy<Value = Credentials> {
    (".*", ".*", ".*", ".*").prop_map(|(access_key_id, secret_access_key, session_token, expiration)| {
        Credentials { access_key_id, secret_access_key, session_token, expiration }
    })
}

fn make_unique() -> impl Strategy<Value = HostMessage> {
    let credentials = proptest::option::of(credentials());
    (any::<[u8; 32]>(), any::<[u8; 16]>(), any::<u64>(), ".*", credentials).prop_map(
        |(seed, id, number, name, credentials)| {
            let mut entropy = [0; crate::SEED_LEN];
            entropy[..32].copy_from_slice(&seed);
            HostMessage::MakeUnique(Unique {
                entropy: Seed::new(entropy),
                wall_clock_unix_ns: number,
                generation: id,
                generation_counter: number,
                instance_id: name.clone(),
                hostname: name,
                machine_id: id,
                boot_id: id,
                credentials,
                elapsed_us: number,
                hook_timeout_ms: 1,
                restore_timeout_ms: 2,
            })
        },
    )
}

fn host_message() -> impl Strategy<Value = HostMessage> {
    let start = (".*", proptest::collection::vec((".*", ".*"), 0..5), any::<[u8; 32]>()).prop_map(
        |(name, environment, entropy)| {
            HostMessage::Start(Start {
                function_name: name.clone(),
                account_id: "000000000000".into(),
                function_version: "$LATEST".into(),
                runtime: "python3.13".into(),
                runtime_version: "0123".into(),
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
                credentials: None,
                initialization_type: InitializationType::SnapStart,
                code: CodeLayout::Alone,
                container: None,
                log_format: LogFormat::Text,
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
            response_mode: if n % 2 == 0 { ResponseMode::Buffered } else { ResponseMode::Streamed },
        })
    });
    prop_oneof![
        start,
        invoke,
        Just(HostMessage::Shutdown(ShutdownReason::Timeout)),
        Just(HostMessage::Freeze),
        make_unique()
    ]
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
    let mut frame = encode(&HostMessage::Shutdown(ShutdownReason::Spindown)).unwrap();
    frame[0] += 1;
    frame.push(0);
    let mut reader = FrameReader::default();
    reader.push(&frame);
    assert!(matches!(reader.next_message::<HostMessage>(), Err(FrameError::Malformed(_))));
}
