//! What outlives a node's crash: functions, their settings and their code, and the snapshots of their versions.

use serde_json::json;

use crate::client::bytes;
use crate::functions::{Function, Invocation};
use crate::node::{Boot, Node};
use crate::setting;

#[test]
fn functions_code_and_snapshots_survive_a_power_cut() {
    let state = setting("TINDERBOX_TEST_STATE").join("power-cut.img");
    let node = Node::boot(Boot::Direct, &state);
    let published = Function::python("snapstart")
        .with("SnapStart", json!({ "ApplyOn": "PublishedVersions" }))
        .deploy(&node.client());
    let version = published.publish_active();
    let clone = published.invoke_as(&version, &json!({})).expect("invoke").json();
    let function =
        Function::python("hello").with("Environment", json!({ "Variables": { "VARIABLE": "kept" } }));
    let name = function.name();
    let created = function.create(&node.client()).expect("create");
    let deleted = Function::python("hello");
    deleted.create(&node.client()).expect("create");
    node.client().call("delete_function", json!({ "FunctionName": deleted.name() })).expect("delete");
    // As soon as the answers are there: what was acknowledged must be on the disk.
    node.cut_power();

    let node = Node::boot(Boot::Direct, &state);
    let client = node.client();
    client.wait("function_active_v2", json!({ "FunctionName": name })).expect("becomes active");
    let read = client.call("get_function_configuration", json!({ "FunctionName": name })).expect("get");
    assert_eq!(read["CodeSha256"], created["CodeSha256"]);
    let answer = client.call("invoke", json!({ "FunctionName": name })).expect("invoke");
    assert_eq!(Invocation::parse(&answer).json()["variable"], "kept");
    let gone =
        client.call("get_function", json!({ "FunctionName": deleted.name() })).expect_err("it was deleted");
    assert_eq!(gone.code, "ResourceNotFoundException");

    // The first call of the version since: a clone of what was saved before.
    let args = json!({ "FunctionName": published.name, "Qualifier": version, "Payload": bytes(b"{}") });
    let answer = client.call("invoke", args).expect("invoke");
    let timing = answer["ResponseMetadata"]["HTTPHeaders"]["server-timing"].to_string();
    assert!(timing.contains("way;desc=snapshot"), "{timing}");
    let later = Invocation::parse(&answer).json();
    assert_eq!((&later["init"], &later["hooks"]), (&clone["init"], &json!(["before", "after"])));
    assert_ne!(later["clone"], clone["clone"], "a clone is a copy of another");
}
