//! One other node: a connection to it, and how it behaves.
//!
//! ```text
//! GET /shards/NAME   200 whatever shard it has of that chunk   404 none
//! PUT /shards/NAME   204 kept                                  4xx no shard of that chunk
//! ```

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chunk_store::ChunkName;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use tokio::net::TcpStream;
use tokio::sync::{OwnedMutexGuard, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::erasure::MAX_SHARD_LEN;
use super::standing::Standing;
use super::tls::Tls;

/// Requests to one peer at a time: of a peer that hangs, they are all that is left waiting.
const MAX_REQUESTS: usize = 256;

/// Longest time for a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a connection says nothing before it is asked whether it still is one, and how long the answer may take.
const PING_AFTER: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a peer gives or takes nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    /// More requests than it may have at a time are under way.
    #[error("{MAX_REQUESTS} requests are under way")]
    Busy,
    /// It cannot be reached, or is somebody else.
    #[error("cannot be reached")]
    Connect(#[source] std::io::Error),
    /// No connection in time.
    #[error("cannot be reached within {} ms", CONNECT_TIMEOUT.as_millis())]
    ConnectTimeout,
    /// The connection broke, or what came over it is no HTTP/2.
    #[error("the connection failed")]
    Http(#[from] hyper::Error),
    /// An answer that broke off, or is longer than any shard.
    #[error("the answer could not be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// An answer that is none.
    #[error("answered {0}")]
    Status(StatusCode),
    /// A file of this node's own.
    #[error("the shelf failed")]
    Shelf(#[source] std::io::Error),
}

/// Where a peer is and how it is spoken to.
#[derive(Clone)]
struct Target {
    address: SocketAddr,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

type Sender = SendRequest<Full<Bytes>>;

/// Another node.
pub(super) struct Peer {
    target: Target,
    /// A connection is made by one request; others wait for it.
    sender: Arc<tokio::sync::Mutex<Option<Sender>>>,
    requests: Semaphore,
    standing: Mutex<Standing>,
}

impl Peer {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// No certificate can be for an id that is no DNS name.
    pub(super) fn new(id: &str, address: SocketAddr, tls: Option<&Tls>) -> Result<Self, InvalidDnsNameError> {
        let tls = match tls {
            Some(tls) => {
                let name = ServerName::try_from(id.to_owned())?;
                Some((TlsConnector::from(Arc::clone(&tls.client)), name))
            }
            None => None,
        };
        Ok(Self {
            target: Target { address, tls },
            sender: Arc::default(),
            requests: Semaphore::new(MAX_REQUESTS),
            standing: Mutex::default(),
        })
    }

    /// Whatever shard it has of a chunk; none when it says so.
    pub(super) async fn get(&self, name: &ChunkName) -> Result<Option<Bytes>, PeerError> {
        let (status, body) = self.request(Method::GET, name, Bytes::new()).await?;
        match status {
            StatusCode::OK => Ok(Some(body)),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(PeerError::Status(status)),
        }
    }

    /// Gives it a shard.
    pub(super) async fn put(&self, name: &ChunkName, shard: Bytes) -> Result<(), PeerError> {
        let (status, _) = self.request(Method::PUT, name, shard).await?;
        if status.is_success() { Ok(()) } else { Err(PeerError::Status(status)) }
    }

    /// Whether it failed not long ago.
    pub(super) fn is_aside(&self) -> bool {
        self.standing().is_aside(Instant::now())
    }

    pub(super) fn answered(&self) {
        self.standing().answered();
    }

    pub(super) fn failed(&self) {
        self.standing().failed(Instant::now());
    }

    async fn request(
        &self,
        method: Method,
        name: &ChunkName,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), PeerError> {
        let _permit = self.requests.try_acquire().map_err(|_| PeerError::Busy)?;
        let mut sender = self.sender().await?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.target.uri(name);
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body =
            Limited::new(answer.into_body(), MAX_SHARD_LEN).collect().await.map_err(PeerError::Body)?;
        Ok((status, body.to_bytes()))
    }

    async fn sender(&self) -> Result<Sender, PeerError> {
        let slot = Arc::clone(&self.sender).lock_owned().await;
        if let Some(sender) = slot.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        // On its own: who asked may have what it needs from others before there is a connection.
        let connecting = tokio::spawn(connect(self.target.clone(), slot));
        connecting.await.map_err(|error| PeerError::Connect(error.into()))?
    }

    /// Every call on it ends before the lock does, so a panic elsewhere does not spoil it.
    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("address", &self.target.address).finish_non_exhaustive()
    }
}

impl Target {
    fn uri(&self, name: &ChunkName) -> hyper::Uri {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        // An address and hexadecimal digits are always one.
        format!("{scheme}://{}/shards/{name}", self.address).parse().unwrap_or_default()
    }
}

async fn connect(target: Target, mut slot: OwnedMutexGuard<Option<Sender>>) -> Result<Sender, PeerError> {
    let connected = timeout(CONNECT_TIMEOUT, async {
        let stream = TcpStream::connect(target.address).await.map_err(PeerError::Connect)?;
        stream.set_nodelay(true).map_err(PeerError::Connect)?;
        match target.tls {
            Some((connector, name)) => {
                let stream = connector.connect(name, stream).await.map_err(PeerError::Connect)?;
                handshake(TokioIo::new(stream)).await
            }
            None => handshake(TokioIo::new(stream)).await,
        }
    });
    let sender = connected.await.map_err(|_| PeerError::ConnectTimeout)??;
    *slot = Some(sender.clone());
    Ok(sender)
}

async fn handshake<T>(stream: T) -> Result<Sender, PeerError>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake(stream)
        .await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("a connection to a peer ended: {error}");
        }
    });
    Ok(sender)
}
