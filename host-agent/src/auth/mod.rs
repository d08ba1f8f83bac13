//! Who sent a request: AWS Signature Version 4, in the Authorization header or in the query.
//!
//! In two steps, so that nobody without a key makes the node read a large body: [`Authenticator::identify`] judges
//! everything but the signature before the body is read, [`Claim::verify`] the signature when the body's hash is known. Of a body
//! in chunks ([`chunked`]) the request's signature is verified before, and each chunk's behind it.
//! Pure but for the clock, which the caller passes in. Called by `api::gate`.

mod canonical;
mod chunked;
mod payload;
mod scope;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::http::{HeaderMap, request::Parts};
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use self::{
    chunked::{ChunkSigner, Chunked, Trailer},
    scope::{ALGORITHM, Credential, Fields},
};
pub(crate) use self::{
    payload::{Payload, PayloadRead},
    scope::Service,
};
use crate::{
    api::{ApiError, TARGET},
    code::hex,
    config::{AuthMode, Config, Key, is_region},
    identity::{AccessKeys, Principal, Secret},
};

/// How far a signature's time may be from ours.
const MAX_SKEW: TimeDelta = TimeDelta::minutes(5);

/// Longest life of a presigned URL.
const MAX_EXPIRES_S: i64 = 604_800;

const DATE_FORMAT: &str = "%Y%m%dT%H%M%SZ";
const CONTENT_SHA256: &str = "x-amz-content-sha256";
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
const SECURITY_TOKEN: &str = "x-amz-security-token";

/// How the payloads that come in chunks begin, and the three that there are.
const STREAMING: &str = "STREAMING-";
const CHUNKS: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
const CHUNKS_AND_TRAILER: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER";
const UNSIGNED_CHUNKS_AND_TRAILER: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";

/// Judges requests.
pub(crate) struct Authenticator {
    keys: Vec<Key>,
    /// Those that an operator made.
    access_keys: Arc<AccessKeys>,
    mode: AuthMode,
    region: String,
}

/// A request whose signature is still to be verified, or that needs none.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Region that the request was signed for.
    pub(crate) region: String,
    signed: Option<Signed>,
}

#[derive(Debug)]
struct Signed {
    access_key_id: String,
    principal: Principal,
    /// Canonical request up to the payload's hash.
    head: String,
    /// What the header said about the payload.
    declared_payload: Option<String>,
    date: String,
    scope: String,
    signing_key: Secret<[u8; 32]>,
    signature: Vec<u8>,
}

impl Authenticator {
    /// For a node's configuration.
    pub(crate) fn new(config: &Config, access_keys: Arc<AccessKeys>) -> Self {
        let (keys, region) = (config.keys.clone(), config.region.clone());
        Self { keys, access_keys, mode: config.auth, region }
    }

    /// Judges a request's head.
    ///
    /// # Errors
    /// AWS's authentication errors. None in [`AuthMode::Optional`] unless the request is signed by a key of ours.
    pub(crate) fn identify(&self, head: &Parts, now: DateTime<Utc>) -> Result<Claim, ApiError> {
        let fields = Fields::of(head);
        if self.mode == AuthMode::Optional {
            let credential =
                fields.as_ref().ok().and_then(|fields| Credential::parse(&fields.credential).ok());
            let ours = credential.as_ref().is_some_and(|credential| self.knows(&credential.access_key_id));
            if !ours {
                let named = credential.map(|credential| credential.region).filter(|region| is_region(region));
                return Ok(Claim { region: named.unwrap_or_else(|| self.region.clone()), signed: None });
            }
        }
        self.identify_signed(head, &fields?, now)
    }

    /// Judges the head of a request that has to be signed by a key of ours, whatever the mode.
    ///
    /// # Errors
    /// As [`Self::identify`].
    pub(crate) fn identify_signer(&self, head: &Parts, now: DateTime<Utc>) -> Result<Claim, ApiError> {
        self.identify_signed(head, &Fields::of(head)?, now)
    }

    fn identify_signed(&self, head: &Parts, fields: &Fields, now: DateTime<Utc>) -> Result<Claim, ApiError> {
        if fields.algorithm != ALGORITHM {
            let message = format!("Unsupported AWS 'algorithm': '{}'.", fields.algorithm);
            return Err(ApiError::incomplete_signature(message));
        }
        let credential = Credential::parse(&fields.credential)?;
        let (secret, principal) =
            self.key(&credential.access_key_id).ok_or_else(ApiError::unrecognized_client)?;
        // A node gives no temporary credentials: a token says nothing that it could know.
        if fields.has_token || head.headers.contains_key(SECURITY_TOKEN) {
            return Err(ApiError::unrecognized_client());
        }
        let date = fields.date(&head.headers)?;
        check_time(&date, fields.expires_s, now)?;
        let service = Service::of(&head.method, &head.uri, &head.headers);
        credential.check(&date, service)?;
        if !is_region(&credential.region) {
            return Err(ApiError::signature_time("Credential should be scoped to a valid region."));
        }
        if !fields.signed_headers.iter().any(|name| name == "host") {
            let message = "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.";
            return Err(ApiError::incomplete_signature(message));
        }
        // What the operation is stands in a header there.
        if service == Service::Logs && !fields.signed_headers.iter().any(|name| name == TARGET) {
            let message = "'X-Amz-Target' must be a 'SignedHeader' in the AWS Authorization.";
            return Err(ApiError::incomplete_signature(message));
        }
        let head_text = canonical::head(head, fields)?;
        let signature = unhex(&fields.signature).ok_or_else(ApiError::wrong_signature)?;
        let signed = Signed {
            access_key_id: credential.access_key_id.clone(),
            principal,
            head: head_text,
            declared_payload: header(&head.headers, CONTENT_SHA256).map(String::from),
            date,
            scope: credential.scope(),
            signing_key: credential.signing_key(secret.expose()),
            signature,
        };
        Ok(Claim { region: credential.region, signed: Some(signed) })
    }

