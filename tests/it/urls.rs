//! Functions behind URLs, and responses that are streamed: a request to a host of their own reaches them as an event, and what they
//! return is the answer, while they return it if they stream.

use serde_json::{Value, json};

use crate::client::{Client, bytes, to_bytes};
use crate::functions::{Deployed, Function};
use crate::node::Node;

/// Answers with what it was asked, or as the path says.
const APP: &str = r#"
import json

def handler(event, context):
    if event["rawPath"] == "/raise":
        raise ValueError("on purpose")
    if event["rawPath"] == "/split":
        return {"statusCode": 200, "headers": {"x-a": "b\r\nset-cookie: evil=1"}}
    if event["rawPath"] == "/plain":
        return {"plain": True}
    return {
        "statusCode": 201,
        "headers": {"content-type": "application/json", "x-method": event["requestContext"]["http"]["method"]},
        "cookies": ["a=b"],
        "body": json.dumps(event),
    }
"#;

/// How long a function waits between the pieces of its response, and how much of that a client must see.
const HOLD_S: u32 = 4;
const SEEN_S: f64 = 2.0;

fn with_url(function: &Deployed, config: Value) -> String {
    let made = function.call("create_function_url_config", config).expect("a URL is made");
    made["FunctionUrl"].as_str().expect("it is text").to_owned()
}

/// What AWS asks for beside the type of an open URL.
fn open(function: &Deployed) {
    let through = json!({ "Action": "lambda:InvokeFunctionUrl", "FunctionUrlAuthType": "NONE" });
    let by = json!({ "Action": "lambda:InvokeFunction", "InvokedViaFunctionUrl": true });
    for (sid, mut permission) in [("open", through), ("open-invoke", by)] {
        permission["StatementId"] = sid.into();
        permission["Principal"] = "*".into();
        function.call("add_permission", permission).expect("it is granted");
    }
}

fn document(answer: &Value) -> Value {
    serde_json::from_slice(&to_bytes(&answer["body"])).expect("the body is JSON")
}

fn assert_forbidden(answer: &Value) {
    assert_eq!((answer["status"].as_u64(), document(answer)), (Some(403), json!({ "Message": "Forbidden" })));
}

#[test]
fn a_function_behind_a_url_answers_everybody_or_those_who_sign() {
    let client = Node::shared().node.client();
    let zip = json!([{ "name": "app.py", "text": APP }]);
    let function = Function::new("python3.13", "app.handler", &zip).deploy(&client);
    let cors = json!({ "AllowOrigins": ["https://a.example"], "AllowMethods": ["PUT"] });
    let url = with_url(&function, json!({ "AuthType": "NONE", "Cors": cors }));
    let stranger = client.clone().unsigned();
    assert_forbidden(&stranger.fetch(&url, json!({ "method": "GET" })));
    open(&function);
    open_to_everybody(&stranger, &url);

    function.call("update_function_url_config", json!({ "AuthType": "AWS_IAM" })).expect("it is changed");
    let post =
        json!({ "method": "POST", "body": bytes(b"{}"), "headers": { "Content-Type": "application/json" } });
    let answer = client.fetch(&format!("{url}a%20b?c=d"), post.clone());
    assert_eq!(answer["status"], 201, "{answer}");
    assert_eq!(document(&answer)["requestContext"]["authorizer"]["iam"]["accessKey"], "test");
    for stranger in [
        client.clone().unsigned(),
        client.clone().with_key("test", "guess"),
        client.clone().in_region("eu-west-1"),
    ] {
        assert_forbidden(&stranger.fetch(&url, post.clone()));
    }
    function.call("delete_function_url_config", json!({})).expect("it is deleted");
    assert_forbidden(&client.fetch(&url, post));
}

