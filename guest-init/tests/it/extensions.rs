//! Extensions: what they hold up, what they are told, and how they end.

use std::time::{Duration, Instant};

use guest_init::lifecycle::Exit;
use guest_protocol::{Fate, GuestMessage, HostMessage, Outcome, ShutdownNeeds, ShutdownReason};
use serde_json::json;

use crate::world::{Pending, Reply, Runtime, World, in_world, in_world_with};

const BOTH: &[u8] = br#"{"events":["INVOKE","SHUTDOWN"]}"#;

async fn register(runtime: &Runtime, name: &str, body: &[u8]) -> Reply {
    runtime.extension("POST", "register", name, body).await.await
}

async fn next(runtime: &Runtime, id: &str) -> Pending {
    runtime.extension("GET", "event/next", id, b"").await
}

/// A world whose only extension waits for its first event, as does the runtime.
async fn ready(world: &mut World) -> (Runtime, String, Pending, Pending) {
    let runtime = world.runtime();
    let registered = register(&runtime, "agent", BOTH).await;
    let id = registered.header("lambda-extension-identifier").to_owned();
    world.until_launched(1).await;
    let (event, next) = (next(&runtime, &id).await, runtime.get("invocation/next").await);
    let needs = world.collect(|message| match message {
        GuestMessage::InitDone(report) => Some(report.shutdown),
        _ => None,
    });
    let (needs, seen) = needs.await;
    assert_eq!(needs, ShutdownNeeds::External);
    assert!(seen.log.contains("EXTENSION\tName: agent\tState: Ready\tEvents: [INVOKE, SHUTDOWN]\n"));
    (runtime, id, event, next)
}

