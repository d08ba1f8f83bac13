//! Clients that speak HTTP/2, some of which know how to spoil it: frames are made by hand (RFC 9113 §4.1).

use axum::http::{HeaderMap, Method, Uri};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::TokioExecutor;
use rustls::version::TLS13;
use tokio_rustls::client::TlsStream;

use super::{
    super::http2::{ALPN, MAX_STREAMS, MAX_TAKEN_BACK},
    tls::{acceptor, connector},
    *,
};
use crate::certificate::tests::own;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET https://x/`, in HPACK.
const HEAD: &[u8] = b"\x82\x84\x87\x41\x01x";

/// How a connection begins (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

struct Speaker {
    server: Server,
    dir: tempfile::TempDir,
}

impl Speaker {
    async fn start(router: Router, bounds: Bounds) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start_with(Some(acceptor(&own(dir.path()))), router, bounds).await;
        Self { server, dir }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let connector = connector(self.dir.path(), &TLS13, &[ALPN]);
        let name = "localhost".try_into().unwrap();
        let stream = connector.connect(name, self.server.connect().await).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(ALPN));
        stream
    }

    /// A client that behaves.
    async fn client(&self) -> SendRequest<Body> {
        let (sender, connection) =
            handshake(TokioExecutor::new(), TokioIo::new(self.connect().await)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// One that has said so far what a client begins with, and these frames.
    async fn begun(&self, frames: &[Vec<u8>]) -> TlsStream<TcpStream> {
        let mut client = self.connect().await;
        client.write_all(PREFACE).await.unwrap();
        client.write_all(&frames.concat()).await.unwrap();
        client
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let pairs =
        values.iter().flat_map(|(name, value)| name.to_be_bytes().into_iter().chain(value.to_be_bytes()));
    frame(SETTINGS, 0, 0, &pairs.collect::<Vec<_>>())
}

fn get_frame(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, HEAD)
}

/// The next frame that there is: its kind, its stream, what it carries. None when the connection has ended.
async fn read(client: &mut TlsStream<TcpStream>) -> Option<(u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    client.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    client.read_exact(&mut payload).await.ok()?;
    Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
}

/// Reads to the connection's end.
async fn ended(mut client: TlsStream<TcpStream>) {
    while read(&mut client).await.is_some() {}
}

fn request(method: Method, path: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::builder().method(method).uri(format!("https://node:1{path}"));
    request.body(body.into()).unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    let body = axum::body::to_bytes(Body::new(response.into_body()), usize::MAX).await.unwrap();
    String::from_utf8(body.into()).unwrap()
}

#[tokio::test]
async fn requests_are_served_beside_each_other_and_say_their_host_as_ever() {
    let (begun, go) = (Arc::default(), Arc::default());
    let says = |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| async move {
        format!("{method} {uri} {} {}", headers["host"].to_str().unwrap(), "x".repeat(body.len()))
    };
    let speaker = Speaker::start(slow(&begun, &go).fallback(says), GENEROUS).await;
    let mut client = speaker.client().await;
    let waiting = tokio::spawn(client.send_request(request(Method::GET, "/", "")));
    begun.notified().await;
    // Longer than windows, pieces and what waits behind them.
    let body = "y".repeat(1 << 20);
    let answer = client.send_request(request(Method::POST, "/a?b=c", body)).await.unwrap();
    let answer = text(answer).await;
    assert_eq!(answer.len(), "POST /a?b=c node:1 ".len() + (1 << 20));
    assert!(answer.starts_with("POST /a?b=c node:1 xx"), "{}", &answer[..40]);
    let mut two = request(Method::GET, "/a", "");
    two.headers_mut().insert("host", "node:2".parse().unwrap());
    assert_eq!(client.send_request(two).await.unwrap().status(), 400, "two hosts");
    let mut same = Request::builder().uri("https://node:443/a").body(Body::empty()).unwrap();
    same.headers_mut().insert("host", "Node".parse().unwrap());
    assert_eq!(text(client.send_request(same).await.unwrap()).await, "GET /a Node ");
    // A stop lets it come to its end.
    speaker.server.stop.notify_one();
    tokio::task::yield_now().await;
    go.notify_one();
    assert_eq!(text(waiting.await.unwrap().unwrap()).await, "done");
    speaker.server.task.await.unwrap();
}

#[tokio::test]
async fn heads_and_requests_at_a_time_are_bounded() {
    let (begun, go) = (Arc::default(), Arc::default());
    let speaker = Speaker::start(slow(&begun, &go).fallback(|| async {}), GENEROUS).await;
    let mut client = speaker.client().await;
    for (len, status) in [(MAX_HEAD_LEN - 1024, 200), (MAX_HEAD_LEN + 1, 431)] {
        let mut long = request(Method::GET, "/a", "");
        long.headers_mut().insert("x", "a".repeat(len).parse().unwrap());
        assert_eq!(client.send_request(long).await.unwrap().status(), status, "{len}");
    }
    // One more than may be.
    let streams = (0..=MAX_STREAMS).map(|number| get_frame(2 * number + 1));
    let mut crowd = speaker.begun(&[vec![settings(&[])], streams.collect()].concat()).await;
    let refused = loop {
        let (kind, stream, payload) = read(&mut crowd).await.unwrap();
        if kind == RST_STREAM {
            break (stream, payload);
        }
    };
    assert_eq!(refused, (2 * MAX_STREAMS + 1, vec![0, 0, 0, 7]), "REFUSED_STREAM");
    // A head without an end.
    let mut endless = speaker.begun(&[settings(&[]), frame(HEADERS, END_STREAM, 1, HEAD)]).await;
    let mut sent = 0;
    let more = frame(CONTINUATION, 0, 1, &[&b"\x00\x01x\x7f\x80\x7f"[..], &[b'a'; 16_000][..]].concat());
    while endless.write_all(&more).await.is_ok() {
        sent += more.len();
        assert!(sent < 64 << 20, "nobody stops reading");
    }
    ended(endless).await;
}

#[tokio::test]
async fn requests_that_are_taken_back_end_their_connection_and_hurt_nobody() {
    let speaker = Speaker::start(measure(), GENEROUS).await;
    let mut hasty = speaker.begun(&[settings(&[])]).await;
    let mut number = 0;
    loop {
        let stream = 2 * number + 1;
        let both = [get_frame(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat();
        if hasty.write_all(&both).await.is_err() {
            break;
        }
        number += 1;
        assert!(number < 1_000_000, "nobody stops it");
    }
    let mut client = speaker.client().await;
    assert_eq!(text(client.send_request(request(Method::GET, "/", "")).await.unwrap()).await, "GET 0.");
}

#[tokio::test]
async fn requests_that_are_taken_back_while_they_are_served_count_too() {
    let (begun, go) = (Arc::default(), Arc::default());
    let speaker = Speaker::start(slow(&begun, &go), GENEROUS).await;
    let mut client = speaker.client().await;
    let mut taken_back = 0;
    loop {
        let call = client.send_request(request(Method::GET, "/", ""));
        tokio::select! {
            answer = call => {
                answer.unwrap_err();
                break;
            }
            () = begun.notified() => taken_back += 1,
        }
        assert!(taken_back < 10 * MAX_TAKEN_BACK, "nobody stops it");
    }
    assert!(taken_back > MAX_TAKEN_BACK, "{taken_back}");
}

#[tokio::test]
async fn an_answer_that_nobody_opens_a_window_for_is_given_up() {
    let bounds = Bounds { write_timeout: Duration::from_millis(200), ..GENEROUS };
    let router = Router::new().route("/", get(|| async { vec![0; 64 << 20] }));
    let speaker = Speaker::start(router, bounds).await;
    // INITIAL_WINDOW_SIZE.
    let client = speaker.begun(&[settings(&[(4, 0)]), get_frame(1)]).await;
    ended(client).await;
    // The same with a window that is used up: what is sent is a part of it.
    let mut client = speaker.begun(&[settings(&[(4, 100_000)]), get_frame(1)]).await;
    let mut len = 0;
    while let Some((kind, _, payload)) = read(&mut client).await {
        len += if kind == DATA { payload.len() } else { 0 };
    }
    assert!((1..=100_000).contains(&len), "{len}");
}

#[tokio::test]
async fn an_answer_that_is_taken_in_trickles_is_given_up() {
    let bounds = Bounds { write_timeout: Duration::from_millis(800), ..GENEROUS };
    let router = Router::new().route("/", get(|| async { vec![0; 64 << 20] }));
    let speaker = Speaker::start(router, bounds).await;
    let piece: u32 = 16 * 1024;
    let mut client = speaker.begun(&[settings(&[(4, piece)]), get_frame(1)]).await;
    // A piece in time for each, at two thirds of the least rate.
    let more = frame(WINDOW_UPDATE, 0, 1, &piece.to_be_bytes());
    let mut pieces = 0;
    while client.write_all(&more).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(750)).await;
        pieces += 1;
        assert!(pieces < 30, "nobody gives it up");
    }
}

#[tokio::test]
async fn who_asks_for_nothing_is_given_up() {
    let bounds = Bounds { head_timeout: Duration::from_millis(200), ..GENEROUS };
    let speaker = Speaker::start(measure(), bounds).await;
    for begun in [&[][..], &[settings(&[])], &[settings(&[]), frame(HEADERS, END_STREAM, 1, HEAD)]] {
        ended(speaker.begun(begun).await).await;
    }
    // A connection that has been used is one like the others.
    let mut client = speaker.client().await;
    client.send_request(request(Method::GET, "/", "")).await.unwrap();
    while client.ready().await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_has_waited_for_longest_makes_room_and_who_serves_one_of_its_requests_does_not() {
    let (begun, go) = (Arc::default(), Arc::default());
    let router = slow(&begun, &go).merge(measure());
    let speaker = Speaker::start(router, Bounds { http2_connections: 2, ..GENEROUS }).await;
    let mut served = speaker.client().await;
    let waiting = tokio::spawn(served.send_request(request(Method::GET, "/", "")));
    begun.notified().await;
    // Its other requests come and go meanwhile.
    served.send_request(request(Method::GET, "/a", "")).await.unwrap();
    let idle = speaker.begun(&[settings(&[])]).await;
    for _ in 0..10 {
        let mut next = speaker.client().await;
        let answer = next.send_request(request(Method::GET, "/a", "")).await.unwrap();
        assert_eq!(text(answer).await, "GET 0.");
    }
    ended(idle).await;
    go.notify_one();
    assert_eq!(text(waiting.await.unwrap().unwrap()).await, "done");
}
