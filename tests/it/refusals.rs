//! Bad requests: each gets AWS's error name and status, leaves no function behind, and the node works on.

use serde_json::{Value, json};

use crate::client::{ApiError, Client, bytes};
use crate::functions::{Deployed, Function, Invocation, zip_of};
use crate::node::Node;

/// Lambda's limit of an event, in bytes.
const MAX_BODY_LEN: usize = 6 * 1024 * 1024;

/// Unzipped bytes past Lambda's limit of 250 MB.
const BOMB_LEN: u64 = 251 * 1024 * 1024;

const QUEUE: &str = "arn:aws:sqs:us-east-1:000000000000:queue";
const SIGNING: &str = "arn:aws:lambda:us-east-1:000000000000:code-signing-config:csc-0123456789abcdef0";

/// Creates what must be refused, and checks that nothing was created.
#[track_caller]
fn refuse(client: &Client, function: &Function) -> ApiError {
    let error = function.create(client).expect_err("this must be refused");
    let args = json!({ "FunctionName": function.name() });
    let read = client.call("get_function", args).expect_err("a refused function exists");
    assert_eq!(read.code, "ResourceNotFoundException");
    error
}

#[track_caller]
fn assert_error(error: &ApiError, code: &str, status: u64) {
    assert_eq!((error.code.as_str(), error.status), (code, status), "{}", error.message);
}

fn python(zip: &Value) -> Function {
    Function::new("python3.13", "app.handler", zip)
}

fn hello() -> Value {
    json!({ "name": "app.py", "text": "def handler(event, context):\n    return 1\n" })
}

#[test]
fn what_is_no_zip_is_refused() {
    let shared = Node::shared();
    let client = shared.node.client();
    for code in [&b"this is no archive"[..], b"PK\x03\x04 nor is this", b""] {
        let function = Function::python("hello").with("Code", json!({ "ZipFile": bytes(code) }));
        let error = refuse(&client, &function);
        assert_error(&error, "InvalidParameterValueException", 400);
    }
}

#[test]
fn a_truncated_zip_is_refused() {
    let shared = Node::shared();
    let zip = b"PK\x03\x04\x14\x00\x00\x00\x08\x00\x00\x00!X\x00\x00\x00\x00\xff\xff\xff\x7f\xff\xff\xff\x7f\x06\x00\x00\x00app.py";
    let function = Function::python("hello").with("Code", json!({ "ZipFile": bytes(zip) }));
    assert_error(&refuse(&shared.node.client(), &function), "InvalidParameterValueException", 400);
}

#[test]
fn a_zip_that_reaches_out_of_its_folder_is_refused() {
    let shared = Node::shared();
    let client = shared.node.client();
    let link = 0o120_777;
    let attacks = [
        ("parent", json!([hello(), { "name": "../escaped.py", "text": "x" }])),
        ("parent inside", json!([hello(), { "name": "a/../../escaped.py", "text": "x" }])),
        ("absolute", json!([hello(), { "name": "/etc/escaped", "text": "x" }])),
        ("link to absolute", json!([hello(), { "name": "etc", "text": "/etc", "mode": link }])),
        ("link to parent", json!([hello(), { "name": "up", "text": "../..", "mode": link }])),
        (
            "through a link",
            json!([hello(), { "name": "d", "text": "/tmp", "mode": link }, { "name": "d/x", "text": "x" }]),
        ),
        ("duplicate", json!([hello(), { "name": "a", "text": "1" }, { "name": "a", "text": "2" }])),
        ("device", json!([hello(), { "name": "disk", "text": "", "mode": 0o060_666 }])),
    ];
    for (what, zip) in attacks {
        let error = refuse(&client, &python(&zip));
        let expected = ["InvalidParameterValueException", "InvalidZipFileException"];
        assert!(expected.contains(&error.code.as_str()), "{what}: {error:?}");
        assert!((400..=502).contains(&error.status), "{what}: {error:?}");
    }
    assert_eq!(python(&json!([hello()])).deploy(&client).answer(json!({})), 1);
}

#[test]
fn a_zip_bomb_is_refused() {
    let shared = Node::shared();
    let client = shared.node.client();
    let error = refuse(&client, &python(&json!([hello(), { "name": "zeros", "zeros": BOMB_LEN }])));
    assert_error(&error, "InvalidParameterValueException", 400);
    assert!(
        error.message.contains("Unzipped size must be smaller than 262144000 bytes"),
        "{}",
        error.message
    );
    assert_eq!(python(&json!([hello()])).deploy(&client).answer(json!({})), 1);
}

