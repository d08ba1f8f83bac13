//! Snapshots of runtimes: made once for each pair of runtime and memory, resumed by functions that nobody has called before,
//! lost, replaced, thrown away, with a `vmm` and a guest that fail at each step.

use std::{fs, path::PathBuf};

use serde_json::json;

use super::{
    harness::{CODE, Node, node_with_runtimes, version, within},
    *,
};
use crate::{
    chunks::tests::pack_of,
    functions::model::{CodeRef, ContainerImage},
};

/// A function like the others, with that much memory.
fn sized(name: &str, memory_mib: u32) -> FunctionConfig {
    FunctionConfig { memory_mib, ..function(name) }
}

fn of_runtime(name: &str, runtime: &str) -> FunctionConfig {
    FunctionConfig { runtime: runtime.into(), ..function(name) }
}

/// A node that has booted `f` and made the snapshot of its runtime.
async fn made() -> Node {
    let node = node_with_runtimes("");
    assert_eq!(node.how(function("f")).await, "booted");
    node.snapshots_become(1).await;
    rest(&node, 1).await;
    node
}

/// The only snapshot.
fn snapshot(node: &Node) -> PathBuf {
    fs::read_dir(node.dir.path().join("state/snapshots")).unwrap().next().unwrap().unwrap().path()
}

