//! InvokeWithResponseStream, and URLs whose answers come while their functions make them.

use tokio::sync::mpsc;

use super::*;
use crate::invoke::Part;

const PATH: &str = "/2021-11-15/functions/f/response-streaming-invocations";

/// How an invocation streams, by the event's `do`: content type, pieces, and whether it fails behind them.
pub(super) fn script(told: &str) -> Option<(&'static str, Vec<Bytes>, bool)> {
    let pieces = |pieces: &[&'static [u8]]| pieces.iter().map(|piece| Bytes::from_static(piece)).collect();
    let prelude = b"{\"statusCode\":201,\"headers\":{\"x-a\":\"b\"}}\0\0\0";
    let integration = "application/vnd.awslambda.http-integration-response";
    Some(match told {
        "stream" => ("text/x-stream", pieces(&[b"one", b"two"]), false),
        "stream and fail" => ("text/x-stream", pieces(&[b"one"]), true),
        "stream an answer" => (integration, pieces(&[prelude, b"\0\0\0\0\0one", b"two"]), false),
        "stream half a prelude" => (integration, pieces(&[prelude]), false),
        "stream no prelude" => (integration, pieces(&[b"no", b"\0\0\0\0\0\0\0\0"]), false),
        // More than waits for a client.
        "stream a lot" => ("text/x-stream", pieces(&[&b"piece"[..]; 8]), false),
        _ => return None,
    })
}

/// Sends what a script says; the node stops listening when its client has gone.
pub(super) async fn send(sink: mpsc::Sender<Part>, content_type: &str, pieces: Vec<Bytes>) {
    let parts = pieces.into_iter().map(Part::Piece);
    for part in std::iter::once(Part::Head(content_type.into())).chain(parts) {
        drop(sink.send(part).await);
    }
}

/// The events of a stream: their names, content types and payloads, by the lengths that they say, and their sums checked.
fn events(mut stream: &[u8]) -> Vec<(String, String, Vec<u8>)> {
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().unwrap());
    let mut events = Vec::new();
    while !stream.is_empty() {
        let (message, rest) = stream.split_at(number(stream) as usize);
        let (content, sum) = message.split_at(message.len() - 4);
        assert_eq!(
            (number(&message[8..]), number(sum)),
            (crc32fast::hash(&message[..8]), crc32fast::hash(content))
        );
        let (mut headers, payload) = content[12..].split_at(number(&message[4..]) as usize);
        let mut named = BTreeMap::new();
        while let Some((len, behind)) = headers.split_first() {
            let (name, behind) = behind.split_at((*len).into());
            assert_eq!(behind[0], 7);
            let len = usize::from(u16::from_be_bytes([behind[1], behind[2]]));
            named.insert(name, String::from_utf8(behind[3..3 + len].to_vec()).unwrap());
            headers = &behind[3 + len..];
        }
        assert_eq!(named[&b":message-type"[..]], "event");
        events.push((
            named[&b":event-type"[..]].clone(),
            named[&b":content-type"[..]].clone(),
            payload.to_vec(),
        ));
        stream = rest;
    }
    events
}

/// Payloads of all chunks, and the document of the last event.
fn told(got: &Got) -> (Vec<String>, Value) {
    assert_eq!(got.status.as_u16(), 200, "{:?}", got.body);
    assert_eq!(got.header("content-type"), Some("application/vnd.amazon.eventstream"));
    let mut events = events(&got.body);
    let (name, content_type, complete) = events.pop().unwrap();
    assert_eq!((name.as_str(), content_type.as_str()), ("InvokeComplete", "application/json"));
    let chunk = |(name, content_type, payload): (String, String, Vec<u8>)| {
        assert_eq!((name.as_str(), content_type.as_str()), ("PayloadChunk", "application/octet-stream"));
        String::from_utf8(payload).unwrap()
    };
    (events.into_iter().map(chunk).collect(), serde_json::from_slice(&complete).unwrap())
}

