//! A sandbox around a snapshot, without a guest: the test plays agent and runtime, and the machine is a book of what was
//! done to it. What a resume does to the connection, closing one end does here.

use guest_init::lifecycle::Exit;
use guest_protocol::{GuestMessage, HostMessage, RestoreFailure, StepOutcome};

use crate::world::{
    Pending, Reply, Runtime, Seen, World, in_hasty_snap_start_world, in_snap_start_world, in_world, unique,
};

/// Far more than any restore here needs.
const PATIENCE_MS: u32 = 20_000;

/// Brings a runtime that knows the protocol to its snapshot.
async fn frozen(world: &mut World) -> (Runtime, Pending, Seen) {
    let runtime = world.runtime();
    let restore = runtime.get("restore/next").await;
    let seen = world.until(|message| matches!(message, GuestMessage::InitDone(_))).await;
    world.send(&HostMessage::Freeze);
    world.until(|message| matches!(message, GuestMessage::Frozen(_))).await;
    assert_eq!(world.done_to_machine(), ["freeze", "sync"]);
    (runtime, restore, seen)
}

async fn until_failed(world: &mut World) -> (RestoreFailure, Seen) {
    world
        .collect(|message| match message {
            GuestMessage::RestoreFailed(failure) => Some(failure.clone()),
            _ => None,
        })
        .await
}

#[test]
fn a_clone_is_unique_before_its_runtime_goes_on() {
    in_snap_start_world(async |mut world: World| {
        let (runtime, restore, init) = frozen(&mut world).await;
        assert!(init.log.contains("INIT_REPORT Init Duration: "), "{}", init.log);
        world.resume().await;
        world.send(&unique(PATIENCE_MS));
        world.until(|message| matches!(message, GuestMessage::Unique(_))).await;
        let done = world.done_to_machine();
        assert_eq!(
            (done.first().map(String::as_str), done.last().map(String::as_str)),
            (Some("entropy"), Some("thaw"))
        );
        assert_eq!(restore.await.status, 200);
        let next = runtime.get("invocation/next").await;
        let seen = world.until(|message| matches!(message, GuestMessage::RestoreDone(_))).await;
        assert!(seen.log.starts_with("RESTORE_START Runtime Version: "), "{}", seen.log);
        assert!(seen.log.contains("RESTORE_REPORT Restore Duration: "), "{}", seen.log);
        world.invoke(b"{}");
        assert_eq!(next.await.status, 200);
        assert_eq!(runtime.post("invocation/id-1/response", b"1").await.await.status, 202);
        let _next = runtime.get("invocation/next").await;
        let (_, seen) = world.until_done().await;
        assert!(seen.log.contains("\tRestore Duration: "), "{}", seen.log);
        assert!(!seen.log.contains("Init Duration"), "{}", seen.log);
    });
}

/// What becomes of an init that does not end in a snapshot before its limit.
async fn until_init_is_late(world: &mut World) {
    let (failure, seen) = world
        .collect(|message| match message {
            GuestMessage::InitFailed(failure) => Some(failure.clone()),
            _ => None,
        })
        .await;
    let document = String::from_utf8_lossy(&failure.error.payload);
    assert_eq!(failure.error.error_type, "Sandbox.Timedout");
    assert!(document.contains("Task timed out after 0.50 seconds"), "{document}");
    assert!(seen.log.ends_with(" ms\tPhase: init\tStatus: timeout\n"), "{}", seen.log);
    assert_eq!(world.kills(), 1);
    let late = world.runtime().get("restore/next").await.await;
    assert_eq!((late.status, late.error_type().as_str()), (403, "InvalidStateTransition"));
    assert!(world.done_to_machine().is_empty(), "nothing is frozen that is not to be snapshotted");
}

#[test]
fn an_init_that_hangs_ends_at_its_limit() {
    in_hasty_snap_start_world(async |mut world: World| until_init_is_late(&mut world).await);
}

#[test]
fn a_hook_that_hangs_before_the_snapshot_ends_at_the_limit_of_the_init() {
    in_hasty_snap_start_world(async |mut world: World| {
        // The runtime's hooks run before it asks to be snapshotted; what they ask for is no end of the init.
        let token = world.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN").unwrap();
        assert_eq!(world.runtime().credentials(&token).await.status, 200);
        until_init_is_late(&mut world).await;
    });
}

#[test]
fn a_runtime_without_the_protocol_is_frozen_in_its_first_next() {
    in_snap_start_world(async |mut world: World| {
        let runtime = world.runtime();
        let next = runtime.get("invocation/next").await;
        world.until_init_done().await;
        world.send(&HostMessage::Freeze);
        world.until(|message| matches!(message, GuestMessage::Frozen(_))).await;
        world.resume().await;
        world.send(&unique(PATIENCE_MS));
        world.until(|message| matches!(message, GuestMessage::RestoreDone(_))).await;
        world.invoke(b"{}");
        assert_eq!(next.await.status, 200);
    });
}

