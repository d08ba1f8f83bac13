//! The sandbox without a guest: a real HTTP client plays the runtime, this test plays the agent, and a launcher without
//! processes stands in for the kernel. What is real: the Runtime API's server, the frames, the state machine, the pipe.

use std::time::Duration;

use guest_init::lifecycle::Exit;
use guest_protocol::{
    BodyChunk, Fate, GuestMessage, Invoke, MAX_CHUNK_LEN, MAX_RESPONSE_LEN, Outcome, ResponseMode,
};

use crate::world::{Runtime, World, in_world};

#[test]
fn an_invocation_goes_there_and_back() {
    in_world(async |mut world: World| {
        let runtime = world.runtime();
        let next = runtime.get("invocation/next").await;
        world.until_init_done().await;
        world.invoke_with(b"{\"n\":1}", |invoke| Invoke {
            client_context: Some("{\"a\":\n1}".into()),
            ..invoke
        });
        let next = next.await;
        assert_eq!((next.status, &next.body[..]), (200, &b"{\"n\":1}"[..]));
        assert_eq!(next.header("lambda-runtime-aws-request-id"), "id-1");
        assert_eq!(next.header("lambda-runtime-invoked-function-arn"), "arn:f");
        assert_eq!(next.header("lambda-runtime-trace-id"), "Root=1");
        assert_eq!(next.header("lambda-runtime-client-context"), "{\"a\": 1}");
        assert!(next.header("lambda-runtime-deadline-ms").parse::<u64>().unwrap() > 1_700_000_000_000);

        world.function_writes(b"printed\n");
        let answer = runtime.post("invocation/id-1/response", &[7; 300_000]).await.await;
        assert_eq!((answer.status, &answer.body[..]), (202, &b"{\"status\":\"OK\"}"[..]));
        let _next = runtime.get("invocation/next").await;
        let (report, seen) = world.until_done().await;
        assert_eq!((report.outcome, report.fate), (Outcome::Succeeded, Fate::Reusable));
        assert_eq!(seen.response, vec![7; 300_000]);
        let at = |text: &str| seen.log.find(text).unwrap_or_else(|| panic!("{text:?} in {:?}", seen.log));
        assert!(at("START RequestId: id-1 Version: $LATEST\n") < at("printed\n"));
        assert!(at("printed\n") < at("END RequestId: id-1\nREPORT RequestId: id-1\tDuration: "));
    });
}

#[test]
fn calls_in_the_wrong_state_are_refused_and_change_nothing() {
    in_world(async |mut world: World| {
        let runtime = world.runtime();
        let early = runtime.post("invocation/id-1/response", b"1").await.await;
        assert_eq!((early.status, early.error_type().as_str()), (403, "InvalidStateTransition"));
        let next = runtime.get("invocation/next").await;
        world.until_init_done().await;
        let late = runtime.post("init/error", b"{}").await.await;
        assert_eq!((late.status, late.error_type().as_str()), (403, "InvalidStateTransition"));
        world.invoke(b"{}");
        assert_eq!(next.await.status, 200);
        let other = runtime.post("invocation/id-2/response", b"1").await.await;
        assert_eq!((other.status, other.error_type().as_str()), (400, "InvalidRequestID"));
        let again = runtime.get("invocation/next").await.await;
        assert_eq!(again.status, 403);
        for path in ["restore/next", "invocation/id-1/what", "x"] {
            assert_eq!(runtime.get(path).await.await.status, 404, "{path}");
        }
        assert_eq!(runtime.post("invocation/id-1/response", b"ok").await.await.status, 202);
        assert_eq!(runtime.post("invocation/id-1/response", b"ok").await.await.status, 403);
        let _next = runtime.get("invocation/next").await;
        assert_eq!(world.until_done().await.1.response, b"ok");
    });
}

#[test]
fn a_response_beyond_the_limit_is_413_and_the_functions_failure() {
    in_world(async |mut world: World| {
        let runtime = world.running().await;
        let body = vec![b'x'; MAX_RESPONSE_LEN + 1];
        let answer = runtime.post("invocation/id-1/response", &body).await.await;
        assert_eq!((answer.status, answer.error_type().as_str()), (413, "RequestEntityTooLarge"));
        let _next = runtime.get("invocation/next").await;
        let Outcome::Failed(error) = world.until_done().await.0.outcome else { panic!() };
        assert_eq!(error.error_type, "Function.ResponseSizeTooLarge");
    });
}

#[test]
fn a_response_at_the_limit_arrives_whole() {
    in_world(async |mut world: World| {
        let runtime = world.running().await;
        let body = vec![b'x'; MAX_RESPONSE_LEN];
        assert_eq!(runtime.post("invocation/id-1/response", &body).await.await.status, 202);
        let _next = runtime.get("invocation/next").await;
        assert_eq!(world.until_done().await.1.response.len(), MAX_RESPONSE_LEN);
    });
}

