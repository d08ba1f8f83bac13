//! Each constraint of AWS's service model violated in turn, of every member of every operation that the README says is served: refused,
//! and nothing changes.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::client::{python, tests_folder};
use crate::functions::{Function, unique_name};
use crate::node::Node;

/// So many there are at least: a model that could not be read has none.
const MIN_VIOLATIONS: usize = 700;

/// The operations of the README's table with that last column.
pub(crate) fn operations(served: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(tests_folder().join("../README.md")).expect("the README");
    let rows = readme.lines().filter(|line| line.ends_with(&format!("| {served} |")));
    rows.filter_map(|row| row.split('|').nth(1)).map(|name| name.trim().to_owned()).collect()
}

#[test]
fn every_violated_constraint_is_refused_and_changes_nothing() {
    let shared = Node::shared();
    let client = shared.node.client();
    let function = Function::python("hello").deploy(&client);
    function.call("publish_version", json!({})).expect("a version");
    function.call("create_alias", json!({ "Name": "live", "FunctionVersion": "1" })).expect("an alias");
    let (layer, zip) = (unique_name(), json!([{ "name": "a.txt", "text": "a" }]));
    let content = json!({ "LayerName": layer, "Content": { "ZipFile": { "__zip__": zip } } });
    client.call("publish_layer_version", content).expect("a layer");

    let mut script = Command::new(python())
        .arg(tests_folder().join("clients/constraints.py"))
        .args([client.endpoint(), &function.name, &layer])
        .env("AWS_CONFIG_FILE", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the script");
    let served = operations("yes").join("\n");
    let input = script.stdin.take().expect("standard input is piped");
    { input }.write_all(served.as_bytes()).expect("the script takes operations");
    let output = script.wait_with_output().expect("wait for the script");
    assert!(output.status.success(), "{}", output.status);
    let said = String::from_utf8(output.stdout).expect("text");
    let (problems, last) = said.trim_end().rsplit_once('\n').unwrap_or(("", said.trim_end()));
    assert!(problems.is_empty(), "{problems}");
    let tried = last.strip_suffix(" violations").and_then(|count| count.parse::<usize>().ok());
    assert!(tried.is_some_and(|tried| tried >= MIN_VIOLATIONS), "{last}");
}
