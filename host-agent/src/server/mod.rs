//! The HTTP/1.1 server: accepts connections, bounds them in number, in memory and in patience, ends them gracefully.
//!
//! Knows nothing of what is served. When all places are taken, a connection that serves nothing gives way to the one that comes
//! ([`places`]); who serves a request says with [`Standing::admit`] when it has begun.

mod patient;
mod places;
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
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};

use self::{patient::Patient, places::Places};

pub(crate) use self::places::Standing;

/// What clients may have of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Connections at a time.
    connections: usize,
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

/// Serves until `stop`, then lets every request that has begun come to its end.
pub(crate) async fn serve(
    listener: TcpListener,
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
        let service = TowerToHyperService::new(router.clone());
        let place = standing.clone();
        let service = service_fn(move |request| answer(service.clone(), (peer, place.clone()), request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.head_timeout)
            .max_buf_size(MAX_HEAD_LEN)
            .serve_connection(TokioIo::new(Patient::new(stream, bounds.write_timeout)), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!("a connection ended: {error}");
                },
                () = standing.given_up() => tracing::debug!("a connection gave way to a newer one"),
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
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
