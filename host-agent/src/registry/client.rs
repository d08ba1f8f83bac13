//! The one client of a registry (OCI distribution specification 1.1, "Pull"): requests, who asks, where it leads. Bounds what comes.
//!
//! A request goes to the registry with its authorization, and once more when that was asked for. A blob may be somewhere else: its redirects
//! are followed here, one after the other, to [`Places`] that may be, and without the authorization.

use std::{error::Error as _, sync::Arc, time::Instant};

use reqwest::{
    Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, HeaderMap, HeaderValue, LOCATION, RANGE},
    redirect::Policy,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject as _},
    version::{TLS12, TLS13},
};

use super::{
    Access, Credential, Pace, Refusal,
    addresses::{Places, same_origin},
    authorization::{self, Challenge, MAX_TOKEN_ANSWER_LEN},
    shown,
};

/// Most places that a blob is looked for at, beside the registry.
const MAX_REDIRECTS: usize = 3;

/// A registry's repository.
pub(super) struct Client {
    http: reqwest::Client,
    access: Access,
    endpoint: Url,
    repository: String,
    places: Places,
    pace: Pace,
    authorization: Option<HeaderValue>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Document,
    /// From this byte on.
    Blob(u64),
}

impl Client {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// The settings make no client.
    pub(super) fn new(access: Access, repository: String, pace: Pace) -> anyhow::Result<Self> {
        let endpoint: Url = access.endpoint.parse()?;
        let places = Places::of(&access, &endpoint);
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(&access.authorities)?)
            .dns_resolver(Arc::new(places.clone()))
            .redirect(Policy::none())
            .no_proxy()
            .http1_only()
            .referer(false)
            .connect_timeout(pace.silence)
            .read_timeout(pace.silence)
            .user_agent(concat!("tinderbox/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let authorization = match &access.credential {
            Credential::Token(token) => authorization::bearer(token),
            Credential::Nobody | Credential::Password { .. } => None,
        };
        Ok(Self { http, access, endpoint, repository, places, pace, authorization })
    }

    /// A manifest or an index, of one of these types: its type, and its bytes.
    pub(super) async fn manifest(
        &mut self,
        reference: &str,
        accept: &str,
        max_len: u64,
    ) -> Result<(String, Vec<u8>), Refusal> {
        let path = format!("/v2/{}/manifests/{reference}", self.repository);
        let response = self.get(&path, accept, Kind::Document).await?;
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim().to_owned();
        Ok((kind, self.all(response, max_len).await?))
    }

    /// A blob from a byte on, whose pieces are taken by [`Body::piece`].
    pub(super) async fn blob(&mut self, digits: &str, from: u64) -> Result<Body, Refusal> {
        let path = format!("/v2/{}/blobs/sha256:{digits}", self.repository);
        let response = self.get(&path, "*/*", Kind::Blob(from)).await?;
        let mut body = Body::of(response, self.pace);
        if body.response.status() == StatusCode::OK {
            // It knows no ranges.
            body.skip = from;
        } else if first_byte(body.response.headers()) != Some(from) {
            return Err(Refusal::Unavailable(format!("{} sends another part of a blob", body.place())));
        }
        Ok(body)
    }

    /// How fast the registry has to be.
    pub(super) fn pace(&self) -> Pace {
        self.pace
    }

    async fn get(&mut self, path: &str, accept: &str, kind: Kind) -> Result<Response, Refusal> {
        let unusable = || Refusal::Unavailable(format!("{} makes no address", shown(path)));
        let mut url = self.endpoint.join(path).map_err(|_| unusable())?;
        let (mut redirects, mut authorized) = (0, false);
        loop {
            let of_registry = same_origin(&url, &self.endpoint);
            let mut request = self.http.get(url.clone()).header(ACCEPT, accept);
            if let Some(authorization) = self.authorization.as_ref().filter(|_| of_registry) {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
            let from = if let Kind::Blob(from) = kind { from } else { 0 };
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let response = self.send(request, &url).await?;
            match response.status() {
                StatusCode::OK => return Ok(response),
                StatusCode::PARTIAL_CONTENT if from > 0 => return Ok(response),
                StatusCode::UNAUTHORIZED if of_registry && !authorized => {
                    // Tokens end while a long image comes: once for each request.
                    authorized = true;
                    self.authorize(authorization::challenge(response.headers())).await?;
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err(Refusal::Denied(format!("it answered {}", response.status())));
                }
                StatusCode::NOT_FOUND | StatusCode::GONE => return Err(Refusal::Absent),
                status if is_redirect(status) && kind != Kind::Document && redirects < MAX_REDIRECTS => {
                    redirects += 1;
                    let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
                    let next = to.and_then(|to| url.join(to).ok());
                    url =
                        next.ok_or_else(|| Refusal::Unavailable(format!("{} leads nowhere", place(&url))))?;
                    self.places.allow(&url, &self.endpoint).map_err(|why| {
                        Refusal::Unavailable(format!("the registry has it at {}, {why}", place(&url)))
                    })?;
                }
                status => return Err(Refusal::Unavailable(format!("{} answered {status}", place(&url)))),
            }
        }
    }

    /// Gets what the registry asks for, which is sent with every request to it from now on.
    async fn authorize(&mut self, challenge: Option<Challenge>) -> Result<(), Refusal> {
        let denied = |why: &str| Refusal::Denied(why.to_owned());
        if matches!(self.access.credential, Credential::Token(_)) {
            return Err(denied("it does not take the token"));
        }
        let basic = authorization::basic(&self.access.credential);
        let authorization = match challenge {
            None => return Err(denied("it does not say what it wants to know")),
            Some(Challenge::Basic) => basic.ok_or_else(|| denied("it wants a name and a password"))?,
            Some(Challenge::Bearer { realm, service }) => {
                let asked = (realm.as_str(), service.as_deref());
                let url = authorization::token_url(&self.access, &self.endpoint, &self.repository, asked)?;
                let mut request = self.http.get(url.clone()).header(ACCEPT, "application/json");
                if let Some(basic) = basic {
                    request = request.header(AUTHORIZATION, basic);
                }
                let response = self.send(request, &url).await?;
                match response.status() {
                    StatusCode::OK => {}
                    status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                        return Err(Refusal::Unavailable(format!("{} answered {status}", place(&url))));
                    }
                    status => return Err(denied(&format!("its token service answered {status}"))),
                }
                let answer = self.all(response, MAX_TOKEN_ANSWER_LEN).await?;
                let none = || Refusal::Unavailable(format!("{} gave no token", place(&url)));
                authorization::token(&answer).ok_or_else(none)?
            }
        };
        self.authorization = Some(authorization);
        Ok(())
    }

