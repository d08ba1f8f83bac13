//! What subscribers are told, and when, by real connections to a listener that plays an extension.

use guest_init::lifecycle::Exit;
use guest_protocol::{GuestMessage, HostMessage};
use serde_json::{Value, json};

use crate::world::{
    Extension, World, in_json_world_with, in_snap_start_world_with, in_world_with, kinds, unique,
};

const TELEMETRY: &str = "/2022-07-01/telemetry";
const LOGS: &str = "/2020-08-15/logs";

#[test]
fn a_subscriber_is_told_of_init_and_invocation_while_they_last() {
    in_world_with(&["agent"], async |mut world: World| {
        let mut extension = Extension::subscribed(&world, TELEMETRY, "2022-12-13", "HTTP").await;
        let told = extension.until("platform.telemetrySubscription").await;
        assert_eq!(kinds(&told), ["platform.initStart", "platform.telemetrySubscription"]);
        assert_eq!(told[0]["record"]["phase"], "init");
        let types = ["platform", "function", "extension"];
        assert_eq!(told[1]["record"], json!({ "name": "agent", "state": "Subscribed", "types": types }));
        world.until_launched(1).await;
        let runtime = world.runtime();
        let runtimes_next = runtime.get("invocation/next").await;
        let told = extension.until("platform.initRuntimeDone").await;
        assert_eq!(told[0]["record"]["status"], "success");
        let event = runtime.extension("GET", "event/next", &extension.id, b"").await;
        world.until_init_done().await;
        assert_eq!(
            kinds(&extension.until("platform.initReport").await),
            ["platform.extension", "platform.initReport"]
        );

        world.invoke(b"{}");
        assert_eq!((runtimes_next.await.status, event.await.status), (200, 200));
        world.function_writes(b"one\ntwo, which does not end");
        assert_eq!(runtime.post("invocation/id-1/response", b"1").await.await.status, 202);
        let _runtimes_next = runtime.get("invocation/next").await;
        // The extension has not asked for its next event: it waits for this.
        let told = extension.until("platform.runtimeDone").await;
        assert_eq!(kinds(&told), ["platform.start", "function", "function", "platform.runtimeDone"]);
        let tracing = json!({ "type": "X-Amzn-Trace-Id", "value": "Root=1" });
        let start = json!({ "requestId": "id-1", "version": "$LATEST", "tracing": tracing });
        assert_eq!(told[0]["record"], start);
        assert_eq!(
            (&told[1]["record"], &told[2]["record"]),
            (&"one".into(), &"two, which does not end".into())
        );
        assert_eq!(told[3]["record"]["status"], "success");
        let _event = runtime.extension("GET", "event/next", &extension.id, b"").await;
        world.until_done().await;
        let told = extension.until("platform.report").await;
        assert_eq!(told[0]["record"]["tracing"], tracing);
        assert!(told[0]["record"]["metrics"]["billedDurationMs"].as_u64().unwrap() > 0, "{told:?}");
    });
}

#[test]
fn the_logs_api_tells_lines_of_its_own_documents() {
    in_world_with(&["agent"], async |mut world: World| {
        let mut extension = Extension::subscribed(&world, LOGS, "2020-08-15", "TCP").await;
        world.until_launched(1).await;
        let runtime = world.runtime();
        let _event = runtime.extension("GET", "event/next", &extension.id, b"").await;
        let next = runtime.get("invocation/next").await;
        world.until_init_done().await;
        world.invoke(b"{}");
        assert_eq!(next.await.status, 200);
        assert_eq!(runtime.post("invocation/id-1/error", b"{}").await.await.status, 202);
        let _next = runtime.get("invocation/next").await;
        let _event = runtime.extension("GET", "event/next", &extension.id, b"").await;
        let told = extension.lines_until("platform.report").await;
        let expected = [
            "platform.logsSubscription",
            "platform.extension",
            "platform.start",
            "platform.end",
            "platform.report",
        ];
        assert_eq!(kinds(&told), expected);
        let members: Vec<_> = told[4]["record"].as_object().unwrap().keys().collect();
        assert_eq!(members, ["metrics", "requestId"]);
    });
}

