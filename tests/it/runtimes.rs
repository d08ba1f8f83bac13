//! `provided.al2023` with AWS's own Rust runtime client, and code that is not a program; Node.js, under another version's name; and
//! what the Python runtime adds to AWS's client.

use std::process::Command;

use serde_json::{Value, json};

use crate::client::{python, tests_folder};
use crate::functions::{Deployed, Function, Life, in_both_lives};
use crate::node::Node;
use crate::urls::streamed;

in_both_lives! {
    a_rust_function_answers_through_awss_own_client,
    a_rust_function_reports_its_errors,
}

fn a_rust_function_answers_through_awss_own_client(life: Life) {
    let shared = Node::shared();
    let function = shared.keeps(Function::rust(), life);
    let invocation = function.invoke(json!({ "from": "Rust" }));
    assert_eq!(invocation.function_error, None, "{invocation:?}");
    let answer = invocation.json();
    assert_eq!(answer["event"], json!({ "from": "Rust" }));
    assert_eq!(answer["function_name"], function.name);
    assert!(invocation.log.is_some_and(|log| log.contains("hello from Rust")));
}

fn a_rust_function_reports_its_errors(life: Life) {
    let shared = Node::shared();
    let function = shared.keeps(Function::rust(), life);
    let failed = function.invoke(json!({ "fail": "no wick" }));
    assert_eq!((failed.status, failed.function_error.as_deref()), (200, Some("Unhandled")));
    assert!(failed.error().1.contains("no wick"), "{failed:?}");
    assert_eq!(function.answer(json!({ "again": 1 }))["event"], json!({ "again": 1 }));
}

