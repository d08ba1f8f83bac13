//! More calls than the node has room for: each is answered or throttled, and the node works on.

use std::collections::BTreeMap;

use serde_json::json;

use crate::client::Call;
use crate::functions::{Deployed, Function, Invocation, Life};
use crate::node::{Node, ROOM};

/// Far more than the node's memory holds microVMs.
const CALLS: usize = 300;

/// Longer than it takes to send all of them, so that the first still run when the last arrives; seconds.
const HOLD_S: u32 = 15;

/// Several times what the slowest answer takes, which has a cold start before it.
const ANSWER_WITHIN_S: u32 = 300;

#[test]
fn three_hundred_calls_at_once_are_answered_or_throttled() {
    let shared = Node::alone();
    let function = Function::python("hello")
        .deploy_in(Life::Restored, &shared.node.client().with_answer_within(ANSWER_WITHIN_S));
    let call = |number| function.begin(&json!({ "call": number, "hold_s": HOLD_S }));
    // The client neither paces the calls nor makes one again.
    let calls: Vec<Call> = (0..CALLS).map(call).collect();
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for (number, call) in calls.into_iter().enumerate() {
        *outcomes.entry(outcome(number, call)).or_default() += 1;
    }
    eprintln!("{CALLS} calls at once: {outcomes:?}");
    assert!(outcomes.get("answered").is_some_and(|count| *count >= ROOM), "{outcomes:?}");
    well(&function);
}

/// How a call ended: with its own answer, or throttled; nothing else is one of Lambda's ways.
fn outcome(number: usize, call: Call) -> String {
    match call.end() {
        Ok(answer) => {
            let invocation = Invocation::parse(&answer);
            assert_eq!(invocation.function_error, None, "{invocation:?}");
            assert_eq!(invocation.json()["event"]["call"], number, "a call got another's answer");
            "answered".to_owned()
        }
        Err(error) => {
            assert_eq!((error.status, error.code.as_str()), (429, "TooManyRequestsException"), "{error:?}");
            assert!(error.response["Reason"].is_string(), "{error:?}");
            error.code
        }
    }
}

fn well(function: &Deployed) {
    assert_eq!(function.answer(json!({ "after": 1 }))["event"], json!({ "after": 1 }));
}
