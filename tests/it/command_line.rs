//! A user's session with the aws CLI.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::client::{python, tests_folder};
use crate::functions::ROLE;
use crate::node::Node;
use crate::setting;

/// Version 2, which is Debian's.
pub(crate) const AWS_2: &str = "/usr/bin/aws";

/// Version 1, from the tests' venv.
pub(crate) fn aws_1() -> Command {
    let mut program = Command::new(python());
    program.arg(setting("TINDERBOX_TEST_VENV").join("bin/aws"));
    program
}

/// A command line of AWS's, for this node.
pub(crate) fn aws(mut program: Command, endpoint: &str) -> Command {
    program
        .args(["--endpoint-url", endpoint])
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_DEFAULT_REGION", "us-east-1")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
    program
}

struct Session<'a> {
    endpoint: &'a str,
    folder: &'a Path,
}

impl Session<'_> {
    fn run(&self, arguments: &[&str]) -> Output {
        aws(aws_1(), self.endpoint)
            .args(["--cli-read-timeout", "600", "--output", "json", "lambda"])
            .args(arguments)
            .current_dir(self.folder)
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

/// The lines of the README's chapter about the aws CLI.
fn chapter() -> String {
    let readme = std::fs::read_to_string(tests_folder().join("../README.md")).expect("README.md");
    let (_, chapter) = readme.split_once("\n### aws CLI\n").expect("a chapter about it");
    let (_, block) = chapter.split_once("```sh\n").expect("its commands");
    block.split_once("```").expect("their end").0.to_owned()
}

/// What they print when `aws` is this, in a folder that has the examples.
fn followed(chapter: &str, aws: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let example = folder.path().join("examples/python");
    std::fs::create_dir_all(&example).expect("a folder for the example");
    std::fs::copy(tests_folder().join("../examples/python/app.py"), example.join("app.py")).expect("copy it");
    let script = format!("set -euo pipefail\naws() {{ {aws} --cli-read-timeout 600 \"$@\"; }}\n{chapter}");
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder.path())
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .output()
        .expect("start bash");
    assert!(output.status.success(), "{aws}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_readmes_commands_work_with_either_version() {
    let shared = Node::shared();
    let client = shared.node.client();
    let chapter = chapter();
    let local = "http://127.0.0.1:9000";
    assert!(chapter.contains(local), "{chapter}");
    // An emulated node that is busy wants more than the three seconds that a function has if nothing is said.
    let chapter = chapter.replace(local, client.endpoint()).replace("--zip-file", "--timeout 100 --zip-file");
    let first = setting("TINDERBOX_TEST_VENV").join("bin/aws");
    let first = format!("{} {}", python().display(), first.display());
    // Debian's is older than the variable for the endpoint.
    let second = format!("{AWS_2} --endpoint-url {}", client.endpoint());
    for aws in [first, second] {
        let printed = followed(&chapter, &aws);
        assert!(printed.contains(r#""greeting": "Hello, you!""#), "{aws}: {printed}");
    }
}
