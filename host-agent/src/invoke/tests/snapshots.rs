//! Snapshots: made, resumed, lost and made again, with a `vmm` and a guest that fail at each step.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use super::{
    fake::FETCHED_FIRST,
    harness::{self, Node, version, within},
    *,
};
use crate::chunks::tests::pack_of;
use crate::functions::model::{SNAPSHOT_LATEST, SNAPSHOT_SETTING};

#[tokio::test]
async fn a_prepared_version_is_cloned() {
    let node = node("");
    node.prepare(version("f")).await.unwrap();
    assert_eq!(node.snapshots().await, 1);
    node.population(0).await;
    let answer = node.invoke_version(version("f"), "\"how\"").await.unwrap();
    assert_eq!((&answer.payload[..], answer.executed_version.as_str()), (&b"\"cloned\""[..], "1"));
    assert_eq!(&answer.log_tail.unwrap()[..], b"restored\n");
    let Timing { place, boot, load, unique, hooks, init, run, .. } = answer.timing;
    assert!([place, load, unique, hooks, run].iter().all(Option::is_some), "{:?}", answer.timing);
    assert_eq!((boot, init), (None, None));
    let warm = node.invoke_version(version("f"), "1").await.unwrap();
    assert_eq!((warm.timing.load, warm.timing.boot), (None, None));
}

#[tokio::test]
async fn what_the_first_clone_waited_for_the_next_ones_have() {
    let node = node("");
    node.prepare(version("f")).await.unwrap();
    let first = |node: &harness::Node| std::fs::read_to_string(node.dir.path().join(FETCHED_FIRST)).unwrap();
    // That of the rehearsal.
    assert_eq!(first(&node), "[], learning");
    assert_eq!(node.how(version("f")).await, "cloned");
    assert_eq!(first(&node), "[0, 3, 7], learning");
    // It outlives the agent.
    let node = node.restarted().await;
    assert_eq!(node.how(version("f")).await, "cloned");
    assert_eq!(first(&node), "[0, 3, 7], knowing");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clones_at_once_are_different_sandboxes() {
    let node = Arc::new(node_with("", |settings| {
        (settings.limits.max_starting, settings.limits.starts_of_version) = (8, 8);
    }));
    node.prepare(version("f")).await.unwrap();
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let node = Arc::clone(&node);
        calls.spawn(async move { node.invoke_version(version("f"), "\"hold\"").await.unwrap() });
    }
    node.population(8).await;
    let _gate = node.open_gate();
    let mut pids = HashSet::new();
    while let Some(answer) = within(calls.join_next()).await {
        pids.insert(number(&answer.unwrap()));
    }
    assert_eq!(pids.len(), 8);
}

#[tokio::test]
async fn a_snapshot_is_made_once_and_kept_over_a_restart() {
    let node = node("");
    let (first, second) = tokio::join!(node.prepare(version("f")), node.prepare(version("f")));
    first.unwrap();
    second.unwrap();
    assert_eq!(node.snapshots().await, 1);
    // A guest could not be booted any more: what answers is what was made before.
    let node = node.restarted().await;
    node.prepare(version("f")).await.unwrap();
    assert_eq!(node.how(version("f")).await, "cloned");
    node.invoker.keep(HashSet::from([version("f").deployment_id]));
    assert_eq!(node.snapshots().await, 1);
    node.invoker.keep(HashSet::new());
    assert_eq!(node.snapshots().await, 0);
}

#[tokio::test]
async fn a_lost_machine_is_tried_again_and_then_given_up() {
    for step in ["die at start", "die in init", "die in freeze", "die in pause", "die in snapshot"] {
        let lucky = node(&format!("once: {step}"));
        lucky.prepare(version("f")).await.unwrap_or_else(|error| panic!("{step}: {error}"));
        assert_eq!(lucky.snapshots().await, 1);
        lucky.population(0).await;

        let unlucky = node(step);
        let error = unlucky.prepare(version("f")).await.unwrap_err();
        assert!(matches!(error, PrepareError::Node(_)) && error.code() == "InternalError", "{step}: {error}");
        assert_eq!(unlucky.snapshots().await, 0, "{step}");
        unlucky.population(0).await;
        unlucky.behave("");
        unlucky.prepare(version("f")).await.unwrap();
        assert_eq!(unlucky.how(version("f")).await, "cloned", "the next publish works");
    }
}

#[tokio::test]
async fn what_cannot_be_snapshotted_says_why() {
    let node_of = |mode| node(mode);
    let error = node_of("fail init").prepare(version("f")).await.unwrap_err();
    assert_eq!(error.to_string(), "Runtime.ImportModuleError: no module");
    assert_eq!(error.code(), "FunctionError.RuntimeInitError");
    let error = node_of("late init").prepare(version("f")).await.unwrap_err();
    assert_eq!(error.to_string(), "Sandbox.Timedout: Task timed out after 130.00 seconds");
    assert_eq!(error.code(), "FunctionError.InitTimeout");
    let error = node_of("refuse snapshot").prepare(version("f")).await.unwrap_err();
    assert!(error.to_string().contains("refused snapshot: memory: no such luck"), "{error}");
}

