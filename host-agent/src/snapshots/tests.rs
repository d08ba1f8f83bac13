//! The store over a real directory: what is published, replaced, deleted, and what a crash leaves.

use std::{
    collections::HashSet,
    fs,
    io::{Read as _, Write as _},
    path::Path,
    sync::Arc,
};

use vmm_api::Identity;

use super::*;
use crate::{functions::model::FunctionId, invoke::Retired};

fn function(name: &str) -> FunctionId {
    FunctionId { region: "us-east-1".into(), name: name.into() }
}

fn owner(name: &str, version: &str, deployment: &str) -> Owner {
    Owner::Version { function: function(name), version: version.into(), deployment_id: deployment.into() }
}

fn identity(kernel: &str) -> Identity {
    Identity([("kernel".to_owned(), kernel.to_owned())].into())
}

fn open(dir: &Path) -> Arc<SnapshotStore> {
    Arc::new(SnapshotStore::open(dir).unwrap())
}

fn draft(store: &SnapshotStore, memory: &str) -> Draft {
    let draft = store.begin().unwrap();
    for (name, content) in [("state", "s"), ("memory", memory), ("scratch", "t")] {
        draft.create(name).unwrap().write_all(content.as_bytes()).unwrap();
    }
    draft
}

async fn publish(store: &Arc<SnapshotStore>, owner: &Owner, kernel: &str, memory: &str) -> Arc<Snapshot> {
    let draft = draft(store, memory);
    store.publish(draft, owner.clone(), identity(kernel), || true).await.unwrap().unwrap()
}

fn read(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    snapshot.memory().unwrap().read_to_string(&mut text).unwrap();
    text
}

/// How many directories there are, once nothing is being deleted any more.
async fn settled(dir: &Path) -> usize {
    loop {
        let names: Vec<_> =
            fs::read_dir(dir.join("snapshots")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        if !names.iter().any(|name| name.to_string_lossy().starts_with("gone-")) {
            return names.len();
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_published_snapshot_is_found_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (mine, other) = (owner("f", "1", "d1"), owner("f", "2", "d2"));
    publish(&store, &mine, "k", "one").await;
    assert!(store.find(&other).is_none());
    let key = store.key().clone();
    drop(store);
    let store = open(dir.path());
    let found = store.find(&mine).unwrap();
    assert_eq!((read(&found).as_str(), found.identity()), ("one", &identity("k")));
    assert!(*store.key() == key);
}

#[tokio::test]
async fn a_new_identity_takes_the_place_of_the_old_one_which_serves_until_then() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mine = owner("f", "1", "d1");
    let old = publish(&store, &mine, "old", "one").await;
    let mut open_file = old.memory().unwrap();
    let unfinished = draft(&store, "two");
    assert_eq!(read(&store.find(&mine).unwrap()), "one");
    store.publish(unfinished, mine.clone(), identity("new"), || true).await.unwrap();
    let found = store.find(&mine).unwrap();
    assert_eq!((read(&found).as_str(), found.identity()), ("two", &identity("new")));
    assert_eq!(settled(dir.path()).await, 1);
    let mut text = String::new();
    open_file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one", "a clone that is resuming goes on");
    assert!(old.memory().is_err(), "nobody begins with it any more");

    publish(&store, &mine, "new", "three").await;
    assert_eq!(read(&store.find(&mine).unwrap()), "three", "the same identity can be made again");
    assert_eq!(settled(dir.path()).await, 1);
}

#[tokio::test]
async fn a_crash_leaves_nothing_that_looks_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mine = owner("f", "1", "d1");
    publish(&store, &mine, "k", "one").await;
    std::mem::forget(draft(&store, "unfinished"));
    let half = draft(&store, "x");
    half.create("meta.json").unwrap().write_all(b"{\"format\":").unwrap();
    std::mem::forget(half);
    let snapshots = dir.path().join("snapshots");
    for foreign in ["gone-1", "0000", "empty"] {
        fs::create_dir(snapshots.join(foreign)).unwrap();
    }
    let whole = fs::read_dir(&snapshots)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().len() == 64);
    fs::copy(whole.unwrap().join("meta.json"), snapshots.join("0000/meta.json")).unwrap();
    fs::write(snapshots.join("file"), "x").unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(settled(dir.path()).await, 1);
    assert_eq!(read(&store.find(&mine).unwrap()), "one");
    publish(&store, &mine, "k", "next").await;
}

#[tokio::test]
async fn a_draft_that_is_dropped_or_unwanted_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    drop(draft(&store, "x"));
    let mine = owner("f", "1", "d1");
    let unwanted = store.publish(draft(&store, "x"), mine.clone(), identity("k"), || false).await.unwrap();
    assert!(unwanted.is_none() && store.find(&mine).is_none());
    let no_memory = store.begin().unwrap();
    no_memory.create("state").unwrap();
    let error = store.publish(no_memory, mine.clone(), identity("k"), || true).await.unwrap_err();
    assert!(error.to_string().contains("sync"), "{error}");
    assert_eq!(settled(dir.path()).await, 0);
}

#[tokio::test]
async fn snapshots_go_with_what_they_are_of() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let runtime = Owner::Runtime { runtime: "python3.13".into(), memory_mib: 128 };
    let all = [
        owner("f", "1", "d1"),
        owner("f", "2", "d2"),
        owner("f", "$LATEST", "d3"),
        owner("g", "1", "d4"),
        owner("h", "1", "d5"),
        runtime.clone(),
    ];
    for owner in &all {
        publish(&store, owner, "k", "x").await;
    }
    let left = || all.iter().map(|owner| u8::from(store.find(owner).is_some())).collect::<Vec<_>>();
    store.retire(&function("f"), Retired::Latest { current: "d3" });
    assert_eq!(left(), [1, 1, 1, 1, 1, 1]);
    store.retire(&function("f"), Retired::Latest { current: "d6" });
    store.retire(&function("f"), Retired::Version("2"));
    assert_eq!(left(), [1, 0, 0, 1, 1, 1]);
    store.retire(&function("f"), Retired::Function);
    store.keep(&HashSet::from(["d5".to_owned()]));
    assert_eq!(left(), [0, 0, 0, 0, 1, 1]);
    store.discard(&store.find(&runtime).unwrap());
    assert_eq!(left(), [0, 0, 0, 0, 1, 0]);
    assert_eq!(settled(dir.path()).await, 1);
}

#[tokio::test]
async fn an_identity_is_what_the_node_has() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["vmm", "guest/vmlinux", "guest/initrd.cpio", "runtimes/a.erofs", "runtimes/b.erofs"] {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    let host = HostIdentity::new(dir.path().to_owned());
    let identity = async |runtime, code| host.identity(runtime, code).await.unwrap();
    let plain = identity("a", None).await;
    assert_eq!(plain, identity("a", None).await);
    assert_ne!(plain, identity("b", None).await);
    assert_ne!(plain, identity("a", Some("c")).await);
    assert!(host.identity("missing", None).await.unwrap_err().to_string().contains("missing.erofs"));
    fs::write(dir.path().join("guest/vmlinux"), "updated").unwrap();
    assert_ne!(plain, HostIdentity::new(dir.path().to_owned()).identity("a", None).await.unwrap());
}
