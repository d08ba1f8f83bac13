//! The HTTP/1.1 server, by TLS or not: accepts connections, bounds them in number, in memory and in patience, ends them gracefully.
//!
//! Knows nothing of what is served. When all places are taken, a connection that serves nothing gives way to the one that comes
//! ([`places`]); who serves a request says with [`Standing::admit`] when it has begun.

mod patient;
mod places;
mod secure;
#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    http::{HeaderValue, Request, Response, header},
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use self::{patient::Patient, places::Places};

pub(crate) use self::places::Standing;

/// What clients may have of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Connections at a time.
    connections: usize,
    /// Longest time from a connection to the end of its handshake, where TLS is spoken.
    handshake_timeout: Duration,
    /// Longest time for a request's head, counted from the end of the request before it.
    head_timeout: Duration,
    /// Longest time in which a client takes nothing of its answer.
    write_timeout: Duration,
}

impl Bounds {
    /// Of a node. Three descriptors a connection at most are far below what the agent may open, and heads of all of them take
    /// 128 MiB. Clients keep connections for a minute or so.
    pub(crate) const NODE: Self = Self {
        connections: 4096,
        handshake_timeout: Duration::from_secs(10),
        head_timeout: Duration::from_secs(120),
        write_timeout: Duration::from_secs(60),
    };
}

/// What is read of a request's head before it is refused, about. AWS's clients need a few KiB: a client context of 3.5 KB in a header, a session token.
const MAX_HEAD_LEN: usize = 32 * 1024;

/// How long accepting pauses when the node has no descriptor or memory for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whom a request comes from: what the connection's other end has for an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Where clients come.
pub(crate) struct Entrance {
    /// At which address.
    pub(crate) listener: TcpListener,
    /// By TLS, if so.
    pub(crate) tls: Option<TlsAcceptor>,
}

/// Serves until `stop`, then lets every request that has begun come to its end.
pub(crate) async fn serve(
    Entrance { listener, tls }: Entrance,
    router: Router,
    bounds: Bounds,
    stop: impl Future<Output = ()>,
) {
    let graceful = GracefulShutdown::new();
    let places = Places::new(bounds.connections);
    let mut stop = std::pin::pin!(stop);
    loop {
        let (stream, peer, standing) = tokio::select! {
            accepted = accept(&listener, &places) => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Not the listener's end: the client is gone already, or something has run out for a while.
                    tracing::warn!("a connection was not accepted: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = &mut stop => break,
        };
        let (client, tls) = (Client { peer, standing, watcher: graceful.watcher() }, tls.clone());
        let router = router.clone();
        tokio::spawn(async move {
            let standing = client.standing.clone();
            tokio::select! {
                ended = client.talk(stream, tls, router, bounds) => if let Err(error) = ended {
                    tracing::debug!("a connection ended: {error}");
                },
                () = standing.given_up() => tracing::debug!("a connection gave way to a newer one"),
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// The other end of a connection.
struct Client {
    peer: Peer,
    standing: Standing,
    watcher: Watcher,
}

type Ended = Result<(), Box<dyn std::error::Error + Send + Sync>>;

impl Client {
    async fn talk(
        self,
        stream: TcpStream,
        tls: Option<TlsAcceptor>,
        router: Router,
        bounds: Bounds,
    ) -> Ended {
        match tls {
            None => self.serve(Patient::new(stream, bounds.write_timeout), router, bounds).await,
            Some(acceptor) => {
                let patience = (bounds.handshake_timeout, bounds.write_timeout);
                let stream = secure::open(stream, &acceptor, patience).await?;
                self.serve(stream, router, bounds).await
            }
        }
    }

    /// Serves its requests.
    async fn serve<S>(self, stream: S, router: Router, bounds: Bounds) -> Ended
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Self { peer, standing, watcher } = self;
        let service = TowerToHyperService::new(router);
        let service = service_fn(move |request| answer(service.clone(), (peer, standing.clone()), request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.head_timeout)
            .max_buf_size(MAX_HEAD_LEN)
            .serve_connection(TokioIo::new(stream), service);
        Ok(watcher.watch(connection).await?)
    }
}

async fn accept(listener: &TcpListener, places: &Arc<Places>) -> io::Result<(TcpStream, Peer, Standing)> {
    let (stream, peer) = listener.accept().await?;
    // Answers are written whole: waiting for more to send only delays them.
    stream.set_nodelay(true)?;
    Ok((stream, Peer(peer.ip().to_canonical()), places.take().await))
}

/// Serves one request of a connection.
async fn answer(
    service: TowerToHyperService<Router>,
    (peer, standing): (Peer, Standing),
    mut request: Request<Incoming>,
) -> Result<Response<Resting>, Infallible> {
    standing.begin();
    let transfer_coded = request.headers().contains_key(header::TRANSFER_ENCODING);
    request.extensions_mut().insert(standing.clone());
    request.extensions_mut().insert(peer);
    let mut response = service.call(request).await?;
    if transfer_coded {
        // RFC 9112 §6.3: a request may have had a length, too, and somebody before us may have gone by that one. So what
        // follows is nobody's next request.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| Resting { body, standing }))
}

/// An answer; when it is handed over, or nobody wants it, the connection rests.
struct Resting {
    body: Body,
    standing: Standing,
}

impl HttpBody for Resting {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        self.standing.rest();
    }
}
