//! Snapshots of runtimes on a node of their own: the first call ever of a function is answered by a clone of its runtime,
//! which is the function that was called and shares nothing with any other sandbox. The shared node keeps none, so that
//! what other tests call booted is.

use std::collections::BTreeSet;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::client::Client;
use crate::functions::{Deployed, Function, Invocation};
use crate::layers::Layer;
use crate::node::Node;
use crate::setting;

/// New functions that are called before the snapshot of their runtime must be there. Nothing tells a client when it is:
/// it is made beside the calls, and takes about as long as one of them.
const ROUNDS: usize = 8;

/// Answers of `server-timing` for the ways in which a sandbox comes to be.
const BOOTED: &str = "way;desc=boot";
const CLONED: &str = "way;desc=runtime-snapshot";

/// The first call of a function.
struct First {
    function: Deployed,
    timing: String,
    invocation: Invocation,
}

impl First {
    fn of(function: Function, client: &Client) -> Self {
        let function = function.deploy(client);
        let answer = function.begin(&json!({})).end().expect("invoke");
        let timing = answer["ResponseMetadata"]["HTTPHeaders"]["server-timing"].to_string();
        let invocation = Invocation::parse(&answer);
        assert_eq!(invocation.function_error, None, "{invocation:?}");
        eprintln!("first call of {}: {timing}", function.name);
        Self { function, timing, invocation }
    }

    /// The first of several functions that is not booted.
    fn cloned(new: impl Fn(usize) -> Function, client: &Client) -> Self {
        let mut timings = Vec::new();
        for round in 0..ROUNDS {
            let first = Self::of(new(round), client);
            if first.timing.contains(CLONED) {
                return first;
            }
            timings.push(first.timing);
        }
        panic!("{ROUNDS} functions were called for the first time, and each was booted: {timings:#?}")
    }

    fn answer(&self) -> Value {
        self.invocation.json()
    }

    #[track_caller]
    fn assert_phases(&self, there: &[&str], missing: &[&str]) {
        let has = |phase: &&&str| self.timing.contains(&format!("{phase};dur="));
        assert!(there.iter().all(|phase| has(&phase)), "{}", self.timing);
        assert!(!missing.iter().any(|phase| has(&phase)), "{}", self.timing);
    }
}

fn python(shade: &str) -> Function {
    Function::python("identity").with("Environment", json!({ "Variables": { "SHADE": shade } }))
}

#[test]
fn the_first_call_of_a_new_function_is_answered_by_a_clone_of_its_runtime() {
    let node = Node::that_keeps_runtimes(&setting("TINDERBOX_TEST_STATE").join("runtimes.img"));
    let client = node.client();
    let booted = First::of(python("none"), &client);
    assert!(booted.timing.contains(BOOTED), "{}", booted.timing);
    booted.assert_phases(&["boot", "init", "run"], &["load", "unique"]);
    assert_eq!(booted.answer()["unique"]["generation"], 0);

    let red = First::cloned(|round| python(&format!("red {round}")), &client);
    // Another /tmp than the one that stood in for it; and what would end a clone of its own snapshot is nothing to one that
    // was nobody's when it was made unique.
    let green = python("green").with("EphemeralStorage", json!({ "Size": 1024 })).with_restore_hook("fail");
    let green = First::of(green, &client);
    assert!(green.timing.contains(CLONED), "{}", green.timing);
    for (clone, shade, tmp_mib) in [(&red, "red", 512), (&green, "green", 1024)] {
        clone.assert_phases(&["load", "unique", "init", "run"], &["boot", "hooks"]);
        let answer = clone.answer();
        assert_eq!(answer["function_name"], clone.function.name.as_str());
        let environment = &answer["environment"];
        assert!(environment["SHADE"].as_str().is_some_and(|found| found.starts_with(shade)), "{environment}");
        assert_eq!(environment["AWS_LAMBDA_INITIALIZATION_TYPE"], "on-demand");
        assert_eq!(environment["AWS_LAMBDA_FUNCTION_NAME"], clone.function.name.as_str());
        let tmp = answer["tmp_bytes"].as_u64().expect("a number");
        assert!(((tmp_mib * 9 / 10) << 20..=tmp_mib << 20).contains(&tmp), "{tmp} of {tmp_mib} MiB");
        let log = clone.invocation.log.as_deref().expect("the tail was asked for");
        assert!(
            log.contains("INIT_START Runtime Version: python:3.13.") && log.contains("\tInit Duration: "),
            "{log}"
        );
        assert!(!log.contains("RESTORE") && !log.contains("Restore Duration"), "{log}");
    }
    assert_shares_nothing(&[&booted, &red, &green]);

    let warm = green.function.answer(json!({}));
    assert_eq!(warm["unique"], green.answer()["unique"], "the second call has the sandbox of the first");

    assert_finds_its_layers(&client);

    // A runtime that brings no process to start ahead: its guest alone is resumed.
    let rust = First::of(Function::rust(), &client);
    assert!(rust.timing.contains(BOOTED), "another runtime's snapshot is nothing to it: {}", rust.timing);
    let rust = First::cloned(|_| Function::rust(), &client);
    assert_eq!(rust.answer()["function_name"], rust.function.name.as_str());
}

/// Layers are mounted in a guest whose Python has looked for libraries and modules before.
fn assert_finds_its_layers(client: &Client) {
    let alone = First::of(Function::python("layered"), client);
    assert_eq!(alone.answer()["modules"]["both"], Value::Null);
    // Any library that the guest can load will do, by another name.
    let read = alone.function.answer(json!({ "read": "/usr/lib/x86_64-linux-gnu/libz.so.1" }));
    let bytes = STANDARD.decode(read.as_str().expect("base64")).expect("base64");
    let mut library = tempfile::NamedTempFile::new().expect("a temporary file");
    library.write_all(&bytes).expect("write the library");
    let layer = json!([
        { "name": "lib/libof_layer.so", "file": library.path(), "mode": 0o100_755 },
        { "name": "python/both.py", "text": "LAYER = 'only'" },
    ]);
    let layer = Layer::publish(client, "runtime-snapshots", &layer);
    let layered = First::of(Function::python("layered").with("Layers", json!([layer.arn])), client);
    assert!(layered.timing.contains(CLONED), "{}", layered.timing);
    let answer = layered.answer();
    assert_eq!(answer["modules"]["both"], json!({ "layer": "only", "file": "/opt/python/both.py" }));
    assert!(answer["library"].as_str().is_some_and(|version| version.starts_with("1.")), "{answer}");
    assert_eq!(answer["opt"], json!(["lib", "python"]));
    assert_eq!(answer["root"], alone.answer()["root"], "a mount of guest-init's is seen");
}

#[track_caller]
fn assert_shares_nothing(sandboxes: &[&First]) {
    let answers: Vec<_> = sandboxes.iter().map(|first| first.answer()["unique"].clone()).collect();
    let names: Vec<_> = answers[0].as_object().expect("values by name").keys().cloned().collect();
    for name in names {
        let values: BTreeSet<_> = answers.iter().map(|answer| answer[&name].to_string()).collect();
        assert_eq!(values.len(), answers.len(), "{name}: {answers:#?}");
    }
}