#[tokio::test]
async fn a_clone_that_is_lost_is_replaced_by_another_and_then_by_a_boot() {
    let steps = [
        "die in load",
        "fail after load",
        "wrong generation",
        "no generation",
        "wrong version after load",
        "fail gate",
        "die in gate",
        "die in hooks",
    ];
    for step in steps {
        let node = node_with("", |settings| settings.blank_limit = 0);
        node.prepare(version("f")).await.unwrap();
        node.behave(&format!("once: {step}"));
        assert_eq!(node.how(version("f")).await, "cloned", "{step}");
        let node = node.restarted().await;
        node.behave(step);
        assert_eq!(node.how(version("f")).await, "booted", "{step}");
        assert_eq!(node.snapshots().await, 1, "it is not the snapshot's fault: {step}");
        node.population(1).await;
    }
}

#[tokio::test]
async fn a_clone_that_is_late_is_destroyed_and_the_request_served_by_another() {
    let hasty = |settings: &mut Settings| {
        settings.restore_timeout = Duration::from_millis(300);
        settings.blank_limit = 0;
    };
    for step in ["hang after load", "hang in gate"] {
        let node = node_with("", hasty);
        node.prepare(version("f")).await.unwrap();
        node.behave(step);
        assert_eq!(node.how(version("f")).await, "booted", "{step}");
        node.population(1).await;
    }
}

#[tokio::test]
async fn hooks_that_fail_or_are_late_are_the_callers_error() {
    let node = node_with("", |settings| settings.blank_limit = 0);
    node.prepare(version("f")).await.unwrap();
    node.behave("fail hooks");
    let failed = node.invoke_version(version("f"), "1").await.unwrap_err();
    assert!(matches!(&failed, InvokeError::Restore(problem) if problem == "ValueError: hook"), "{failed}");
    node.behave("late hooks");
    let late = node.invoke_version(version("f"), "1").await.unwrap_err();
    assert!(matches!(late, InvokeError::RestoreTimeout), "{late}");
    node.population(0).await;
}

#[tokio::test]
async fn a_snapshot_that_the_vmm_does_not_take_is_made_again_while_a_boot_serves() {
    let node = node_with("", |settings| settings.blank_limit = 0);
    node.prepare(version("f")).await.unwrap();
    node.behave("once: refuse load");
    assert_eq!(node.how(version("f")).await, "booted");
    // Whoever asks while it is being made waits for it.
    node.prepare(version("f")).await.unwrap();
    assert_eq!(node.snapshots().await, 1);
    node.invoker.shared.retire(&version("g").id, Retired::Function);
    let node = node.restarted().await;
    assert_eq!(node.how(version("f")).await, "cloned");
}

#[tokio::test]
async fn a_snapshot_whose_contents_are_gone_is_made_again() {
    let node = node("");
    node.prepare(version("f")).await.unwrap();
    let labels = node.chunks().labels().unwrap();
    let memory = labels.iter().find(|label| label.as_str().ends_with("-memory")).unwrap();
    let roots = node.dir.path().join("state/chunks/origin/roots");
    std::fs::remove_file(roots.join(memory.as_str())).unwrap();
    let node = node.restarted().await;
    assert_eq!(node.how(version("f")).await, "booted");
    node.prepare(version("f")).await.unwrap();
    let node = node.restarted().await;
    assert_eq!(node.how(version("f")).await, "cloned");
}

#[tokio::test]
async fn a_new_identity_is_made_while_the_old_one_serves() {
    let node = node("");
    node.prepare(version("f")).await.unwrap();
    std::fs::write(node.dir.path().join("lib/guest/vmlinux"), "a new kernel").unwrap();
    let node = node.restarted().await;
    assert_eq!(node.how(version("f")).await, "cloned", "the old one serves");
    let before = std::fs::read_dir(node.dir.path().join("state/snapshots")).unwrap().next().unwrap().unwrap();
    node.prepare(version("f")).await.unwrap();
    assert!(!before.path().exists());
    assert_eq!(node.snapshots().await, 1);
}

/// A node with a snapshot whose runtime has another image now; where the snapshot's own one is kept.
async fn with_another_image() -> (Node, PathBuf) {
    let node = node("");
    node.prepare(version("f")).await.unwrap();
    pack_of("other blocks", &node.dir.path().join("lib").join(PYTHON));
    let labels = node.chunks().labels().unwrap();
    let kept: Vec<_> = labels.iter().filter(|label| label.as_str().starts_with("runtime-")).collect();
    assert_eq!(kept.len(), 1);
    let root = node.dir.path().join("state/chunks/origin/roots").join(kept[0].as_str());
    (node.restarted().await, root)
}

