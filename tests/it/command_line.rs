//! A user's session with the aws CLI.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::client::{python, tests_folder};
use crate::functions::ROLE;
use crate::node::Node;
use crate::setting;

struct Session<'a> {
    endpoint: &'a str,
    folder: &'a Path,
}

impl Session<'_> {
    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(python())
            .arg(setting("TINDERBOX_TEST_VENV").join("bin/aws"))
            .args([
                "--endpoint-url",
                self.endpoint,
                "--cli-read-timeout",
                "600",
                "--output",
                "json",
                "lambda",
            ])
            .args(arguments)
            .current_dir(self.folder)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .env("AWS_MAX_ATTEMPTS", "1")
            .output()
            .expect("start the aws CLI")
    }

    /// What the CLI prints, as JSON; `null` when it prints nothing.
    fn aws(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "aws lambda {}: {error}", arguments.join(" "));
        if output.stdout.trim_ascii().is_empty() {
            return Value::Null;
        }
        serde_json::from_slice(&output.stdout).expect("--output json")
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.join(name)).expect("the CLI writes this file")
    }
}

fn zip_hello(folder: &Path) {
    let code = tests_folder().join("functions/hello/app.py");
    let status = Command::new(python())
        .args(["-m", "zipfile", "-c", "hello.zip"])
        .arg(code)
        .current_dir(folder)
        .status()
        .expect("start Python's zipfile");
    assert!(status.success());
}

#[test]
fn a_users_session_with_the_aws_cli() {
    let shared = Node::shared();
    let folder = tempfile::tempdir().expect("a folder");
    zip_hello(folder.path());
    let client = shared.node.client();
    let session = Session { endpoint: client.endpoint(), folder: folder.path() };
    let name = "it-command-line";
    let named = ["--function-name", name];

    let create = ["create-function", "--runtime", "python3.13", "--handler", "app.handler", "--role", ROLE];
    let settings =
        ["--zip-file", "fileb://hello.zip", "--environment", "Variables={VARIABLE=cli}", "--timeout", "100"];
    let created = session.aws(&[&create[..], &settings, &named].concat());
    assert_eq!(created["FunctionName"], name);
    session.aws(&[&["wait", "function-active-v2"][..], &named].concat());
    let listed = session.aws(&["list-functions", "--query", "Functions[].FunctionName"]);
    assert!(listed.as_array().is_some_and(|names| names.iter().any(|each| each == name)), "{listed}");

    let event = ["--payload", r#"{"from": "cli"}"#, "--log-type", "Tail", "answer.json"];
    let invoked = session.aws(&[&["invoke"][..], &named, &event].concat());
    assert_eq!((&invoked["StatusCode"], &invoked["ExecutedVersion"]), (&200.into(), &"$LATEST".into()));
    assert!(invoked["LogResult"].is_string());
    let answer: Value = serde_json::from_str(&session.file("answer.json")).expect("the answer is JSON");
    assert_eq!((&answer["event"]["from"], &answer["variable"]), (&"cli".into(), &"cli".into()));

    session.aws(&[&["update-function-configuration"][..], &named, &["--memory-size", "256"]].concat());
    session.aws(&[&["wait", "function-updated-v2"][..], &named].concat());
    let memory =
        session.aws(&[&["get-function-configuration"][..], &named, &["--query", "MemorySize"]].concat());
    assert_eq!(memory, 256);
    session.aws(&[&["update-function-code", "--zip-file", "fileb://hello.zip"][..], &named].concat());
    session.aws(&[&["wait", "function-updated-v2"][..], &named].concat());
    let published = session.aws(&[&["publish-version"][..], &named].concat());
    assert_eq!(published["Version"], "1");
    session.aws(&[&["wait", "published-version-active", "--qualifier", "1"][..], &named].concat());
    session.aws(&["get-account-settings"]);
    session.aws(&[&["delete-function"][..], &named].concat());

    let gone = session.run(&[&["get-function"][..], &named].concat());
    let message = String::from_utf8_lossy(&gone.stderr);
    assert!(!gone.status.success());
    assert!(
        message.contains("(ResourceNotFoundException) when calling the GetFunction operation"),
        "{message}"
    );
}
