//! The peers' side of this node: gives and takes shards over HTTP/2, to and from whoever has a certificate of the cluster's.
//!
//! Connections, the requests on each and their lengths are bounded. It ends at once: a peer that is not answered goes elsewhere.

use std::sync::Arc;
use std::time::Duration;

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::StatusCode,
    routing::get,
};
use chunk_store::{ChunkName, MAX_BODY_LEN};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::erasure::{MAX_SHARD_LEN, Shard};
use super::on_disk;
use super::peer::PeerError;
use super::shelf::Shelf;
use super::tls::Tls;
use crate::sandbox::describe;

/// Most connections at a time: each peer has one, and makes another when it has lost it.
const MAX_CONNECTIONS: usize = 512;

/// Requests on one connection at a time, as many as a peer sends.
const MAX_STREAMS: u32 = 256;

/// Requests that may have been taken back before they were looked at. Peers take back one in five: they have what they need.
const MAX_TAKEN_BACK: usize = 1024;

/// Longest request head, in bytes.
const MAX_HEAD_LEN: u32 = 4096;

/// Longest time for the TLS of a connection.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection says nothing before it is asked whether it still is one.
const PING_AFTER: Duration = Duration::from_secs(30);

/// How long accepting pauses when the node has no descriptor or memory for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `shelf` until it is dropped.
pub(super) async fn serve(listener: TcpListener, shelf: Arc<Shelf>, tls: Option<Tls>) {
    let router = router(shelf);
    let acceptor = tls.map(|tls| TlsAcceptor::from(tls.server));
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Ends them all when it is dropped.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // Nobody closes it.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("a peer's connection was not accepted: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (router, acceptor) = (router.clone(), acceptor.clone());
        connections.spawn(async move {
            if let Err(error) = connection(stream, acceptor, router).await {
                tracing::debug!("a peer's connection ended: {error}");
            }
            drop(slot);
        });
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    router: Router,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    match acceptor {
        Some(acceptor) => {
            let stream = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
            speak(TokioIo::new(stream), router).await
        }
        None => speak(TokioIo::new(stream), router).await,
    }
    .map_err(Into::into)
}

async fn speak<T>(stream: T, router: Router) -> hyper::Result<()>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_TAKEN_BACK)
        .max_header_list_size(MAX_HEAD_LEN)
        .keep_alive_interval(PING_AFTER)
        .serve_connection(stream, TowerToHyperService::new(router))
        .await
}

fn router(shelf: Arc<Shelf>) -> Router {
    Router::new()
        .route("/shards/{name}", get(give).put(take))
        .layer(DefaultBodyLimit::max(MAX_SHARD_LEN))
        .with_state(shelf)
}

async fn give(State(shelf): State<Arc<Shelf>>, Path(name): Path<String>) -> Result<Bytes, StatusCode> {
    let name: ChunkName = name.parse().map_err(|_| StatusCode::BAD_REQUEST)?;
    let found = on_disk(move || shelf.get(&name)).await.map_err(broken)?;
    found.ok_or(StatusCode::NOT_FOUND)
}

async fn take(
    State(shelf): State<Arc<Shelf>>,
    Path(name): Path<String>,
    shard: Bytes,
) -> Result<StatusCode, StatusCode> {
    let name: ChunkName = name.parse().map_err(|_| StatusCode::BAD_REQUEST)?;
    Shard::decode(&shard, &name, MAX_BODY_LEN).map_err(|_| StatusCode::UNPROCESSABLE_ENTITY)?;
    on_disk(move || shelf.put(&name, &shard)).await.map_err(broken)?;
    Ok(StatusCode::NO_CONTENT)
}

fn broken(error: PeerError) -> StatusCode {
    tracing::warn!("a peer is not answered: {}", describe(&error));
    StatusCode::INTERNAL_SERVER_ERROR
}
