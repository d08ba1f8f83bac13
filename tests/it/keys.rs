//! Access keys with policies: made by the operator's tool, used by boto3.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::chunks::tinderbox;
use crate::client::bytes;
use crate::functions::Function;
use crate::node::Node;

fn keys(endpoint: &str, arguments: &[&str]) -> Value {
    let output = tinderbox(endpoint, "test", &[&["--json", "keys"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[test]
fn a_key_that_may_invoke_one_function_may_do_nothing_else() {
    let shared = Node::shared();
    let administrator = shared.node.client();
    let (allowed, other) =
        (Function::python("hello").deploy(&administrator), Function::python("hello").deploy(&administrator));
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let statement = json!({ "Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": allowed.name });
    write!(file, "{}", json!({ "Version": "2012-10-17", "Statement": [statement] }))
        .expect("write the policy");
    let policy = file.path().to_str().expect("a path that is text");
    let made = keys(administrator.endpoint(), &["create", "--name", "ann", "--policy", policy]);
    let text = |name: &str| made[name].as_str().unwrap_or_else(|| panic!("no {name}: {made}")).to_owned();
    let id = text("AccessKeyId");
    let ann = administrator.clone().with_key(&id, &text("SecretAccessKey"));

    let invoke =
        |name: &str| ann.call("invoke", json!({ "FunctionName": name, "Payload": bytes(b"{}") })).map(drop);
    invoke(&allowed.name).expect("this one is allowed");
    let refused = invoke(&other.name).expect_err("the other one is not");
    assert_eq!((refused.code.as_str(), refused.status), ("AccessDeniedException", 403));
    assert_eq!(
        refused.message,
        format!(
            "User: arn:aws:iam::000000000000:user/ann is not authorized to perform: lambda:InvokeFunction on resource: {} \
             because no identity-based policy allows the lambda:InvokeFunction action",
            other.arn
        )
    );
    let refused = ann.call("list_functions", json!({})).expect_err("nor is anything else");
    assert_eq!(refused.code, "AccessDeniedException");
    assert_eq!(keys(administrator.endpoint(), &["disable", &id])["State"], "Inactive");
    assert_eq!(invoke(&allowed.name).expect_err("it is disabled").code, "UnrecognizedClientException");
    keys(administrator.endpoint(), &["enable", &id]);
    invoke(&allowed.name).expect("it is enabled again");
    keys(administrator.endpoint(), &["delete", &id]);
    assert_eq!(invoke(&allowed.name).expect_err("it is gone").code, "UnrecognizedClientException");
}