#[test]
fn links_and_folders_inside_a_zip_are_kept() {
    let shared = Node::shared();
    let code = "from package.inner import answer\ndef handler(event, context):\n    return answer, open('link').read()\n";
    let zip = json!([
        { "name": "app.py", "text": code },
        { "name": "package/__init__.py", "text": "" },
        { "name": "package/inner.py", "text": "answer = 42\n" },
        { "name": "data/target.txt", "text": "reached" },
        { "name": "link", "text": "data/target.txt", "mode": 0o120_777 },
    ]);
    let function = python(&zip).deploy(&shared.node.client());
    assert_eq!(function.answer(json!({})), json!([42, "reached"]));
}

#[test]
fn an_unknown_runtime_is_refused_by_name() {
    let shared = Node::shared();
    let function = Function::python("hello").with("Runtime", "cobol85");
    let error = refuse(&shared.node.client(), &function);
    assert_error(&error, "InvalidParameterValueException", 400);
    assert!(error.message.contains("cobol85"), "{}", error.message);
}

#[test]
fn settings_out_of_range_are_refused() {
    let shared = Node::shared();
    let client = shared.node.client();
    let big = json!({ "Variables": { "BIG": "x".repeat(5000) } });
    let reserved = json!({ "Variables": { "AWS_LAMBDA_FUNCTION_NAME": "mine" } });
    let wrong: [(&str, Value); 9] = [
        ("MemorySize", 64.into()),
        ("MemorySize", 99_999.into()),
        ("Timeout", 0.into()),
        ("Timeout", 901.into()),
        ("Environment", big),
        ("Environment", reserved),
        ("EphemeralStorage", json!({ "Size": 100 })),
        ("Role", "not-an-arn".into()),
        ("FunctionName", "white space".into()),
    ];
    for (member, value) in wrong {
        let function = Function::python("hello").with(member, value.clone());
        let error = function.create(&client).expect_err("this must be refused");
        assert_eq!(error.status, 400, "{member} = {value}: {error:?}");
        let expected = ["InvalidParameterValueException", "ValidationException"];
        assert!(expected.contains(&error.code.as_str()), "{member} = {value}: {error:?}");
    }
}

fn invoke_with(function: &Deployed, payload: &[u8]) -> Result<Invocation, ApiError> {
    function.call("invoke", json!({ "Payload": bytes(payload) })).map(|answer| Invocation::parse(&answer))
}

#[test]
fn an_event_that_is_no_json_is_refused() {
    let shared = Node::shared();
    let function = Function::python("hello").deploy(&shared.node.client());
    for payload in [&b"{\"half\":"[..], b"{} trailing", b"\xff\xfe", b"nothing"] {
        let error = invoke_with(&function, payload).expect_err("this is no JSON");
        assert_error(&error, "InvalidRequestContentException", 400);
        assert!(error.message.contains("Could not parse request body into json"), "{}", error.message);
    }
    assert_eq!(function.answer(json!({}))["event"], json!({}));
}

#[test]
fn an_event_past_six_megabytes_is_refused() {
    let shared = Node::shared();
    let function = Function::python("hello").deploy(&shared.node.client());
    let payload = format!("\"{}\"", "x".repeat(MAX_BODY_LEN - 1));
    assert_eq!(payload.len(), MAX_BODY_LEN + 1);
    let error = invoke_with(&function, payload.as_bytes()).expect_err("one byte too many");
    assert_error(&error, "RequestTooLargeException", 413);
    assert_eq!(function.answer(json!({}))["event"], json!({}));
}

#[test]
fn a_function_that_does_not_exist_cannot_be_invoked() {
    let shared = Node::shared();
    let client = shared.node.client();
    let error = client.call("invoke", json!({ "FunctionName": "nobody" })).expect_err("nobody is there");
    assert_error(&error, "ResourceNotFoundException", 404);
    let named = "Function not found: arn:aws:lambda:us-east-1:000000000000:function:nobody";
    assert!(error.message.starts_with(named), "{}", error.message);
}

#[test]
fn what_is_not_built_yet_is_refused_and_never_pretended() {
    let shared = Node::shared();
    let client = shared.node.client();
    let function = Function::python("hello").deploy(&client);
    let missing = [
        ("create_event_source_mapping", json!({ "EventSourceArn": QUEUE })),
        ("put_function_code_signing_config", json!({ "CodeSigningConfigArn": SIGNING })),
    ];
    for (operation, args) in missing {
        let error = function.call(operation, args).expect_err(operation);
        assert!((400..=501).contains(&error.status), "{operation}: {error:?}");
        assert!(!error.code.is_empty() && !error.message.is_empty(), "{operation}: {error:?}");
    }
    let image =
        Function::python("hello").with("PackageType", "Image").with("Code", json!({ "ImageUri": "x/y:z" }));
    assert!((400..=502).contains(&refuse(&client, &image).status));
    let update = function.call("update_function_code", json!({ "ZipFile": { "__zip__": zip_of("hello") } }));
    update.expect("what is built still works");
}
