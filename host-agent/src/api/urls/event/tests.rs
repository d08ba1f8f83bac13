//! Events, by the requests that they are made of.

use axum::http::Request;
use proptest::prelude::*;

use super::*;

fn base() -> UrlBase {
    UrlBase { scheme: "https".into(), domain: "fn.example.net".into(), port: 443 }
}

fn made(
    request: axum::http::request::Builder,
    body: &[u8],
    signer: Option<Signer<'_>>,
) -> Result<Value, TooLong> {
    let base = base();
    let context = Context {
        id: "abc",
        domain: base.host_of("abc", "eu-west-1"),
        base: &base,
        source: "192.0.2.7".parse().unwrap(),
        request_id: "id",
        trace_id: "Root=1-2-3",
        at: DateTime::from_timestamp_millis(1_583_348_638_390).unwrap(),
        signer,
    };
    let head = request.body(()).unwrap().into_parts().0;
    of(&head, body, &context).map(|event| serde_json::from_slice(&event).unwrap())
}

fn check(request: axum::http::request::Builder, body: &[u8]) -> Value {
    made(request, body, None).unwrap()
}

/// The members and their places are those of AWS's documentation of payload format 2.0.
#[test]
fn a_request_becomes_an_event() {
    let request = Request::builder()
        .method("POST")
        .uri("/pa2%Fth/1?q=query&multiQuery=foo&multiQuery=%2Fbar&a+b=c%20d")
        .header("Host", "other")
        .header("Extra-Headers", "With WeiRd CapS")
        .header("x-two", "1")
        .header("x-two", "2")
        .header("cookie", "a=b; c=d")
        .header("cookie", "e=f")
        .header("user-agent", "test/echo")
        .header("content-type", "application/json")
        .header("connection", "close, x-hop")
        .header("x-hop", "1")
        .header("te", "trailers")
        .header("x-forwarded-for", "10.0.0.1")
        .header("x-forwarded-proto", "gopher");
    let host = "abc.lambda-url.eu-west-1.fn.example.net";
    let expected = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/pa2%Fth/1",
        "rawQueryString": "q=query&multiQuery=foo&multiQuery=%2Fbar&a+b=c%20d",
        "cookies": ["a=b", "c=d", "e=f"],
        "headers": {
            "content-type": "application/json",
            "extra-headers": "With WeiRd CapS",
            "host": host,
            "user-agent": "test/echo",
            "x-amzn-trace-id": "Root=1-2-3",
            "x-forwarded-for": "10.0.0.1, 192.0.2.7",
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
            "x-two": "1,2",
        },
        "queryStringParameters": { "q": "query", "multiQuery": "foo,/bar", "a b": "c d" },
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "abc",
            "domainName": host,
            "domainPrefix": "abc",
            "http": {
                "method": "POST",
                "path": "/pa2%Fth/1",
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.7",
                "userAgent": "test/echo",
            },
            "requestId": "id",
            "routeKey": "$default",
            "stage": "$default",
            "time": "04/Mar/2020:19:03:58 +0000",
            "timeEpoch": 1_583_348_638_390_i64,
        },
        "body": "{\"foo\":\"bar\"}",
        "isBase64Encoded": false,
    });
    assert_eq!(check(request, b"{\"foo\":\"bar\"}"), expected);
}

#[test]
fn what_is_not_there_is_not_said() {
    let event = check(Request::builder().uri("/"), b"");
    for absent in ["cookies", "queryStringParameters", "body"] {
        assert!(event.get(absent).is_none(), "{absent}");
    }
    assert_eq!((&event["rawQueryString"], &event["isBase64Encoded"]), (&json!(""), &json!(false)));
    assert!(event["requestContext"].get("authorizer").is_none());
}

#[test]
fn who_signed_is_said() {
    let arn = "arn:aws:iam::000000000000:user/ann";
    let signer = Signer { account: "000000000000", key: "AKID", arn };
    let event = made(Request::builder().uri("/"), b"", Some(signer)).unwrap();
    let context = &event["requestContext"];
    assert_eq!(context["accountId"], "000000000000");
    assert_eq!(context["authorizer"]["iam"]["accessKey"], "AKID");
    assert_eq!(context["authorizer"]["iam"]["userArn"], arn);
}

#[test]
fn what_is_no_text_is_base64() {
    let body = |kind: &str, body: &[u8]| {
        let event = check(Request::builder().uri("/").header("content-type", kind), body);
        (event["body"].as_str().unwrap().to_owned(), event["isBase64Encoded"].as_bool().unwrap())
    };
    for text in [
        "text/plain",
        "TEXT/HTML; charset=utf-8",
        "application/json",
        "application/problem+json",
        "image/svg+xml",
    ] {
        assert_eq!(body(text, "é".as_bytes()), ("é".into(), false), "{text}");
    }
    for other in ["", "application/octet-stream", "application/x-www-form-urlencoded", "image/png"] {
        assert_eq!(body(other, b"a=b"), ("YT1i".into(), true), "{other}");
    }
    assert_eq!(body("text/plain", &[0xff]), ("/w==".into(), true));
}

#[test]
fn an_event_is_bounded_however_long_its_text_becomes() {
    let text = || Request::builder().uri("/").header("content-type", "text/plain");
    let room = MAX_EVENT_LEN - 2000;
    check(text(), &vec![b'a'; room]);
    assert_eq!(made(text(), &vec![b'a'; MAX_EVENT_LEN], None), Err(TooLong));
    assert_eq!(made(text(), &vec![1; MAX_EVENT_LEN / 4], None), Err(TooLong));
    let binary = || Request::builder().uri("/");
    check(binary(), &vec![0xff; room / 4 * 3 - 100]);
    assert_eq!(made(binary(), &vec![0xff; MAX_EVENT_LEN / 4 * 3 + 1], None), Err(TooLong));
}

proptest! {
    /// Whatever comes is a document that says what came.
    #[test]
    fn any_request_is_an_event(
        path in "/[!-~&&[^?#]]{0,30}",
        query in "[!-~&&[^#]]{0,60}",
        values in prop::collection::vec(prop::collection::vec(0x20..=0xffu8, 0..20), 0..6),
        kind in prop::option::of("text/plain|image/png"),
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let Ok(uri) = format!("{path}?{query}").parse::<axum::http::Uri>() else { return Ok(()) };
        let mut request = Request::builder().uri(uri.clone());
        for value in values.iter().filter(|value| !value.contains(&0x7f)) {
            request = request.header("x-any", &value[..]).header("cookie", &value[..]);
        }
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let event = check(request, &body);
        prop_assert_eq!(event["rawPath"].as_str().unwrap(), uri.path());
        prop_assert_eq!(event["rawQueryString"].as_str().unwrap(), uri.query().unwrap_or_default());
        let said = event.get("body").and_then(Value::as_str).unwrap_or_default();
        let said = if event["isBase64Encoded"] == true { BASE64_STANDARD.decode(said).unwrap() } else { said.into() };
        prop_assert_eq!(said, body);
    }
}
