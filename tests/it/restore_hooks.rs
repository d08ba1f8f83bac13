//! Executables in `restore.d` that a function brings in its zip: they run in each clone, as the function's user, while the
//! function stands still; and a clone in which one fails serves nobody. The program is `restore-hook` of
//! `tests/functions/plain-rust`.

use serde_json::{Value, json};

use crate::functions::{Deployed, Function, Invocation};
use crate::node::Node;

/// Calls that a function holds while others begin, seconds: each of them gets a clone of its own.
const HOLD_S: u32 = 20;

/// `sbx_user1051` and its group.
const USER: (u32, u32) = (993, 990);

const EACCES: i32 = 13;
const EAFNOSUPPORT: i32 = 97;

/// The answer of `server-timing` for a sandbox that is no clone.
const BOOTED: &str = "way;desc=boot";

fn with_hook(orders: &str) -> Function {
    Function::plain()
        .with_restore_hook(orders)
        .with("SnapStart", json!({ "ApplyOn": "PublishedVersions" }))
        .with("Environment", json!({ "Variables": { "SECRET": "wet tinder" } }))
}

#[test]
fn a_hook_in_the_code_runs_once_in_each_clone_before_the_function_goes_on() {
    let shared = Node::alone();
    let function = with_hook("report").deploy(&shared.node.client());
    let version = function.publish_active();
    let calls: Vec<_> = (0..2).map(|_| function.begin_as(&version, &json!({ "hold_s": HOLD_S }))).collect();
    let clones: Vec<_> =
        calls.into_iter().map(|call| Invocation::parse(&call.end().expect("invoke"))).collect();
    clones.iter().for_each(assert_hook_ran);
    let (one, other) = (clones[0].json(), clones[1].json());
    assert_eq!(one["drawn_in_init"], other["drawn_in_init"], "they are not clones of one snapshot");
    assert_ne!(one["instance_id"], other["instance_id"]);
    let warm = function.invoke_as(&version, &json!({})).expect("invoke");
    assert_eq!(warm.json()["reports"].as_array().map(Vec::len), Some(1), "{warm:?}");
    assert_eq!(function.answer(json!({}))["reports"], json!([]), "$LATEST has no snapshot");
}

/// Holds a clone's answer against what its hook wrote.
#[track_caller]
fn assert_hook_ran(clone: &Invocation) {
    let answer = clone.json();
    let reports = answer["reports"].as_array().expect("an array");
    let [report] = reports.as_slice() else { panic!("not one run of the hook: {clone:?}") };
    let environment = report["environment"].as_object().expect("variables by name");
    let names: Vec<_> = environment.keys().collect();
    assert_eq!(names, ["LANG", "PATH", "TINDERBOX_GENERATION", "TINDERBOX_INSTANCE_ID"], "{report}");
    assert_eq!(environment["TINDERBOX_GENERATION"], answer["generation"]);
    assert_eq!(environment["TINDERBOX_INSTANCE_ID"], answer["instance_id"]);
    assert_eq!((&report["uid"], &report["gid"]), (&json!(USER.0), &json!(USER.1)));
    // Standard streams, and the folder that it lists.
    assert_eq!(report["descriptors"].as_array().map(Vec::len), Some(4), "{report}");
    assert_eq!(report["descriptors_of_pid_1"], EACCES, "{report}");
    assert_eq!(report["vsock"], EAFNOSUPPORT, "{report}");
    let processes = report["processes"].as_array().expect("an array");
    assert!(processes.contains(&json!(answer["pid"].to_string())), "the function is not in {report}");
    let ticks = report["ticks"].as_array().expect("an array");
    assert!(ticks[0].as_u64() > Some(0) && ticks[0] == ticks[1], "the function ran on: {report}");
    let log = clone.log.as_deref().expect("the tail was asked for");
    let said = format!("restore-hook: in {}", answer["instance_id"].as_str().expect("a text"));
    assert_eq!(log.matches(&said).count(), 1, "{log}");
}

#[test]
fn a_clone_whose_hook_fails_serves_nobody_and_the_call_is_answered_all_the_same() {
    let shared = Node::shared();
    let client = shared.node.client();
    for orders in ["fail", "crash", "hang"] {
        let function = with_hook(orders).deploy(&client);
        let version = function.publish_active();
        let (answer, timing) = timed(&function, &version);
        assert!(timing.contains(BOOTED), "{orders}: {timing}");
        assert_eq!(answer["type"], "on-demand", "{orders}: {answer}");
        assert_eq!(function.version(&version)["State"], "Active", "{orders}");
    }
}

/// What a version answers, and how its sandbox came to be.
fn timed(function: &Deployed, version: &str) -> (Value, String) {
    let answer = function.begin_as(version, &json!({})).end().expect("invoke");
    let timing = answer["ResponseMetadata"]["HTTPHeaders"]["server-timing"].to_string();
    let invocation = Invocation::parse(&answer);
    assert_eq!(invocation.function_error, None, "{invocation:?}");
    (invocation.json(), timing)
}
