//! What a signed request says about its signature: the fields of the Authorization header or of a presigned query, and
//! the credential with its scope.

use axum::http::{
    HeaderMap, Method, Uri,
    header::{AUTHORIZATION, DATE},
    request::Parts,
};
use chrono::NaiveDateTime;
use hmac::Mac as _;
use zeroize::Zeroizing;

use super::{DATE_FORMAT, header, mac};
use crate::{
    api::{ApiError, TARGET, TARGET_PREFIX},
    identity::Secret,
};

/// The only algorithm.
pub(super) const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// A time in a `Date` header (RFC 9110 §5.6.7).
const HTTP_DATE_FORMAT: &str = "%a, %d %b %Y %H:%M:%S GMT";

const TERMINATOR: &str = "aws4_request";

/// Most signed headers: no client signs more than a few dozen.
const MAX_SIGNED_HEADERS: usize = 128;

/// Whose request it is, and which service it has to be signed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// Everything but the following.
    Lambda,
    /// `POST /` with a target of CloudWatch Logs'.
    Logs,
}

impl Service {
    /// By a request's head.
    pub(crate) fn of(method: &Method, uri: &Uri, headers: &HeaderMap) -> Self {
        let is_logs = header(headers, TARGET).is_some_and(|target| target.starts_with(TARGET_PREFIX));
        if is_logs && method == Method::POST && uri.path() == "/" { Self::Logs } else { Self::Lambda }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Lambda => "lambda",
            Self::Logs => "logs",
        }
    }
}

/// Fields of a signature.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) algorithm: String,
    pub(super) credential: String,
    pub(super) signed_headers: Vec<String>,
    pub(super) signature: String,
    /// `X-Amz-Date` of a presigned query.
    pub(super) query_date: Option<String>,
    /// Life of a presigned query.
    pub(super) expires_s: Option<i64>,
    /// Whether a presigned query has the token of a session.
    pub(super) has_token: bool,
}

impl Fields {
    /// The fields of a request, from its header or its query.
    pub(super) fn of(head: &Parts) -> Result<Self, ApiError> {
        if let Some(value) = head.headers.get(AUTHORIZATION) {
            return match value.to_str() {
                Ok(value) => Self::from_header(value, &head.headers),
                Err(_) => Err(ApiError::incomplete_signature("Authorization header is not text.")),
            };
        }
        let query = head.uri.query().unwrap_or_default();
        if query.contains("X-Amz-Algorithm=") {
            Self::from_query(query)
        } else {
            Err(ApiError::missing_token())
        }
    }

    fn from_header(value: &str, headers: &HeaderMap) -> Result<Self, ApiError> {
        let (algorithm, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
        let mut fields = Self { algorithm: algorithm.into(), ..Self::default() };
        if !algorithm.starts_with("AWS4-") {
            let message = format!(
                "'{algorithm}' not a valid key=value pair (missing equal-sign) in Authorization header: '{value}'."
            );
            return Err(ApiError::incomplete_signature(message));
        }
        for part in rest.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let Some((name, value)) = part.split_once('=') else {
                let message = format!(
                    "'{part}' not a valid key=value pair (missing equal-sign) in Authorization header: '{rest}'."
                );
                return Err(ApiError::incomplete_signature(message));
            };
            match name {
                "Credential" => fields.credential = value.into(),
                "SignedHeaders" => fields.signed_headers = signed_headers(value),
                "Signature" => fields.signature = value.into(),
                _ => {}
            }
        }
        let mut missing = String::new();
        for (name, absent) in [
            ("Credential", fields.credential.is_empty()),
            ("Signature", fields.signature.is_empty()),
            ("SignedHeaders", fields.signed_headers.is_empty()),
        ] {
            if absent {
                missing += &format!("Authorization header requires '{name}' parameter. ");
            }
        }
        if header(headers, "x-amz-date").or_else(|| header(headers, DATE.as_str())).is_none() {
            missing +=
                "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. ";
        }
        if missing.is_empty() {
            Ok(fields)
        } else {
            Err(ApiError::incomplete_signature(format!("{missing}Authorization={algorithm}")))
        }
    }

