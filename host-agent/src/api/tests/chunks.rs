//! What an operator asks of a node, and of its chunks.

use super::*;

const CHUNKS: &str = "/tinderbox/chunks";

#[tokio::test]
async fn what_there_is_is_counted_checked_and_collected() {
    let node = Node::new().await;
    node.function("f").await;
    let stats = node.get(CHUNKS).await.ok(200);
    assert_eq!(
        (&stats["published"]["contents"], &stats["published"]["by_kind"][0]["kind"]),
        (&json!(1), &json!("code"))
    );
    assert!(
        stats["published"]["stored"].as_u64().unwrap() > 0 && stats["cache"]["copies"].as_u64().unwrap() > 0
    );
    let verified = node.call("POST", &format!("{CHUNKS}/verify"), Body::empty()).await.ok(200);
    assert_eq!((&verified["damaged"], &verified["missing"]), (&json!(0), &json!(0)), "{verified}");
    assert!(verified["chunks"].as_u64().unwrap() > 0 && verified["copies"].as_u64().unwrap() > 0);
    let collected = node.call("POST", &format!("{CHUNKS}/gc"), Body::empty()).await.ok(200);
    assert_eq!(collected["deleted"], json!(0), "all of it is needed");
}

#[tokio::test]
async fn what_is_damaged_is_found_and_written_again_from_this_nodes_copies() {
    let node = Node::new().await;
    node.function("f").await;
    for file in std::fs::read_dir(node.dir.path().join("chunks/origin/chunks")).unwrap() {
        std::fs::write(file.unwrap().path(), "damaged").unwrap();
    }
    let verified = node.call("POST", &format!("{CHUNKS}/verify"), Body::empty()).await.ok(200);
    let damaged = verified["damaged"].as_u64().unwrap();
    assert!(damaged > 0 && verified["names"].as_array().unwrap().len() as u64 == damaged, "{verified}");
    let mended = node.call("POST", &format!("{CHUNKS}/repair"), Body::empty()).await.ok(200);
    assert_eq!(mended, json!({ "replaced": damaged, "deleted": 0, "left": 0, "missing": 0 }));
    let verified = node.call("POST", &format!("{CHUNKS}/verify"), Body::empty()).await.ok(200);
    assert_eq!((&verified["damaged"], &verified["missing"]), (&json!(0), &json!(0)));
}

#[tokio::test]
async fn they_are_asked_for_as_everything_is() {
    let node = Node::new().await;
    for (method, path) in
        [("POST", CHUNKS), ("GET", "/tinderbox/chunks/gc"), ("POST", "/tinderbox/chunks/all")]
    {
        let refused = node.call(method, path, Body::empty()).await;
        assert!(refused.status.is_client_error(), "{method} {path}: {}", refused.status);
    }
}

#[tokio::test]
async fn a_node_says_how_it_is_closed() {
    let node = Node::new().await;
    let state = node.get("/tinderbox/node").await.ok(200);
    assert!(state["kernel"].is_string() && state["root"].is_string(), "{state}");
    assert!(state["swaps"].is_u64() && state["vulnerabilities"].is_object(), "{state}");
}
