//! SnapStart through boto3: what a version goes through, what its cold starts print, what its hooks may do to it, and what
//! an alias serves meanwhile.

use serde_json::{Value, json};

use crate::client::Call;
use crate::functions::{Deployed, Function, Invocation, Life};
use crate::node::Node;

/// Long enough to look at what is served while a version's snapshot is made.
const LONG_INIT_S: &str = "30";

/// Calls that a function holds while others begin, seconds: each of them gets a clone of its own.
const HOLD_S: u32 = 20;

/// Calls under which a version is deleted: more than come up at once, fewer than fill the node.
const DELETED_UNDER: usize = 4;

/// How long each of these holds its sandbox, so that the next one needs another; seconds.
const HELD_S: u32 = 5;

fn snap_start(function: Function) -> Function {
    function.with("SnapStart", json!({ "ApplyOn": "PublishedVersions" }))
}

/// A function whose published versions misbehave so.
fn faulty(fault: &str) -> Function {
    let variables = json!({ "Variables": { "FAULT": fault } });
    snap_start(Function::python("snapstart")).with("Environment", variables)
}

fn set_variables(function: &Deployed, variables: Value) {
    let environment = json!({ "Environment": { "Variables": variables } });
    function.call("update_function_configuration", environment).expect("update");
    function.wait("function_updated_v2");
}

fn log(invocation: &Invocation) -> &str {
    invocation.log.as_deref().expect("the tail was asked for")
}

/// The number behind a name in the log, milliseconds.
#[track_caller]
fn milliseconds(log: &str, name: &str) -> f64 {
    let rest =
        log.split_once(&format!("{name}: ")).unwrap_or_else(|| panic!("no `{name}` in the log:\n{log}")).1;
    let number = rest.split_once(" ms").unwrap_or_else(|| panic!("no time behind `{name}`:\n{log}")).0;
    number.parse().unwrap_or_else(|_| panic!("`{name}` is {number:?}:\n{log}"))
}

/// Waits until a version is no longer pending and expects that it failed.
fn failed_version(function: &Deployed) -> Value {
    let version = function.publish();
    let args = json!({ "FunctionName": function.name, "Qualifier": version });
    function.client().wait("published_version_active", args).expect_err("the version becomes active");
    function.version(&version)
}

#[test]
fn a_published_version_is_initialised_once_and_restored_by_every_cold_start() {
    let shared = Node::alone();
    let function = snap_start(Function::python("snapstart")).deploy(&shared.node.client());
    let published = function.call("publish_version", json!({})).expect("publish");
    assert_eq!((&published["State"], &published["Version"]), (&json!("Pending"), &json!("1")));
    assert_eq!(
        published["SnapStart"],
        json!({ "ApplyOn": "PublishedVersions", "OptimizationStatus": "Off" })
    );
    let early = function.invoke_as("1", &json!({})).expect_err("it is not ready");
    assert_eq!((early.code.as_str(), early.status), ("SnapStartNotReadyException", 409), "{early:?}");
    assert_eq!(function.publish_active(), "1", "nothing has changed since");
    let active = function.version("1");
    assert_eq!(active["SnapStart"], json!({ "ApplyOn": "PublishedVersions", "OptimizationStatus": "On" }));

    let calls: Vec<_> = (0..2).map(|_| function.begin_as("1", &json!({ "hold_s": HOLD_S }))).collect();
    let answers: Vec<_> = calls.into_iter().map(|call| call.end().expect("invoke")).collect();
    answers.iter().for_each(assert_says_where_its_milliseconds_went);
    let clones: Vec<_> = answers.iter().map(Invocation::parse).collect();
    for clone in &clones {
        let (log, answer) = (log(clone), clone.json());
        assert_eq!(clone.executed_version.as_deref(), Some("1"));
        assert_eq!(answer["hooks"], json!(["before", "after"]));
        assert_eq!((&answer["type"], &answer["version"]), (&json!("snap-start"), &json!("1")));
        assert_eq!(answer["arn"], format!("{}:1", function.arn));
        let start = log.find("RESTORE_START Runtime Version: python:3.13.").expect("a restore begins");
        let report = log.find("RESTORE_REPORT Restore Duration: ").expect("a restore ends");
        assert!(start < report && report < log.find("START RequestId: ").expect("a start"), "{log}");
        let (_, report) = log.split_once("REPORT RequestId: ").expect("a report");
        assert!(milliseconds(report, "\tRestore Duration") > 0.0, "{log}");
        assert!(milliseconds(report, "\tBilled Restore Duration") > 0.0, "{log}");
        assert!(!log.contains("Init Duration"), "a clone was initialised:\n{log}");
    }
    let (one, other) = (clones[0].json(), clones[1].json());
    assert_eq!(one["init"], other["init"], "they are not clones of one snapshot");
    assert_ne!(one["clone"], other["clone"], "a clone is a copy of another");

    let warm = function.invoke_as("1", &json!({})).expect("invoke");
    assert!(!log(&warm).contains("Restore Duration"), "a warm invocation reports a restore:\n{}", log(&warm));
    let latest = function.invoke(json!({}));
    assert_eq!(latest.json()["type"], "on-demand");
    assert!(log(&latest).contains("Init Duration"), "$LATEST is not snapshotted:\n{}", log(&latest));
}

