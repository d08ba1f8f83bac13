//! A webhook: an HTTPS server that each record is posted to, by a connection of its own. What it answers is a status; nothing else of
//! that is read, and no redirect is followed.
//!
//! The request is what SNS sends to a subscription, as far as it says something. A record is the body alone, as with raw delivery; a dead
//! letter is a whole message, since what went wrong is in its attributes.

use std::{io, path::Path, sync::Arc};

use axum::http::{
    HeaderValue, Method, Request, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT},
    uri::Scheme,
};
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{InvalidDnsNameError, ServerName},
    version::{TLS12, TLS13},
};
use sha2::Sha256;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    code::hex,
    config,
    identity::Secret,
    pem::{self, PemError},
};

use super::Parcel;

/// Longest head of an answer, in bytes.
const MAX_HEAD_LEN: usize = 16 * 1024;

/// Where the record's signature is: `sha256=` and the HMAC of the body in hexadecimal.
const SIGNATURE: &str = "x-tinderbox-signature-256";

/// Why a webhook cannot be used, or did not take a record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebhookError {
    /// A file is not there.
    #[error("a file of the webhook is not there")]
    File(#[from] PemError),
    /// A file holds nothing that can be sent.
    #[error("{0} holds nothing that could be sent")]
    Secret(String),
    /// No certificate can be for its host.
    #[error("no certificate is for such a host")]
    Name(#[from] InvalidDnsNameError),
    /// No connection can be made with its authorities.
    #[error("the authorities of the webhook cannot be used")]
    Rustls(#[from] rustls::Error),
    /// It cannot be reached, or is somebody else.
    #[error("it cannot be reached")]
    Connect(#[from] io::Error),
    /// The connection broke, or what came over it is no HTTP.
    #[error("the connection failed")]
    Http(#[from] hyper::Error),
    /// The request cannot be made.
    #[error("the request cannot be made")]
    Request(#[from] axum::http::Error),
    /// It did not say that it took the record.
    #[error("it answered {0}")]
    Status(StatusCode),
}

impl WebhookError {
    /// It has looked at the record and does not want it. A server that is busy, or broken, may want it later.
    pub(super) fn is_final(&self) -> bool {
        let Self::Status(status) = self else { return false };
        let later = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
        !status.is_server_error() && !later.contains(status)
    }
}

/// A server.
#[derive(Debug)]
pub(super) struct Webhook {
    topic: String,
    url: Uri,
    host: String,
    port: u16,
    tls: Option<Tls>,
    hmac_key: Option<Secret<Vec<u8>>>,
    authorization: Option<HeaderValue>,
}

struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Webhook {
    /// That stands for a topic. Nothing is sent yet.
    ///
    /// # Errors
    /// A file is not there, or of no use.
    pub(super) fn open(topic: &str, settings: &config::Webhook) -> Result<Self, WebhookError> {
        let config::Webhook { url, ca, hmac_key, authorization } = settings;
        let host = url.host().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        let tls = match url.scheme() == Some(&Scheme::HTTPS) {
            true => Some(Tls { connector: connector(ca)?, name: ServerName::try_from(host.clone())? }),
            false => None,
        };
        let authorization = authorization.as_deref().map(secret).transpose()?;
        let authorization = authorization.map(|value| -> Result<_, WebhookError> {
            let value = HeaderValue::from_bytes(value.expose());
            let mut value = value.map_err(|_| WebhookError::Secret("the file for `authorization`".into()))?;
            value.set_sensitive(true);
            Ok(value)
        });
        Ok(Self {
            topic: topic.into(),
            url: url.clone(),
            host,
            port: config::port_of(url),
            tls,
            hmac_key: hmac_key.as_deref().map(secret).transpose()?,
            authorization: authorization.transpose()?,
        })
    }

    /// Posts a record.
    pub(super) async fn post(&self, parcel: &Parcel) -> Result<(), WebhookError> {
        let request = self.request(parcel)?;
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let status = match &self.tls {
            Some(Tls { connector, name }) => {
                exchange(TokioIo::new(connector.connect(name.clone(), stream).await?), request).await?
            }
            None => exchange(TokioIo::new(stream), request).await?,
        };
        if status.is_success() { Ok(()) } else { Err(WebhookError::Status(status)) }
    }

    fn request(&self, parcel: &Parcel) -> Result<Request<Full<Bytes>>, WebhookError> {
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let host = self.url.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, host)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("tinderbox/", env!("CARGO_PKG_VERSION")))
            .header("x-amz-sns-message-type", "Notification")
            .header("x-amz-sns-message-id", &parcel.id)
            .header("x-amz-sns-topic-arn", &self.topic);
        if !parcel.is_notification {
            request = request.header("x-amz-sns-rawdelivery", "true");
        }
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        if let Some(key) = &self.hmac_key {
            request = request.header(SIGNATURE, sign(key, &parcel.record));
        }
        Ok(request.body(Full::new(parcel.record.clone()))?)
    }
}

fn sign(key: &Secret<Vec<u8>>, record: &[u8]) -> String {
    // HMAC takes keys of any length.
    let mac = Hmac::<Sha256>::new_from_slice(key.expose()).map(|mac| mac.chain_update(record));
    mac.map_or_else(|_| String::new(), |mac| format!("sha256={}", hex(&mac.finalize().into_bytes())))
}

/// The one request of a connection, which ends with this.
async fn exchange<T>(stream: T, request: Request<Full<Bytes>>) -> Result<StatusCode, WebhookError>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let (mut sender, connection) = http1::Builder::new().max_buf_size(MAX_HEAD_LEN).handshake(stream).await?;
    let mut answered = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        answer = &mut answered => answer,
        // Its error is the answer's as well.
        _ = connection => answered.await,
    };
    Ok(answer?.status())
}

fn connector(ca: &Path) -> Result<TlsConnector, WebhookError> {
    let mut roots = RootCertStore::empty();
    // A distribution's bundle may have one that rustls does not read.
    let (read, _) = roots.add_parsable_certificates(pem::certificates(ca)?);
    if read == 0 {
        return Err(PemError::Absent { path: ca.to_owned(), what: "certificate" }.into());
    }
    let mut client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(client)))
}

/// What a file holds, without the end of its line.
fn secret(path: &Path) -> Result<Secret<Vec<u8>>, WebhookError> {
    let content = pem::read(path)?;
    let content = content.trim_ascii();
    if content.is_empty() {
        return Err(WebhookError::Secret(path.display().to_string()));
    }
    Ok(Secret::from(content.to_vec()))
}
