//! The functions of `examples/`, as their READMEs deploy them. Those in Rust and Java have tests elsewhere that use them, `runtimes`
//! and `java`; `cargo xtask run` invokes the one in Python.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::client::tests_folder;
use crate::containers::{archive, images, layer};
use crate::functions::Function;
use crate::node::Node;
use crate::setting;
use crate::urls::streamed;

fn example(file: &str) -> PathBuf {
    tests_folder().join("../examples").join(file)
}

#[test]
fn the_example_in_python_greets() {
    let shared = Node::shared();
    let zip = json!([{ "name": "app.py", "file": example("python/app.py") }]);
    let function = Function::new("python3.13", "app.handler", &zip).deploy(&shared.node.client());
    assert_eq!(function.answer(json!({ "name": "Ada" }))["greeting"], "Hello, Ada!");
}

#[test]
fn the_example_in_javascript_greets_at_once_and_word_by_word() {
    let shared = Node::shared();
    let zip = json!([{ "name": "index.mjs", "file": example("nodejs/index.mjs") }]);
    let function = Function::new("nodejs20.x", "index.handler", &zip).with("MemorySize", 256);
    let mut function = function.deploy(&shared.node.client());
    let answer = function.answer(json!({ "name": "Ada" }));
    assert_eq!(answer["greeting"], "Hello, Ada!");
    assert!(answer["node"].as_str().is_some_and(|version| version.starts_with("v20.")), "{answer}");

    function.update(json!({ "Handler": "index.streaming" }));
    let (chunks, complete) = streamed(&function, &json!({ "name": "Ada", "pauseMs": 300 }));
    assert_eq!(chunks.iter().map(|(text, _)| text.as_str()).collect::<String>(), "Hello, Ada!", "{complete}");
    assert!(chunks.len() > 1, "it was sent while it was made: {chunks:?}");
}

#[test]
fn the_example_in_go_serves_one_event_after_the_other_knows_its_deadline_and_fails_by_name() {
    let shared = Node::shared();
    let function = Function::provided(&setting("TINDERBOX_GO_EXAMPLE")).with("Timeout", 100);
    let function = function.deploy(&shared.node.client());
    let first = function.invoke(json!({ "name": "Ada" }));
    assert_eq!(first.function_error, None, "{first:?}");
    let answer = first.json();
    assert_eq!((&answer["greeting"], &answer["calls"]), (&json!("Hello, Ada!"), &json!(1)));
    assert!(answer["remaining_ms"].as_u64().is_some_and(|left| (1..=100_000).contains(&left)), "{answer}");
    assert!(answer["go"].as_str().is_some_and(|version| version.starts_with("go1.")), "{answer}");
    assert!(first.log.is_some_and(|log| log.contains("hello from Go")));

    let failed = function.invoke(json!({ "fail": "no wick" }));
    assert_eq!(failed.error(), ("errorString".into(), "no wick".into()), "{failed:?}");
    let refused = function.invoke(json!([1]));
    assert_eq!(refused.error().0, "UnmarshalTypeError", "{refused:?}");
    // What reports errors goes on: the process is the one that had the first event.
    assert_eq!(function.answer(json!({}))["calls"], 3);
}

#[test]
fn the_custom_runtime_serves_one_event_after_the_other() {
    let shared = Node::shared();
    let function = Function::provided(&setting("TINDERBOX_CUSTOM_BOOTSTRAP")).deploy(&shared.node.client());
    for calls in 1..=2 {
        let event = json!({ "from": "a test", "long": "x".repeat(100_000) });
        assert_eq!(function.answer(event.clone()), json!({ "event": event, "calls": calls, "from": "C" }));
    }
}

/// What an instruction of a Containerfile says.
fn instruction(file: &str, name: &str) -> String {
    let line = file.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}: {file}")).trim().to_owned()
}

#[test]
fn the_container_image_of_the_examples_is_a_function() {
    let shared = Node::shared();
    let client = shared.node.client();
    let text = std::fs::read_to_string(example("container/Containerfile")).expect("a Containerfile");
    let copy = instruction(&text, "COPY");
    let (_, target) = copy.split_once(' ').expect("COPY has a source and a target");
    let entry_point: Value = serde_json::from_str(&instruction(&text, "ENTRYPOINT")).expect("JSON");
    let config = json!({ "Entrypoint": entry_point, "WorkingDir": instruction(&text, "WORKDIR") });
    let program = std::fs::read(setting("TINDERBOX_CUSTOM_BOOTSTRAP")).expect("the program");
    let file = tempfile::NamedTempFile::new().expect("a file");
    archive(&[layer(&[(target.trim_start_matches('/'), &program)])], &config, file.path());
    let name = format!("examples/echo-{}:v1", std::process::id());
    images(client.endpoint(), &["push", Path::to_str(file.path()).expect("a path that is text"), &name]);
    let function = Function::container(&name).deploy(&client);
    assert_eq!(function.answer(json!({ "a": 1 })), json!({ "event": { "a": 1 }, "calls": 1, "from": "C" }));
}
