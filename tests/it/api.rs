//! Functions as records: created, read, listed, changed and deleted through boto3, with its waiters.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::functions::{Function, Life, ROLE, in_both_lives, zip_of};
use crate::node::Node;

in_both_lives! {
    changed_settings_are_read_back_and_reach_the_next_invocation,
}

#[test]
fn a_created_function_is_described_as_lambda_describes_it() {
    let shared = Node::shared();
    let client = shared.node.client();
    let function = Function::python("hello").with("Description", "says hello");
    let name = function.name();
    let created = function.create(&client).expect("create");
    assert_eq!(created["ResponseMetadata"]["HTTPStatusCode"], 201);
    assert_eq!(created["FunctionArn"], format!("arn:aws:lambda:us-east-1:000000000000:function:{name}"));
    let expected = json!({
        "FunctionName": name, "Runtime": "python3.13", "Role": ROLE, "Handler": "app.handler",
        "Description": "says hello", "Timeout": 120, "MemorySize": 192, "Version": "$LATEST", "PackageType": "Zip",
        "Architectures": ["x86_64"], "EphemeralStorage": { "Size": 512 }, "TracingConfig": { "Mode": "PassThrough" },
    });
    for (member, value) in expected.as_object().expect("an object") {
        assert_eq!(&created[member], value, "{member}");
    }
    let sha256 = STANDARD.decode(created["CodeSha256"].as_str().expect("a hash")).expect("base64");
    assert_eq!(sha256.len(), 32);
    assert!(created["CodeSize"].as_u64().is_some_and(|size| size > 0));
    assert!(matches!(created["State"].as_str(), Some("Pending" | "Active")), "{created}");
    client.wait("function_active_v2", json!({ "FunctionName": name })).expect("becomes active");
    let read = client.call("get_function", json!({ "FunctionName": name })).expect("get");
    assert_eq!(read["Configuration"]["State"], "Active");
    assert_eq!(read["Configuration"]["LastUpdateStatus"], "Successful");
    assert_eq!(read["Configuration"]["CodeSha256"], created["CodeSha256"]);
    assert_eq!(read["Code"]["RepositoryType"], "S3");
    client.call("delete_function", json!({ "FunctionName": name })).expect("delete");
}

#[test]
fn a_function_is_found_by_name_and_by_arn_and_listed() {
    let shared = Node::shared();
    let client = shared.node.client();
    let function = Function::python("hello").deploy(&client);
    let partial = format!("000000000000:function:{}", function.name);
    for name in [function.name.as_str(), function.arn.as_str(), partial.as_str()] {
        let read = client.call("get_function_configuration", json!({ "FunctionName": name })).expect(name);
        assert_eq!(read["FunctionArn"], function.arn);
    }
    let listed = client.call("list_functions", json!({})).expect("list");
    let listed = listed["Functions"].as_array().expect("a list");
    let mine: Vec<&Value> = listed.iter().filter(|each| each["FunctionName"] == function.name).collect();
    assert_eq!(mine.len(), 1, "{listed:?}");
}

#[test]
fn long_lists_come_in_pages() {
    let shared = Node::shared();
    let client = shared.node.client();
    let deployed: Vec<_> = (0..3).map(|_| Function::python("hello").deploy(&client)).collect();
    let (mut names, mut marker, mut pages) = (Vec::new(), None::<String>, 0);
    loop {
        let mut args = json!({ "MaxItems": 2 });
        if let Some(marker) = &marker {
            args["Marker"] = marker.as_str().into();
        }
        let page = client.call("list_functions", args).expect("list");
        let functions = page["Functions"].as_array().expect("a list");
        assert!(functions.len() <= 2, "{page}");
        names.extend(functions.iter().filter_map(|each| each["FunctionName"].as_str().map(str::to_owned)));
        pages += 1;
        match page["NextMarker"].as_str().filter(|marker| !marker.is_empty()) {
            Some(next) => marker = Some(next.to_owned()),
            None => break,
        }
    }
    assert!(pages >= 2, "{pages} pages");
    for function in &deployed {
        assert_eq!(names.iter().filter(|name| **name == function.name).count(), 1, "{names:?}");
    }
}