#[test]
fn the_frozen_original_may_go_on_over_its_old_connection() {
    in_snap_start_world(async |mut world: World| {
        let (_runtime, restore, _) = frozen(&mut world).await;
        world.send(&unique(PATIENCE_MS));
        world.until(|message| matches!(message, GuestMessage::Unique(_))).await;
        assert_eq!(restore.await.status, 200);
    });
}

#[test]
fn a_step_that_fails_leaves_the_function_frozen() {
    in_snap_start_world(async |mut world: World| {
        let (_runtime, _restore, _) = frozen(&mut world).await;
        world.resume().await;
        world.fail("reseed");
        world.send(&unique(PATIENCE_MS));
        let (report, _) = world
            .collect(|message| match message {
                GuestMessage::GateFailed(report) => Some(report.clone()),
                _ => None,
            })
            .await;
        let last = report.steps.last().unwrap();
        assert_eq!(last.name, "reseed");
        assert_eq!(last.outcome, StepOutcome::Failed("as told".into()));
        assert!(!world.done_to_machine().contains(&"thaw".to_owned()));
    });
}

#[test]
fn a_hook_in_restore_d_that_fails_is_in_the_functions_log() {
    in_snap_start_world(async |mut world: World| {
        let (_runtime, _restore, _) = frozen(&mut world).await;
        world.resume().await;
        world.fail("hooks");
        world.send(&unique(PATIENCE_MS));
        let seen = world.until(|message| matches!(message, GuestMessage::GateFailed(_))).await;
        assert_eq!(seen.log, "RESTORE_HOOKS Status: error\tReason: list x: as told\n");
    });
}

#[test]
fn a_restore_error_is_the_end_and_told_as_it_is() {
    in_snap_start_world(async |mut world: World| {
        let (runtime, restore, _) = frozen(&mut world).await;
        world.resume().await;
        world.send(&unique(PATIENCE_MS));
        assert_eq!(restore.await.status, 200);
        let document = br#"{"errorMessage":"boom","errorType":"ValueError"}"#;
        assert_eq!(runtime.post("restore/error", document).await.await.status, 202);
        let (failure, seen) = until_failed(&mut world).await;
        assert_eq!((&failure.error.payload[..], failure.timed_out), (&document[..], false));
        assert!(seen.log.contains("\tStatus: error\tError Type: Function.Test\n"), "{}", seen.log);
        assert_eq!(world.kills(), 1);
    });
}

#[test]
fn hooks_that_do_not_end_are_ended() {
    in_snap_start_world(async |mut world: World| {
        let (_runtime, restore, _) = frozen(&mut world).await;
        world.resume().await;
        world.send(&unique(100));
        assert_eq!(restore.await.status, 200);
        let (failure, seen) = until_failed(&mut world).await;
        assert!(failure.timed_out);
        assert!(seen.log.ends_with("\tStatus: timeout\n"), "{}", seen.log);
        assert_eq!(world.kills(), 1);
    });
}

#[test]
fn a_runtime_that_dies_in_its_hooks_is_told() {
    in_snap_start_world(async |mut world: World| {
        let (_runtime, restore, _) = frozen(&mut world).await;
        world.resume().await;
        world.send(&unique(PATIENCE_MS));
        assert_eq!(restore.await.status, 200);
        world.runtime_exits(Exit::Code(3));
        let (failure, _) = until_failed(&mut world).await;
        assert_eq!(failure.error.error_type, "Runtime.ExitError");
    });
}

#[test]
fn credentials_are_behind_the_endpoint_and_replaced_by_a_resume() {
    in_snap_start_world(async |mut world: World| {
        let (runtime, _restore, _) = frozen(&mut world).await;
        assert_eq!(world.variable("AWS_ACCESS_KEY_ID"), None);
        let uri = world.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI").unwrap();
        assert!(uri.ends_with("/2021-04-23/credentials"), "{uri}");
        let token = world.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN").unwrap();
        assert_eq!(runtime.credentials("wrong").await.status, 404);
        let text = |reply: Reply| String::from_utf8(reply.body.to_vec()).unwrap();
        assert!(text(runtime.credentials(&token).await).contains("\"AccessKeyId\":\"first\""));
        world.resume().await;
        world.send(&unique(PATIENCE_MS));
        world.until(|message| matches!(message, GuestMessage::Unique(_))).await;
        assert!(text(runtime.credentials(&token).await).contains("\"AccessKeyId\":\"second\""));
    });
}

#[test]
fn a_function_that_is_not_to_be_snapshotted_has_no_restore_calls() {
    in_world(async |mut world: World| {
        let runtime = world.runtime();
        assert_eq!(runtime.get("restore/next").await.await.status, 404);
        assert_eq!(runtime.post("restore/error", b"{}").await.await.status, 404);
        let _next = runtime.get("invocation/next").await;
        world.until_init_done().await;
        assert_eq!(world.variable("AWS_LAMBDA_INITIALIZATION_TYPE").unwrap(), "on-demand");
    });
}
