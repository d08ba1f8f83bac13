//! More calls than the node has room for: each is answered or throttled, and the node works on.

use std::collections::BTreeMap;

use serde_json::json;

use crate::functions::{Deployed, Function, Invocation};
use crate::node::Node;

/// Far more than the node's memory holds microVMs.
const CALLS: usize = 300;

/// Longer than it takes to send all of them, so that the first still run when the last arrives; seconds.
const HOLD_S: u32 = 15;

/// QEMU's user network loses some of the handshakes of a burst, so that a call never reaches the node. Like every AWS
/// client, the test makes such a call again; the time is several times what an answer takes when cold.
const ANSWER_WITHIN_S: u32 = 120;
const ATTEMPTS: usize = 3;

#[test]
fn three_hundred_calls_at_once_are_answered_or_throttled() {
    let shared = Node::alone();
    let function =
        Function::python("hello").deploy(&shared.node.client().with_answer_within(ANSWER_WITHIN_S));
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    let mut calls: Vec<usize> = (0..CALLS).collect();
    for _ in 0..ATTEMPTS {
        calls = call_at_once(&function, &calls, &mut outcomes);
    }
    eprintln!("{CALLS} calls at once: {outcomes:?}; never answered: {calls:?}");
    assert!(calls.is_empty(), "calls without an answer: {calls:?}");
    assert!(outcomes.get("answered").is_some_and(|count| *count >= 8), "{outcomes:?}");
    assert_eq!(function.answer(json!({ "after": 1 }))["event"], json!({ "after": 1 }));
}

/// Makes the calls, counts how they end; those that no answer came to.
fn call_at_once(function: &Deployed, calls: &[usize], outcomes: &mut BTreeMap<String, usize>) -> Vec<usize> {
    let begun: Vec<_> = calls
        .iter()
        .map(|each| (*each, function.begin(&json!({ "call": each, "hold_s": HOLD_S }))))
        .collect();
    let mut unanswered = Vec::new();
    for (each, call) in begun {
        let outcome = match call.end() {
            Ok(answer) => {
                let invocation = Invocation::parse(&answer);
                assert_eq!(invocation.function_error, None, "{invocation:?}");
                assert_eq!(invocation.json()["event"]["call"], each, "a call got another's answer");
                "answered".to_owned()
            }
            Err(error) if error.code == "TooManyRequestsException" => {
                assert_eq!(error.status, 429, "{error:?}");
                assert!(error.response["Reason"].is_string(), "{error:?}");
                error.code
            }
            Err(error) if error.status == 0 => {
                unanswered.push(each);
                continue;
            }
            Err(error) => panic!("call {each}: {error:?}"),
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    unanswered
}
