//! The store over a real directory: what is published, replaced, deleted, and what a crash leaves.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::Write as _,
    path::Path,
    sync::Arc,
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use vmm_api::{Identity, Shape};

use super::*;
use crate::{
    chunks::tests::{chunks_in, pack_of, text_of},
    disk::Disk,
    functions::model::FunctionId,
    invoke::Retired,
};

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
    Arc::new(SnapshotStore::open(dir, chunks_in(dir)).unwrap())
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
    text_of(&snapshot.open().unwrap().memory)
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

/// Flags belong to what was opened: with a duplicate, whoever takes a VMM over could change how all others read.
#[tokio::test]
async fn each_clone_has_its_state_from_a_descriptor_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let snapshot = publish(&store, &owner("f", "1", "d1"), "k", "one").await;
    let [mine, other] = [(); 2].map(|()| snapshot.open().unwrap().state);
    fcntl(&mine, FcntlArg::F_SETFL(OFlag::O_DIRECT)).unwrap();
    let is_direct = |file: &File| fcntl(file, FcntlArg::F_GETFL).unwrap() & OFlag::O_DIRECT.bits() != 0;
    let later = snapshot.open().unwrap().state;
    assert!(is_direct(&mine) && !is_direct(&other) && !is_direct(&later));
}

#[tokio::test]
async fn a_new_identity_takes_the_place_of_the_old_one_which_serves_until_then() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mine = owner("f", "1", "d1");
    let old = publish(&store, &mine, "old", "one").await;
    let opened = old.open().unwrap();
    let unfinished = draft(&store, "two");
    assert_eq!(read(&store.find(&mine).unwrap()), "one");
    store.publish(unfinished, mine.clone(), identity("new"), || true).await.unwrap();
    let found = store.find(&mine).unwrap();
    assert_eq!((read(&found).as_str(), found.identity()), ("two", &identity("new")));
    assert_eq!(settled(dir.path()).await, 1);
    assert_eq!(text_of(&opened.memory), "one", "a clone that is resuming goes on");
    drop(opened);
    assert!(old.open().is_err(), "nobody begins with it any more");

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
    assert!(crate::sandbox::describe(&error).contains("memory"), "{error:?}");
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
    store.retire(&function("f"), Retired::Deployment("d0"));
    assert_eq!(left(), [1, 1, 1, 1, 1, 1]);
    store.retire(&function("f"), Retired::Deployment("d3"));
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
    let write = |file: &str, content: &str| {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if file.ends_with("pack") { pack_of(content, &path) } else { fs::write(path, content).unwrap() }
    };
    for file in ["vmm", "guest/vmlinux", "guest/initrd.cpio", "runtimes/a.pack", "runtimes/b.pack"] {
        write(file, file);
    }
    let host = || HostIdentity::new(dir.path().to_owned(), chunks_in(dir.path()));
    let today = host();
    let shape = |vcpu_count, mem_size_mib| Content::Nobody(Shape { vcpu_count, mem_size_mib });
    let small = shape(1, 192);
    let identity = async |runtime, content| today.identity(runtime, content).await.unwrap();
    let plain = identity("a", small).await;
    assert_eq!(plain, identity("a", small).await);
    for (runtime, content) in [
        ("b", small),
        ("a", Content::Function("c")),
        ("a", Content::Function("d")),
        ("a", shape(2, 192)),
        ("a", shape(1, 256)),
    ] {
        assert_ne!(plain, identity(runtime, content).await, "{runtime} {content:?}");
    }
    assert!(plain.0["machine"].contains("x86_64"), "{plain:?}");
    assert!(today.identity("missing", small).await.unwrap_err().to_string().contains("missing.pack"));
    for file in ["guest/vmlinux", "guest/initrd.cpio", "vmm", "runtimes/a.pack"] {
        write(file, "updated");
        assert_ne!(plain, host().identity("a", small).await.unwrap(), "{file}");
        write(file, file);
    }
}

#[tokio::test]
async fn runtimes_share_a_shelf_on_which_the_least_recently_used_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let owner_of = |memory_mib| Owner::Runtime { runtime: "python3.13".into(), memory_mib };
    for (memory_mib, then) in [(128, 1), (256, 2), (512, 3)] {
        publish(&store, &owner_of(memory_mib), "k", "x").await.used_at(then);
    }
    let version = owner("f", "1", "d1");
    publish(&store, &version, "k", "x").await;
    let left = || [128, 256, 512].map(|memory_mib| u8::from(store.find(&owner_of(memory_mib)).is_some()));
    store.shed(3).await;
    assert_eq!(left(), [1, 1, 1]);
    store.find(&owner_of(128)).unwrap().use_now();
    store.shed(2).await;
    assert_eq!(left(), [1, 0, 1]);

    // It is full however much goes: all of it goes, and it is told.
    let disk = Disk::pretended(0);
    store.make_room(&disk, 1).await.unwrap_err();
    assert_eq!(left(), [0, 0, 0]);
    assert!(store.find(&version).is_some(), "it is no cache");
    publish(&store, &owner_of(128), "k", "x").await;
    disk.pretend(1 << 30);
    store.make_room(&disk, 1).await.unwrap();
    assert_eq!(left(), [1, 0, 0]);
    store.shed(0).await;
    assert_eq!((left(), settled(dir.path()).await), ([0, 0, 0], 1));
}
