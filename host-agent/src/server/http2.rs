//! Connections of HTTP/2, for clients by TLS that ask for it (ALPN): many requests at a time, within bounds on what such a
//! connection is good for beside requests.
//!
//! What HTTP/1.1 has by connection is kept by request here. A client that opens no window stops one answer while the connection
//! goes on, so answers are handed over in pieces and each piece has its time; and a request that is taken back costs the client
//! nothing, so a connection that takes back more than it waits for is ended.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    http::{HeaderValue, Request, Response, StatusCode, Uri, header::HOST},
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    rt::Executor,
    server::conn::http2,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::Watcher,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    Bounds, Ended, MAX_HEAD_LEN, Peer,
    pace::Pace,
    places::{Seat, Standing},
};

/// By what name a client asks for it.
pub(super) const ALPN: &[u8] = b"h2";

/// Requests of a connection at a time, each with a head of [`MAX_HEAD_LEN`]. Who wants more has more connections.
pub(super) const MAX_STREAMS: u32 = 32;

/// What a connection may send ahead of what is read of its bodies. On a way of 50 ms that is 40 Mbit/s.
const WINDOW: u32 = 256 * 1024;

/// Longest frame: the least that there may be.
const MAX_FRAME_LEN: u32 = 16 * 1024;

/// Pieces in which answers are handed over, and what of one waits behind them for a client's window.
const PIECE_LEN: usize = 16 * 1024;

/// Requests that a connection may take back beyond those that it has waited for. A client whose own time is over does so.
pub(super) const MAX_TAKEN_BACK: usize = 256;

/// Streams that were reset, by the client before they were looked at or by us as they break the protocol, before the connection is.
const MAX_RESETS: usize = 64;

/// How long a connection says nothing before it is asked whether it still is one, and how long the answer may take.
const PING_AFTER: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves a connection's requests until it ends, gives way, or is given up.
pub(super) async fn serve<S>(
    stream: S,
    (peer, seat, watcher): (Peer, Seat, Watcher),
    router: Router,
    bounds: Bounds,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let requests = Requests::default();
    let _ending = Ending(requests.clone());
    let watch = Arc::new(Watch::new(seat));
    let (service, watched) = (TowerToHyperService::new(router), Arc::clone(&watch));
    let service =
        service_fn(move |request| answer(service.clone(), peer, (Turn::begin(&watched), bounds), request));
    let connection = http2::Builder::new(requests)
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        // It is far below what any number is cut to.
        .max_header_list_size(MAX_HEAD_LEN as u32)
        .max_frame_size(MAX_FRAME_LEN)
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(WINDOW)
        .max_send_buf_size(PIECE_LEN)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_RESETS)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = watcher.watch(connection) => Ok(ended?),
        () = watch.seat.given_up() => Err("it gave way to a newer one".into()),
        reason = watch.overdue(bounds) => Err(reason.into()),
    }
}

/// Runs a connection's requests.
#[derive(Clone, Default)]
struct Requests(Arc<Mutex<JoinSet<()>>>);

impl Requests {
    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Requests {
    fn execute(&self, request: F) {
        let mut requests = self.lock();
        while requests.try_join_next().is_some() {}
        requests.spawn(request);
    }
}

/// Ends requests with their connection: nothing goes on for a client that is gone.
struct Ending(Requests);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.lock().abort_all();
    }
}

/// What a connection is doing.
struct Watch {
    seat: Seat,
    state: Mutex<State>,
}

struct State {
    /// Requests that are not answered to the end.
    open: usize,
    /// When the last one was.
    rested: Instant,
    /// How quickly the client takes the answers of which it has been given a piece.
    handed: BTreeMap<u64, Pace>,
    last: u64,
    taken_back: usize,
}

impl Watch {
    fn new(seat: Seat) -> Self {
        let state =
            State { open: 0, rested: Instant::now(), handed: BTreeMap::new(), last: 0, taken_back: 0 };
        Self { seat, state: Mutex::new(state) }
    }