#[track_caller]
fn assert_says_where_its_milliseconds_went(answer: &Value) {
    let timing = answer["ResponseMetadata"]["HTTPHeaders"]["server-timing"].to_string();
    for phase in ["place;dur=", "load;dur=", "unique;dur=", "gate;dur=", "hooks;dur=", "run;dur="] {
        assert!(timing.contains(phase), "no {phase} in {timing}");
    }
    assert!(!timing.contains("boot;dur=") && !timing.contains("init;dur="), "{timing}");
}

#[test]
fn a_rust_function_is_restored_with_its_snapstart_resource() {
    let shared = Node::shared();
    let function = snap_start(Function::rust()).deploy(&shared.node.client());
    let version = function.publish_active();
    let clone = function.invoke_as(&version, &json!({})).expect("invoke");
    assert_eq!(clone.function_error, None, "{clone:?}");
    assert_eq!(clone.json()["hooks"], json!(["before", "after"]));
    assert!(milliseconds(log(&clone), "\tRestore Duration") > 0.0);
    assert_eq!(function.answer(json!({}))["hooks"], json!([]), "$LATEST has no snapshot");
}

#[test]
fn a_runtime_that_knows_nothing_of_snapshots_is_cloned_from_its_first_next() {
    let shared = Node::alone();
    let function = snap_start(Function::plain()).deploy(&shared.node.client());
    let version = function.publish_active();
    let calls: Vec<_> = (0..2).map(|_| function.begin_as(&version, &json!({ "hold_s": HOLD_S }))).collect();
    let answers: Vec<_> = calls.into_iter().map(|call| call.end().expect("invoke")).collect();
    let clones: Vec<_> = answers.iter().map(Invocation::parse).collect();
    for (clone, answer) in clones.iter().zip(&answers) {
        let timing = answer["ResponseMetadata"]["HTTPHeaders"]["server-timing"].to_string();
        assert!(timing.contains("way;desc=snapshot,"), "{timing}");
        assert_eq!(clone.function_error, None, "{clone:?}");
        assert_eq!(clone.json()["type"], "snap-start");
        assert!(milliseconds(log(clone), "\tRestore Duration") > 0.0, "{clone:?}");
    }
    let (one, other) = (clones[0].json(), clones[1].json());
    assert_eq!(one["drawn_in_init"], other["drawn_in_init"], "they are not clones of one snapshot");
    for own in ["boot_id", "drawn", "generation", "instance_id"] {
        assert!(one[own].is_string() && one[own] != other[own], "{own}: {one} and {other}");
    }
    let latest = function.answer(json!({}));
    assert_eq!((&latest["type"], latest["drawn"] == one["drawn"]), (&json!("on-demand"), false));
}

#[test]
fn an_alias_serves_the_old_version_until_the_new_one_is_ready_or_for_ever_when_it_fails() {
    let shared = Node::shared();
    let function = snap_start(Function::python("snapstart")).deploy(&shared.node.client());
    let first = function.publish_active();
    function.call("create_alias", json!({ "Name": "live", "FunctionVersion": first })).expect("alias");
    let served = || {
        let invocation = function.invoke_as("live", &json!({})).expect("an alias always serves");
        assert_eq!(invocation.function_error, None, "{invocation:?}");
        invocation.executed_version.expect("an answer names its version")
    };
    let point_at = |version: &str| {
        let args = json!({ "Name": "live", "FunctionVersion": version });
        let moved = function.call("update_alias", args).expect("move the alias");
        assert_eq!(moved["FunctionVersion"], version);
    };
    assert_eq!(served(), first);

    set_variables(&function, json!({ "INIT_S": LONG_INIT_S }));
    let second = function.publish();
    point_at(&second);
    assert_eq!(served(), first, "the second is being initialised");
    assert_eq!(function.version(&second)["State"], "Pending");
    assert_eq!(function.publish_active(), second);
    assert_eq!(served(), second);

    set_variables(&function, json!({ "FAULT": "init raises" }));
    let third = function.publish();
    point_at(&third);
    let args = json!({ "FunctionName": function.name, "Qualifier": third });
    function.client().wait("published_version_active", args).expect_err("its init fails");
    let failed = function.version(&third);
    assert_eq!(
        (&failed["State"], &failed["StateReasonCode"]),
        (&json!("Failed"), &json!("FunctionError.RuntimeInitError"))
    );
    let reason = failed["StateReason"].as_str().expect("it says why");
    assert!(reason.contains("wet tinder"), "{reason}");
    assert_eq!(served(), second, "a failed init leaves the alias where it was");
}

