//! The operator's tool against a node whose functions are in chunks.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::functions::Function;
use crate::node::Node;

fn chunks(endpoint: &str, secret: &str, arguments: &[&str]) -> Output {
    tinderbox(endpoint, secret, &[&["chunks"], arguments].concat())
}

/// The operator's tool, with a key that the node knows when its secret is right.
pub(crate) fn tinderbox(endpoint: &str, secret: &str, arguments: &[&str]) -> Output {
    // Built by who needs it: cargo is there, and knows what is fresh.
    Command::new("cargo")
        .args(["run", "--quiet", "--package", "cli", "--", "--endpoint", endpoint])
        .args(arguments)
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", secret)
        .env_remove("AWS_SESSION_TOKEN")
        .env("AWS_REGION", "us-east-1")
        .output()
        .expect("start cargo")
}

/// What it says, and its exit status.
fn said(output: &Output) -> (String, Option<i32>) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (format!("{out}{err}"), output.status.code())
}

#[test]
fn an_operator_counts_checks_and_collects_chunks() {
    let shared = Node::shared();
    let client = shared.node.client();
    let function = Function::python("hello").deploy(&client);
    function.answer(json!({}));
    let endpoint = client.endpoint();

    let stats = chunks(endpoint, "test", &["stats", "--json"]);
    let stats: Value = serde_json::from_slice(&stats.stdout).unwrap_or_else(|_| panic!("{:?}", said(&stats)));
    let number =
        |pointer: &str| stats.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{stats}"));
    assert!(number("/published/contents") > 0 && number("/published/stored") > 0, "{stats}");
    assert!(
        number("/cache/copies") > 0 && number("/cache/fetched") > 0,
        "a runtime's image is fetched: {stats}"
    );
    assert_eq!((number("/cache/refused"), number("/cache/damaged")), (0, 0), "{stats}");
    let (text, status) = said(&chunks(endpoint, "test", &["stats"]));
    assert!(status == Some(0) && text.contains("published") && text.contains("code"), "{text}");

    let (text, status) = said(&chunks(endpoint, "test", &["verify"]));
    assert!(status == Some(0) && text.contains(" 0 damaged, 0 missing"), "{text}");
    let (text, status) = said(&chunks(endpoint, "test", &["gc"]));
    assert!(status == Some(0) && text.contains(" kept"), "{text}");
    let (text, status) = said(&chunks(endpoint, "test", &["repair"]));
    assert!(status == Some(0) && text.starts_with("0 chunks written again"), "{text}");
    function.answer(json!({}));

    let (text, status) = said(&chunks(endpoint, "another", &["gc"]));
    assert!(status == Some(2) && text.contains("403"), "{text}");
}
