//! Functions behind URLs: a request to a host of their own reaches them as an event, and what they return is the answer.

use serde_json::{Value, json};

use crate::client::{bytes, to_bytes};
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

fn deployed(auth_type: &str, cors: Value) -> (Deployed, String) {
    let client = Node::shared().node.client();
    let zip = json!([{ "name": "app.py", "text": APP }]);
    let function = Function::new("python3.13", "app.handler", &zip).deploy(&client);
    let made = function.call("create_function_url_config", json!({ "AuthType": auth_type, "Cors": cors }));
    let url = made.expect("a URL is made")["FunctionUrl"].as_str().expect("it is text").to_owned();
    (function, url)
}

fn document(answer: &Value) -> Value {
    serde_json::from_slice(&to_bytes(&answer["body"])).expect("the body is JSON")
}

#[test]
fn an_open_url_is_for_everybody_and_its_paths_are_the_functions() {
    let _shared = Node::shared();
    let (function, url) =
        deployed("NONE", json!({ "AllowOrigins": ["https://a.example"], "AllowMethods": ["PUT"] }));
    let stranger = function.client().clone().unsigned();
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
    function.call("delete_function_url_config", json!({})).expect("it is deleted");
    let gone = get("plain");
    assert_eq!((gone["status"].as_u64(), document(&gone)), (Some(403), json!({ "Message": "Forbidden" })));
}

#[test]
fn a_url_with_iam_is_for_those_who_sign() {
    let _shared = Node::shared();
    let (function, url) = deployed("AWS_IAM", json!({}));
    let client = function.client().clone();
    let post =
        json!({ "method": "POST", "body": bytes(b"{}"), "headers": { "Content-Type": "application/json" } });
    let answer = client.fetch(&format!("{url}a%20b?c=d"), post.clone());
    assert_eq!(answer["status"], 201, "{answer}");
    assert_eq!(document(&answer)["requestContext"]["authorizer"]["iam"]["accessKey"], "test");
    for stranger in
        [client.clone().unsigned(), client.clone().with_key("test", "guess"), client.in_region("eu-west-1")]
    {
        let answer = stranger.fetch(&url, post.clone());
        assert_eq!(
            (answer["status"].as_u64(), document(&answer)),
            (Some(403), json!({ "Message": "Forbidden" }))
        );
    }
}
