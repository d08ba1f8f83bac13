//! `provided.al2023` with AWS's own Rust runtime client, and code that is not a program.

use serde_json::{Value, json};

use crate::functions::{Function, Life, in_both_lives};
use crate::node::Node;

in_both_lives! {
    a_rust_function_answers_through_awss_own_client,
    a_rust_function_reports_its_errors,
}

fn a_rust_function_answers_through_awss_own_client(life: Life) {
    let shared = Node::shared();
    let function = Function::rust().deploy_in(life, &shared.node.client());
    let invocation = function.invoke(json!({ "from": "Rust" }));
    assert_eq!(invocation.function_error, None, "{invocation:?}");
    let answer = invocation.json();
    assert_eq!(answer["event"], json!({ "from": "Rust" }));
    assert_eq!(answer["function_name"], function.name);
    assert!(invocation.log.is_some_and(|log| log.contains("hello from Rust")));
}

fn a_rust_function_reports_its_errors(life: Life) {
    let shared = Node::shared();
    let function = Function::rust().deploy_in(life, &shared.node.client());
    let failed = function.invoke(json!({ "fail": "no wick" }));
    assert_eq!((failed.status, failed.function_error.as_deref()), (200, Some("Unhandled")));
    assert!(failed.error().1.contains("no wick"), "{failed:?}");
    assert_eq!(function.answer(json!({ "again": 1 }))["event"], json!({ "again": 1 }));
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
