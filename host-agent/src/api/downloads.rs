//! Where a function's zip can be fetched: a URL on this node that is good for ten minutes and cannot be guessed, in the
//! place of AWS's presigned S3 URL. It needs no signature, as theirs does not.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{
        HeaderValue,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
        uri::Authority,
    },
    response::{IntoResponse as _, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Deserialize;
use sha2::Sha256;

use super::{ApiError, App};
use crate::{code::hex, functions::model::CodeRef};

/// Life of a URL: AWS's.
const LIFE: TimeDelta = TimeDelta::minutes(10);

/// Makes and checks URLs.
pub(crate) struct Downloads {
    /// Made at start: a restart ends all URLs.
    secret: [u8; 32],
    /// How clients come: `http` or `https`.
    scheme: &'static str,
    /// Address for requests that came without a usable host.
    fallback: String,
}

/// What a URL carries beside the code's name.
#[derive(Deserialize)]
pub(super) struct Ticket {
    expires: i64,
    token: String,
}

impl Downloads {
    /// With a fresh secret.
    pub(crate) fn new(scheme: &'static str, fallback: String) -> Self {
        let halves = [uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()];
        let mut secret = [0; 32];
        secret.copy_from_slice(halves.as_flattened());
        Self { secret, scheme, fallback }
    }

    /// A URL of some code, on the host that the client named.
    pub(crate) fn location(&self, code: &CodeRef, host: Option<&str>, now: DateTime<Utc>) -> String {
        let host = host.filter(|host| host.parse::<Authority>().is_ok()).unwrap_or(&self.fallback);
        let expires = (now + LIFE).timestamp();
        let token = hex(&self.mac(&code.sha256, expires).finalize().into_bytes());
        let Self { scheme, .. } = self;
        format!("{scheme}://{host}/tinderbox/code/{}.zip?expires={expires}&token={token}", code.sha256)
    }

    fn is_good(&self, sha256: &str, ticket: &Ticket, now: DateTime<Utc>) -> bool {
        let expected = hex(&self.mac(sha256, ticket.expires).finalize().into_bytes());
        let equal = subtle::ConstantTimeEq::ct_eq(expected.as_bytes(), ticket.token.as_bytes());
        now.timestamp() <= ticket.expires && bool::from(equal)
    }

    fn mac(&self, sha256: &str, expires: i64) -> Hmac<Sha256> {
        let mac = match Hmac::new_from_slice(&self.secret) {
            Ok(mac) => mac,
            Err(_) => unreachable!("HMAC takes keys of any length"),
        };
        mac.chain_update(format!("{sha256}:{expires}"))
    }
}

/// Serves a zip to whoever has its URL.
pub(super) async fn download(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
    ticket: Result<Query<Ticket>, QueryRejection>,
) -> Result<Response, ApiError> {
    let gone = || ApiError::not_found("This location does not exist or has expired.");
    let (Ok(Path(name)), Ok(Query(ticket))) = (name, ticket) else { return Err(gone()) };
    let sha256 = name.strip_suffix(".zip").ok_or_else(gone)?;
    if !app.downloads.is_good(sha256, &ticket, Utc::now()) {
        return Err(gone());
    }
    let (len, pieces) = app.functions.zip(sha256).await.map_err(|_| gone())?;
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/zip")),
        (CONTENT_LENGTH, HeaderValue::from(len)),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_good_for_its_code_and_its_time() {
        let downloads = Downloads::new("http", "127.0.0.1:9000".into());
        let code = CodeRef { sha256: "ab".repeat(32), size: 1 };
        let now = Utc::now();
        let location = downloads.location(&code, Some("node.local:9000"), now);
        assert!(location.starts_with("http://node.local:9000/tinderbox/code/abab"));
        assert!(downloads.location(&code, Some("a b"), now).starts_with("http://127.0.0.1:9000/"));
        let (_, token) = location.rsplit_once("token=").unwrap();
        let expires = (now + LIFE).timestamp();
        let ticket = |token: &str, expires| Ticket { expires, token: token.into() };
        assert!(downloads.is_good(&code.sha256, &ticket(token, expires), now));
        assert!(!downloads.is_good(&"cd".repeat(32), &ticket(token, expires), now));
        assert!(!downloads.is_good(&code.sha256, &ticket(token, expires + 1), now));
        assert!(!downloads.is_good(&code.sha256, &ticket("", expires), now));
        assert!(!downloads.is_good(
            &code.sha256,
            &ticket(token, expires),
            now + LIFE + TimeDelta::seconds(1)
        ));
    }
}
