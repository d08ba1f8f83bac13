//! `java21`: a function of values that fails, and clones of it. What it is, `tests/functions/java` says.
//!
//! One test: a JVM needs many seconds to start on an emulated machine.

use serde_json::{Value, json};

use crate::functions::{Deployed, Function, Invocation};
use crate::node::Node;

/// A call that is held while the other begins, milliseconds: each of them gets a clone of its own.
const HOLD_MS: u32 = 20_000;

#[test]
fn a_java_function_answers_and_fails_as_on_lambda_and_its_clones_are_unique() {
    let shared = Node::alone();
    let snap_start = json!({ "ApplyOn": "PublishedVersions" });
    let mut function =
        Function::java("app.Handler").with("SnapStart", snap_start).deploy(&shared.node.client());

    let booted = function.invoke(json!({ "name": "Ada", "count": 2 }));
    let (answer, log) = (booted.json(), booted.log.as_deref().expect("the tail was asked for"));
    assert_eq!((&answer["greeting"], &answer["count"]), (&json!("hello, Ada"), &json!(3)), "{booted:?}");
    assert_eq!((&answer["version"], &answer["type"]), (&json!("$LATEST"), &json!("on-demand")), "{answer}");
    assert_eq!((&answer["inTime"], &answer["hooks"]), (&json!(true), &json!([])), "{answer}");
    assert_eq!(answer.get("nothing"), None, "null is left out: {answer}");
    assert!(log.contains("printed for Ada\n") && log.contains("\nlogged for "), "{log}");
    assert!(log.contains("\n[WARN] damp\n") && log.contains("\n[DEBUG] drip\n"), "{log}");

    let failed = function.invoke(json!({ "fail": "no wick" }));
    assert_eq!(failed.error(), ("app.Handler$WetTinder".to_owned(), "no wick".to_owned()), "{failed:?}");
    let (error, frame) = (failed.json(), "app.Handler.handleRequest(Handler.java:");
    assert!(error["stackTrace"][0].as_str().is_some_and(|first| first.starts_with(frame)), "{error}");
    assert_eq!(error["cause"]["errorType"], "java.lang.IllegalStateException", "{error}");

    let logging = json!({ "LogFormat": "JSON", "ApplicationLogLevel": "INFO" });
    function.update(json!({ "LoggingConfig": logging }));
    let version = function.publish_active();
    let event = json!({ "name": "Bob", "holdMs": HOLD_MS });
    let calls: Vec<_> = (0..2).map(|_| function.begin_as(&version, &event)).collect();
    let clones: Vec<_> =
        calls.into_iter().map(|call| Invocation::parse(&call.end().expect("invoke"))).collect();
    clones.iter().for_each(assert_restored);
    let (one, other) = (clones[0].json(), clones[1].json());
    assert_eq!(one["drawnInInit"], other["drawnInInit"], "they are not clones of one snapshot");
    for (name, drawn) in one["drawn"].as_object().expect("values by name") {
        assert_ne!(drawn, &other["drawn"][name], "{name} gave two clones the same");
    }
    eprintln!("booted: {booted:?}\nrestored: {:?}", clones[0]);

    // The class of `examples/java`, which lies beside the others.
    function.update(json!({ "Handler": "Hello::handle" }));
    assert_eq!(function.answer(json!({ "name": "Ada" }))["hello"], "Ada");

    for (form, event, answer) in [
        // A number that goes where any value may is a Double, as on Lambda.
        ("app.Forms::map", json!({ "a": [1, "b"] }), json!({ "a": [1.0, "b"] })),
        ("app.Forms::sum", json!([1, 2, 3]), json!(6)),
        ("app.Forms::text", json!("wick"), json!("WICK")),
        ("app.Forms::bytes", json!({ "a": 1 }), json!([{ "a": 1 }])),
        ("app.Forms::nothing", json!({}), json!(null)),
    ] {
        function.update(json!({ "Handler": form }));
        assert_eq!(function.answer(event), answer, "{form}");
    }
    function.update(json!({ "Handler": "app.Raw" }));
    let answered = function.answer(json!({ "a": 1 }));
    assert_eq!(answered["event"], json!({ "a": 1 }));
    assert!(answered["id"].as_str().is_some_and(|id| id.len() == 36), "{answered}");

    assert_hooks_that_fail_are_told(&mut function);
    // Served by the image that there is, which says so.
    let plain = json!({ "LogFormat": "Text" });
    function.update(json!({ "Handler": "app.Forms::text", "Runtime": "java17", "LoggingConfig": plain }));
    let answered = function.invoke(json!("wick"));
    assert_eq!(answered.json(), "WICK", "{answered:?}");
    assert!(
        answered.log.as_deref().is_some_and(|log| log.contains("INIT_START Runtime Version: java:21.")),
        "{answered:?}"
    );
}

/// One before a snapshot is the version's, one after a restore its caller's.
fn assert_hooks_that_fail_are_told(function: &mut Deployed) {
    let fail = |function: &mut Deployed, hook: &str| {
        function
            .update(json!({ "Handler": "app.Handler", "Environment": { "Variables": { "FAULT": hook } } }));
        function.publish()
    };
    let version = fail(function, "before");
    let args = json!({ "FunctionName": function.name, "Qualifier": version });
    function.client().wait("published_version_active", args).expect_err("its hook fails");
    let failed = function.version(&version);
    assert_eq!(failed["StateReasonCode"], "FunctionError.RuntimeInitError", "{failed}");
    let reason = failed["StateReason"].as_str().expect("it says why");
    assert!(reason.contains("BeforeCheckpointError"), "{reason}");

    let version = fail(function, "after");
    let args = json!({ "FunctionName": function.name, "Qualifier": version });
    function.client().wait("published_version_active", args).expect("its hook has not run yet");
    let error = function.invoke_as(&version, &json!({})).expect_err("its hook fails");
    assert_eq!((error.code.as_str(), error.status), ("SnapStartException", 400), "{error:?}");
}

/// The hooks have run, and nothing was left of what the JDK had drawn before.
#[track_caller]
fn assert_restored(clone: &Invocation) {
    let answer = clone.json();
    assert_eq!(answer["type"], "snap-start", "{clone:?}");
    assert_eq!(answer["hooks"], json!(["before second", "before first", "after first", "after second"]));
    let buffered: Vec<_> = answer["buffered"].as_array().into_iter().flatten().map(Value::as_u64).collect();
    assert!(buffered[1] > Some(0) && buffered[2] == Some(0), "{answer}");
    let log = clone.log.as_deref().expect("the tail was asked for");
    assert!(log.contains("restoreDurationMs"), "{clone:?}");
    assert!(log.contains("\nprinted for Bob\n") && !log.contains("drip"), "{log}");
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let warned: Vec<_> = lines.filter(|line| line["message"] == "damp").collect();
    let [line] = &warned[..] else { panic!("{log}") };
    assert_eq!(line["level"], "WARN", "{line}");
    assert!(line["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    assert!(
        line["AWSRequestId"].as_str().is_some_and(|id| log.contains(&format!("logged for {id}"))),
        "{log}"
    );
}