#[test]
fn a_version_whose_init_or_before_hook_fails_says_why() {
    let shared = Node::shared();
    let client = shared.node.client();
    for (fault, code, reason) in [
        ("before raises", "FunctionError.RuntimeInitError", "wet tinder"),
        ("before exits", "FunctionError.RuntimeInitError", "exit status 3"),
    ] {
        let function = faulty(fault).deploy(&client);
        let failed = failed_version(&function);
        assert_eq!(
            (&failed["State"], &failed["StateReasonCode"]),
            (&json!("Failed"), &json!(code)),
            "{fault}"
        );
        let said = failed["StateReason"].as_str().expect("it says why");
        assert!(said.contains(reason), "{fault}: {said}");
        let error = function.invoke_as("1", &json!({})).expect_err("it cannot be invoked");
        assert_eq!((error.code.as_str(), error.status), ("SnapStartException", 400), "{fault}: {error:?}");
        // Without a snapshot the hooks do not run.
        assert_eq!(function.answer(json!({}))["hooks"], json!([]), "{fault}");
    }
}

#[test]
fn a_hook_that_fails_after_a_restore_is_the_callers_error_and_nobody_elses() {
    let shared = Node::shared();
    let client = shared.node.client();
    let well = shared.keeps(Function::python("hello"), Life::Booted);
    // One that fails is tried again by the next call; to see that of one that hangs takes too long.
    for (fault, calls, code, status, reason) in [
        ("after raises", 2, "SnapStartException", 400, "wet tinder"),
        ("after exits", 2, "SnapStartException", 400, "exit status 3"),
        ("after hangs", 1, "SnapStartTimeoutException", 408, "timeout"),
    ] {
        let function = faulty(fault).deploy(&client);
        let version = function.publish_active();
        for _ in 0..calls {
            let error = function.invoke_as(&version, &json!({})).expect_err("its hook fails");
            assert_eq!((error.code.as_str(), error.status), (code, status), "{fault}: {error:?}");
            assert!(error.message.contains(reason), "{fault}: {error:?}");
        }
        assert_eq!(function.version(&version)["State"], "Active", "{fault}");
    }
    assert_eq!(well.answer(json!({ "is": "well" }))["event"], json!({ "is": "well" }));
}

#[test]
fn a_version_can_be_deleted_while_its_clones_resume() {
    let shared = Node::alone();
    let function = snap_start(Function::python("snapstart")).deploy(&shared.node.client());
    let version = function.publish_active();
    // The last one is held for as long as the others: when it has its answer, the node has long taken them, and brings clones
    // up for them, a few at a time.
    let others: Vec<_> =
        (0..DELETED_UNDER).map(|_| function.begin_as(&version, &json!({ "hold_s": HELD_S }))).collect();
    let last = function.begin_as(&version, &json!({ "hold_s": HELD_S }));
    assert_ne!(started(last), Started::Boot);
    function.call("delete_function", json!({ "Qualifier": version })).expect("delete the version");
    let not_found = |call: Call| {
        let gone = call.end().expect_err("it is deleted");
        assert_eq!((gone.code.as_str(), gone.status), ("ResourceNotFoundException", 404));
        assert_eq!(gone.message, format!("Function not found: {}:{version}", function.arn));
    };
    not_found(function.begin_as(&version, &json!({})));
    // What was taken is answered: by a clone that had its snapshot open, by what was up already, or else by a boot.
    let others: Vec<_> = others.into_iter().map(started).collect();
    eprintln!("the version was deleted under {others:?}");
    assert!(others.contains(&Started::Clone), "{others:?}");
    not_found(function.begin_as(&version, &json!({})));
    set_variables(&function, json!({ "NEXT": "1" }));
    let next = function.publish_active();
    assert_eq!(next, "2", "numbers are not used again");
    let clone = function.invoke_as(&next, &json!({})).expect("invoke");
    assert!(log(&clone).contains("RESTORE_REPORT"), "{clone:?}");
}

