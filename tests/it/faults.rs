//! Functions that misbehave: the caller gets Lambda's error, and the next invocation works, whether sandboxes are booted
//! or restored.

use serde_json::{Value, json};

use crate::functions::{Deployed, Function, Invocation, Life, in_both_lives};
use crate::node::Node;

/// Seconds after which a misbehaving function is stopped: enough for an emulated machine to get into trouble.
const SHORT_TIMEOUT_S: u32 = 8;

/// Errno of a full file system.
const ENOSPC: u64 = 28;

fn faults() -> Function {
    Function::python("faults")
}

fn fault(function: &Deployed, name: &str) -> Invocation {
    function.invoke(json!({ "fault": name }))
}

#[track_caller]
fn assert_well(function: &Deployed) {
    assert_eq!(function.answer(json!({ "fault": "well" })), "well");
}

/// The message of a `Runtime.ExitError`, without the request's id.
#[track_caller]
fn exit_error(invocation: &Invocation) -> String {
    assert_eq!(
        (invocation.status, invocation.function_error.as_deref()),
        (200, Some("Unhandled")),
        "{invocation:?}"
    );
    let (kind, message) = invocation.error();
    assert_eq!(kind, "Runtime.ExitError", "{invocation:?}");
    let (id, text) = message.split_once(" Error: ").unwrap_or_else(|| panic!("{invocation:?}"));
    assert!(id.starts_with("RequestId: "), "{message}");
    text.to_owned()
}

in_both_lives! {
    a_function_that_runs_out_of_time_is_stopped,
    a_function_that_exits_names_its_status,
    a_function_that_eats_its_memory_is_killed,
    a_function_that_fills_its_temporary_storage_is_told_so,
    a_function_that_forks_without_end_is_stopped,
    a_function_that_closes_its_sockets_is_replaced,
}

fn a_function_that_runs_out_of_time_is_stopped(life: Life) {
    let shared = Node::shared();
    let function = faults().with("Timeout", SHORT_TIMEOUT_S).deploy_in(life, &shared.node.client());
    let invocation = fault(&function, "run_out_of_time");
    assert_eq!((invocation.status, invocation.function_error.as_deref()), (200, Some("Unhandled")));
    let expected = format!("Task timed out after {SHORT_TIMEOUT_S}.00 seconds");
    assert!(invocation.error().1.contains(&expected), "{invocation:?}");
    let log = invocation.log.clone().expect("the tail was asked for");
    assert!(log.contains(&expected), "{log}");
    assert_well(&function);
}

fn a_function_that_exits_names_its_status(life: Life) {
    let shared = Node::shared();
    let function = shared.keeps(faults(), life);
    assert_eq!(exit_error(&fault(&function, "exit_3")), "Runtime exited with error: exit status 3");
    assert_well(&function);
    assert_eq!(exit_error(&fault(&function, "exit_0")), "Runtime exited without providing a reason");
    assert_well(&function);
}

fn a_function_that_eats_its_memory_is_killed(life: Life) {
    let shared = Node::shared();
    let function = shared.keeps(faults(), life);
    assert_eq!(exit_error(&fault(&function, "eat_memory")), "Runtime exited with error: signal: killed");
    assert_well(&function);
}

fn a_function_that_fills_its_temporary_storage_is_told_so(life: Life) {
    let shared = Node::shared();
    let function = shared.keeps(faults(), life);
    let answer = function.answer(json!({ "fault": "fill_tmp" }));
    assert_eq!(answer["errno"], ENOSPC);
    let written_mib = answer["written"].as_u64().expect("a number") >> 20;
    assert!((400..=512).contains(&written_mib), "{written_mib} MiB of 512 fitted");
    assert_well(&function);
}

fn a_function_that_forks_without_end_is_stopped(life: Life) {
    let shared = Node::shared();
    let client = shared.node.client();
    let mut function = faults().with("Timeout", SHORT_TIMEOUT_S).deploy_in(life, &client);
    let neighbour = shared.keeps(faults(), life);
    let invocation = fault(&function, "fork_bomb");
    assert!(invocation.function_error.is_some(), "{invocation:?}");
    assert_well(&neighbour);
    function.update(json!({ "Timeout": 120 }));
    assert_well(&function);
}

fn a_function_that_closes_its_sockets_is_replaced(life: Life) {
    let shared = Node::shared();
    let function = shared.keeps(faults(), life);
    // Its answer comes through on a new connection, as on Lambda. Nothing that it broke meets the next invocation.
    assert_eq!(fault(&function, "close_descriptors").status, 200);
    assert_well(&function);
}

#[test]
fn a_function_that_exits_in_init_fails_every_invocation_and_nothing_else() {
    let shared = Node::shared();
    let client = shared.node.client();
    let function = Function::python("exits-in-init").deploy(&client);
    for _ in 0..2 {
        assert_eq!(exit_error(&function.invoke(json!({}))), "Runtime exited with error: exit status 7");
    }
    assert_well(&faults().deploy(&client));
}

#[test]
fn a_handler_that_does_not_exist_is_named() {
    let shared = Node::shared();
    let client = shared.node.client();
    let no_function = faults().with("Handler", "app.nowhere").deploy(&client);
    assert_eq!(
        no_function.invoke(json!({})).error(),
        ("Runtime.HandlerNotFound".into(), "Handler 'nowhere' missing on module 'app'".into())
    );
    let no_module = faults().with("Handler", "nowhere.handler").deploy(&client);
    let (kind, message) = no_module.invoke(json!({})).error();
    assert_eq!(kind, "Runtime.ImportModuleError");
    assert!(message.contains("Unable to import module 'nowhere'"), "{message}");
    let fixed = json!({ "Handler": "app.handler" });
    no_module.call("update_function_configuration", fixed).expect("update");
    no_module.wait("function_updated_v2");
    assert_well(&no_module);
}

#[test]
fn code_that_does_not_parse_is_reported_with_its_place() {
    let shared = Node::shared();
    let zip: Value = json!([{ "name": "app.py", "text": "def handler(event, context)\n    return 1\n" }]);
    let function = Function::new("python3.13", "app.handler", &zip).deploy(&shared.node.client());
    let (kind, message) = function.invoke(json!({})).error();
    assert_eq!(kind, "Runtime.UserCodeSyntaxError");
    assert!(message.contains("app.py"), "{message}");
}