#[tokio::test]
async fn a_response_is_events_as_it_comes() {
    let node = Node::new().await;
    node.function("f").await;
    let got = node.call("POST", PATH, r#"{"do":"stream"}"#).await;
    assert_eq!(got.header("x-amz-executed-version"), Some("$LATEST"));
    assert_eq!(told(&got), (vec!["one".into(), "two".into()], json!({})));
    let request = Request::builder().method("POST").uri(PATH).header("x-amz-log-type", "Tail");
    let got = node.send(request.body(r#"{"do":"stream"}"#.into()).unwrap()).await;
    let log = BASE64_STANDARD.decode(told(&got).1["LogResult"].as_str().unwrap()).unwrap();
    assert_eq!((log.len(), &log[log.len() - 3..]), (4096, &b"END"[..]));
}

#[tokio::test]
async fn a_function_that_does_not_stream_is_one_event() {
    let node = Node::new().await;
    node.function("f").await;
    let got = node.call("POST", PATH, r#"{"a":1}"#).await;
    assert_eq!(told(&got), (vec![r#"{"a":1}"#.into()], json!({})));
    let failed = node.call("POST", PATH, r#"{"do":"fail"}"#).await;
    let complete = json!({ "ErrorCode": "Unhandled", "ErrorDetails": r#"{"do":"fail"}"# });
    assert_eq!(told(&failed), (vec![], complete));
}

#[tokio::test]
async fn a_failure_midway_is_told_at_the_end() {
    let node = Node::new().await;
    node.function("f").await;
    let got = node.call("POST", PATH, r#"{"do":"stream and fail"}"#).await;
    let complete = json!({ "ErrorCode": "Unhandled", "ErrorDetails": "midway" });
    assert_eq!(told(&got), (vec!["one".into()], complete));
}

#[tokio::test]
async fn what_cannot_begin_is_an_error_of_the_api() {
    let node = Node::new().await;
    node.function("f").await;
    let throttled = node.call("POST", PATH, r#"{"do":"throttle"}"#).await;
    throttled.is_error(429, "TooManyRequestsException", "Rate Exceeded.");
    let malformed = node.call("POST", PATH, "{bad").await;
    assert_eq!(malformed.header("x-amzn-errortype"), Some("InvalidRequestContentException"));
    let missing = node.call("POST", &PATH.replace("/f/", "/g/"), "{}").await;
    let message = "Function not found: arn:aws:lambda:us-east-1:000000000000:function:g:$LATEST";
    missing.is_error(404, "ResourceNotFoundException", message);
    let request = Request::builder().method("POST").uri(PATH).header("x-amz-invocation-type", "Event");
    let event = node.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(event.header("x-amzn-errortype"), Some("ValidationException"));
    let request = Request::builder().method("POST").uri(PATH).header("x-amz-invocation-type", "DryRun");
    assert_eq!(node.send(request.body(Body::empty()).unwrap()).await.status.as_u16(), 204);
}

/// A node whose function has a URL that streams, and how that answers: status, `x-a`, content type, and its body if it is whole.
async fn answered(how: &'static str) -> (u16, Option<String>, String, Option<Vec<u8>>) {
    let node = Node::new().await;
    node.function("f").await;
    let config = json!({ "AuthType": "NONE", "InvokeMode": "RESPONSE_STREAM" });
    let made = node.call("POST", "/2021-10-31/functions/f/url", config.to_string()).await.ok(201);
    assert_eq!(made["InvokeMode"], "RESPONSE_STREAM");
    node.open("f", "").await;
    let url: axum::http::Uri = made["FunctionUrl"].as_str().unwrap().parse().unwrap();
    node.invoker.told.lock().unwrap().replace(how);
    let request = Request::builder().uri("/").header("host", url.authority().unwrap().as_str());
    let answer = node.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (head, body) = answer.into_parts();
    let text = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let body = body.collect().await.ok().map(|body| body.to_bytes().to_vec());
    (head.status.as_u16(), text("x-a"), text("content-type").unwrap(), body)
}

#[tokio::test]
async fn a_url_answers_while_its_function_does() {
    let plain = answered("stream").await;
    assert_eq!(plain, (200, None, "text/x-stream".into(), Some(b"onetwo".to_vec())));
    let said = answered("stream an answer").await;
    assert_eq!(said, (201, Some("b".into()), "application/json".into(), Some(b"onetwo".to_vec())));
    let broken = answered("stream and fail").await;
    assert_eq!((broken.0, broken.3), (200, None), "the connection breaks off");
    for wrong in ["stream half a prelude", "stream no prelude", "fail"] {
        assert_eq!(answered(wrong).await.0, 502, "{wrong}");
    }
    let whole = answered("nothing").await;
    assert_eq!((whole.0, whole.2.as_str()), (200, "application/json"), "one that does not stream");
}
