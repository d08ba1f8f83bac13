//! Invocations: answers, logs, kinds of invocation, reuse of sandboxes and scaling out.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::client::bytes;
use crate::functions::{Function, Invocation, Life, in_both_lives};
use crate::node::Node;

/// Lambda's limit of an event, in bytes.
const MAX_EVENT_LEN: usize = 6 * 1024 * 1024;

/// Lambda's limit of a response, in bytes, as its error message has it.
const MAX_RESPONSE_LEN: usize = 6_291_556;

in_both_lives! {
    an_event_comes_back_with_what_the_context_says,
    the_tail_of_the_log_has_the_lines_that_users_look_for,
    a_log_is_only_sent_to_who_asks,
    a_client_context_reaches_the_function,
    an_exception_is_the_functions_error,
    the_largest_event_and_the_largest_response_pass,
    a_response_past_the_limit_is_an_error_of_the_function,
    a_warm_sandbox_is_used_again_and_never_by_another_function,
    concurrent_calls_run_in_microvms_of_their_own,
    more_memory_brings_more_processors,
    temporary_storage_has_the_size_that_was_asked_for,
}

fn an_event_comes_back_with_what_the_context_says(life: Life) {
    let shared = Node::shared();
    let function = shared.keeps(Function::python("hello"), life);
    let event = json!({ "text": "grüße, 世界", "deep": { "list": [1, 2.5, null, true] } });
    let invocation = function.invoke(event.clone());
    assert_eq!(
        (invocation.status, invocation.executed_version.as_deref()),
        (200, Some(function.called_version()))
    );
    let answer = invocation.json();
    assert_eq!(answer["event"], event);
    assert_eq!(answer["function_name"], function.name);
    assert_eq!(answer["function_version"], function.called_version());
    assert_eq!(answer["invoked_function_arn"], function.called_arn());
}

fn the_tail_of_the_log_has_the_lines_that_users_look_for(life: Life) {
    let shared = Node::shared();
    let function = Function::python("hello").deploy_in(life, &shared.node.client());
    let invocation = function.invoke(json!({}));
    let log = invocation.log.clone().expect("the tail was asked for");
    let id = invocation.json()["request_id"].as_str().expect("a request id").to_owned();
    let position = |what: String| log.find(&what).unwrap_or_else(|| panic!("no `{what}` in the log:\n{log}"));
    let start = position(format!("START RequestId: {id} Version: {}", function.called_version()));
    let line = position(format!("hello from {}", function.name));
    let end = position(format!("END RequestId: {id}"));
    let report = position(format!("REPORT RequestId: {id}"));
    assert!(start < line && line < end && end < report, "{log}");
    let cold = match life {
        Life::Booted => "Init Duration: ",
        Life::Restored => "Restore Duration: ",
    };
    for part in ["Duration: ", "Billed Duration: ", "Memory Size: 192 MB", "Max Memory Used: ", cold] {
        assert!(log[report..].contains(part), "no `{part}` in the report:\n{log}");
    }
    let warm = function.invoke(json!({})).log.expect("the tail was asked for");
    assert!(!warm.contains(cold), "a warm invocation reports a cold start:\n{warm}");
}

fn a_log_is_only_sent_to_who_asks(life: Life) {
    let shared = Node::shared();
    let function = shared.keeps(Function::python("hello"), life);
    let answer = function.begin_with(json!({ "Payload": bytes(b"{}") })).end().expect("invoke");
    assert_eq!(answer.get("LogResult"), None);
    assert_eq!(answer.get("FunctionError"), None);
}

#[test]
fn a_dry_run_checks_and_runs_nothing() {
    let shared = Node::shared();
    let function = Function::python("exits-in-init").deploy(&shared.node.client());
    let answer = function.call("invoke", json!({ "InvocationType": "DryRun" })).expect("dry run");
    assert_eq!(answer["StatusCode"], 204);
    assert_eq!(Invocation::parse(&answer).payload, b"");
}

fn a_client_context_reaches_the_function(life: Life) {
    let shared = Node::shared();
    let function = shared.keeps(Function::python("hello"), life);
    let context = STANDARD.encode(json!({ "custom": { "colour": "green" } }).to_string());
    let args = json!({ "Payload": bytes(b"{}"), "ClientContext": context });
    let answer = Invocation::parse(&function.begin_with(args).end().expect("invoke"));
    assert_eq!(answer.json()["custom"], json!({ "colour": "green" }));
}

#[test]
fn a_qualifier_names_the_version() {
    let shared = Node::shared();
    let function = Function::python("hello").deploy(&shared.node.client());
    let args = |qualifier: &str| json!({ "Payload": bytes(b"{}"), "Qualifier": qualifier });
    let answer = function.call("invoke", args("$LATEST")).expect("invoke $LATEST");
    let arn = Invocation::parse(&answer).json()["invoked_function_arn"].clone();
    assert_eq!(arn, format!("{}:$LATEST", function.arn));
    let error = function.call("invoke", args("7")).expect_err("there is no version 7");
    assert_eq!((error.code.as_str(), error.status), ("ResourceNotFoundException", 404));
}

