//! The HTTP server, by TLS or not: accepts connections, bounds them in number, in memory and in patience, ends them gracefully.
//! Clients by TLS choose between HTTP/1.1 and HTTP/2 ([`http2`]); without it there is HTTP/1.1.
//!
//! Knows nothing of what is served. When all places are taken, a connection that serves nothing gives way to the one that comes
//! ([`places`]); who serves a request says with [`Standing::admit`] when it has begun.

mod http2;
mod pace;
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

use self::{
    patient::Patient,
    places::{Places, Seat},
};

pub(crate) use self::places::Standing;

/// What clients may have of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Connections at a time.
    connections: usize,
    /// Those of HTTP/2 that there may be beside them.
    http2_connections: usize,
    /// Longest time from a connection to the end of its handshake, where TLS is spoken.
    handshake_timeout: Duration,
    /// Longest time for a request's head, counted from the end of the request before it.
    head_timeout: Duration,
    /// Longest time in which a client takes nothing of its answers, or too little ([`pace`]).
    write_timeout: Duration,
}

impl Bounds {
    /// Of a node. Three descriptors a connection at most are far below what the agent may open, and heads of all of them take
    /// 128 MiB. Clients keep connections for a minute or so. A connection of HTTP/2 may take 32 heads of 32 KiB, 256 KiB of bodies and
    /// as much of answers, 450 MiB for all.
    pub(crate) const NODE: Self = Self {
        connections: 4096,
        http2_connections: 256,
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
    let (places, http2_places) = (Places::new(bounds.connections), Places::new(bounds.http2_connections));
    let mut stop = std::pin::pin!(stop);
    loop {
        let (stream, peer, seat) = tokio::select! {
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
        let client =
            Client { peer, seat, http2_places: Arc::clone(&http2_places), watcher: graceful.watcher() };
        let (router, tls) = (router.clone(), tls.clone());
        tokio::spawn(async move {
            if let Err(error) = client.talk(stream, tls, router, bounds).await {
                tracing::debug!("a connection ended: {error}");
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// The other end of a connection.
struct Client {
    peer: Peer,
    seat: Seat,
    /// Where it gets another seat from if it speaks HTTP/2.
    http2_places: Arc<Places>,
    watcher: Watcher,
}

type Ended<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

impl Client {
    async fn talk(
        self,
        stream: TcpStream,
        tls: Option<TlsAcceptor>,
        router: Router,
        bounds: Bounds,
    ) -> Ended {
        let seat = self.seat.clone();
        let Some(acceptor) = tls else {
            let stream = Patient::new(stream, bounds.write_timeout);
            return unless_it_gives_way(&seat, self.serve(stream, router, bounds)).await;
        };
        let patience = (bounds.handshake_timeout, bounds.write_timeout);
        let opened = async { Ok(secure::open(stream, &acceptor, patience).await?) };
        let stream = unless_it_gives_way(&seat, opened).await?;
        if stream.get_ref().1.alpn_protocol() != Some(http2::ALPN) {
            return unless_it_gives_way(&seat, self.serve(stream, router, bounds)).await;
        }
        let Self { peer, seat: first, http2_places, watcher } = self;
        let own = unless_it_gives_way(&seat, async { Ok(http2_places.take().await) }).await?;
        drop((seat, first));
        http2::serve(stream, (peer, own, watcher), router, bounds).await
    }

    /// Serves its requests, one after the other.
    async fn serve<S>(self, stream: S, router: Router, bounds: Bounds) -> Ended
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Self { peer, seat, watcher, .. } = self;
        let service = TowerToHyperService::new(router);
        let service = service_fn(move |request| answer(service.clone(), (peer, seat.begin()), request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.head_timeout)
            .max_buf_size(MAX_HEAD_LEN)
            .serve_connection(TokioIo::new(stream), service);
        Ok(watcher.watch(connection).await?)
    }
}

async fn unless_it_gives_way<T>(seat: &Seat, work: impl Future<Output = Ended<T>>) -> Ended<T> {
    tokio::select! {
        done = work => done,
        () = seat.given_up() => Err("it gave way to a newer one".into()),
    }
}

async fn accept(listener: &TcpListener, places: &Arc<Places>) -> io::Result<(TcpStream, Peer, Seat)> {
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

/// An answer; when it is handed over, or nobody wants it, the connection rests. One that ends before there is an answer need not.
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
