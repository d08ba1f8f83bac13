//! The agent is killed at each step of publishing and of resuming: nothing that it started lives on, nothing half made is
//! left, and the next agent publishes and resumes.
//!
//! The agent that is killed is this test binary, started again, with a node in a directory of ours. Its `vmm` stands still
//! at the step and says so; that is when the agent is killed.

use std::{
    env, fs,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    process::{Command, Stdio},
};

use tokio::{io::AsyncReadExt as _, net::unix::pipe};

use super::{
    fake::STOPPED,
    harness::{Node, adopt, function, keep_runtimes, node, node_with_runtimes, version, within},
};

/// Names the directory of the agent that will be killed.
const DIR: &str = "KILLED_AGENT_DIR";

/// What it is about.
const COURSE: &str = "KILLED_AGENT_COURSE";
const VERSION: &str = "version";
const RUNTIME: &str = "runtime";

/// Where the agent that will be killed begins; in the test process itself it has nothing to do.
#[tokio::test]
async fn agent() {
    if let Ok(dir) = env::var(DIR) {
        match env::var(COURSE).unwrap().as_str() {
            VERSION => {
                let node = adopt(Path::new(&dir), |_| {});
                node.prepare(version("f")).await.unwrap();
                drop(node.invoke_version(version("f"), "\"die\"").await);
            }
            RUNTIME => {
                let node = adopt(Path::new(&dir), keep_runtimes);
                if node.snapshots().await == 0 {
                    assert_eq!(node.how(function("f")).await, "booted");
                    node.snapshots_become(1).await;
                }
                drop(node.invoke_version(function("g"), "\"die\"").await);
            }
            other => panic!("{other}"),
        }
        // A step beside the course may still be under way. Nobody kills it when the test fails: it ends by itself then.
        within(std::future::pending::<()>()).await;
    }
}

/// Starts an agent in the directory of `node`, which no longer runs, and kills it when its `vmm` has come to where it
/// stands still.
async fn kill_there(node: &Node, course: &str, step: &str) {
    let dir = node.dir.path();
    let mut stopped = pipe::OpenOptions::new().read_write(true).open_receiver(dir.join(STOPPED)).unwrap();
    let agent = Command::new(env::current_exe().unwrap())
        .args(["--exact", "invoke::tests::killed::agent", "--nocapture"])
        .env(DIR, dir)
        .env(COURSE, course)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut agent = agent.unwrap();
    let vmm = within(stopped.read_i32_le()).await.unwrap();
    assert!(processes_of(dir).contains(&vmm), "{step}");
    agent.kill().unwrap();
    agent.wait().unwrap();
    within(async {
        while !processes_of(dir).is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Processes that were told of a directory. One that has ended and that nobody has reaped yet does not count.
fn processes_of(dir: &Path) -> Vec<i32> {
    let dir = dir.as_os_str().as_bytes();
    let numbers =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let told = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.windows(dir.len()).any(|text| text == dir)
    };
    numbers.filter(told).collect()
}

/// What a node keeps on its disk beside its snapshots.
pub(super) fn files(node: &Node) -> Vec<String> {
    let mut names: Vec<_> = ["state", "scratch"]
        .iter()
        .flat_map(|part| fs::read_dir(node.dir.path().join(part)).unwrap())
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A node that has published and resumed, and was never killed: what it keeps.
pub(super) async fn undisturbed() -> Vec<String> {
    let node = node("");
    node.prepare(version("f")).await.unwrap();
    assert_eq!(node.how(version("f")).await, "cloned");
    files(&node)
}

#[tokio::test]
async fn at_every_step_of_a_publication() {
    let expected = undisturbed().await;
    let steps = [
        "die at start",
        "die in init",
        "die in freeze",
        "die in pause",
        "refuse snapshot",
        "die in snapshot",
    ];
    for step in steps {
        let node = node(&format!("stop: {step}"));
        node.stop().await;
        kill_there(&node, VERSION, step).await;
        node.behave("");
        let node = node.restarted().await;
        assert_eq!(node.snapshots().await, 0, "a half-made snapshot is left: {step}");
        node.prepare(version("f")).await.unwrap_or_else(|error| panic!("{step}: {error}"));
        assert_eq!(node.how(version("f")).await, "cloned", "{step}");
        assert_eq!((node.snapshots().await, files(&node)), (1, expected.clone()), "{step}");
    }
}

#[tokio::test]
async fn at_every_step_of_a_resume() {
    let expected = undisturbed().await;
    let steps = [
        "refuse prepare",
        "refuse load",
        "die in load",
        "hang after load",
        "hang in gate",
        "die in hooks",
        "die in run",
    ];
    for step in steps {
        let node = node("");
        node.prepare(version("f")).await.unwrap_or_else(|error| panic!("{step}: {error}"));
        node.stop().await;
        node.behave(&format!("stop: {step}"));
        kill_there(&node, VERSION, step).await;
        assert_eq!(node.snapshots().await, 1, "{step}");
        node.behave("");
        let node = node.restarted().await;
        assert_eq!(node.how(version("f")).await, "cloned", "{step}");
        node.prepare(version("f")).await.unwrap_or_else(|error| panic!("{step}: {error}"));
        assert_eq!(node.how(version("f")).await, "cloned", "{step}");
        assert_eq!((node.snapshots().await, files(&node)), (1, expected.clone()), "{step}");
    }
}

#[tokio::test]
async fn at_every_step_of_making_a_runtimes_snapshot() {
    let expected = undisturbed().await;
    for step in ["die as nobody", "die in freeze", "die in pause", "refuse snapshot", "die in snapshot"] {
        let node = node_with_runtimes(&format!("stop: {step}"));
        node.stop().await;
        kill_there(&node, RUNTIME, step).await;
        node.behave("");
        let node = node.restarted().await;
        assert_eq!(node.snapshots().await, 0, "a half-made snapshot is left: {step}");
        assert_eq!(node.how(function("f")).await, "booted", "{step}");
        node.snapshots_become(1).await;
        assert_eq!(node.how(function("g")).await, "runtime", "{step}");
        assert_eq!(files(&node), expected, "{step}");
    }
}

#[tokio::test]
async fn at_every_step_of_resuming_a_runtimes_snapshot() {
    let expected = undisturbed().await;
    for step in ["refuse load", "die in load", "hang after load", "hang in gate", "die in init", "die in run"]
    {
        let node = node_with_runtimes("");
        node.how(function("f")).await;
        node.snapshots_become(1).await;
        node.stop().await;
        node.behave(&format!("stop: {step}"));
        kill_there(&node, RUNTIME, step).await;
        assert_eq!(node.snapshots().await, 1, "{step}");
        node.behave("");
        let node = node.restarted().await;
        assert_eq!(node.how(function("h")).await, "runtime", "{step}");
        assert_eq!(files(&node), expected, "{step}");
    }
}