    /// A key's secret and whose it is, if it may be used.
    fn key(&self, access_key_id: &str) -> Option<(Secret<String>, Principal)> {
        if let Some(key) = self.keys.iter().find(|key| key.access_key_id == access_key_id) {
            return Some((key.secret_access_key.clone(), Principal::Administrator));
        }
        let key = self.access_keys.usable(access_key_id)?;
        Some((key.secret.clone(), Principal::Key(key.id.clone())))
    }

    /// Whether a key is one of ours, or was until it was made inactive.
    fn knows(&self, access_key_id: &str) -> bool {
        self.keys.iter().any(|key| key.access_key_id == access_key_id) || self.access_keys.has(access_key_id)
    }
}

impl Claim {
    /// The key that signed; `None` if none had to.
    pub(crate) fn access_key_id(&self) -> Option<&str> {
        self.signed.as_ref().map(|signed| signed.access_key_id.as_str())
    }

    /// Who signed; where nobody has to, nobody is told apart from an administrator.
    pub(crate) fn principal(&self) -> Principal {
        self.signed.as_ref().map_or(Principal::Administrator, |signed| signed.principal.clone())
    }

    /// How the body is to be read. If it is in chunks, the request's signature is verified here.
    ///
    /// # Errors
    /// InvalidSignatureException, and headers that do not say what they have to of chunks.
    pub(crate) fn payload(&self, headers: &HeaderMap) -> Result<Payload, ApiError> {
        let Some(signed) = &self.signed else { return Ok(Payload::whole()) };
        let Some(declared) = signed.declared_payload.as_deref().filter(|text| text.starts_with(STREAMING))
        else {
            return Ok(Payload::whole());
        };
        let signer = ChunkSigner {
            date: signed.date.clone(),
            scope: signed.scope.clone(),
            signing_key: signed.signing_key.clone(),
            last: hex(&signed.signature),
        };
        signed.verify(declared)?;
        let chunked = match declared {
            CHUNKS => Chunked::new(headers, Some(signer), Trailer::None),
            CHUNKS_AND_TRAILER => Chunked::new(headers, Some(signer), Trailer::Announced),
            UNSIGNED_CHUNKS_AND_TRAILER => Chunked::new(headers, None, Trailer::Announced),
            _ => {
                return Err(ApiError::invalid_content(format!(
                    "X-Amz-Content-Sha256 is not supported: {declared}"
                )));
            }
        };
        chunked.map(|chunked| Payload::Chunked(Box::new(chunked)))
    }

    /// Verifies the signature over the head and the body that was read.
    ///
    /// # Errors
    /// InvalidSignatureException.
    pub(crate) fn verify(&self, read: &PayloadRead) -> Result<(), ApiError> {
        let Some(signed) = &self.signed else { return Ok(()) };
        let PayloadRead::Whole(sha256) = read else { return Ok(()) };
        let actual = hex(sha256);
        match signed.declared_payload.as_deref() {
            Some(UNSIGNED_PAYLOAD) => signed.verify(UNSIGNED_PAYLOAD),
            Some(declared) if declared != actual => Err(ApiError::wrong_signature()),
            _ => signed.verify(&actual),
        }
    }
}

impl Signed {
    /// Verifies the signature over the head and what it is to say of the payload. Compares in constant time.
    fn verify(&self, payload: &str) -> Result<(), ApiError> {
        let request = format!("{}\n{payload}", self.head);
        let string_to_sign =
            format!("{ALGORITHM}\n{}\n{}\n{}", self.date, self.scope, hex(&Sha256::digest(request)));
        mac(self.signing_key.expose())
            .chain_update(string_to_sign)
            .verify_slice(&self.signature)
            .map_err(|_| ApiError::wrong_signature())
    }
}

/// A signature is good for five minutes either way, a presigned URL as long as it says.
fn check_time(date: &str, expires_s: Option<i64>, now: DateTime<Utc>) -> Result<(), ApiError> {
    let Ok(signed_at) = NaiveDateTime::parse_from_str(date, DATE_FORMAT) else {
        let message = format!("Date must be in ISO-8601 'basic format'. Got '{date}'.");
        return Err(ApiError::incomplete_signature(message));
    };
    let signed_at = signed_at.and_utc();
    let text = |time: DateTime<Utc>| time.format(DATE_FORMAT).to_string();
    let life = match expires_s {
        None => MAX_SKEW,
        Some(seconds) if (1..=MAX_EXPIRES_S).contains(&seconds) => TimeDelta::seconds(seconds),
        Some(_) => return Err(ApiError::incomplete_signature("X-Amz-Expires must be between 1 and 604800")),
    };
    if now > signed_at + life {
        let (now, earliest) = (text(now), text(now - life));
        let ago = expires_s.map_or_else(|| "5 min".to_owned(), |seconds| format!("{seconds} sec"));
        let message = format!("Signature expired: {date} is now earlier than {earliest} ({now} - {ago}.)");
        return Err(ApiError::signature_time(message));
    }
    if signed_at > now + MAX_SKEW {
        let (now, latest) = (text(now), text(now + MAX_SKEW));
        let message =
            format!("Signature not yet current: {date} is still later than {latest} ({now} + 5 min.)");
        return Err(ApiError::signature_time(message));
    }
    Ok(())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    match Hmac::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}
