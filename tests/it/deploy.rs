//! Templates: what `sam build` and `cdk synth` wrote is deployed by the operator's tool, answers, is changed, and is removed.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::chunks::tinderbox;
use crate::client::{Client, bytes, tests_folder, to_bytes};
use crate::node::Node;

/// What the tools wrote, in the tests of the tool that reads it.
fn written(by: &str) -> std::path::PathBuf {
    tests_folder().join("../cli/tests/fixtures").join(by)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a fixture") {
        let entry = entry.expect("an entry");
        let (path, copied) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &copied);
        } else {
            fs::copy(&path, &copied).expect("a file");
        }
    }
}

/// Deploys, and returns the stack's outputs and what was said.
fn deploy(endpoint: &str, arguments: &[&str]) -> (Value, String) {
    let output = tinderbox(endpoint, "test", &[&["--json", "deploy"], arguments].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    (serde_json::from_slice(&output.stdout).unwrap_or_default(), said)
}

fn said_by(client: &Client, function: &str, event: &Value) -> Value {
    let event = json!({ "FunctionName": function, "Payload": bytes(event.to_string().as_bytes()) });
    let answer = client.call("invoke", event).expect("the function answers");
    let payload: Value = serde_json::from_slice(&to_bytes(&answer["Payload"])).expect("a document");
    payload["said"].clone()
}

#[test]
fn what_sam_built_is_deployed_changed_and_removed() {
    let client = Node::shared().node.client();
    let endpoint = client.endpoint();
    let folder = tempfile::tempdir().expect("a folder");
    copy(&written("sam/build"), folder.path());
    let template = folder.path().to_str().expect("a path that is text");
    let arguments = [template, "--stack", "it-sam"];

    let (_, said) = deploy(endpoint, &[&arguments[..], &["--dry-run"]].concat());
    assert!(said.contains("+ Greeter: function it-sam-Greeter-"), "{said}");
    let (outputs, said) = deploy(endpoint, &arguments);
    let name = outputs["Name"].as_str().expect("an output").to_owned();
    assert!(said.contains(&format!("later: GreeterLog: log group /aws/lambda/{name}")), "{said}");
    let live = format!("{name}:live");
    assert_eq!(said_by(&client, &live, &json!({})), "hello from it-sam somebody");
    let url = outputs["Url"].as_str().expect("an output");
    assert_eq!(client.fetch(url, json!({ "method": "GET" }))["status"], 200);

    let code = folder.path().join("Greeter/app.py");
    let text = fs::read_to_string(&code).expect("the code").replace("\"said\": f\"", "\"said\": f\"now: ");
    fs::write(&code, text).expect("other code");
    let (_, said) = deploy(endpoint, &[&arguments[..], &["--parameter", "Greeting=good day"]].concat());
    assert!(said.contains(&format!("~ GreeterAliaslive: alias live of {name} is of version 2")), "{said}");
    assert_eq!(said_by(&client, &live, &json!({ "name": "you" })), "now: good day from it-sam you");
    let (_, said) = deploy(endpoint, &[&arguments[..], &["--parameter", "Greeting=good day"]].concat());
    assert!(said.contains("it-sam: 0 created") && said.contains(" 0 removed"), "{said}");
    assert!(!said.lines().any(|line| line.starts_with("~ Greeter:") || line.starts_with('+')), "{said}");

    let (_, said) = deploy(endpoint, &["--stack", "it-sam", "--remove"]);
    assert!(said.contains(&format!("- function {name}")), "{said}");
    let gone = client.call("get_function", json!({ "FunctionName": name })).expect_err("it is removed");
    assert_eq!(gone.code, "ResourceNotFoundException");
}

#[test]
fn what_cdk_synthesised_is_deployed() {
    let client = Node::shared().node.client();
    let folder = written("cdk/cdk.out");
    let template = folder.to_str().expect("a path that is text");
    let (outputs, _) = deploy(client.endpoint(), &[template, "--stack", "it-cdk"]);
    let name = outputs["Name"].as_str().expect("an output");
    assert_eq!(said_by(&client, &format!("{name}:live"), &json!({ "name": "you" })), "hello you");
    let (_, said) = deploy(client.endpoint(), &[template, "--stack", "it-cdk"]);
    assert!(!said.lines().any(|line| line.starts_with('+') || line.starts_with("~ Greeter")), "{said}");
    deploy(client.endpoint(), &["--stack", "it-cdk", "--remove"]);
}

#[test]
fn what_cannot_be_deployed_is_named_and_nothing_is_changed() {
    let client = Node::shared().node.client();
    let folder = tempfile::tempdir().expect("a folder");
    copy(&written("sam/build"), folder.path());
    let template = folder.path().join("template.yaml");
    let text = fs::read_to_string(&template).expect("a template");
    let table = "Resources:\n  Table:\n    Type: AWS::DynamoDB::Table\n";
    fs::write(&template, text.replacen("Resources:\n", table, 1)).expect("another template");
    let path = folder.path().to_str().expect("a path that is text");
    let output = tinderbox(client.endpoint(), "test", &["deploy", path, "--stack", "it-refused"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("Table: AWS::DynamoDB::Table is not supported"), "{said}");
    let functions = client.pages("list_functions", json!({})).expect("a list").to_string();
    assert!(!functions.contains("it-refused"));
}
