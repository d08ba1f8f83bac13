//! A version is deleted while a clone of it resumes: the call that asked for the clone is answered, and no file, process or
//! snapshot of the version is left behind.
//!
//! That a call which comes after the deletion is told that there is no such version is the API's matter (`api::tests`).

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{io::AsyncReadExt as _, net::unix::pipe};

use super::{
    fake::STOPPED,
    harness::version,
    killed::{files, undisturbed},
    *,
};

/// What becomes of the clone once its version is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    GoesOn,
    Dies,
}

/// Deletes the version while its only clone stands still at `step`; `expected` is what answers.
async fn check(step: &str, fate: Fate, expected: &str) {
    let node = Arc::new(node_with("", |settings| settings.blank_limit = 0));
    node.prepare(version("f")).await.unwrap();
    node.behave(&format!("pause: {step}"));
    let stopped = node.dir.path().join(STOPPED);
    let mut stopped = pipe::OpenOptions::new().read_write(true).open_receiver(stopped).unwrap();
    let call = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.how(version("f")).await }
    });
    let clone = within(stopped.read_i32_le()).await.unwrap();
    node.invoker.retire(&version("f").id, Retired::Version("1"));
    assert_eq!(node.snapshots().await, 0, "{step}, {fate:?}: its directory goes while the clone has it open");
    assert!(is_alive(clone) && !call.is_finished(), "{step}, {fate:?}");
    let gate = (fate == Fate::GoesOn).then(|| node.open_gate());
    if fate == Fate::Dies {
        kill(Pid::from_raw(clone), Signal::SIGKILL).unwrap();
    }
    assert_eq!(within(call).await.unwrap(), expected, "{step}, {fate:?}");
    drop(gate);
    // The clone goes with its version. A sandbox that was booted in its place is younger than the deletion, and goes when it
    // has been idle for long enough; here, when it is told to.
    node.population(usize::from(fate == Fate::Dies)).await;
    node.invoker.retire(&version("f").id, Retired::Version("1"));
    node.population(0).await;
    assert!(!is_alive(clone), "{step}, {fate:?}");
    assert_eq!(node.snapshots().await, 0, "{step}, {fate:?}");

    node.behave("");
    let next = FunctionConfig { version: "2".into(), deployment_id: "f 2".into(), ..version("f") };
    node.prepare(next.clone()).await.unwrap();
    assert_eq!(node.how(next).await, "cloned", "{step}, {fate:?}");
    assert_eq!((node.snapshots().await, files(&node)), (1, undisturbed().await), "{step}, {fate:?}");
}

#[tokio::test]
async fn while_its_snapshot_is_loaded() {
    check("die in load", Fate::GoesOn, "cloned").await;
    check("die in load", Fate::Dies, "booted").await;
}

#[tokio::test]
async fn while_it_is_in_the_gate() {
    check("hang in gate", Fate::GoesOn, "cloned").await;
    check("hang in gate", Fate::Dies, "booted").await;
}

#[tokio::test]
async fn while_its_hooks_run() {
    check("die in hooks", Fate::GoesOn, "cloned").await;
    check("die in hooks", Fate::Dies, "booted").await;
}

#[tokio::test]
async fn before_the_sandbox_of_a_call_that_was_taken_begins() {
    let node = node("");
    node.prepare(version("f")).await.unwrap();
    node.invoker.retire(&version("f").id, Retired::Version("1"));
    assert_eq!(node.how(version("f")).await, "booted");
    // What was begun beside that call, if anything, is over before this.
    node.prepare(version("g")).await.unwrap();
    node.population(1).await;
    assert_eq!(node.snapshots().await, 1, "only the one of g");
}
