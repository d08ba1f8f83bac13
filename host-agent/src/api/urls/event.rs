//! From a request to the event that a function is given: AWS's payload format 2.0. Pure.

use std::{collections::BTreeMap, io, net::IpAddr};

use axum::http::{
    HeaderMap, HeaderName, Version,
    header::{CONNECTION, CONTENT_TYPE, COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT},
    request::Parts,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{api::gate::MAX_EVENT_LEN, config::UrlBase};

/// Headers that are one connection's alone (RFC 9110 §7.6.1): no function sees them, and no client does.
pub(super) const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// What is known of a request beside what it says.
pub(super) struct Context<'a> {
    /// The URL's own name.
    pub(super) id: &'a str,
    /// Its host.
    pub(super) domain: String,
    /// What clients see before that and behind it.
    pub(super) base: &'a UrlBase,
    /// Whom the request comes from.
    pub(super) source: IpAddr,
    /// `x-amzn-requestid`.
    pub(super) request_id: &'a str,
    /// `x-amzn-trace-id`: what the client said, or the node's own.
    pub(super) trace_id: &'a str,
    /// When it came.
    pub(super) at: DateTime<Utc>,
    /// Who signed it.
    pub(super) signer: Option<Signer<'a>>,
}

/// Who signed a request.
#[derive(Clone, Copy)]
pub(super) struct Signer<'a> {
    /// The account.
    pub(super) account: &'a str,
    /// The key.
    pub(super) key: &'a str,
    /// Whose the key is.
    pub(super) arn: &'a str,
}

/// The event is longer than events are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    version: &'static str,
    route_key: &'static str,
    raw_path: &'a str,
    raw_query_string: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cookies: Vec<String>,
    headers: BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    query_string_parameters: BTreeMap<String, String>,
    request_context: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    is_base64_encoded: bool,
}

/// The event: a JSON document of at most [`MAX_EVENT_LEN`] bytes.
pub(super) fn of(head: &Parts, body: &[u8], context: &Context<'_>) -> Result<Bytes, TooLong> {
    let (body, is_base64_encoded) = written(&head.headers, body)?;
    let query = head.uri.query().unwrap_or_default();
    let event = Event {
        version: "2.0",
        route_key: "$default",
        raw_path: head.uri.path(),
        raw_query_string: query,
        cookies: cookies(&head.headers),
        headers: headers(&head.headers, context),
        query_string_parameters: parameters(query),
        request_context: request_context(head, context),
        body,
        is_base64_encoded,
    };
    let mut document = Bounded(Vec::new());
    // Nothing in it cannot be written but what has no room.
    serde_json::to_writer(&mut document, &event).map_err(|_| TooLong)?;
    Ok(document.0.into())
}

/// The body as it is in a document, and whether it is base64 there: what its type does not call text is.
fn written(headers: &HeaderMap, body: &[u8]) -> Result<(Option<String>, bool), TooLong> {
    if body.is_empty() {
        return Ok((None, false));
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.to_ascii_lowercase();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let is_text = kind.starts_with("text/")
        || ["application/json", "application/xml", "application/javascript"].contains(&kind)
        || kind.ends_with("+json")
        || kind.ends_with("+xml");
    match std::str::from_utf8(body) {
        Ok(text) if is_text => Ok((Some(text.to_owned()), false)),
        // Before it is written in vain.
        _ if body.len() > MAX_EVENT_LEN / 4 * 3 => Err(TooLong),
        _ => Ok((Some(BASE64_STANDARD.encode(body)), true)),
    }
}

fn cookies(headers: &HeaderMap) -> Vec<String> {
    let lines =
        headers.get_all(COOKIE).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let all =
        lines.flat_map(|line| line.split(';').map(|cookie| cookie.trim().to_owned()).collect::<Vec<_>>());
    all.filter(|cookie| !cookie.is_empty()).collect()
}

/// Names in lower case, lines of one name joined; what the node knows better than a client is the node's.
fn headers<'a>(sent: &'a HeaderMap, context: &Context<'_>) -> BTreeMap<&'a str, String> {
    let named = sent.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named: Vec<_> =
        named.flat_map(|line| line.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect();
    let mut headers = BTreeMap::<&str, String>::new();
    for (name, value) in sent {
        if *name == COOKIE || HOP_BY_HOP.contains(name) || named.iter().any(|given| given == name.as_str()) {
            continue;
        }
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.as_str())
            .and_modify(|joined| {
                joined.push(',');
                joined.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    headers.insert("host", context.domain.clone());
    headers.insert("x-amzn-trace-id", context.trace_id.to_owned());
    headers.insert("x-forwarded-port", context.base.port.to_string());
    headers.insert("x-forwarded-proto", context.base.scheme.clone());
    // Behind proxies the last one is who spoke to the node, and those before it are what they said.
    let source = context.source.to_string();
    headers
        .entry("x-forwarded-for")
        .and_modify(|chain| *chain = format!("{chain}, {source}"))
        .or_insert(source);
    headers
}

/// Decoded; values of one name joined.
fn parameters(query: &str) -> BTreeMap<String, String> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let mut parameters = BTreeMap::<String, String>::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value);
        parameters
            .entry(decode(name))
            .and_modify(|joined| {
                joined.push(',');
                joined.push_str(&value);
            })
            .or_insert(value);
    }
    parameters
}

fn request_context(head: &Parts, context: &Context<'_>) -> Value {
    let agent = head.headers.get(USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let mut members = json!({
        "accountId": context.signer.map_or("anonymous", |signer| signer.account),
        "apiId": context.id,
        "domainName": context.domain,
        "domainPrefix": context.id,
        "http": {
            "method": head.method.as_str(),
            "path": head.uri.path(),
            "protocol": if head.version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" },
            "sourceIp": context.source.to_string(),
            "userAgent": agent,
        },
        "requestId": context.request_id,
        "routeKey": "$default",
        "stage": "$default",
        "time": context.at.format("%d/%b/%Y:%H:%M:%S %z").to_string(),
        "timeEpoch": context.at.timestamp_millis(),
    });
    if let Some(Signer { account, key, arn }) = context.signer {
        members["authorizer"] = json!({
            "iam": {
                "accessKey": key,
                "accountId": account,
                "callerId": account,
                "cognitoIdentity": null,
                "principalOrgId": null,
                "userArn": arn,
                "userId": account,
            }
        });
    }
    members
}

/// A document that does not grow beyond an event: text may take six times its length in JSON.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_EVENT_LEN {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