#[test]
fn a_handlers_error_is_passed_on_as_it_is() {
    in_world(async |mut world: World| {
        let runtime = world.running().await;
        let document = br#"{"errorMessage":"boom","errorType":"ValueError","stackTrace":[]}"#;
        assert_eq!(runtime.post("invocation/id-1/error", document).await.await.status, 202);
        let _next = runtime.get("invocation/next").await;
        let Outcome::Failed(error) = world.until_done().await.0.outcome else { panic!() };
        assert_eq!((&*error.error_type, &error.payload[..]), ("Function.Test", &document[..]));
    });
}

#[test]
fn a_streamed_response_is_put_together_where_nobody_wants_it_streamed() {
    in_world(async |mut world: World| {
        let runtime = world.running().await;
        let mut stream = runtime.stream().await;
        stream.chunk(b"one, ").await;
        stream.chunk(b"two").await;
        let answer = stream.end("").await;
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
        let _next = runtime.get("invocation/next").await;
        let (report, seen) = world.until_done().await;
        assert_eq!((report.outcome, &seen.response[..]), (Outcome::Succeeded, &b"one, two"[..]));
    });
}

#[test]
fn a_response_is_sent_as_it_comes_where_that_is_wanted() {
    in_world(async |mut world: World| {
        let runtime = world.streaming().await;
        let mut stream = runtime.stream().await;
        let head = world.collect(|message| match message {
            GuestMessage::Response(head) => Some(head.clone()),
            _ => None,
        });
        let (head, _) = head.await;
        assert_eq!((head.mode, head.content_type.as_str()), (ResponseMode::Streamed, "text/x-stream"));
        for piece in [&b"one"[..], &[b'x'; 2 * MAX_CHUNK_LEN + 1], b"three"] {
            stream.chunk(piece).await;
            let mut came = Vec::new();
            while came.len() < piece.len() {
                let next = world.collect(|message| match message {
                    GuestMessage::Body(BodyChunk { bytes, last: false }) => Some(bytes.clone()),
                    _ => None,
                });
                came.extend(next.await.0);
            }
            assert!(came == piece, "before the runtime says more");
        }
        // Another answer would be one within this.
        let second = runtime.post("invocation/id-1/response", b"ok").await.await;
        assert_eq!(second.status, 403);
        let answer = stream.end("").await;
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
        let _next = runtime.get("invocation/next").await;
        assert_eq!(world.until_done().await.0.outcome, Outcome::Succeeded);
    });
}

#[test]
fn a_runtime_that_does_not_stream_answers_as_ever() {
    in_world(async |mut world: World| {
        let runtime = world.streaming().await;
        assert_eq!(runtime.post("invocation/id-1/response", b"whole").await.await.status, 202);
        let _next = runtime.get("invocation/next").await;
        let (report, seen) = world.until_done().await;
        assert_eq!((report.outcome, &seen.response[..]), (Outcome::Succeeded, &b"whole"[..]));
    });
}

#[test]
fn a_streamed_response_that_breaks_off_is_the_functions_failure() {
    in_world(async |mut world: World| {
        let runtime = world.streaming().await;
        let mut stream = runtime.stream().await;
        stream.chunk(b"half").await;
        world.until(|message| matches!(message, GuestMessage::Body(_))).await;
        drop(stream);
        // Until then no answer is taken, for one has begun; from then on none is, for one was given.
        while !runtime.post("invocation/id-1/error", b"{}").await.await.says("ResponseSent") {}
        let _next = runtime.get("invocation/next").await;
        let Outcome::Failed(error) = world.until_done().await.0.outcome else { panic!() };
        assert_eq!(error.error_type, "Runtime.TruncatedResponse");
    });
}

