//! From what a function answered to what its URL's client is answered. Pure.
//!
//! An object with a `statusCode` says status, headers, cookies and body; anything else is a body. The function's word is as
//! good as a client's: what cannot be a header is no answer, and connections are not its business.

use std::collections::BTreeMap;

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE, SET_COOKIE},
    },
    response::Response,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::event::HOP_BY_HOP;

/// Most headers of an answer, cookies among them: as many as a request has.
const MAX_HEADERS: usize = 100;

/// Longest names and values of them all, in bytes: as long as a request's, about.
const MAX_HEADERS_LEN: usize = 32 * 1024;

/// Which statuses are final (RFC 9110 §15).
const FINAL: std::ops::RangeInclusive<u16> = 200..=599;

/// Statuses that have no body.
const EMPTY: [StatusCode; 3] = [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::NOT_MODIFIED];

/// What the function answered makes no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::api) enum Malformed {
    /// It is no JSON document, or its members have other types.
    #[error("it is not what a URL is answered: {0}")]
    Document(String),
    /// Its status is none.
    #[error("status {0}")]
    Status(String),
    /// A header that is none.
    #[error("header {0:?}")]
    Header(String),
    /// More headers than there may be.
    #[error("its headers are more than {MAX_HEADERS}, or more than {MAX_HEADERS_LEN} bytes")]
    Headers,
    /// Its body is not the base64 that it is said to be, or no text.
    #[error("its body")]
    Body,
}

/// Whether an object is more than a body.
#[derive(Deserialize)]
struct Shape {
    #[serde(rename = "statusCode")]
    status_code: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    status_code: Option<Value>,
    headers: Option<BTreeMap<String, Value>>,
    cookies: Option<Vec<String>>,
    body: Option<Value>,
    is_base64_encoded: Option<bool>,
}

/// The answer that a function's payload is.
pub(in crate::api) fn of(payload: &[u8]) -> Result<Response, Malformed> {
    let document = |problem: &dyn std::fmt::Display| Malformed::Document(problem.to_string());
    let text = std::str::from_utf8(payload).map_err(|problem| document(&problem))?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|problem| document(&problem))?;
    if text.trim_start().starts_with('{') {
        let shape: Shape = serde_json::from_str(text).map_err(|problem| document(&problem))?;
        if shape.status_code.is_some() {
            return said(serde_json::from_str(text).map_err(|problem| document(&problem))?);
        }
    }
    let body = if text.trim_start().starts_with('"') {
        serde_json::from_str(text).map_err(|problem| document(&problem))?
    } else {
        compact(text)
    };
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    Ok(response)
}

/// The answer, but for its body, that a document before a streamed body says. Its status is 200 if it says none.
pub(super) fn head(document: &[u8]) -> Result<Response, Malformed> {
    let said: Said =
        serde_json::from_slice(document).map_err(|problem| Malformed::Document(problem.to_string()))?;
    let said = Said { status_code: said.status_code.or(Some(200.into())), body: None, ..said };
    self::said(said)
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

fn said(said: Said) -> Result<Response, Malformed> {
    let status = said.status_code.unwrap_or_default();
    let wrong = || Malformed::Status(status.to_string());
    let number = match &status {
        Value::Number(number) => number.as_u64().and_then(|number| u16::try_from(number).ok()),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let number = number.filter(|number| FINAL.contains(number)).ok_or_else(wrong)?;
    let status = StatusCode::from_u16(number).map_err(|_| wrong())?;
    let body = body(said.body, said.is_base64_encoded == Some(true))?;
    let mut response = Response::new(if EMPTY.contains(&status) { Body::empty() } else { Body::from(body) });
    *response.status_mut() = status;
    *response.headers_mut() = headers(said.headers.unwrap_or_default(), said.cookies.unwrap_or_default())?;
    Ok(response)
}

fn body(said: Option<Value>, is_base64_encoded: bool) -> Result<Bytes, Malformed> {
    let text = match said {
        None | Some(Value::Null) => return Ok(Bytes::new()),
        Some(Value::String(text)) => text,
        Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
        Some(_) => return Err(Malformed::Body),
    };
    if is_base64_encoded {
        BASE64_STANDARD.decode(text).map(Bytes::from).map_err(|_| Malformed::Body)
    } else {
        Ok(text.into())
    }
}

fn headers(said: BTreeMap<String, Value>, cookies: Vec<String>) -> Result<HeaderMap, Malformed> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, JSON);
    let len = said.keys().map(String::len).sum::<usize>();
    let (mut len, count) = (len, said.len() + cookies.len());
    for (name, value) in said {
        let wrong = || Malformed::Header(name.clone());
        let value = match value {
            Value::String(text) => text,
            value @ (Value::Bool(_) | Value::Number(_)) => value.to_string(),
            _ => return Err(wrong()),
        };
        len += value.len();
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| wrong())?;
        // How long the body is, the server sees.
        if key != CONTENT_LENGTH && !HOP_BY_HOP.contains(&key) {
            headers.insert(key, value);
        }
    }
    for cookie in cookies {
        len += cookie.len();
        let value = HeaderValue::from_bytes(cookie.as_bytes());
        headers.append(SET_COOKIE, value.map_err(|_| Malformed::Header("set-cookie".into()))?);
    }
    if count > MAX_HEADERS || len > MAX_HEADERS_LEN { Err(Malformed::Headers) } else { Ok(headers) }
}

/// A valid document without the spaces between its parts, as AWS answers it.
fn compact(document: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let keep = |character: &char| {
        let space = character.is_ascii_whitespace() && !quoted;
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            _ => {}
        }
        !space
    };
    document.chars().filter(keep).collect()
}

#[cfg(test)]
mod tests;
