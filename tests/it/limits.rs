//! More calls than the node has room for: each is answered or throttled, and the node works on.

use std::collections::BTreeMap;

use serde_json::json;

use crate::functions::{Function, Invocation};
use crate::node::Node;

/// Far more than the node's memory holds microVMs.
const CALLS: usize = 300;

#[test]
fn three_hundred_calls_at_once_are_answered_or_throttled() {
    let shared = Node::alone();
    let function = Function::python("hello").deploy(&shared.node.client());
    let calls: Vec<_> =
        (0..CALLS).map(|each| (each, function.begin(&json!({ "call": each, "hold_s": 1 })))).collect();
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for (each, call) in calls {
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
            Err(error) => panic!("call {each}: {error:?}"),
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    eprintln!("{CALLS} calls at once: {outcomes:?}");
    assert!(outcomes.get("answered").is_some_and(|count| *count >= 8), "{outcomes:?}");
    assert_eq!(function.answer(json!({ "after": 1 }))["event"], json!({ "after": 1 }));
}