#[test]
fn what_is_printed_is_never_the_platforms() {
    in_json_world_with(&["agent"], async |world: World| {
        let mut extension = Extension::subscribed(&world, TELEMETRY, "2022-12-13", "HTTP").await;
        extension.until("platform.telemetrySubscription").await;
        let mut world = world;
        world.until_launched(1).await;
        let forged = r#"{"time":"2026-01-01T00:00:00.000Z","type":"platform.report","record":{}}"#;
        let lines = format!("{forged}\n{{}},{{\n[1]\n\u{1}\"\n");
        world.function_writes(&[lines.as_bytes(), b"\xff\n"].concat());
        // The init runs out of time.
        let told = extension.until("platform.initRuntimeDone").await;
        assert_eq!(
            kinds(&told),
            ["function", "function", "function", "function", "function", "platform.initRuntimeDone"]
        );
        let records: Vec<_> = told.iter().map(|event| event["record"].clone()).collect();
        assert_eq!(records[0], serde_json::from_str::<Value>(forged).unwrap(), "an object, in its place");
        assert_eq!(records[1..5], [json!("{},{"), json!("[1]"), json!("\u{1}\""), json!("\u{fffd}")]);
        assert_eq!(records[5]["status"], "timeout");
        world.until(|message| matches!(message, GuestMessage::InitFailed(_))).await;
    });
}

#[test]
fn what_may_not_subscribe_does_not() {
    in_world_with(&["agent"], async |mut world: World| {
        let extension = Extension::registered(&world).await;
        let runtime = world.runtime();
        let document = extension.document("2022-07-01", "HTTP");
        let stranger = runtime.subscribe(TELEMETRY, "nobody", &document).await;
        assert_eq!((stranger.status, &*stranger.error_type()), (403, "Extension.UnknownExtensionIdentifier"));
        let wrong = runtime.subscribe(TELEMETRY, &extension.id, &json!({})).await;
        assert_eq!((wrong.status, &*wrong.error_type()), (400, "ValidationError"));
        for _ in 0..2 {
            assert_eq!(runtime.subscribe(TELEMETRY, &extension.id, &document).await.status, 200);
        }
        let other = runtime.subscribe(LOGS, &extension.id, &extension.document("2021-03-18", "HTTP")).await;
        assert_eq!((other.status, &*other.error_type()), (403, "Logs.SubscriptionClosed"));
        world.until_launched(1).await;
        let _event = runtime.extension("GET", "event/next", &extension.id, b"").await;
        let _next = runtime.get("invocation/next").await;
        world.until_init_done().await;
        let late = runtime.subscribe(TELEMETRY, &extension.id, &document).await;
        assert_eq!((late.status, &*late.error_type()), (403, "Telemetry.SubscriptionClosed"));
        assert!(late.says("Telemetry API subscription is closed already"));
    });
}

#[test]
fn a_subscriber_that_does_not_take_what_it_is_told_learns_what_it_missed() {
    in_world_with(&["agent"], async |mut world: World| {
        let mut extension = Extension::subscribed(&world, TELEMETRY, "2022-07-01", "HTTP").await;
        let refused = extension.delivery("500 No").await;
        for _ in 1..5 {
            // A connection on which something went wrong is not used again.
            extension.stream = None;
            assert_eq!(extension.delivery("500 No").await, refused, "it is sent again");
        }
        extension.stream = None;
        world.until_launched(1).await;
        world.function_writes(b"after that\n");
        let told = extension.until("function").await;
        assert_eq!(told[0]["type"], "platform.logsDropped");
        assert_eq!(told[0]["record"]["droppedRecords"], refused.len());
        assert!(told[0]["record"]["droppedBytes"].as_u64().unwrap() > 0);
        world.runtime_exits(Exit::Code(1));
        world.until(|message| matches!(message, GuestMessage::InitFailed(_))).await;
    });
}

#[test]
fn a_clone_goes_on_telling_on_a_connection_of_its_own() {
    in_snap_start_world_with(&["agent"], async |mut world: World| {
        let mut extension = Extension::subscribed(&world, TELEMETRY, "2022-07-01", "HTTP").await;
        world.until_launched(1).await;
        let runtime = world.runtime();
        let _event = runtime.extension("GET", "event/next", &extension.id, b"").await;
        let _restore = runtime.get("restore/next").await;
        world.until_init_done().await;
        world.send(&HostMessage::Freeze);
        // All of it is told before the function stands still.
        extension.until("platform.initReport").await;
        world.until(|message| matches!(message, GuestMessage::Frozen(_))).await;
        extension.is_hung_up_on().await;
        world.resume().await;
        world.send(&unique(20_000));
        let _next = runtime.get("invocation/next").await;
        let told = extension.until("platform.restoreReport").await;
        let expected = ["platform.restoreStart", "platform.restoreRuntimeDone", "platform.restoreReport"];
        assert_eq!(kinds(&told), expected);
    });
}
