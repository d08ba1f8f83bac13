//! Functions that are pinned to a version of their runtime.

use super::{
    harness::{Node, version},
    *,
};
use crate::{chunks::tests::pack_of, functions::runtime_management::RuntimeManagement};

/// The function, pinned to the version that the node has now.
async fn pinned(node: &Node, function: FunctionConfig) -> FunctionConfig {
    let version = node.invoker.runtime_version(&function.runtime).await.unwrap();
    assert!(version.len() == 64 && version.bytes().all(|digit| digit.is_ascii_hexdigit()), "{version}");
    FunctionConfig { runtime_management: RuntimeManagement::Manual { version }, ..function }
}

/// The node with another image of the runtime.
async fn updated(node: Node) -> Node {
    pack_of("other blocks", &node.dir.path().join("lib").join(PYTHON));
    node.restarted().await
}

#[tokio::test]
async fn what_is_pinned_runs_on_that_version_of_its_runtime_or_not_at_all() {
    let node = node("");
    let function = pinned(&node, function("f")).await;
    assert_eq!(node.how(function.clone()).await, "booted");
    let node = updated(node).await;
    let error = node.invoke_version(function.clone(), "\"how\"").await.unwrap_err();
    assert!(
        matches!(&error, InvokeError::InvalidRuntime(problem) if problem.contains("is pinned to")),
        "{error}"
    );
    let now = pinned(&node, function).await;
    assert_eq!(node.how(now).await, "booted");
    node.population(1).await;
}

#[tokio::test]
async fn what_was_started_before_a_pin_serves_nobody_behind_it() {
    let node = node("");
    let before = function("f");
    assert_eq!(node.how(before.clone()).await, "booted");
    let now = pinned(&node, before.clone()).await;
    assert_eq!(now.deployment_id, before.deployment_id, "nothing else tells them apart");
    assert_eq!(node.how(now.clone()).await, "booted");
    node.population(2).await;
    assert_eq!(node.how(now).await, "booted");
    node.population(2).await;
}

#[tokio::test]
async fn what_is_pinned_is_no_clone_of_another_time() {
    let node = node("");
    node.prepare(version("f")).await.unwrap();
    let before = pinned(&node, version("f")).await;
    let node = updated(node).await;
    assert!(node.prepare(before.clone()).await.unwrap_err().to_string().contains("is pinned to"));
    assert!(matches!(node.invoke_version(before, "1").await, Err(InvokeError::InvalidRuntime(_))));
    let now = pinned(&node, version("f")).await;
    assert_ne!(node.how(now).await, "cloned", "its snapshot has the runtime of before");
    node.stop().await;
}