#[tokio::test]
async fn a_snapshot_is_resumed_with_the_image_that_it_was_made_with() {
    let (node, copy) = with_another_image().await;
    let clone = node.invoke_version(version("f"), "\"root\"").await.unwrap();
    let its_own = format!("\"{PYTHON}\"");
    assert_eq!((clone.timing.way, &clone.payload[..]), (Some("snapshot"), its_own.as_bytes()));
    node.prepare(version("f")).await.unwrap();
    let node = node.restarted().await;
    assert!(!copy.exists(), "nothing needs it any more");
    let clone = node.invoke_version(version("f"), "\"root\"").await.unwrap();
    assert_eq!((clone.timing.way, &clone.payload[..]), (Some("snapshot"), &b"\"other blocks\""[..]));
}

#[tokio::test]
async fn a_snapshot_is_not_resumed_with_another_image() {
    let damage: [fn(&Path); 2] =
        [|copy| std::fs::remove_file(copy).unwrap(), |copy| std::fs::write(copy, "changed blocks").unwrap()];
    for damage in damage {
        let (node, copy) = with_another_image().await;
        damage(&copy);
        assert_eq!(node.how(version("f")).await, "booted", "its guest remembers blocks that are no more");
        node.prepare(version("f")).await.unwrap();
        let node = node.restarted().await;
        assert_eq!(node.how(version("f")).await, "cloned");
    }
}

#[tokio::test]
async fn a_deleted_version_takes_its_snapshot_with_it_even_one_that_is_being_made() {
    let node = Arc::new(node(""));
    node.prepare(version("f")).await.unwrap();
    node.invoker.retire(&version("f").id, Retired::Version("1"));
    assert_eq!(node.snapshots().await, 0);

    let making = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.prepare(version("g")).await }
    });
    node.population(1).await;
    node.invoker.retire(&version("g").id, Retired::Function);
    let error = within(making).await.unwrap().unwrap_err();
    assert!(matches!(error, PrepareError::Superseded), "{error}");
    assert_eq!(node.snapshots().await, 0);
}

#[tokio::test]
async fn clones_that_run_go_on_when_their_snapshot_is_deleted() {
    let node = Arc::new(node(""));
    node.prepare(version("f")).await.unwrap();
    let held = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.invoke_version(version("f"), "\"hold\"").await }
    });
    let gate = node.dir.path().join(super::fake::GATE);
    // Opening a pipe for writing waits for its reader: the clone that has the event.
    let opened = tokio::task::spawn_blocking(move || File::options().write(true).open(gate).unwrap());
    let _gate = within(opened).await.unwrap();
    node.invoker.retire(&version("f").id, Retired::Version("1"));
    number(&within(held).await.unwrap().unwrap());
    node.population(0).await;
}

#[tokio::test]
async fn latest_is_cloned_as_soon_as_it_can_be() {
    let node = node("");
    let setting = (SNAPSHOT_SETTING.to_owned(), SNAPSHOT_LATEST.to_owned());
    let tagged = FunctionConfig { tags: [setting.clone()].into(), ..function("f") };
    let configured = FunctionConfig { environment: Some([setting].into()), ..function("g") };
    for latest in [tagged, configured] {
        assert_eq!(node.how(latest.clone()).await, "booted");
        node.prepare(latest.clone()).await.unwrap();
        node.invoker.retire(&latest.id, Retired::Version("$LATEST"));
        node.population(0).await;
        node.prepare(latest.clone()).await.unwrap();
        assert_eq!(node.how(latest.clone()).await, "cloned");
        node.invoker.retire(&latest.id, Retired::Deployment(&latest.deployment_id));
        assert_eq!(node.snapshots().await, 0);
        node.population(0).await;
    }
}

#[tokio::test]
async fn a_snapshot_waits_for_room() {
    let node =
        Arc::new(node_with("", |settings| settings.limits.memory_mib = machine::charge_mib(MEMORY_MIB)));
    let held = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.invoke("\"hold\"").await }
    });
    node.population(1).await;
    let making = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.prepare(version("f")).await }
    });
    tokio::task::yield_now().await;
    assert!(!making.is_finished());
    let _gate = node.open_gate();
    within(held).await.unwrap().unwrap();
    within(making).await.unwrap().unwrap();
}

#[tokio::test]
async fn blanks_wait_and_are_used() {
    let node = node("");
    node.prepare(version("f")).await.unwrap();
    node.blanks(1).await;
    // A process that starts now would fail: the clone is made of the one that waits.
    node.behave("die in load");
    assert_eq!(node.how(version("f")).await, "cloned");
    let none = node_with("refuse prepare", |_| {});
    none.prepare(version("f")).await.unwrap();
    assert_eq!(none.how(version("f")).await, "cloned", "without one it takes longer");
}

#[tokio::test]
async fn shutdown_leaves_no_blank_and_no_half_made_snapshot() {
    let node =
        node_with("once: hang in init", |settings| settings.drain_timeout = Duration::from_millis(100));
    let hanging = node.prepare(version("f"));
    let (made, ()) = tokio::join!(hanging, async {
        node.population(1).await;
        within(node.invoker.shutdown()).await;
    });
    assert!(matches!(made, Err(PrepareError::ShuttingDown)));
    assert_eq!(node.snapshots().await, 0);
    node.blanks(0).await;
    assert!(matches!(node.prepare(version("f")).await, Err(PrepareError::ShuttingDown)));
}