#[test]
fn an_error_behind_a_streamed_response_is_the_functions_failure() {
    // The document is `{"errorMessage":"midway"}`.
    let body = "lambda-runtime-function-error-body: eyJlcnJvck1lc3NhZ2UiOiJtaWR3YXkifQ==\r\n";
    let unknown = r#"{"errorMessage":"The response ended with an error.","errorType":"Function.Late"}"#;
    for (body, document) in [(body, r#"{"errorMessage":"midway"}"#), ("", unknown)] {
        let check = async |mut world: World, runtime: Runtime| {
            let trailers = format!("lambda-runtime-function-error-type: Function.Late\r\n{body}");
            let mut stream = runtime.stream().await;
            stream.chunk(b"half of ").await;
            let answer = stream.end(&trailers).await;
            assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
            let _next = runtime.get("invocation/next").await;
            let Outcome::Failed(error) = world.until_done().await.0.outcome else { panic!() };
            assert_eq!((&*error.error_type, &*error.payload), ("Function.Late", document.as_bytes()));
        };
        in_world(async |mut world: World| {
            let runtime = world.running().await;
            check(world, runtime).await;
        });
        in_world(async |mut world: World| {
            let runtime = world.streaming().await;
            check(world, runtime).await;
        });
    }
}

#[test]
fn an_exit_is_reported_with_the_request() {
    in_world(async |mut world: World| {
        let _runtime = world.running().await;
        world.function_writes(b"last words");
        world.runtime_exits(Exit::Code(1));
        let (report, seen) = world.until_done().await;
        let Outcome::Exited(error) = report.outcome else { panic!() };
        let message = "RequestId: id-1 Error: Runtime exited with error: exit status 1";
        assert_eq!(error, guest_protocol::FunctionError::new("Runtime.ExitError", message));
        assert!(seen.log.contains("last words") && seen.log.contains("\tStatus: error\t"), "{}", seen.log);
    });
}

#[test]
fn a_runtime_that_closed_its_output_gets_no_other_invocation() {
    in_world(async |mut world: World| {
        let runtime = world.running().await;
        world.function_writes(b"last words");
        world.function_closes_output();
        assert_eq!(runtime.post("invocation/id-1/response", b"ok").await.await.status, 202);
        let _next = runtime.get("invocation/next").await;
        let (report, seen) = world.until_done().await;
        assert_eq!((report.outcome, report.fate), (Outcome::Succeeded, Fate::Ended));
        assert_eq!(seen.response, b"ok");
        assert!(seen.log.contains("last words"), "{}", seen.log);
    });
}

#[test]
fn a_runtime_that_never_had_an_output_is_reused() {
    in_world(async |mut world: World| {
        let runtime = world.runtime();
        world.function_closes_output();
        let next = runtime.get("invocation/next").await;
        world.until_init_done().await;
        world.invoke(b"{}");
        assert_eq!(next.await.status, 200);
        assert_eq!(runtime.post("invocation/id-1/response", b"ok").await.await.status, 202);
        let _next = runtime.get("invocation/next").await;
        assert_eq!(world.until_done().await.0.fate, Fate::Reusable);
    });
}

#[test]
fn a_timeout_kills_and_says_so() {
    in_world(async |mut world: World| {
        let runtime = world.runtime();
        let next = runtime.get("invocation/next").await;
        world.until_init_done().await;
        world.invoke_with(b"{}", |invoke| Invoke { timeout_ms: 30, ..invoke });
        assert_eq!(next.await.status, 200);
        let (report, seen) = world.until_done().await;
        assert_eq!((report.outcome, report.fate), (Outcome::TimedOut, Fate::Ended));
        assert!(seen.log.contains(" id-1 Task timed out after 0.03 seconds\n"), "{}", seen.log);
        assert_eq!(world.kills(), 1);
    });
}

#[test]
fn a_failed_init_is_repeated_for_the_request() {
    in_world(async |mut world: World| {
        let runtime = world.runtime();
        let document = br#"{"errorMessage":"no module","errorType":"Runtime.ImportModuleError"}"#;
        assert_eq!(runtime.post("init/error", document).await.await.status, 202);
        let failed = world.until(|message| matches!(message, GuestMessage::InitFailed(_))).await;
        assert!(
            failed.log.contains("\tPhase: init\tStatus: error\tError Type: Function.Test\n"),
            "{}",
            failed.log
        );
        world.runtime_exits(Exit::Signal(9));
        world.invoke(b"{}");
        world.until_launched(2).await;
        assert_eq!(runtime.post("init/error", document).await.await.status, 202);
        let (report, _) = world.until_done().await;
        let Outcome::Failed(error) = report.outcome else { panic!() };
        assert_eq!((&error.payload[..], report.fate), (&document[..], Fate::Ended));
    });
}

#[test]
fn a_poll_that_broke_does_not_lose_the_invocation() {
    in_world(async |mut world: World| {
        let runtime = world.runtime();
        let broken = runtime.get("invocation/next").await;
        world.until_init_done().await;
        drop(broken);
        world.invoke(b"{}");
        let next = runtime.get("invocation/next").await.await;
        assert_eq!((next.status, next.header("lambda-runtime-aws-request-id")), (200, "id-1"));
    });
}

#[test]
fn a_death_between_invocations_is_told() {
    in_world(async |mut world: World| {
        let runtime = world.runtime();
        let _next = runtime.get("invocation/next").await;
        world.until_init_done().await;
        world.runtime_exits(Exit::Code(0));
        world.until(|message| matches!(message, GuestMessage::Ended(_))).await;
    });
}

#[test]
fn a_flood_waits_for_the_agent_instead_of_filling_memory() {
    in_world(async |mut world: World| {
        let runtime = world.running().await;
        // The agent does not read: what the function manages to write is what pipes and queues hold.
        let taken = world.function_floods(Duration::from_millis(200)).await;
        assert!(taken < 8 << 20, "{taken} bytes were taken");
        // The answer is not in the flood's way, and Done comes behind all of it.
        let answer = tokio::task::spawn_local(async move {
            assert_eq!(runtime.post("invocation/id-1/response", b"ok").await.await.status, 202);
            runtime.get("invocation/next").await.await
        });
        let (report, seen) = world.until_done().await;
        assert_eq!(report.outcome, Outcome::Succeeded);
        assert_eq!(seen.log.matches('~').count(), taken);
        answer.abort();
    });
}