    async fn send(&self, request: reqwest::RequestBuilder, url: &Url) -> Result<Response, Refusal> {
        let answered = tokio::time::timeout(self.pace.silence, request.send()).await;
        let answered =
            answered.map_err(|_| Refusal::Unavailable(format!("{} does not answer", place(url))))?;
        answered.map_err(|error| broken(url, &error))
    }

    /// All of a short body.
    async fn all(&self, response: Response, max_len: u64) -> Result<Vec<u8>, Refusal> {
        let mut body = Body::of(response, self.pace);
        let mut all = Vec::new();
        while let Some(piece) = body.piece().await? {
            all.extend_from_slice(&piece);
            if all.len() as u64 > max_len {
                return Err(Refusal::Unsuitable(format!("{} has more than {max_len} bytes", body.place())));
            }
        }
        Ok(all)
    }
}

/// What comes of an answer.
pub(super) struct Body {
    response: Response,
    /// Bytes at its beginning that somebody has already.
    skip: u64,
    /// Of the time in which so much...
    begun: Instant,
    /// ...has come.
    len: u64,
    pace: Pace,
}

impl Body {
    fn of(response: Response, pace: Pace) -> Self {
        Self { response, skip: 0, begun: Instant::now(), len: 0, pace }
    }

    /// The next piece of it, which may be empty; none at its end.
    pub(super) async fn piece(&mut self) -> Result<Option<bytes::Bytes>, Refusal> {
        let url = self.response.url().clone();
        let piece = tokio::time::timeout(self.pace.silence, self.response.chunk()).await;
        let piece =
            piece.map_err(|_| Refusal::Unavailable(format!("{} has stopped sending", place(&url))))?;
        let mut piece = piece.map_err(|error| broken(&url, &error))?;
        self.len += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        if self.begun.elapsed() >= self.pace.window {
            if self.len < self.pace.window_len {
                return Err(Refusal::Unavailable(format!("{} is too slow", place(&url))));
            }
            (self.begun, self.len) = (Instant::now(), 0);
        }
        if let Some(piece) = &mut piece {
            let skipped = piece.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            drop(piece.split_to(skipped));
            self.skip -= skipped as u64;
        }
        Ok(piece)
    }

    /// Who sends it.
    pub(super) fn place(&self) -> String {
        place(self.response.url())
    }
}

/// Where a part begins: `Content-Range: bytes FIRST-LAST/LENGTH` (RFC 9110, 14.4).
fn first_byte(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.parse().ok()
}

fn is_redirect(status: StatusCode) -> bool {
    [301, 302, 303, 307, 308].contains(&status.as_u16())
}

/// Scheme, host and port alone: the rest of a URL may be a credential.
fn place(url: &Url) -> String {
    shown(&url.origin().ascii_serialization())
}

fn broken(url: &Url, error: &reqwest::Error) -> Refusal {
    // Its own text has the whole URL.
    let mut cause = error.source();
    let mut last = None;
    while let Some(error) = cause {
        last = Some(error.to_string());
        cause = error.source();
    }
    let last = last.unwrap_or_else(|| "the connection failed".into());
    Refusal::Unavailable(format!("{}: {}", place(url), shown(&last)))
}

fn tls(authorities: &str) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(authorities.as_bytes()).filter_map(Result::ok);
    // A distribution's bundle may have one that rustls does not read.
    roots.add_parsable_certificates(certificates);
    let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(client)
}
