//! Functions with layers: what lies under `/opt`, which of two layers wins, and a runtime that is a layer's.

use serde_json::{Value, json};

use crate::client::{Client, tests_folder};
use crate::functions::{Function, Life, in_both_lives};
use crate::node::Node;
use crate::setting;

/// Of a file system that is read-only.
const EROFS: i32 = 30;

in_both_lives! {
    a_function_has_its_layers_over_each_other,
}

/// A published version of a layer; deleted when dropped.
pub(crate) struct Layer {
    pub(crate) arn: String,
    name: String,
    client: Client,
}

impl Layer {
    /// With exactly these entries in its zip.
    pub(crate) fn publish(client: &Client, name: &str, zip: &Value) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let args = json!({ "LayerName": name, "Content": { "ZipFile": { "__zip__": zip } } });
        let published = client.call("publish_layer_version", args);
        let published = published.unwrap_or_else(|error| panic!("publish {name}: {error:?}"));
        let arn = published["LayerVersionArn"].as_str().expect("a version has an ARN").to_owned();
        Self { arn, name, client: client.clone() }
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        let (_, number) = self.arn.rsplit_once(':').expect("an ARN ends in its version");
        let number: u64 = number.parse().expect("a version is a number");
        let args = json!({ "LayerName": self.name, "VersionNumber": number });
        // A test that deleted it itself, or whose node is gone, has nothing left to delete.
        drop(self.client.call("delete_layer_version", args));
    }
}

/// A module of a layer.
fn module(path: &str, layer: &str) -> Value {
    json!({ "name": path, "text": format!("LAYER = {layer:?}\n") })
}

fn a_function_has_its_layers_over_each_other(life: Life) {
    let shared = Node::shared();
    let client = shared.node.client();
    let suffix = format!("{life:?}").to_lowercase();
    let first = json!([
        module("python/first.py", "first"),
        module("python/both.py", "first"),
        { "name": "bin/of-layer", "text": "a program", "mode": 0o100_755 },
    ]);
    let site_packages = "python/lib/python3.13/site-packages";
    let second =
        json!([module("python/both.py", "second"), module(&format!("{site_packages}/second.py"), "second")]);
    let first = Layer::publish(&client, &format!("first-{suffix}"), &first);
    let second = Layer::publish(&client, &format!("second-{suffix}"), &second);
    let layers = |layers: &[&Layer]| layers.iter().map(|layer| layer.arn.clone()).collect::<Vec<_>>();
    let function = Function::python("layered").with("Layers", layers(&[&first, &second]));
    let mut function = function.deploy_in(life, &client);
    let answer = function.answer(json!({}));
    let found = |layer: &str, file: &str| json!({ "layer": layer, "file": format!("/opt/python/{file}") });
    let expected = json!({
        "first": found("first", "first.py"),
        "second": found("second", "lib/python3.13/site-packages/second.py"),
        "both": found("second", "both.py"),
    });
    assert_eq!(answer["modules"], expected);
    assert_eq!((&answer["opt"], &answer["task"]), (&json!(["bin", "python"]), &json!(["app.py"])));
    assert_eq!(answer["program"], "/opt/bin/of-layer");
    assert_eq!(answer["owner"], json!([0, 0, 0o755]));
    assert_eq!(answer["writes"], json!([EROFS, EROFS, EROFS]));

    // The versions are gone and the order is another one: whoever has them goes on, and no sandbox of the old order serves.
    function.update(json!({ "Layers": layers(&[&second, &first]) }));
    drop((first, second));
    assert_eq!(function.answer(json!({}))["modules"]["both"], found("first", "both.py"));
}

#[test]
fn a_runtime_may_be_a_layers() {
    let client = Node::shared().node.client();
    let bootstrap =
        json!([{ "name": "bootstrap", "file": setting("TINDERBOX_PLAIN_RUST"), "mode": 0o100_755 }]);
    let bootstrap = Layer::publish(&client, "bootstrap", &bootstrap);
    let code = json!([{ "name": "notes", "text": "no program" }]);
    let function = Function::new("provided.al2023", "any", &code).with("Layers", json!([bootstrap.arn]));
    let invocation = function.deploy(&client).invoke(json!({}));
    assert_eq!(invocation.function_error, None, "{invocation:?}");
}

/// A function finds what a layer has for the runtime that it names, whichever serves it, and for the one that does.
#[test]
fn a_layer_may_be_for_the_runtime_that_a_function_names() {
    let client = Node::shared().node.client();
    let (asked, serving) =
        ("lib/python3.12/site-packages/first.py", "lib/python3.13/site-packages/second.py");
    let zip =
        json!([module(&format!("python/{asked}"), "asked"), module(&format!("python/{serving}"), "serving")]);
    let layer = Layer::publish(&client, "python-versions", &zip);
    let function = Function::python("layered").with("Runtime", "python3.12");
    let function = function.with("Layers", json!([layer.arn])).deploy(&client);
    let found = |layer: &str, file: &str| json!({ "layer": layer, "file": format!("/opt/python/{file}") });
    let expected =
        json!({ "first": found("asked", asked), "second": found("serving", serving), "both": null });
    assert_eq!(function.answer(json!({}))["modules"], expected);

    let modules = [("nodejs/node22", "asked"), ("nodejs/node20", "serving"), ("nodejs", "any")];
    let zip: Vec<_> = modules
        .iter()
        .map(|(folder, name)| {
            let path = format!("{folder}/node_modules/{name}/index.js");
            json!({ "name": path, "text": format!("module.exports = {name:?};") })
        })
        .collect();
    let layer = Layer::publish(&client, "node-versions", &json!(zip));
    let text = "exports.handler = async () => ['asked', 'serving', 'any'].map((name) => require(name));";
    let zip = json!([{ "name": "index.js", "text": text }]);
    let function = Function::new("nodejs22.x", "index.handler", &zip).with("MemorySize", 256);
    let function = function.with("Layers", json!([layer.arn])).deploy(&client);
    assert_eq!(function.answer(json!({})), json!(["asked", "serving", "any"]));
}

#[test]
fn an_extension_of_a_layer_is_told_of_each_invocation() {
    let client = Node::shared().node.client();
    let program = tests_folder().join("functions/extended/agent.py");
    let layer = Layer::publish(
        &client,
        "extension",
        &json!([{ "name": "extensions/agent", "file": program, "mode": 0o100_755 }]),
    );
    let function = Function::python("hello").with("Layers", json!([layer.arn])).deploy(&client);
    for ready in [true, false] {
        let invocation = function.invoke(json!({}));
        assert_eq!(invocation.function_error, None, "{invocation:?}");
        let log = invocation.log.expect("the log's tail was asked for");
        let found = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text:?} in {log}"));
        let id = log.split_once("START RequestId: ").and_then(|(_, rest)| rest.split(' ').next());
        let line = format!("agent of {} is told INVOKE {}\n", function.name, id.unwrap_or_default());
        assert!(
            found(&line) < found("END RequestId: "),
            "an invocation lasts until its extensions are done: {log}"
        );
        let report = "EXTENSION\tName: agent\tState: Ready\tEvents: [INVOKE, SHUTDOWN]\n";
        assert_eq!(log.contains(report), ready, "once, at the end of the init: {log}");
    }
}