fn an_exception_is_the_functions_error(life: Life) {
    let shared = Node::shared();
    let function = shared.keeps(Function::python("hello"), life);
    let failed = function.invoke(json!({ "raise": "lamp" }));
    assert_eq!((failed.status, failed.function_error.as_deref()), (200, Some("Unhandled")));
    assert_eq!(failed.error(), ("KeyError".into(), "'lamp'".into()));
    let trace = failed.json()["stackTrace"].to_string();
    assert!(trace.contains("app.py"), "{trace}");
    assert_eq!(function.answer(json!({ "after": 1 }))["event"], json!({ "after": 1 }));
}

fn the_largest_event_and_the_largest_response_pass(life: Life) {
    let shared = Node::shared();
    let function = shared.keeps(Function::python("hello").with("MemorySize", 512), life);
    // A JSON string has two quotes.
    let response = function.invoke(json!({ "answer_bytes": MAX_RESPONSE_LEN - 2 }));
    assert_eq!(response.function_error, None, "{:?}", response.log);
    assert_eq!(response.payload.len(), MAX_RESPONSE_LEN);
    let padding = "x".repeat(MAX_EVENT_LEN - r#"{"ignored":"","answer_bytes":1}"#.len());
    let event = json!({ "ignored": padding, "answer_bytes": 1 });
    assert_eq!(event.to_string().len(), MAX_EVENT_LEN);
    assert_eq!(function.answer(event), "x");
}

fn a_response_past_the_limit_is_an_error_of_the_function(life: Life) {
    let shared = Node::shared();
    let function = shared.keeps(Function::python("hello").with("MemorySize", 512), life);
    let refused = function.invoke(json!({ "answer_bytes": MAX_RESPONSE_LEN - 1 }));
    let (kind, message) = refused.error();
    assert_eq!(kind, "Function.ResponseSizeTooLarge");
    assert!(message.contains("6291556"), "{message}");
    assert_eq!(function.answer(json!({ "after": 1 }))["event"], json!({ "after": 1 }));
}

fn a_warm_sandbox_is_used_again_and_never_by_another_function(life: Life) {
    let shared = Node::shared();
    let one = Function::python("hello").deploy_in(life, &shared.node.client());
    let other = shared.keeps(Function::python("hello"), life);
    let first = one.answer(json!({}))["sandbox"].clone();
    assert_eq!(one.answer(json!({}))["sandbox"], first);
    assert_ne!(other.answer(json!({}))["sandbox"], first);
    assert_eq!(one.answer(json!({}))["sandbox"], first);
}

fn concurrent_calls_run_in_microvms_of_their_own(life: Life) {
    let shared = Node::alone();
    let function = shared.keeps(Function::python("hello"), life);
    // Long enough that all three run at once, though their microVMs come up one after the other.
    let calls: Vec<_> = (0..3).map(|_| function.begin(&json!({ "hold_s": 35 }))).collect();
    let answers: Vec<Value> =
        calls.into_iter().map(|call| Invocation::parse(&call.end().expect("invoke")).json()).collect();
    let sandboxes: BTreeSet<String> = answers.iter().map(|answer| answer["sandbox"].to_string()).collect();
    assert_eq!(sandboxes.len(), 3, "{answers:?}");
    let warm = function.answer(json!({}))["sandbox"].to_string();
    assert!(sandboxes.contains(&warm), "none of three warm sandboxes was used again");
}

fn more_memory_brings_more_processors(life: Life) {
    let shared = Node::alone();
    let function =
        Function::python("inspect").with("MemorySize", 1800).deploy_in(life, &shared.node.client());
    let seen = function.answer(json!({}));
    assert_eq!(seen["cpus"], 2);
    assert_eq!(seen["environment"]["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"], "1800");
}

fn temporary_storage_has_the_size_that_was_asked_for(life: Life) {
    let shared = Node::shared();
    let client = shared.node.client();
    let function = Function::python("inspect")
        .with("EphemeralStorage", json!({ "Size": 1024 }))
        .deploy_in(life, &client);
    let bytes = function.answer(json!({}))["tmp_bytes"].as_u64().expect("a number");
    // The file system takes a few per cent for itself.
    assert!((900 << 20..=1024 << 20).contains(&bytes), "{bytes}");
}

#[test]
fn an_answer_says_where_its_milliseconds_went() {
    let shared = Node::shared();
    let function = Function::python("hello").deploy(&shared.node.client());
    let timing = |answer: &Value| answer["ResponseMetadata"]["HTTPHeaders"]["server-timing"].to_string();
    let cold = timing(&function.call("invoke", json!({ "Payload": bytes(b"{}") })).expect("invoke"));
    for phase in ["boot;dur=", "init;dur=", "run;dur="] {
        assert!(cold.contains(phase), "no {phase} in {cold}");
    }
    let warm = timing(&function.call("invoke", json!({ "Payload": bytes(b"{}") })).expect("invoke"));
    assert!(warm.contains("run;dur=") && !warm.contains("boot;dur="), "{warm}");
}
