//! Delivers to one subscriber, in its own time. The other end is the customer's code: every wait and every answer is bounded,
//! and what it does not take is dropped and counted.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, SizeHint};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::buffer::{Batch, Buffer};
use super::event::Schema;
use super::{Api, Destination, Method, Subscription};
use crate::platform_log::timestamp;

/// How long one attempt may take: an extension that does something with what it is sent answers behind that.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Attempts at one delivery; with the pauses between them an extension has some time to begin to listen.
const ATTEMPTS: u32 = 5;

/// Pause behind the first failed attempt; doubled behind each.
const PAUSE: Duration = Duration::from_millis(50);

/// Longest head of an answer: hyper's least.
const MAX_HEAD_LEN: usize = 8 * 1024;

/// Longest answer that is read to use its connection again, bytes.
const MAX_ANSWER_LEN: usize = 64 * 1024;

/// Whether deliveries are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// When the subscriber wants them.
    Running,
    /// At once.
    Hurrying,
    /// At once; then none.
    Settling,
    /// None: nothing waits that has to be delivered before the function stands still.
    Settled,
}

/// Somebody to deliver to.
pub(super) struct Subscriber {
    api: Api,
    schema: Schema,
    destination: Destination,
    buffer: RefCell<Buffer>,
    mode: Cell<Mode>,
    /// There is something new, or another mode.
    changed: Notify,
    settled: Notify,
}

impl Subscriber {
    pub(super) fn new(subscription: &Subscription) -> Self {
        Self {
            api: subscription.api(),
            schema: subscription.schema(),
            destination: subscription.destination().clone(),
            buffer: RefCell::new(Buffer::new(subscription.bounds())),
            mode: Cell::new(Mode::Running),
            changed: Notify::new(),
            settled: Notify::new(),
        }
    }

    pub(super) fn api(&self) -> Api {
        self.api
    }

    pub(super) fn schema(&self) -> Schema {
        self.schema
    }

    /// Has it told that, or dropped.
    pub(super) fn tell(&self, event: Bytes) {
        self.buffer.borrow_mut().push(event, Instant::now());
        self.changed.notify_one();
    }

    pub(super) fn set(&self, mode: Mode) {
        self.mode.set(mode);
        self.changed.notify_one();
    }

    /// Returns when it is [`Mode::Settled`].
    pub(super) async fn settled(&self) {
        while self.mode.get() == Mode::Settling {
            self.settled.notified().await;
        }
    }

    /// The next delivery, when it is due; `idle` is done when there may be a while until then.
    async fn due(&self, idle: &mut impl FnMut()) -> Batch {
        loop {
            let now = Instant::now();
            let wakes = {
                let mut buffer = self.buffer.borrow_mut();
                let due = buffer.due(now).filter(|_| self.mode.get() != Mode::Settled);
                match (due, self.mode.get()) {
                    (Some(at), Mode::Running) if at > now => Some(at),
                    (Some(_), _) => {
                        if let Some(batch) = buffer.take(now, &time()) {
                            return batch;
                        }
                        None
                    }
                    (None, Mode::Settling) => {
                        idle();
                        self.mode.set(Mode::Settled);
                        self.settled.notify_one();
                        None
                    }
                    (None, _) => None,
                }
            };
            match wakes {
                Some(at) => tokio::select! {
                    () = self.changed.notified() => {}
                    () = sleep_until(at) => {}
                },
                None => self.changed.notified().await,
            }
        }
    }
}

/// Delivers until the task is ended.
pub(super) async fn deliver(subscriber: Rc<Subscriber>) {
    let mut line = None;
    loop {
        // A snapshot is taken without a connection that every clone would have.
        let batch = subscriber.due(&mut || line = None).await;
        if !attempts(&subscriber.destination, &mut line, &batch).await {
            let bytes = batch.iter().map(Bytes::len).sum();
            subscriber.buffer.borrow_mut().lost(batch.len(), bytes);
        }
    }
}

