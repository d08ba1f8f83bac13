//! Provisioned concurrency: a version's first call finds a sandbox that was initialised before it, and the next one's, too.

use std::time::Duration;

use serde_json::{Value, json};

use crate::functions::{Deployed, Function, Invocation};
use crate::looks::until;
use crate::node::Node;

/// Longest time until what was provisioned is there: several boots on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Says how it was initialised, and when beside its call.
const CODE: &str = "\
import os, time
began = time.time()
def handler(event, context):
    if event.get('exit'):
        os._exit(1)
    return os.environ['AWS_LAMBDA_INITIALIZATION_TYPE'], time.time() - began
";

/// Waits until as many as were asked for are ready.
fn ready(function: &Deployed, version: &str) {
    let config = until(PATIENCE, || {
        let args = json!({ "Qualifier": version });
        let config = function.call("get_provisioned_concurrency_config", args).expect("it is configured");
        if config["Status"] == "IN_PROGRESS" { Err(config) } else { Ok(config) }
    });
    let config = config.unwrap_or_else(|config| panic!("it is not ready: {config}"));
    assert_eq!(config["Status"], "READY", "{config}");
    assert_eq!(config["AllocatedProvisionedConcurrentExecutions"], 1, "{config}");
}

/// A call that finds what was provisioned.
fn served(function: &Deployed, version: &str) -> Value {
    let answer = function.begin_as(version, &json!({})).end().expect("invoke");
    let timing = answer["ResponseMetadata"]["HTTPHeaders"]["server-timing"].to_string();
    let invocation = Invocation::parse(&answer);
    assert_eq!(invocation.function_error, None, "{invocation:?}");
    assert!(!timing.contains("way;desc"), "{timing}");
    let log = invocation.log.clone().expect("a log was asked for");
    assert!(log.contains("REPORT RequestId") && !log.contains("Init Duration"), "{log}");
    invocation.json()
}

#[test]
fn the_first_call_of_a_provisioned_version_is_warm_and_so_is_the_one_after_a_crash() {
    let shared = Node::shared();
    let zip = json!([{ "name": "app.py", "text": CODE }]);
    let function = Function::new("python3.13", "app.handler", &zip).deploy(&shared.node.client());
    let version = function.publish_active();
    let args = json!({ "Qualifier": version, "ProvisionedConcurrentExecutions": 1 });
    let put = function.call("put_provisioned_concurrency_config", args).expect("put");
    assert_eq!(
        (&put["Status"], &put["AllocatedProvisionedConcurrentExecutions"]),
        (&"IN_PROGRESS".into(), &0.into())
    );
    ready(&function, &version);
    assert_eq!(served(&function, &version)[0], "provisioned-concurrency");
    let crashed = function.invoke_as(&version, &json!({ "exit": true })).expect("invoke");
    assert_eq!(crashed.error().0, "Runtime.ExitError");
    ready(&function, &version);
    assert_eq!(served(&function, &version)[0], "provisioned-concurrency");
    let deleted = function.call("delete_provisioned_concurrency_config", json!({ "Qualifier": version }));
    deleted.expect("delete");
    let gone = function.call("get_provisioned_concurrency_config", json!({ "Qualifier": version }));
    assert_eq!(gone.expect_err("it was deleted").code, "ProvisionedConcurrencyConfigNotFoundException");
}
