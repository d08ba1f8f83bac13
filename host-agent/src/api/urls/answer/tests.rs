//! What clients are answered, by what functions answered.

use http_body_util::BodyExt as _;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Status, headers as lines, body.
fn check(payload: &str) -> Result<(u16, Vec<String>, Vec<u8>), Malformed> {
    let (head, body) = of(payload.as_bytes())?.into_parts();
    let headers = head.headers.iter();
    let headers =
        headers.map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
    let body = futures_util::FutureExt::now_or_never(body.collect()).unwrap().unwrap().to_bytes();
    Ok((head.status.as_u16(), headers.collect(), body.to_vec()))
}

fn body(payload: &str) -> String {
    let (status, headers, body) = check(payload).unwrap();
    assert_eq!((status, headers), (200, vec!["content-type: application/json".to_owned()]));
    String::from_utf8(body).unwrap()
}

/// Recorded of AWS.
#[test]
fn what_has_no_status_is_a_body() {
    for (payload, expected) in [
        (r#"{"hello": "world"}"#, r#"{"hello":"world"}"#),
        (r#""hello""#, "hello"),
        ("3", "3"),
        ("3.1", "3.1"),
        ("true", "true"),
        (r#"{"statusCode": 200, "body": "body123"}"#, "body123"),
    ] {
        assert_eq!(body(payload), expected, "{payload}");
    }
    assert_eq!(body("null"), "null");
    assert_eq!(body(" [1, \"a b \\\" c\", {\"d\" : 1e400}]\n"), "[1,\"a b \\\" c\",{\"d\":1e400}]");
    assert_eq!(body(r#"{"statusCode": null, "headers": 5}"#), r#"{"statusCode":null,"headers":5}"#);
    assert_eq!(body(r#" "a\u00e9\n" "#), "a\u{e9}\n");
}

#[test]
fn a_status_brings_headers_cookies_and_a_body() {
    let payload = json!({
        "statusCode": 418,
        "headers": { "X-A": "b", "x-n": 1, "Content-Type": "text/plain" },
        "cookies": ["a=b; Secure", "c=d"],
        "body": "AAH/",
        "isBase64Encoded": true,
        "other": { "ignored": [] },
    });
    let (status, mut headers, body) = check(&payload.to_string()).unwrap();
    headers.sort();
    assert_eq!((status, body), (418, vec![0, 1, 255]));
    let expected =
        ["content-type: text/plain", "set-cookie: a=b; Secure", "set-cookie: c=d", "x-a: b", "x-n: 1"];
    assert_eq!(headers, expected);
    assert_eq!(check(r#"{"statusCode": "201", "body": null}"#).unwrap().0, 201);
    assert_eq!(check(r#"{"statusCode": 204, "body": "x"}"#).unwrap().2, b"");
}

#[test]
fn connections_are_none_of_a_functions_business() {
    let payload = json!({ "statusCode": 200, "headers": {
        "Connection": "close", "Transfer-Encoding": "chunked", "Content-Length": "1000", "Keep-Alive": "x",
        "Upgrade": "h2c", "Trailer": "x", "Proxy-Authenticate": "x", "te": "x",
    }, "body": "whole" });
    assert_eq!(body(&payload.to_string()), "whole");
}

#[test]
fn what_makes_no_answer_is_named() {
    let header =
        |name: &str, value: &str| json!({ "statusCode": 200, "headers": { name: value } }).to_string();
    let many: BTreeMap<String, &str> = (0..=MAX_HEADERS).map(|number| (format!("x-{number}"), "")).collect();
    let long = "x".repeat(MAX_HEADERS_LEN);
    for (payload, problem) in [
        (String::new(), "it is not what a URL is answered"),
        ("{".into(), "it is not what a URL is answered"),
        ("hello".into(), "it is not what a URL is answered"),
        (r#"{"statusCode": 200, "headers": []}"#.into(), "it is not what a URL is answered"),
        (r#"{"statusCode": 200, "cookies": [1]}"#.into(), "it is not what a URL is answered"),
        (r#"{"statusCode": 100}"#.into(), "status 100"),
        (r#"{"statusCode": 1000}"#.into(), "status 1000"),
        (r#"{"statusCode": 200.5}"#.into(), "status 200.5"),
        (r#"{"statusCode": "no"}"#.into(), "status \"no\""),
        (r#"{"statusCode": 200, "body": {}}"#.into(), "its body"),
        (r#"{"statusCode": 200, "body": "%", "isBase64Encoded": true}"#.into(), "its body"),
        (r#"{"statusCode": 200, "headers": {"a": {}}}"#.into(), "header \"a\""),
        (header("x-a", "b\r\nset-cookie: evil=1"), "header \"x-a\""),
        (header("x-a", "b\nc"), "header \"x-a\""),
        (header("x-a", "b\0"), "header \"x-a\""),
        (header("x-a\r\nx-b", "c"), "header \"x-a\\r\\nx-b\""),
        (header("", "c"), "header \"\""),
        (json!({ "statusCode": 200, "cookies": ["a=b\r\nx: y"] }).to_string(), "header \"set-cookie\""),
        (json!({ "statusCode": 200, "headers": many }).to_string(), "its headers are more than"),
        (header("x-a", &long), "its headers are more than"),
    ] {
        let refused = check(&payload).unwrap_err().to_string();
        assert!(refused.starts_with(problem), "{payload:.80}: {refused}");
    }
    let deep =
        format!(r#"{{"statusCode": 200, "headers": {}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    check(&deep).unwrap_err();
}

proptest! {
    #[test]
    fn any_payload_is_an_answer_or_a_refusal(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = of(&payload);
    }

    /// Whatever a function says, no line of the head is another than one that it named, and the body is its own.
    #[test]
    fn any_answer_is_as_it_was_said(
        status in 200..600u16,
        headers in prop::collection::btree_map("[a-zA-Z-]{1,8}", "\\PC{0,20}|[ -~\r\n]{0,8}", 0..5),
        text in "\\PC{0,40}",
    ) {
        let said = json!({ "statusCode": status, "headers": headers, "body": text });
        match check(&said.to_string()) {
            Ok((answered, lines, body)) => {
                prop_assert_eq!(answered, status);
                let empty = [204, 205, 304].contains(&status);
                prop_assert_eq!(body, if empty { Vec::new() } else { text.into_bytes() });
                prop_assert!(lines.len() <= headers.len() + 1);
                prop_assert!(lines.iter().all(|line| !line.contains(['\r', '\n'])));
            }
            Err(refused) => {
                let name = match refused { Malformed::Header(name) => name, other => panic!("{other}") };
                prop_assert!(HeaderName::from_bytes(name.as_bytes()).is_err()
                    || headers[&name].chars().any(char::is_control));
            }
        }
    }

    #[test]
    fn documents_keep_their_meaning(text in "\\PC{0,40}", number: i64) {
        let document = json!({ "a b": [text, number, null, { "c": " \" \\" }] });
        let spread = serde_json::to_string_pretty(&document).unwrap();
        prop_assert_eq!(compact(&spread), document.to_string());
    }
}
