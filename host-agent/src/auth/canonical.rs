//! The canonical request of Signature Version 4, up to the payload's hash.

use axum::http::{HeaderMap, request::Parts};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::scope::Fields;
use crate::api::ApiError;

/// Everything but RFC 3986's unreserved characters.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The same, with the slash left alone.
const ENCODED_IN_PATH: &AsciiSet = &ENCODED.remove(b'/');

/// Method, path, query, headers and the list of signed headers, each on its line.
pub(super) fn head(head: &Parts, fields: &Fields) -> Result<String, ApiError> {
    let mut text = format!(
        "{}\n{}\n{}\n",
        head.method,
        path(head.uri.path()),
        query(head.uri.query().unwrap_or_default(), fields.is_presigned())
    );
    for name in &fields.signed_headers {
        let value = value(head, name).ok_or_else(ApiError::wrong_signature)?;
        text += &format!("{name}:{value}\n");
    }
    text += "\n";
    text += &fields.signed_headers.join(";");
    Ok(text)
}

/// The path as it was sent, without dot segments and doubled slashes, encoded once more.
fn path(sent: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in sent.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    let mut path = format!("/{}", segments.join("/"));
    if !segments.is_empty() && sent.ends_with('/') {
        path.push('/');
    }
    utf8_percent_encode(&path, ENCODED_IN_PATH).to_string()
}

/// The parameters, encoded and sorted; without the signature itself.
fn query(sent: &str, presigned: bool) -> String {
    let encode = |text: &str| {
        let decoded: Vec<u8> = percent_decode_str(text).collect();
        percent_encoding::percent_encode(&decoded, ENCODED).to_string()
    };
    let mut pairs: Vec<(String, String)> = sent
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(name, _)| !(presigned && *name == "X-Amz-Signature"))
        .map(|(name, value)| (encode(name), encode(value)))
        .collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// A header's value: all of its lines joined, outer spaces cut, inner ones made one.
fn value(head: &Parts, name: &str) -> Option<String> {
    let lines = lines(&head.headers, name);
    if lines.is_empty() && name == "host" {
        // HTTP/2 has the authority instead.
        return head.uri.authority().map(ToString::to_string);
    }
    if lines.is_empty() { None } else { Some(lines.join(",")) }
}

fn lines(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .map(|value| {
            let value = String::from_utf8_lossy(value.as_bytes());
            value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
        })
        .collect()
}
