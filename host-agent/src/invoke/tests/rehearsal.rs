//! The clone that serves nobody, in the way of somebody, or of no use.

use std::fs;

use tokio::{io::AsyncReadExt as _, net::unix::pipe};

use super::{
    fake::STOPPED,
    harness::{node_with, version},
    *,
};
use crate::snapshots::Owner;

#[tokio::test]
async fn it_goes_when_its_room_is_needed_and_is_over_before_the_room_is_given() {
    for step in ["die in load", "hang in gate", "die in hooks"] {
        let node = Arc::new(node_with(&format!("pause: {step}"), |settings| {
            (settings.limits.memory_mib, settings.blank_limit) = (machine::charge_mib(MEMORY_MIB), 0);
        }));
        let stopped = node.dir.path().join(STOPPED);
        let mut stopped = pipe::OpenOptions::new().read_write(true).open_receiver(stopped).unwrap();
        let making = tokio::spawn({
            let node = Arc::clone(&node);
            async move { node.prepare(version("f")).await }
        });
        // None of these steps is part of making the snapshot.
        let clone = within(stopped.read_i32_le()).await.unwrap();
        assert_eq!(node.snapshots().await, 1, "{step}");
        node.behave("");
        assert_eq!(node.how(function("g")).await, "booted", "{step}");
        assert!(!is_alive(clone), "{step}");
        within(making).await.unwrap().unwrap_or_else(|error| panic!("{step}: {error}"));
        node.population(1).await;
    }
}

#[tokio::test]
async fn a_snapshot_that_turns_out_to_be_of_no_use_is_made_again_before_anybody_asks() {
    let node = node("once: refuse load");
    node.prepare(version("f")).await.unwrap();
    assert_eq!(node.how(version("f")).await, "cloned");
    node.population(1).await;
    assert_eq!(node.snapshots().await, 1);

    let node = node_with("refuse load", |_| {});
    let error = node.prepare(version("f")).await.unwrap_err();
    assert!(matches!(error, PrepareError::Node(_)), "{error}");
    assert_eq!(node.snapshots().await, 0);
}

#[tokio::test]
async fn whatever_else_becomes_of_it_the_snapshot_is_there() {
    for step in ["die in load", "fail gate", "die in gate", "die in hooks"] {
        let node = node(step);
        node.prepare(version("f")).await.unwrap_or_else(|error| panic!("{step}: {error}"));
        node.population(0).await;
        node.behave("");
        assert_eq!(node.how(version("f")).await, "cloned", "{step}");
    }
}

#[tokio::test]
async fn a_snapshot_outlives_its_runtime() {
    let node = node("");
    node.prepare(version("f")).await.unwrap();
    fs::remove_file(node.dir.path().join("lib").join(PYTHON)).unwrap();
    let node = node.restarted().await;
    assert_eq!(node.how(version("f")).await, "cloned");
}

#[tokio::test]
async fn it_waits_for_the_room_of_another_maker() {
    let node = Arc::new(node_with("pause: die as nobody", |settings| {
        (settings.runtime_snapshots, settings.blank_limit) = (8, 0);
    }));
    let stopped = node.dir.path().join(STOPPED);
    let mut stopped = pipe::OpenOptions::new().read_write(true).open_receiver(stopped).unwrap();
    assert_eq!(node.how(function("f")).await, "booted");
    within(stopped.read_i32_le()).await.unwrap();
    node.behave("");
    let making = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.prepare(version("f")).await }
    });
    let owner = Owner::version(&version("f"));
    let published = async {
        loop {
            match node.invoker.shared.snapshots.find(&owner) {
                Some(snapshot) => return snapshot,
                None => tokio::task::yield_now().await,
            }
        }
    };
    let snapshot = within(published).await;
    assert!(
        snapshot.open().unwrap().prefetch.is_none() && !making.is_finished(),
        "the room is somebody else's"
    );
    let _gate = node.open_gate();
    within(making).await.unwrap().unwrap();
    assert!(snapshot.open().unwrap().prefetch.is_some());
}