/// Whether a delivery was taken.
async fn attempts(destination: &Destination, line: &mut Option<Line>, batch: &Batch) -> bool {
    let mut pause = PAUSE;
    for attempt in 1..=ATTEMPTS {
        if matches!(timeout(ATTEMPT, send(destination, line, batch)).await, Ok(Ok(()))) {
            return true;
        }
        *line = None;
        if attempt < ATTEMPTS {
            sleep(pause).await;
            pause *= 2;
        }
    }
    false
}

/// A connection to a subscriber.
enum Line {
    Http { sender: http1::SendRequest<Array>, _driver: Driver },
    Tcp(TcpStream),
}

/// The task that carries a connection's bytes; it ends with the connection's user.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a delivery was not taken.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("reach the subscriber")]
    Connect(#[from] io::Error),
    #[error("send a request to the subscriber")]
    Http(#[from] hyper::Error),
    #[error("put a request together")]
    Request(#[from] hyper::http::Error),
    #[error("the subscriber answered {0}")]
    Refused(hyper::StatusCode),
}

async fn send(destination: &Destination, line: &mut Option<Line>, batch: &Batch) -> Result<(), SendError> {
    let mut used = match line.take() {
        Some(line) => line,
        None => connect(destination).await?,
    };
    let is_kept = match (&mut used, destination) {
        (Line::Tcp(stream), _) => {
            for event in batch {
                stream.write_all(event).await?;
                stream.write_all(b"\n").await?;
            }
            true
        }
        (Line::Http { sender, .. }, Destination::Http { port, path, method }) => {
            post(sender, (*port, path, *method), batch).await?
        }
        // A line is its destination's.
        (Line::Http { .. }, Destination::Tcp { .. }) => false,
    };
    *line = is_kept.then_some(used);
    Ok(())
}

async fn connect(destination: &Destination) -> Result<Line, SendError> {
    let (Destination::Http { port, .. } | Destination::Tcp { port }) = destination;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).await?;
    if matches!(destination, Destination::Tcp { .. }) {
        return Ok(Line::Tcp(stream));
    }
    let (sender, connection) =
        http1::Builder::new().max_buf_size(MAX_HEAD_LEN).handshake(TokioIo::new(stream)).await?;
    let driver = tokio::task::spawn_local(async move {
        // Its user sees how it ends.
        let _ = connection.await;
    });
    Ok(Line::Http { sender, _driver: Driver(driver) })
}

/// Whether the connection can be used again.
async fn post(
    sender: &mut http1::SendRequest<Array>,
    (port, path, method): (u16, &str, Method),
    batch: &Batch,
) -> Result<bool, SendError> {
    let method = match method {
        Method::Post => hyper::Method::POST,
        Method::Put => hyper::Method::PUT,
    };
    let request = Request::builder()
        .method(method)
        .uri(Uri::try_from(path).map_err(hyper::http::Error::from)?)
        .header(HOST, format!("sandbox.localdomain:{port}"))
        .header(CONTENT_TYPE, "application/json")
        .body(Array::of(batch))?;
    sender.ready().await?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let is_whole = Limited::new(answer.into_body(), MAX_ANSWER_LEN).collect().await.is_ok();
    if status.is_success() { Ok(is_whole) } else { Err(SendError::Refused(status)) }
}

/// A JSON array of documents that others have, too: nothing is copied.
struct Array {
    pieces: VecDeque<Bytes>,
    len: u64,
}

impl Array {
    fn of(batch: &Batch) -> Self {
        let mut pieces = VecDeque::with_capacity(batch.len() * 2 + 1);
        for (index, event) in batch.iter().enumerate() {
            pieces.push_back(Bytes::from_static(if index == 0 { b"[" } else { b"," }));
            pieces.push_back(event.clone());
        }
        pieces.push_back(Bytes::from_static(if batch.is_empty() { b"[]" } else { b"]" }));
        let len = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { pieces, len }
    }
}

impl Body for Array {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.pop_front();
        if let Some(piece) = &piece {
            self.len -= piece.len() as u64;
        }
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len)
    }
}

fn time() -> String {
    timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