#[test]
fn an_extension_precedes_the_runtime_and_an_invocation_lasts_until_it_is_done() {
    in_world_with(&["agent"], async |mut world: World| {
        let runtime = world.runtime();
        let stranger = register(&runtime, "agent", br#"{"events":["SLEEP"]}"#).await;
        assert_eq!((stranger.status, &*stranger.error_type()), (403, "Extension.InvalidEventType"));
        assert_eq!(world.launches(), 0, "the runtime waits");
        let (runtime, id, event, runtimes_next) = ready(&mut world).await;
        let late = register(&runtime, "late", b"{}").await;
        assert_eq!(late.error_type(), "Extension.RegistrationClosed");

        world.invoke(b"{}");
        assert_eq!(runtimes_next.await.status, 200);
        let event = event.await;
        assert!(!event.header("lambda-extension-event-identifier").is_empty());
        let told = event.json();
        assert_eq!((&told["eventType"], &told["requestId"]), (&"INVOKE".into(), &"id-1".into()));
        assert!(told["deadlineMs"].as_u64().unwrap() > 1_700_000_000_000);

        assert_eq!(runtime.post("invocation/id-1/response", b"1").await.await.status, 202);
        let _runtimes_next = runtime.get("invocation/next").await;
        let answer = world.until(|message| matches!(message, GuestMessage::Body(body) if body.last));
        assert!(answer.await.log.contains("START RequestId"), "the answer waits for nobody");
        // Written while the runtime waits already: it belongs to the invocation.
        world.function_writes(b"flushed by the extension\n");
        let _event = next(&runtime, &id).await;
        let (report, seen) = world.until_done().await;
        assert_eq!((report.outcome, report.fate), (Outcome::Succeeded, Fate::Reusable));
        assert!(seen.log.find("flushed").unwrap() < seen.log.find("END RequestId").unwrap());
    });
}

#[test]
fn the_end_is_told_when_the_runtime_has_ended() {
    in_world_with(&["agent"], async |mut world: World| {
        let (_runtime, _, event, _next) = ready(&mut world).await;
        world.send(&HostMessage::Shutdown(ShutdownReason::Spindown));
        let told = event.await.json();
        assert_eq!((&told["eventType"], &told["shutdownReason"]), (&"SHUTDOWN".into(), &"spindown".into()));
        assert_eq!(world.ends_of_runtime(), 1);
        world.extension_exits("agent", Exit::Code(0));
        world.until(|message| matches!(message, GuestMessage::ShutDown)).await;
    });
}

#[test]
fn an_extension_that_does_not_end_has_its_time_and_no_more() {
    in_world_with(&["agent"], async |mut world: World| {
        let (_runtime, _, event, _next) = ready(&mut world).await;
        let began = Instant::now();
        world.send(&HostMessage::Shutdown(ShutdownReason::Failure));
        let told = event.await.json();
        assert_eq!(told["shutdownReason"], "failure");
        world.until(|message| matches!(message, GuestMessage::ShutDown)).await;
        assert!(began.elapsed() >= Duration::from_secs(2), "Lambda gives it two seconds");
    });
}

#[test]
fn an_extension_inside_the_runtime_ends_with_it() {
    in_world(async |mut world: World| {
        let runtime = world.runtime();
        let registered = register(&runtime, "inner", br#"{"events":["INVOKE"]}"#).await;
        assert_eq!(registered.status, 200);
        let id = registered.header("lambda-extension-identifier").to_owned();
        let (_event, _next) = (next(&runtime, &id).await, runtime.get("invocation/next").await);
        let needs = world.collect(|message| match message {
            GuestMessage::InitDone(report) => Some(report.shutdown),
            _ => None,
        });
        assert_eq!(needs.await.0, ShutdownNeeds::Internal);
        world.send(&HostMessage::Shutdown(ShutdownReason::Spindown));
        world.until(|message| matches!(message, GuestMessage::ShutDown)).await;
        assert_eq!(world.ends_of_runtime(), 1);
    });
}

#[test]
fn one_that_wants_to_hear_of_no_end_is_not_waited_for() {
    in_world_with(&["agent"], async |mut world: World| {
        let runtime = world.runtime();
        let registered = register(&runtime, "agent", br#"{"events":["INVOKE"]}"#).await;
        let id = registered.header("lambda-extension-identifier").to_owned();
        world.until_launched(1).await;
        let (mut event, _next) = (next(&runtime, &id).await, runtime.get("invocation/next").await);
        world.until_init_done().await;
        world.send(&HostMessage::Shutdown(ShutdownReason::Spindown));
        world.until(|message| matches!(message, GuestMessage::ShutDown)).await;
        let waits = std::future::poll_fn(|context| {
            std::task::Poll::Ready(std::pin::Pin::new(&mut event).poll(context).is_pending())
        });
        assert!(waits.await, "it is told nothing");
    });
}

#[test]
fn an_extension_that_crashes_is_the_functions_failure() {
    in_world_with(&["agent"], async |mut world: World| {
        let (_runtime, _, event, runtimes_next) = ready(&mut world).await;
        world.invoke(b"{}");
        assert_eq!((runtimes_next.await.status, event.await.status), (200, 200));
        world.extension_exits("agent", Exit::Code(3));
        let (report, _) = world.until_done().await;
        let Outcome::Failed(error) = report.outcome else { panic!() };
        assert_eq!((&*error.error_type, report.fate), ("Extension.Crash", Fate::Ended));
        assert!(String::from_utf8_lossy(&error.payload).contains("agent exited with error: exit status 3"));
    });
}

#[test]
fn an_extension_may_fail_the_init() {
    in_world_with(&["agent"], async |mut world: World| {
        let runtime = world.runtime();
        let registered = register(&runtime, "agent", BOTH).await;
        let id = registered.header("lambda-extension-identifier").to_owned();
        let failed =
            runtime.extension("POST", "init/error", &id, br#"{"errorMessage":"no key"}"#).await.await;
        assert_eq!(failed.status, 202);
        let failure = world.collect(|message| match message {
            GuestMessage::InitFailed(failure) => Some(failure.clone()),
            _ => None,
        });
        let failure = failure.await.0;
        assert_eq!(failure.error.error_type, "Extension.InitError");
        assert!(String::from_utf8_lossy(&failure.error.payload).contains("no key"));
        // It ends, and is started anew with the repeated init.
        world.extension_exits("agent", Exit::Code(0));
        world.invoke(b"{}");
        while register(&runtime, "agent", BOTH).await.status != 200 {}
        world.until_launched(2).await;
    });
}

#[test]
fn extensions_are_told_of_a_failed_init_before_it_is_repeated() {
    in_world_with(&["agent"], async |mut world: World| {
        let runtime = world.runtime();
        let id = register(&runtime, "agent", BOTH).await.header("lambda-extension-identifier").to_owned();
        world.until_launched(1).await;
        let event = next(&runtime, &id).await;
        world.runtime_exits(Exit::Code(1));
        world.until(|message| matches!(message, GuestMessage::InitFailed(_))).await;
        world.invoke(b"{}");
        let told = event.await.json();
        assert_eq!((&told["eventType"], &told["shutdownReason"]), (&"SHUTDOWN".into(), &"failure".into()));
        assert_eq!(world.launches(), 1, "the repeated init waits");
        world.extension_exits("agent", Exit::Code(0));
        while register(&runtime, "agent", BOTH).await.status != 200 {}
        world.until_launched(2).await;
    });
}

#[test]
fn a_repeated_init_starts_extensions_anew() {
    in_world_with(&["agent"], async |mut world: World| {
        let runtime = world.runtime();
        assert_eq!(register(&runtime, "agent", BOTH).await.status, 200);
        world.until_launched(1).await;
        assert_eq!(register(&runtime, "agent", BOTH).await.error_type(), "Extension.AlreadyRegistered");
        world.runtime_exits(Exit::Code(1));
        world.until(|message| matches!(message, GuestMessage::InitFailed(_))).await;
        world.invoke(b"{}");
        // Refused until the first one is forgotten.
        while register(&runtime, "agent", BOTH).await.status != 200 {}
        world.until_launched(2).await;
        assert_eq!(world.kills(), 1);
    });
}

#[test]
fn an_extension_is_told_of_its_function_and_of_the_account_if_it_asks() {
    in_world_with(&["agent", "other"], async |world: World| {
        let runtime = world.runtime();
        let told = register(&runtime, "agent", BOTH).await.json();
        let function = json!({ "functionName": "f", "functionVersion": "$LATEST", "handler": "app.handler" });
        assert_eq!(told, function);
        let told = runtime.register_with("other", "accountId", BOTH).await.json();
        assert_eq!(told["accountId"], "000000000000");
        assert_eq!(
            (&told["functionName"], &told["handler"]),
            (&function["functionName"], &function["handler"])
        );
    });
}

#[test]
fn an_internal_one_registers_from_the_runtime() {
    in_world(async |mut world: World| {
        let runtime = world.runtime();
        assert_eq!(register(&runtime, "inner", BOTH).await.error_type(), "Extension.InvalidEventType");
        let registered = register(&runtime, "inner", br#"{"events":["INVOKE"]}"#).await;
        assert_eq!((registered.status, &registered.json()["functionName"]), (200, &"f".into()));
        let id = registered.header("lambda-extension-identifier").to_owned();
        let _next = runtime.get("invocation/next").await;
        let event = next(&runtime, &id).await;
        world.until_init_done().await;
        world.invoke(b"{}");
        assert_eq!(event.await.json()["eventType"], "INVOKE");
        assert_eq!(next(&runtime, "nobody").await.await.error_type(), "Extension.UnknownExtensionIdentifier");
    });
}