fn changed_settings_are_read_back_and_reach_the_next_invocation(life: Life) {
    let shared = Node::shared();
    let client = shared.node.client();
    let mut function = Function::python("hello")
        .with("Environment", json!({ "Variables": { "VARIABLE": "1" } }))
        .deploy_in(life, &client);
    let before = function.answer(json!({}));
    assert_eq!((&before["variable"], &before["memory_limit_in_mb"]), (&json!("1"), &json!("192")));
    let revision = function.call("get_function_configuration", json!({})).expect("get")["RevisionId"].clone();
    function.update(
        json!({ "MemorySize": 256, "Timeout": 99, "Environment": { "Variables": { "VARIABLE": "2" } } }),
    );
    let changed = function.call("get_function_configuration", json!({})).expect("get");
    assert_eq!((&changed["MemorySize"], &changed["Timeout"]), (&json!(256), &json!(99)));
    assert_ne!(changed["RevisionId"], revision);
    let after = function.answer(json!({}));
    assert_eq!((&after["variable"], &after["memory_limit_in_mb"]), (&json!("2"), &json!("256")));
    assert_ne!(after["sandbox"], before["sandbox"], "an old sandbox served new settings");
    assert!(after["remaining_ms"].as_u64().is_some_and(|ms| ms <= 99_000 && ms > 10_000), "{after}");
}

#[test]
fn changed_code_answers_the_next_invocation() {
    let shared = Node::shared();
    let mut function = Function::python("hello").deploy(&shared.node.client());
    let before = function.call("get_function_configuration", json!({})).expect("get");
    assert_eq!(function.answer(json!({}))["function_name"], function.name);
    let code = "def handler(event, context):\n    return 'second edition'\n";
    let updated = function.update_code(&json!([{ "name": "app.py", "text": code }]));
    assert_ne!(updated["CodeSha256"], before["CodeSha256"]);
    assert_eq!(function.answer(json!({})), "second edition");
}

#[test]
fn a_stale_revision_changes_nothing() {
    let shared = Node::shared();
    let function = Function::python("hello").deploy(&shared.node.client());
    let changes = json!({ "Timeout": 7, "RevisionId": "00000000-0000-4000-8000-000000000000" });
    let error = function.call("update_function_configuration", changes).expect_err("the revision is stale");
    assert_eq!((error.code.as_str(), error.status), ("PreconditionFailedException", 412));
    assert_eq!(function.call("get_function_configuration", json!({})).expect("get")["Timeout"], 120);
}

#[test]
fn a_deleted_function_is_gone() {
    let shared = Node::shared();
    let client = shared.node.client();
    let function = Function::python("hello").deploy(&client);
    let deleted = function.call("delete_function", json!({})).expect("delete");
    assert_eq!(deleted["ResponseMetadata"]["HTTPStatusCode"], 204);
    for operation in ["get_function", "get_function_configuration", "delete_function", "invoke"] {
        let error = function.call(operation, json!({})).expect_err(operation);
        assert_eq!((error.code.as_str(), error.status), ("ResourceNotFoundException", 404), "{operation}");
        assert!(error.message.contains(&function.arn), "{operation}: {}", error.message);
    }
}

#[test]
fn a_name_is_taken_once() {
    let shared = Node::shared();
    let client = shared.node.client();
    let first = Function::python("hello").deploy(&client);
    let again = Function::python("hello").with("FunctionName", first.name.as_str()).create(&client);
    let error = again.expect_err("the name is taken");
    assert_eq!((error.code.as_str(), error.status), ("ResourceConflictException", 409));
    assert_eq!(error.message, format!("Function already exist: {}", first.name));
}

#[test]
fn a_dry_run_of_an_update_changes_nothing() {
    let shared = Node::shared();
    let function = Function::python("hello").deploy(&shared.node.client());
    let before = function.call("get_function_configuration", json!({})).expect("get");
    let args = json!({ "ZipFile": { "__zip__": zip_of("faults") }, "DryRun": true });
    function.call("update_function_code", args).expect("dry run");
    let after = function.call("get_function_configuration", json!({})).expect("get");
    assert_eq!((&after["CodeSha256"], &after["RevisionId"]), (&before["CodeSha256"], &before["RevisionId"]));
}

#[test]
fn the_account_has_limits_and_usage() {
    let shared = Node::shared();
    let client = shared.node.client();
    let _function = Function::python("hello").deploy(&client);
    let settings = client.call("get_account_settings", json!({})).expect("settings");
    assert!(
        settings["AccountLimit"]["ConcurrentExecutions"].as_u64().is_some_and(|limit| limit > 0),
        "{settings}"
    );
    assert!(settings["AccountUsage"]["FunctionCount"].as_u64().is_some_and(|count| count >= 1), "{settings}");
}
