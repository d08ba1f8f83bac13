//! Invoke.

use super::*;

const PATH: &str = "/2015-03-31/functions/f/invocations";

impl Node {
    pub(super) async fn invoke(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Got {
        let mut request = Request::builder().method("POST").uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }
}

#[tokio::test]
async fn an_answer_is_the_functions() {
    let node = Node::new().await;
    node.function("f").await;
    let got = node.invoke(PATH, &[], r#"{"a":[1,"é"]}"#).await;
    assert_eq!((got.status.as_u16(), &got.body[..]), (200, r#"{"a":[1,"é"]}"#.as_bytes()));
    assert_eq!(got.header("x-amz-executed-version"), Some("$LATEST"));
    assert_eq!(got.header("content-type"), Some("application/json"));
    assert_eq!((got.header("x-amz-function-error"), got.header("x-amz-log-result")), (None, None));
    let seen = node.invoker.seen.lock().unwrap().pop().unwrap();
    assert_eq!(Some(seen.request_id.as_str()), got.header("x-amzn-requestid"));
    assert_eq!(seen.invoked_arn, "arn:aws:lambda:us-east-1:000000000000:function:f");
    assert!(chunks_in(node.dir.path()).has(&seen.code.label));
}

#[tokio::test]
async fn headers_reach_the_function_and_come_back() {
    let node = Node::new().await;
    node.function("f").await;
    let context = BASE64_STANDARD.encode(r#"{"custom":{"k":"v"}}"#);
    let headers =
        [("x-amz-log-type", "Tail"), ("x-amz-client-context", &context), ("x-amzn-trace-id", "Root=1-2-3")];
    let got = node.invoke(&format!("{PATH}?Qualifier=$LATEST"), &headers, "").await;
    assert_eq!(got.body, "{}", "no event is an empty object");
    let log = BASE64_STANDARD.decode(got.header("x-amz-log-result").unwrap()).unwrap();
    assert_eq!(log.len(), 4096);
    assert!(log.ends_with(b"END"));
    let seen = node.invoker.seen.lock().unwrap().pop().unwrap();
    assert_eq!(seen.client_context.as_deref(), Some(r#"{"custom":{"k":"v"}}"#));
    assert_eq!(seen.trace_id.as_deref(), Some("Root=1-2-3"));
    assert_eq!(seen.invoked_arn, "arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST");
}

#[tokio::test]
async fn failures_are_told_apart() {
    let node = Node::new().await;
    node.function("f").await;
    let unhandled = node.invoke(PATH, &[], r#"{"do":"fail"}"#).await;
    assert_eq!(
        (unhandled.status.as_u16(), unhandled.header("x-amz-function-error")),
        (200, Some("Unhandled"))
    );
    let throttled = node.invoke(PATH, &[], r#"{"do":"throttle"}"#).await;
    throttled.is_error(429, "TooManyRequestsException", "Rate Exceeded.");
    assert_eq!(throttled.json()["Reason"], "ConcurrentInvocationLimitExceeded");
    assert_eq!(throttled.header("retry-after"), Some("1"));
    let lost = node.invoke(PATH, &[], r#"{"do":"lose"}"#).await;
    assert_eq!((lost.status.as_u16(), lost.header("x-amzn-errortype")), (500, Some("ServiceException")));
    let runtime = node.invoke(PATH, &[], r#"{"do":"no runtime"}"#).await;
    assert_eq!(
        (runtime.status.as_u16(), runtime.header("x-amzn-errortype")),
        (502, Some("InvalidRuntimeException"))
    );
}

#[tokio::test]
async fn a_dry_run_runs_nothing() {
    let node = Node::new().await;
    node.function("f").await;
    let got = node.invoke(PATH, &[("x-amz-invocation-type", "DryRun")], "{}").await;
    assert_eq!((got.status.as_u16(), got.body.len()), (204, 0));
    assert!(node.invoker.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_event_is_bounded_to_the_byte() {
    let node = Node::new().await;
    node.function("f").await;
    let event = |len: usize| format!("\"{}\"", "x".repeat(len - 2));
    let most = node.invoke(PATH, &[], event(6 * 1024 * 1024)).await;
    assert_eq!((most.status.as_u16(), most.body.len()), (200, 6 * 1024 * 1024));
    let message = "Request must be smaller than 6291456 bytes for the InvokeFunction operation";
    let more = node.invoke(PATH, &[], event(6 * 1024 * 1024 + 1)).await;
    more.is_error(413, "RequestTooLargeException", message);
    let pieces = unannounced(event(7 * 1024 * 1024));
    node.invoke(PATH, &[], pieces).await.is_error(413, "RequestTooLargeException", message);
}

/// A body that arrives in pieces and whose length nobody announces.
fn unannounced(text: String) -> Body {
    let (sender, receiver) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let mut sender = sender;
        // The reader may stop early.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut sender, text.as_bytes()).await;
    });
    Body::from_stream(tokio_util::io::ReaderStream::new(receiver))
}

#[tokio::test]
async fn wrong_invocations_are_refused() {
    let node = Node::new().await;
    node.function("f").await;
    let not_json = node.invoke(PATH, &[], "{bad").await;
    assert_eq!(
        (not_json.status.as_u16(), not_json.header("x-amzn-errortype")),
        (400, Some("InvalidRequestContentException"))
    );
    assert!(
        not_json.json()["message"].as_str().unwrap().starts_with("Could not parse request body into json: ")
    );

    let bogus = node.invoke(PATH, &[("x-amz-invocation-type", "Bogus")], "{}").await;
    let message = "1 validation error detected: Value 'Bogus' at 'invocationType' failed to satisfy constraint: Member \
                   must satisfy enum value set: [Event, RequestResponse, DryRun]";
    bogus.is_error(400, "ValidationException", message);

    let context = node.invoke(PATH, &[("x-amz-client-context", "!")], "{}").await;
    let message = "Client context must be a valid Base64-encoded JSON object.";
    context.is_error(400, "InvalidRequestContentException", message);

    let arn = "arn:aws:lambda:us-east-1:000000000000:function";
    let missing = node.invoke("/2015-03-31/functions/nope/invocations", &[], "{}").await;
    missing.is_error(404, "ResourceNotFoundException", &format!("Function not found: {arn}:nope:$LATEST"));
    let alias = node.invoke("/2015-03-31/functions/f:live/invocations", &[], "{}").await;
    alias.is_error(404, "ResourceNotFoundException", &format!("Function not found: {arn}:f:live"));
    assert!(node.invoker.seen.lock().unwrap().is_empty());
}