/// What a Python clone does when its first connection takes long, and the like, which no node can be made to need.
#[test]
fn what_the_python_runtime_adds_to_awss_client_works_by_itself() {
    let tests = tests_folder();
    let module = tests.join("../image/runtimes/python3.13/rootfs/var/runtime");
    let ran = Command::new(python()).arg(tests.join("clients/python_runtime.py")).arg(module).output();
    let ran = ran.expect("start Python");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

fn provided(zip: &Value) -> Function {
    Function::new("provided.al2023", "bootstrap", zip)
}

#[test]
fn a_bootstrap_that_cannot_run_is_an_error_of_the_function() {
    let shared = Node::shared();
    let client = shared.node.client();
    let missing = json!([{ "name": "readme.txt", "text": "no bootstrap here" }]);
    let not_executable = json!([{ "name": "bootstrap", "text": "#!/bin/sh\n", "mode": 0o100_644 }]);
    let no_program = json!([{ "name": "bootstrap", "text": "not an ELF file", "mode": 0o100_755 }]);
    for zip in [missing, not_executable, no_program] {
        let invocation = provided(&zip).deploy(&client).invoke(json!({}));
        assert_eq!(
            (invocation.status, invocation.function_error.as_deref()),
            (200, Some("Unhandled")),
            "{zip}"
        );
        let (kind, _) = invocation.error();
        assert!(
            ["Runtime.InvalidEntrypoint", "Runtime.ExitError"].contains(&kind.as_str()),
            "{invocation:?}"
        );
    }
}

#[test]
fn a_wrapper_is_run_in_place_of_the_runtime_and_runs_it() {
    const WRAPPER: &str = "#!/usr/bin/python3.13\nimport os, sys\nos.environ['WRAPPED'] = ' '.join(sys.argv)\n\
                           os.execv(sys.argv[1], sys.argv[1:])\n";
    const CODE: &str = "import os\ndef handler(event, context):\n    return os.environ['WRAPPED']\n";
    let shared = Node::shared();
    let zip =
        json!([{ "name": "app.py", "text": CODE }, { "name": "wrap", "text": WRAPPER, "mode": 0o100_755 }]);
    let by = |path: &str| json!({ "Variables": { "AWS_LAMBDA_EXEC_WRAPPER": path } });
    let function = Function::new("python3.13", "app.handler", &zip).with("Environment", by("/var/task/wrap"));
    let mut function = function.deploy(&shared.node.client());
    let given = function.answer(json!({}));
    assert_eq!(given, "/var/task/wrap /usr/bin/python3.13 /var/runtime/bootstrap");
    function.update(json!({ "Environment": by("/opt/none") }));
    let (kind, message) = function.invoke(json!({})).error();
    assert!(message.contains("/opt/none"), "{kind}: {message}");
}

#[test]
fn a_node_function_answers_fails_and_streams() {
    let shared = Node::shared();
    let file = tests_folder().join("functions/node/index.mjs");
    let zip = json!([{ "name": "index.mjs", "file": file }, { "name": "local.js", "text": "exports.is = 'found';" }]);
    let function = Function::new("nodejs22.x", "index.handler", &zip).with("MemorySize", 256);
    let mut function = function.deploy(&shared.node.client());

    let answered = function.invoke(json!({ "from": "Node" }));
    assert_eq!(answered.function_error, None, "{answered:?}");
    let answer = answered.json();
    assert_eq!(answer["event"], json!({ "from": "Node" }));
    assert_eq!((&answer["functionName"], &answer["local"]), (&json!(function.name), &json!("found")));
    assert!(answer["remainingMs"].as_u64().is_some_and(|left| left > 0), "{answer}");
    assert!(answer["traceId"].as_str().is_some_and(|id| id.starts_with("Root=")), "{answer}");
    let log = answered.log.expect("the log's tail was asked for");
    let config = function.call("get_function_configuration", json!({})).expect("the function is there");
    let arn = config["RuntimeVersionConfig"]["RuntimeVersionArn"].as_str().expect("a version's ARN");
    let init_start = format!("INIT_START Runtime Version: nodejs:20.v1\tRuntime Version ARN: {arn}\n");
    assert!(log.contains(&init_start), "no other version has an image: {log}");
    let line =
        format!("Z\t{}\tINFO\ttold {{ from: 'Node' }}\n", answer["requestId"].as_str().unwrap_or_default());
    assert!(log.contains(&line), "{log}");

    let failed = function.invoke(json!({ "fail": "no wick" }));
    assert_eq!(failed.error(), ("RangeError".into(), "no wick".into()));
    assert_eq!(failed.json()["trace"][0], "RangeError: no wick");

    let long = "N".repeat(600_000);
    for (odd, error_type) in [("bare", "handled"), ("silent", "handled"), ("long", long.as_str())] {
        assert_eq!(function.invoke(json!({ "odd": odd })).error().0, error_type);
    }

    function.update(json!({ "Handler": "index.streaming", "LoggingConfig": { "LogFormat": "JSON" } }));
    assert_streams(&function);
}

#[test]
fn a_node_handler_of_any_form_answers() {
    let file = tests_folder().join("functions/node/forms.js");
    let zip = json!([{ "name": "forms.js", "file": file }]);
    let function = Function::new("nodejs20.x", "forms.any", &zip).with("MemorySize", 256);
    let function = function.deploy(&Node::shared().node.client());
    let event = |form: &str| json!({ "form": form, "event": { "a": 1 } });
    for (form, error) in [("failing", ("TypeError", "no wick")), ("fail", ("RangeError", "damp"))] {
        let (kind, message) = function.invoke(event(form)).error();
        assert_eq!((kind.as_str(), message.as_str()), error, "{form}");
    }
    for (form, answer) in [
        ("callback", json!({ "from": { "a": 1 } })),
        ("late", json!({ "a": 1, "seen": true })),
        ("done", json!("done")),
        ("succeed", json!("succeeded")),
        ("silent", json!(null)),
        // The last: its timer goes on, and others wait for that.
        ("early", json!("early")),
    ] {
        assert_eq!(function.answer(event(form)), answer, "{form}");
    }
}

#[test]
fn a_runtime_of_a_functions_own_in_python_streams() {
    let file = tests_folder().join("functions/python-stream/bootstrap");
    let zip = json!([{ "name": "bootstrap", "file": file, "mode": 0o100_755 }]);
    let instead = json!({ "Variables": { "AWS_LAMBDA_EXEC_WRAPPER": "/var/task/bootstrap" } });
    let function = Function::new("python3.13", "none", &zip).with("Environment", instead);
    assert_streams(&function.deploy(&Node::shared().node.client()));
}

/// In two parts that are a second apart.
#[track_caller]
fn assert_streams(function: &Deployed) {
    let (chunks, complete) = streamed(function, &json!({ "pauseMs": 1000 }));
    assert_eq!(chunks.iter().map(|(text, _)| text.as_str()).collect::<String>(), "first,second");
    let apart_s = chunks.last().map_or(0.0, |(_, last)| last - chunks[0].1);
    assert!(apart_s > 0.5, "it was sent while it was made: {chunks:?} {complete}");
}