    fn from_query(query: &str) -> Result<Self, ApiError> {
        let mut fields = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned();
            match name {
                "X-Amz-Algorithm" => fields.algorithm = value,
                "X-Amz-Credential" => fields.credential = value,
                "X-Amz-SignedHeaders" => fields.signed_headers = signed_headers(&value),
                "X-Amz-Signature" => fields.signature = value,
                "X-Amz-Date" => fields.query_date = Some(value),
                "X-Amz-Security-Token" => fields.has_token = true,
                "X-Amz-Expires" => fields.expires_s = Some(value.parse().unwrap_or(0)),
                _ => {}
            }
        }
        let complete = !fields.credential.is_empty()
            && !fields.signature.is_empty()
            && !fields.signed_headers.is_empty()
            && fields.query_date.is_some()
            && fields.expires_s.is_some();
        if complete {
            Ok(fields)
        } else {
            let message = "AWS query-string parameters must include 'X-Amz-Algorithm', 'X-Amz-Credential', \
                           'X-Amz-Signature', 'X-Amz-SignedHeaders', 'X-Amz-Date' and 'X-Amz-Expires'.";
            Err(ApiError::incomplete_signature(message))
        }
    }

    /// Whether the signature is in the query.
    pub(super) fn is_presigned(&self) -> bool {
        self.query_date.is_some()
    }

    /// The time that was signed, as it stands in what is signed: `X-Amz-Date`, or without one `Date`, which may be written as HTTP does.
    pub(super) fn date(&self, headers: &HeaderMap) -> Result<String, ApiError> {
        if let Some(date) = self.query_date.as_deref().or_else(|| header(headers, "x-amz-date")) {
            return Ok(date.into());
        }
        let date = header(headers, DATE.as_str())
            .ok_or_else(|| ApiError::incomplete_signature("X-Amz-Date is missing."))?;
        let of_http = NaiveDateTime::parse_from_str(date, HTTP_DATE_FORMAT);
        Ok(of_http.map_or_else(|_| date.into(), |time| time.format(DATE_FORMAT).to_string()))
    }
}

fn signed_headers(list: &str) -> Vec<String> {
    list.split(';').take(MAX_SIGNED_HEADERS).map(str::to_ascii_lowercase).collect()
}

/// `AKID/20261123/us-east-1/lambda/aws4_request`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Credential {
    pub(super) access_key_id: String,
    pub(super) date: String,
    pub(super) region: String,
    pub(super) service: String,
    terminator: String,
}

impl Credential {
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        // An access key's id may hold slashes; the scope may not.
        let mut parts = text.rsplitn(5, '/').map(String::from);
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(terminator), Some(service), Some(region), Some(date), Some(access_key_id)) => {
                Ok(Self { access_key_id, date, region, service, terminator })
            }
            _ => {
                let message = format!(
                    "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, \
                     got '{text}'"
                );
                Err(ApiError::incomplete_signature(message))
            }
        }
    }

    /// Whether the scope is the service's and the signed time's.
    pub(super) fn check(&self, date: &str, service: Service) -> Result<(), ApiError> {
        if self.terminator != TERMINATOR {
            let message = format!("Credential should be scoped with a valid terminator: '{TERMINATOR}'.");
            return Err(ApiError::signature_time(message));
        }
        if self.service != service.name() {
            let message = format!("Credential should be scoped to correct service: '{}'.", service.name());
            return Err(ApiError::signature_time(message));
        }
        let day = date.split('T').next().unwrap_or_default();
        if self.date != day {
            let message = format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{}' != \
                 '{day}', from '{date}'.",
                self.date
            );
            return Err(ApiError::signature_time(message));
        }
        Ok(())
    }

    pub(super) fn scope(&self) -> String {
        format!("{}/{}/{}/{}", self.date, self.region, self.service, self.terminator)
    }

    /// The key that signs: HMACs of the scope's parts, one after another.
    pub(super) fn signing_key(&self, secret: &str) -> Secret<[u8; 32]> {
        let first = Zeroizing::new(format!("AWS4{secret}"));
        let parts = [&self.region, &self.service, &self.terminator];
        let sign = |key: &[u8], part: &str| {
            Zeroizing::new(mac(key).chain_update(part).finalize().into_bytes().into())
        };
        let begin: Zeroizing<[u8; 32]> = sign(first.as_bytes(), &self.date);
        Secret::from(*parts.iter().fold(begin, |key, part| sign(key.as_slice(), part)))
    }
}
