//! Requests as their bytes, signed as AWS's clients sign them. A signature is good for five minutes and for any number of requests,
//! so they are made before anything is measured; the agent verifies each.

use std::time::SystemTime;

use anyhow::{Context, Result};
use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};

/// A key of the agent's.
pub(crate) const KEY: &str = "bench";
pub(crate) const SECRET: &str = "bench-secret";

const HOST: &str = "localhost";

/// The bytes of a request without a query, or with one that is in order.
pub(crate) fn request(method: &str, path: &str, body: &str) -> Result<Vec<u8>> {
    request_with(method, path, body, &[])
}

/// The same with headers that are not signed.
pub(crate) fn request_with(
    method: &str,
    path: &str,
    body: &str,
    unsigned: &[(&str, &str)],
) -> Result<Vec<u8>> {
    let identity = Credentials::new(KEY, SECRET, None, None, "bench").into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("lambda")
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .context("what to sign with")?
        .into();
    let uri = format!("http://{HOST}{path}");
    let headers = [("host", HOST)].into_iter();
    let signable = SignableRequest::new(method, &uri, headers, SignableBody::Bytes(body.as_bytes()))
        .context("a request to sign")?;
    let (added, _) = sign(signable, &params).context("sign a request")?.into_parts().0.into_parts();
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in unsigned {
        text += &format!("{name}: {value}\r\n");
    }
    for header in &added {
        text += &format!("{}: {}\r\n", header.name(), header.value());
    }
    Ok([text.as_bytes(), b"\r\n", body.as_bytes()].concat())
}