fn open_to_everybody(stranger: &Client, url: &str) {
    let sent = json!({
        "method": "PUT",
        "body": bytes(b"\xff\x00"),
        "headers": { "Content-Type": "application/octet-stream", "Cookie": "c=d; e=f", "Origin": "https://a.example" },
    });
    let answer = stranger.fetch(&format!("{url}2015-03-31/functions/?a=1&a=2"), sent);
    assert_eq!(
        (answer["status"].as_u64(), &answer["headers"]["x-method"]),
        (Some(201), &json!("PUT")),
        "{answer}"
    );
    assert_eq!(answer["headers"]["set-cookie"], "a=b");
    assert_eq!(answer["headers"]["access-control-allow-origin"], "https://a.example");
    let event = document(&answer);
    assert_eq!((&event["rawPath"], &event["body"]), (&json!("/2015-03-31/functions/"), &json!("/wA=")));
    assert_eq!(
        (&event["cookies"], &event["queryStringParameters"]["a"]),
        (&json!(["c=d", "e=f"]), &json!("1,2"))
    );
    assert_eq!(event["requestContext"]["requestId"], answer["headers"]["x-amzn-requestid"]);

    let get = |path: &str| stranger.fetch(&format!("{url}{path}"), json!({ "method": "GET" }));
    assert_eq!(document(&get("plain")), json!({ "plain": true }));
    for failing in ["raise", "split"] {
        let answer = get(failing);
        assert_eq!(answer["status"], 502, "{failing}");
        assert_eq!(document(&answer), json!({ "Message": "Internal Server Error" }), "{failing}");
        assert!(answer["headers"].get("set-cookie").is_none(), "{failing}");
    }
}

/// Payloads and times of all chunks, and what the last event says.
pub(crate) fn streamed(function: &Deployed, event: &Value) -> (Vec<(String, f64)>, Value) {
    let args = json!({ "Payload": bytes(event.to_string().as_bytes()) });
    let answer = function.call("invoke_with_response_stream", args).expect("a stream");
    let mut events = answer["EventStream"].as_array().expect("events").clone();
    let complete = events.pop().expect("a last event")["InvokeComplete"].clone();
    let chunk = |event: &Value| {
        let payload = to_bytes(&event["PayloadChunk"]["Payload"]);
        (String::from_utf8(payload).expect("text"), event["at_s"].as_f64().expect("a time"))
    };
    (events.iter().map(chunk).collect(), complete)
}

#[test]
fn a_streamed_response_arrives_while_it_is_made() {
    let function = Function::plain().deploy(&Node::shared().node.client());
    let (chunks, complete) = streamed(&function, &json!({ "stream": ["one", "two"], "hold_s": HOLD_S }));
    let text: Vec<_> = chunks.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!((text, complete), (vec!["one", "two"], json!({})));
    let apart = chunks[1].1 - chunks[0].1;
    assert!(apart > SEEN_S, "the first piece came {apart} s before the second");

    let (chunks, complete) = streamed(&function, &json!({ "stream": ["half"], "error": "Function.Late" }));
    assert_eq!((chunks[0].0.as_str(), &complete["ErrorCode"]), ("half", &json!("Unhandled")));
    assert!(complete["ErrorDetails"].as_str().is_some_and(|details| details.contains("Function.Late")));
    // Whoever wants it whole gets it whole, and one that does not stream is one event.
    assert_eq!(function.invoke(json!({ "stream": ["\"on", "e\""] })).json(), "one");
    assert_eq!(streamed(&function, &json!({})).0.len(), 1);

    let url = with_url(&function, json!({ "AuthType": "NONE", "InvokeMode": "RESPONSE_STREAM" }));
    open(&function);
    let prelude = json!({ "statusCode": 202, "headers": { "x-a": "b" }, "cookies": ["c=d"] }).to_string();
    let asked = json!({
        "stream": [prelude, "\0\0\0\0\0\0\0\0body, ", "more"],
        "content_type": "application/vnd.awslambda.http-integration-response",
    });
    let sent = json!({
        "method": "POST",
        "body": bytes(asked.to_string().as_bytes()),
        "headers": { "Content-Type": "application/json" },
    });
    let answer = function.client().fetch(&url, sent);
    assert_eq!((answer["status"].as_u64(), to_bytes(&answer["body"])), (Some(202), b"body, more".to_vec()));
    assert_eq!((&answer["headers"]["x-a"], &answer["headers"]["set-cookie"]), (&json!("b"), &json!("c=d")));
}
