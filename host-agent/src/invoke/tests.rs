//! The node's invoker against real processes that play VMM and guest (`fake`): answers, losses, limits, leftovers.

use std::{collections::HashSet, fs::File};

use tokio::task::JoinSet;

use super::{settings::Settings, *};
use crate::sandbox::machine;

mod ahead;
mod blanks;
mod deleted;
mod fake;
mod farewells;
mod harness;
mod killed;
mod launcher;
mod load;
mod payloads;
mod pins;
mod rehearsal;
mod runtimes;
mod snapshots;
mod streams;

use harness::{MEMORY_MIB, PYTHON, code, function, is_alive, node, node_with, number, within};

#[tokio::test]
async fn an_event_is_answered_and_the_sandbox_is_kept() {
    let node = node("wrong port first");
    let cold = node.answer("{\"a\": 1}").await;
    assert_eq!((&cold.payload[..], cold.function_error), (&b"{\"a\": 1}"[..], None));
    assert_eq!(cold.executed_version, "$LATEST");
    let Timing { queue, place, boot, init, run, .. } = cold.timing;
    assert!([place, boot, init, run].iter().all(Option::is_some), "{:?}", cold.timing);
    assert_eq!(queue, None, "nothing was in its way");
    let warm = node.answer("\"pid\"").await;
    assert!(warm.timing.boot.is_none() && warm.timing.init.is_none() && warm.timing.run.is_some());
    assert_eq!(node.pid().await, number(&warm));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_has_begun_to_serve_has_what_its_memory_pays_for() {
    let node = Arc::new(node(""));
    let vmm = node.dir.path().join("lib/vmm");
    let quota = |pid: i32| std::fs::read_to_string(launcher::quota_of(&vmm, pid.unsigned_abs())).unwrap();
    let pid = node.pid().await;
    let after_one = quota(pid);
    assert!(after_one.starts_with("25000 100000"), "a quarter of what pays for a processor: {after_one}");
    let holding = Arc::clone(&node);
    let held = tokio::spawn(async move { holding.invoke("\"hold\"").await });
    node.population(1).await;
    let first = Arc::clone(&node);
    let long = tokio::spawn(async move { first.invoke("\"hold\"").await });
    node.population(2).await;
    let bounded = || {
        std::fs::read_dir(vmm.parent().unwrap()).unwrap().flatten().filter(|entry| {
            let is_quota = entry.file_name().to_string_lossy().starts_with("quota-");
            is_quota && entry.metadata().unwrap().len() > 0
        })
    };
    // The second one's event is not over when its time is.
    within(async {
        while bounded().count() < 2 {
            tokio::task::yield_now().await
        }
    })
    .await;
    drop(node.open_gate());
    for call in [held, long] {
        within(call).await.unwrap().unwrap();
    }
    assert_eq!(quota(pid), after_one, "it is written for the first event alone");
}

#[tokio::test]
async fn the_longest_event_comes_back_whole() {
    let node = node("");
    let event = format!("\"{}\"", "x".repeat(guest_protocol::MAX_BODY_LEN - 2));
    assert!(node.answer(&event).await.payload == event.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_hundred_calls_with_room_for_eight_eight_are_answered_and_the_others_refused_at_once() {
    let node = Arc::new(node(""));
    let mut calls = JoinSet::new();
    for _ in 0..300 {
        let node = Arc::clone(&node);
        calls.spawn(async move { node.invoke("\"hold\"").await });
    }
    for _ in 0..292 {
        let refused = within(calls.join_next()).await.unwrap().unwrap().unwrap_err();
        assert!(matches!(refused, InvokeError::Throttled(Throttle::Concurrency)), "{refused}");
    }
    let _gate = node.open_gate();
    let mut answered = 0;
    while let Some(answer) = within(calls.join_next()).await {
        answer.unwrap().unwrap();
        answered += 1;
    }
    assert_eq!(answered, 8);
    let warm = *node.invoker.shared.population().borrow();
    assert!((1..=8).contains(&warm), "{warm} sandboxes");
    assert!(node.answer("1").await.timing.boot.is_none(), "the next call finds a warm sandbox");
}

#[tokio::test(flavor = "multi_thread")]
async fn warm_sandboxes_are_reused_last_in_first_out() {
    let node = Arc::new(node(""));
    let held: Vec<_> = (0..3)
        .map(|_| {
            let node = Arc::clone(&node);
            tokio::spawn(async move { node.invoke("\"hold\"").await })
        })
        .collect();
    node.population(3).await;
    let gate = node.open_gate();
    for call in held {
        within(call).await.unwrap().unwrap();
    }
    drop(gate);
    let first = node.pid().await;
    for _ in 0..5 {
        assert_eq!(node.pid().await, first);
    }
}

#[tokio::test]
async fn failures_of_the_function_are_answers() {
    let node = node("");
    let pid = node.pid().await;
    assert_eq!(node.error("\"error\"").await.0, "ValueError");
    assert_eq!(node.pid().await, pid, "an exception leaves the runtime as it is");
    assert_eq!(node.error("\"exit\"").await.0, "Runtime.ExitError");
    let next = node.pid().await;
    assert_ne!(next, pid, "an exit does not");
    let (kind, message) = node.error("\"time out\"").await;
    assert_eq!(kind, "Sandbox.Timedout");
    assert!(
        message.starts_with("RequestId: ") && message.ends_with(" Error: Task timed out after 1.00 seconds")
    );
    assert_ne!(node.pid().await, next);
}

#[tokio::test]
async fn a_guest_that_does_not_end_a_late_event_is_killed() {
    let node = node("");
    let pid = node.pid().await;
    let answer = node.answer("\"never\"").await;
    let log = String::from_utf8(answer.log_tail.unwrap().into()).unwrap();
    assert!(log.ends_with("Task timed out after 1.00 seconds\n"), "{log}");
    assert_eq!(answer.function_error, Some("Unhandled"));
    node.population(0).await;
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn a_sandbox_that_is_lost_with_its_event_is_an_answer_and_the_next_event_works() {
    let node = node("");
    for event in ["\"die\"", "\"garbage\"", "\"oversize\"", "\"unanswered\""] {
        let pid = node.pid().await;
        let (kind, message) = node.error(event).await;
        assert_eq!(kind, "Runtime.ExitError", "{event}");
        assert!(message.ends_with("Error: Runtime exited without providing a reason"), "{message}");
        assert_ne!(node.pid().await, pid, "{event}");
        node.population(1).await;
        assert!(!is_alive(pid), "{event}");
    }
}

#[tokio::test]
async fn a_sandbox_that_is_lost_before_its_event_is_replaced_once() {
    for what in ["die at start", "crash at start", "wrong version", "die in init", "end before the event"] {
        let lucky = node(&format!("once: {what}"));
        lucky.pid().await;
        let unlucky = node(what);
        let error = unlucky.invoke("1").await.unwrap_err();
        assert!(matches!(error, InvokeError::Node(_)), "{what}: {error}");
        assert!(error.to_string().contains("2 sandboxes were lost"), "{what}: {error}");
        unlucky.population(0).await;
    }
}

#[tokio::test]
async fn a_guest_that_hangs_is_given_up() {
    let hasty = |settings: &mut Settings| settings.boot_timeout = Duration::from_millis(300);
    let node = node_with("hang at hello", hasty);
    let error = node.invoke("1").await.unwrap_err().to_string();
    assert!(error.contains("the guest did not say hello within"), "{error}");
    node.population(0).await;

    let hasty = |settings: &mut Settings| settings.init_timeout = Duration::from_millis(1);
    let node = node_with("once: hang in init", hasty);
    node.pid().await;
}

#[tokio::test]
async fn what_the_node_lacks_is_named() {
    let error = node("refuse").invoke("1").await.unwrap_err().to_string();
    assert!(error.contains("refused configure: drives[0].id: no such luck"), "{error}");

    let node = node("");
    let lib = node.dir.path().join("lib");
    node.chunks().delete(&code()).unwrap();
    let error = node.invoke("1").await.unwrap_err();
    assert!(matches!(&error, InvokeError::InvalidCode(problem) if problem.contains("code-0")), "{error}");
    std::fs::rename(lib.join(PYTHON), lib.join("away")).unwrap();
    let node = node.restarted().await;
    let error = node.invoke("1").await.unwrap_err();
    assert!(matches!(error, InvokeError::InvalidRuntime(_)), "{error}");
    std::fs::remove_file(lib.join("vmm")).unwrap();
    node.publish_code();
    std::fs::rename(lib.join("away"), lib.join(PYTHON)).unwrap();
    let error = node.invoke("1").await.unwrap_err();
    assert!(
        matches!(&error, InvokeError::Node(problem) if problem.contains("start a vmm process")),
        "{error}"
    );
    node.population(0).await;
}

#[tokio::test]
async fn an_event_is_delivered_after_a_failed_init() {
    let node = node("fail init");
    let answer = node.answer("\"exit\"").await;
    assert_eq!(answer.function_error, Some("Unhandled"));
}

#[tokio::test]
async fn an_idle_sandbox_that_dies_is_forgotten() {
    let node = node("");
    let pid = node.pid().await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    node.population(0).await;
    assert_ne!(node.pid().await, pid);
}

#[tokio::test]
async fn an_invocation_runs_to_its_end_without_its_client() {
    let node = node("");
    let pid = node.pid().await;
    drop(node.invoker.invoke(node.invocation(function("f"), "\"hold\"")));
    let other = node.pid().await;
    assert_ne!(other, pid, "the sandbox is busy though nobody waits for it");
    let gate = node.open_gate();
    let held: HashSet<_> =
        [number(&node.answer("\"hold\"").await), number(&node.answer("\"hold\"").await)].into();
    drop(gate);
    assert!(held.is_subset(&[pid, other].into()));
    node.population(2).await;
}

#[tokio::test]
async fn an_update_ends_idle_sandboxes() {
    let node = node("");
    let pid = node.pid().await;
    let id = function("f").id;
    node.invoker.retire(&id, Retired::Deployment("d0"));
    assert_eq!(node.pid().await, pid);
    node.invoker.retire(&id, Retired::Deployment("d1"));
    node.population(0).await;
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn another_deployment_gets_another_sandbox() {
    let node = node("");
    let pid = node.pid().await;
    let updated = FunctionConfig { deployment_id: "d2".into(), ..function("f") };
    let answer = within(node.invoker.invoke(node.invocation(updated, "\"pid\""))).await.unwrap();
    assert_ne!(number(&answer), pid);
}

#[tokio::test]
async fn idle_sandboxes_of_other_functions_make_room() {
    let node = node_with("", |settings| settings.limits.memory_mib = machine::charge_mib(MEMORY_MIB));
    let pid = node.pid().await;
    let other = node.invocation(function("g"), "\"pid\"");
    let answer = within(node.invoker.invoke(other)).await.unwrap();
    assert_ne!(number(&answer), pid);
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn idle_sandboxes_expire() {
    let brief = |settings: &mut Settings| settings.limits.idle_timeout = Duration::from_millis(50);
    let node = node_with("", brief);
    let pid = node.pid().await;
    node.population(0).await;
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn the_log_tail_is_the_last_four_kilobytes() {
    let node = node("");
    let first = node.answer("1").await.log_tail.unwrap();
    assert_eq!(&first[..], b"initialised\n");
    let tail = node.answer("\"log\"").await.log_tail.unwrap();
    assert_eq!(tail.len(), 4096);
    assert!(tail.ends_with(b"099\n"));
    let unasked = Invocation { log_tail: false, ..node.invocation(function("f"), "\"log\"") };
    assert_eq!(within(node.invoker.invoke(unasked)).await.unwrap().log_tail, None);
}

#[tokio::test]
async fn a_guest_gets_one_connection() {
    let node = node("");
    assert_eq!(&node.answer("\"connect\"").await.payload[..], b"true");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_lets_events_end_and_leaves_nothing() {
    let node = Arc::new(node(""));
    let held = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.invoke("\"hold\"").await }
    });
    node.population(1).await;
    let shutdown = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.invoker.shutdown().await }
    });
    let _gate = node.open_gate();
    let pid = number(&within(held).await.unwrap().unwrap());
    within(shutdown).await.unwrap();
    assert!(!is_alive(pid));
    assert!(matches!(node.invoke("1").await, Err(InvokeError::ShuttingDown)));
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_does_not_wait_forever() {
    let hasty = |settings: &mut Settings| settings.drain_timeout = Duration::from_millis(100);
    let node = Arc::new(node_with("", hasty));
    let held = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.invoke("\"hold\"").await }
    });
    node.population(1).await;
    within(node.invoker.shutdown()).await;
    assert!(matches!(within(held).await.unwrap(), Err(InvokeError::ShuttingDown)));
    node.population(0).await;
}