/// How the sandbox of an answered call came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Started {
    Clone,
    Boot,
    /// It was there.
    Warm,
}

/// Waits for the answer of a call, which is the function's own.
fn started(call: Call) -> Started {
    let answer = call.end().expect("what the node has taken is answered");
    let invocation = Invocation::parse(&answer);
    assert_eq!(invocation.function_error, None, "{invocation:?}");
    let timing = answer["ResponseMetadata"]["HTTPHeaders"]["server-timing"].to_string();
    let started = match timing.split_once("way;desc=") {
        None => Started::Warm,
        Some((_, way)) if way.starts_with("boot") => Started::Boot,
        Some((_, way)) => {
            assert!(way.starts_with("snapshot"), "{timing}");
            Started::Clone
        }
    };
    let restored = log(&invocation).contains("RESTORE_REPORT");
    assert_eq!(restored, started == Started::Clone, "{timing}, {invocation:?}");
    // Without a snapshot the hooks do not run.
    let hooks = if started == Started::Boot { json!([]) } else { json!(["before", "after"]) };
    assert_eq!(invocation.json()["hooks"], hooks, "{invocation:?}");
    started
}

#[test]
fn latest_can_have_a_snapshot_too_which_follows_every_update() {
    let shared = Node::alone();
    let variables = |shade: &str| json!({ "TINDERBOX_SNAPSTART": "latest", "SHADE": shade });
    let function = Function::python("snapstart")
        .with("Environment", json!({ "Variables": variables("red") }))
        .deploy(&shared.node.client());
    let clone = restored(&function);
    assert_eq!(clone["version"], "$LATEST");
    let before = &clone["init"];
    set_variables(&function, variables("green"));
    assert_ne!(&function.answer(json!({}))["init"], before, "what was updated serves no more");
    assert_ne!(&restored(&function)["init"], before);
}

#[test]
fn a_tag_gives_latest_a_snapshot_for_as_long_as_it_is_there() {
    let shared = Node::alone();
    let function = Function::python("snapstart").deploy(&shared.node.client());
    let of_tags = |operation: &str, mut args: Value| {
        args["Resource"] = function.arn.as_str().into();
        function.client().call(operation, args).unwrap_or_else(|error| panic!("{operation}: {error:?}"))
    };
    let tags = json!({ "TINDERBOX_SNAPSTART": "latest", "team": "kindling" });
    let tagged = of_tags("tag_resource", json!({ "Tags": tags }));
    assert_eq!(tagged["ResponseMetadata"]["HTTPStatusCode"], 204);
    assert_eq!(of_tags("list_tags", json!({}))["Tags"], tags);
    assert_eq!(function.call("get_function", json!({})).expect("get")["Tags"], tags);
    assert_eq!(restored(&function)["version"], "$LATEST");

    let untagged = of_tags("untag_resource", json!({ "TagKeys": ["TINDERBOX_SNAPSTART", "nosuch"] }));
    assert_eq!(untagged["ResponseMetadata"]["HTTPStatusCode"], 204);
    assert_eq!(of_tags("list_tags", json!({}))["Tags"], json!({ "team": "kindling" }));
    let next = function.invoke(json!({}));
    assert!(log(&next).contains("Init Duration"), "it is a clone still:\n{}", log(&next));
    assert_eq!((&next.json()["type"], &next.json()["hooks"]), (&json!("on-demand"), &json!([])));
}

/// What a clone of `$LATEST` answers. When its snapshot is ready shows in nothing but its cold starts; each round of calls
/// at once makes one more.
fn restored(function: &Deployed) -> Value {
    const ROUNDS: usize = 4;
    for round in 1..=ROUNDS {
        let calls: Vec<_> = (0..round).map(|_| function.begin(&json!({ "hold_s": HOLD_S }))).collect();
        let answers = calls.into_iter().map(|call| Invocation::parse(&call.end().expect("invoke")));
        if let Some(clone) = answers.into_iter().find(|answer| log(answer).contains("Restore Duration")) {
            assert_eq!(clone.json()["hooks"], json!(["before", "after"]));
            return clone.json();
        }
    }
    panic!("{ROUNDS} cold starts, and none was a restore")
}