/// Waits until nobody looks after a snapshot any more and so many sandboxes are left. What a call has begun, it has begun
/// before its answer.
async fn rest(node: &Node, warm: usize) {
    within(async {
        while node.invoker.shared.runtimes.is_making() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    node.population(warm).await;
}

#[tokio::test]
async fn the_first_call_of_a_function_is_answered_by_a_clone_of_its_runtime() {
    let node = made().await;
    rest(&node, 1).await;
    let environment = Some([("SHADE".to_owned(), "red".to_owned())].into());
    let g = FunctionConfig { environment, ephemeral_storage_mib: 1024, ..function("g") };
    let answer = node.invoke_version(g, "\"who\"").await.unwrap();
    let who: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    let drives = [PYTHON.into(), CODE.into(), json!(1024)];
    assert_eq!(who, json!(["g", [["SHADE", "red"]], drives]), "it is not what it is told");
    assert_eq!(&answer.log_tail.unwrap()[..], b"initialised\n");
    let Timing { way, place, load, unique, init, run, boot, hooks, .. } = answer.timing;
    assert_eq!(way, Some("runtime-snapshot"));
    assert!([place, load, unique, init, run].iter().all(Option::is_some), "{:?}", answer.timing);
    assert_eq!((boot, hooks), (None, None));
    let warm = node.invoke_version(function("f"), "\"how\"").await.unwrap();
    assert_eq!((&warm.payload[..], warm.timing.way), (&b"\"booted\""[..], None));
    assert_eq!(node.snapshots().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_made_once_for_each_runtime_and_memory_and_is_nothing_to_another() {
    let node = Arc::new(made().await);
    for other in [
        sized("small", 127),
        sized("large", 256),
        of_runtime("rust", "provided.al2023"),
        FunctionConfig { memory_mib: 256, ..of_runtime("large rust", "provided.al2023") },
    ] {
        let name = other.id.name.clone();
        assert_eq!(node.how(other).await, "booted", "{name}");
    }
    node.snapshots_become(5).await;
    for known in [function("a"), sized("b", 127), sized("c", 256), of_runtime("d", "provided.al2023")] {
        let name = known.id.name.clone();
        assert_eq!(node.how(known).await, "runtime", "{name}");
    }
    assert_eq!(node.snapshots().await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_boots_at_once_make_one_snapshot() {
    let node = Arc::new(node_with_runtimes(""));
    let mut calls = JoinSet::new();
    for name in ["f", "g"] {
        let node = Arc::clone(&node);
        calls.spawn(async move { node.invoke_version(function(name), "\"hold\"").await.unwrap() });
    }
    node.population(2).await;
    let _gate = node.open_gate();
    while let Some(answer) = within(calls.join_next()).await {
        assert_eq!(answer.unwrap().timing.way, Some("boot"));
    }
    node.snapshots_become(1).await;
    rest(&node, 2).await;
    assert_eq!(node.snapshots().await, 1);
}

#[tokio::test]
async fn snapstart_boots_what_it_snapshots_and_a_versions_own_snapshot_comes_first() {
    let node = made().await;
    // A clone could not be made of anything.
    node.behave("die in load");
    node.prepare(version("v")).await.unwrap();
    node.behave("");
    let clone = node.invoke_version(version("v"), "\"how\"").await.unwrap();
    assert_eq!((&clone.payload[..], clone.timing.way), (&b"\"cloned\""[..], Some("snapshot")));
    node.invoker.shared.retire(&version("v").id, Retired::Version("1"));
    // Its next call finds none and has it made; until then it is a function like any other.
    assert_eq!(node.how(version("v")).await, "runtime");
}

#[tokio::test]
async fn a_snapshot_serves_until_what_it_was_made_from_is_made_again() {
    for file in ["guest/vmlinux", "guest/initrd.cpio", PYTHON] {
        let node = made().await;
        let old = snapshot(&node);
        let path = node.dir.path().join("lib").join(file);
        if file == PYTHON {
            pack_of("updated", &path)
        } else {
            fs::write(path, "updated").unwrap()
        }
        let node = node.restarted().await;
        assert_eq!(node.how(function("g")).await, "runtime", "{file}");
        rest(&node, 1).await;
        assert!(!old.exists(), "{file}");
        assert_eq!(node.snapshots().await, 1, "{file}");
        assert_eq!(node.how(function("h")).await, "runtime", "{file}");
    }
}

#[tokio::test]
async fn a_function_is_told_the_version_of_the_runtime_that_it_has_got() {
    let told = async |node: &Node, name| {
        let answer = node.invoke_version(function(name), "\"runtime\"").await.unwrap();
        serde_json::from_slice::<String>(&answer.payload).unwrap()
    };
    let node = made().await;
    let before = node.invoker.runtime_version("python3.13").await.unwrap();
    assert_eq!([told(&node, "f").await, told(&node, "g").await], [before.clone(), before.clone()]);
    pack_of("other blocks", &node.dir.path().join("lib").join(PYTHON));
    let node = node.restarted().await;
    assert_ne!(node.invoker.runtime_version("python3.13").await.unwrap(), before);
    assert_eq!(told(&node, "h").await, before, "it is a clone of then");
}

#[tokio::test]
async fn a_function_that_is_an_image_is_told_the_images_digest() {
    let node = node_with_runtimes("");
    let code = CodeRef { sha256: "5e".repeat(32), size: 1 };
    let f = FunctionConfig { image: Some(ContainerImage::default()), code, ..function("f") };
    let answer = node.invoke_version(f.clone(), "\"runtime\"").await.unwrap();
    assert_eq!(serde_json::from_slice::<String>(&answer.payload).unwrap(), f.code.sha256);
}

#[tokio::test]
async fn what_clones_of_a_runtime_touch_is_told_before_they_are_anybodys() {
    let node = made().await;
    // By the rehearsal; the fake's guests look after that of the others.
    let labels = node.chunks().labels().unwrap();
    assert!(labels.iter().any(|label| label.as_str().ends_with("-prefetch-1")), "{labels:?}");
    assert_eq!(node.how(function("g")).await, "runtime");
}

#[tokio::test]
async fn a_clone_that_is_lost_is_replaced_by_a_boot() {
    for step in [
        "die in load",
        "fail after load",
        "wrong generation",
        "no generation",
        "wrong version after load",
        "fail gate",
        "die in gate",
        "once: die in init",
    ] {
        let node = made().await;
        node.behave(step);
        let booted = node.invoke_version(function("g"), "\"how\"").await.unwrap();
        assert_eq!((&booted.payload[..], booted.timing.way), (&b"\"booted\""[..], Some("boot")), "{step}");
        node.behave("");
        assert_eq!(node.how(function("h")).await, "runtime", "once is bad luck: {step}");
        assert_eq!(node.snapshots().await, 1, "{step}");
        rest(&node, 3).await;
    }
}

#[tokio::test]
async fn a_clone_that_is_late_is_destroyed_and_a_boot_serves() {
    for step in ["hang after load", "hang in gate"] {
        let node = made()
            .await
            .restarted_with(|settings| settings.restore_timeout = Duration::from_millis(300))
            .await;
        node.behave(step);
        assert_eq!(node.how(function("g")).await, "booted", "{step}");
        rest(&node, 1).await;
    }
}

#[tokio::test]
async fn a_snapshot_that_the_vmm_does_not_take_is_made_again() {
    let node = made().await;
    fs::write(snapshot(&node).join("mark"), "old").unwrap();
    node.behave("once: refuse load");
    assert_eq!(node.how(function("g")).await, "booted");
    rest(&node, 2).await;
    node.snapshots_become(1).await;
    assert!(!snapshot(&node).join("mark").exists());
    assert_eq!(node.how(function("h")).await, "runtime");
}

#[tokio::test]
async fn what_fails_again_and_again_is_given_up() {
    for step in ["fail gate", "refuse load"] {
        let node = made().await;
        node.behave(step);
        for (name, warm) in [("g", 2), ("h", 3), ("i", 4)] {
            assert_eq!(node.how(function(name)).await, "booted", "{step}");
            rest(&node, warm).await;
        }
        assert_eq!(node.snapshots().await, 0, "{step}");
        node.behave("");
        assert_eq!(node.how(function("j")).await, "booted", "{step}");
        rest(&node, 5).await;
        assert_eq!(node.snapshots().await, 0, "it is left alone: {step}");
        let node = node.restarted().await;
        assert_eq!(node.how(function("k")).await, "booted", "{step}");
        node.snapshots_become(1).await;
    }
}

#[tokio::test]
async fn what_a_function_does_to_its_own_sandboxes_is_not_its_runtimes_fault() {
    let node = made().await;
    node.behave("die in init");
    for name in ["g", "h", "i", "j"] {
        let error = node.invoke_version(function(name), "1").await.unwrap_err().to_string();
        assert!(error.contains("3 sandboxes were lost"), "{error}");
    }
    node.behave("");
    assert_eq!(node.how(function("k")).await, "runtime");
}

#[tokio::test]
async fn a_making_that_fails_disturbs_nobody_and_ends() {
    for step in ["die as nobody", "die in freeze", "die in pause", "die in snapshot", "refuse snapshot"] {
        let node = node_with_runtimes(step);
        for name in ["f", "g", "h", "i"] {
            assert_eq!(node.how(function(name)).await, "booted", "{step}");
        }
        rest(&node, 4).await;
        assert_eq!(node.snapshots().await, 0, "{step}");
    }
}

#[tokio::test]
async fn the_least_recently_used_one_makes_room_for_the_next() {
    let node = node_with("", |settings| {
        (settings.runtime_snapshots, settings.blank_limit) = (2, 0);
    });
    for (count, memory_mib) in [(1, 128), (2, 129)] {
        node.how(sized(&format!("f{count}"), memory_mib)).await;
        node.snapshots_become(count).await;
        rest(&node, count).await;
    }
    assert_eq!(node.how(sized("g", 128)).await, "runtime");
    node.how(sized("f3", 130)).await;
    rest(&node, 4).await;
    node.snapshots_become(2).await;
    assert_eq!(node.how(sized("i", 128)).await, "runtime");
    assert_eq!(node.how(sized("j", 130)).await, "runtime");
    assert_eq!(node.how(sized("k", 129)).await, "booted");
}

#[tokio::test]
async fn a_full_disk_has_no_room_for_them() {
    const MIB: u64 = 1 << 20;
    let disk = Disk::pretended(1100 * MIB);
    let given = Arc::clone(&disk);
    let node = node_with("", |settings| {
        (settings.disk, settings.blank_limit, settings.runtime_snapshots) = (given, 0, 8);
    });
    assert_eq!(node.how(function("f")).await, "booted");
    rest(&node, 1).await;
    assert_eq!(node.snapshots().await, 0, "f's own /tmp takes what there is");
    disk.pretend(10_000 * MIB);
    assert_eq!(node.how(function("g")).await, "booted");
    node.snapshots_become(1).await;
    rest(&node, 2).await;
    // What somebody has asked for comes first.
    disk.pretend(0);
    node.prepare(version("v")).await.unwrap_err();
    node.snapshots_become(0).await;
}

#[tokio::test]
async fn one_that_is_being_made_goes_when_its_room_is_needed() {
    let room = 2 * machine::charge_mib(MEMORY_MIB);
    let node = node_with("hang as nobody", |settings| {
        (settings.limits.memory_mib, settings.runtime_snapshots) = (room, 8);
    });
    let pid = node.pid().await;
    node.population(2).await;
    assert_eq!(node.how(function("g")).await, "booted");
    assert_eq!(node.pid().await, pid, "f has kept its sandbox");
    node.population(2).await;
    assert_eq!(node.snapshots().await, 0);
    // Its room is there again, and so is the next try.
    node.invoker.shared.retire(&function("g").id, Retired::Function);
    node.behave("");
    node.snapshots_become(1).await;
}

#[tokio::test]
async fn a_blank_becomes_one_of_its_clones() {
    let node = node_with("", |settings| settings.runtime_snapshots = 8);
    node.how(function("f")).await;
    node.snapshots_become(1).await;
    rest(&node, 1).await;
    node.blanks(1).await;
    // A process that starts now would fail: the clone is made of the one that waits.
    node.behave("die in load");
    assert_eq!(node.how(function("g")).await, "runtime");
}

#[tokio::test]
async fn shutdown_leaves_none_half_made_and_does_not_wait_for_it() {
    let node = node_with_runtimes("hang as nobody");
    node.pid().await;
    node.population(2).await;
    node.stop().await;
    assert_eq!(node.snapshots().await, 0);
}

#[tokio::test]
async fn a_node_that_is_to_keep_none_deletes_what_there_was() {
    let node = made().await.restarted_with(|settings| settings.runtime_snapshots = 0).await;
    node.snapshots_become(0).await;
    assert_eq!(node.how(function("g")).await, "booted");
    rest(&node, 1).await;
    assert_eq!(node.snapshots().await, 0);
}