    /// Returns when a client has asked for nothing, or taken nothing of an answer, for too long: and what it was.
    async fn overdue(&self, bounds: Bounds) -> &'static str {
        let Bounds { head_timeout, write_timeout, .. } = bounds;
        loop {
            sleep(head_timeout.min(write_timeout) / 4).await;
            let state = self.state();
            if state.open == 0 && state.rested.elapsed() > head_timeout {
                return "the client asks for nothing";
            }
            if state.handed.values().any(|pace| pace.is_over(Instant::now())) {
                return "the client does not read its answer";
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers and times: they are good whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request, from its head to the end of its answer, or until it is taken back.
struct Turn {
    watch: Arc<Watch>,
    standing: Standing,
    number: u64,
    answered: bool,
}

impl Turn {
    fn begin(watch: &Arc<Watch>) -> Self {
        let mut state = watch.state();
        state.open += 1;
        state.last += 1;
        let number = state.last;
        drop(state);
        Self { watch: Arc::clone(watch), standing: watch.seat.begin(), number, answered: false }
    }

    /// Notes how its answer goes.
    fn pace(&self, note: impl FnOnce(&mut Pace)) {
        if let Some(pace) = self.watch.state().handed.get_mut(&self.number) {
            note(pace);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.watch.state();
        state.open -= 1;
        state.rested = Instant::now();
        state.handed.remove(&self.number);
        state.taken_back =
            if self.answered { state.taken_back.saturating_sub(1) } else { state.taken_back + 1 };
        if state.taken_back > MAX_TAKEN_BACK {
            self.watch.seat.give_up();
        }
        drop(state);
        self.standing.rest();
    }
}

/// Serves one request of a connection.
async fn answer(
    service: TowerToHyperService<Router>,
    peer: Peer,
    (mut turn, bounds): (Turn, Bounds),
    mut request: Request<Incoming>,
) -> Result<Response<Handed>, Infallible> {
    let response = match name_host(&mut request) {
        true => {
            request.extensions_mut().insert(turn.standing.clone());
            request.extensions_mut().insert(peer);
            service.call(request).await?
        }
        false => {
            let mut refusal = Response::new(Body::empty());
            *refusal.status_mut() = StatusCode::BAD_REQUEST;
            refusal
        }
    };
    turn.answered = true;
    let pace = Pace::new(bounds.write_timeout);
    turn.watch.state().handed.insert(turn.number, pace);
    Ok(response.map(|body| Handed { body, piece: Bytes::new(), given: 0, turn }))
}

/// Says the host where HTTP/1.1 says it, which signatures and URLs go by; `false`: it is said twice, and differently (RFC 9113
/// §8.3.1).
fn name_host(request: &mut Request<Incoming>) -> bool {
    let uri = request.uri();
    let path = uri.path_and_query().cloned();
    if let Some(authority) = uri.authority() {
        let Ok(named) = HeaderValue::from_str(authority.as_str()) else { return false };
        let said = request.headers_mut().entry(HOST).or_insert_with(|| named.clone());
        if !is_same(said, &named) {
            return false;
        }
    }
    *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
    true
}

/// Whether two hosts are one: some clients say the usual port in one place and not in the other.
fn is_same(one: &HeaderValue, other: &HeaderValue) -> bool {
    let [one, other] =
        [one, other].map(|host| host.as_bytes().strip_suffix(b":443").unwrap_or(host.as_bytes()));
    one.eq_ignore_ascii_case(other)
}

/// An answer, in pieces.
struct Handed {
    body: Body,
    /// What is left of a frame.
    piece: Bytes,
    /// Bytes that wait for the client.
    given: usize,
    turn: Turn,
}

impl HttpBody for Handed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // Who asks for a piece has given the one before to the client.
        let given = std::mem::take(&mut self.given);
        self.turn.pace(|pace| pace.took(Instant::now(), given));
        if self.piece.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.piece = data,
                Some(Ok(Err(frame))) => return Poll::Ready(Some(Ok(frame))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let len = self.piece.len().min(PIECE_LEN);
        let piece = self.piece.split_to(len);
        self.given = len;
        self.turn.pace(|pace| {
            pace.wait(Instant::now());
        });
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, len) = (self.body.size_hint(), self.piece.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + len);
        }
        hint.set_lower(hint.lower() + len);
        hint
    }
}
