//! The server as clients find it that do not behave.

use std::{net::SocketAddr, time::Duration};

use axum::routing::get;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Notify,
    task::JoinHandle,
};

use super::*;

mod http2;
mod tls;

/// For tests in which nobody comes too late.
const GENEROUS: Bounds = Bounds::NODE;

/// A server, and what ends it.
struct Server {
    address: SocketAddr,
    stop: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(router: Router, bounds: Bounds) -> Self {
        Self::start_with(None, router, bounds).await
    }

    async fn start_with(tls: Option<TlsAcceptor>, router: Router, bounds: Bounds) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            serve(Entrance { listener, tls }, router, bounds, stopped.notified()).await
        });
        Self { address, stop, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// What comes until the connection ends, if this is sent and nothing after it.
    async fn say(&self, bytes: &[u8]) -> String {
        let mut client = self.connect().await;
        client.write_all(bytes).await.unwrap();
        read_to_end(&mut client).await
    }
}

/// Text until the end of the connection, which may be a reset.
async fn read_to_end(client: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // What came before a reset is there.
    let _ = client.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

/// Says how long the body is.
fn measure() -> Router {
    Router::new().fallback(|method: axum::http::Method, body: Bytes| async move {
        format!("{method} {}.", body.len())
    })
}

/// A router with one route that waits: it says when it has begun and goes on when it is told.
fn slow(begun: &Arc<Notify>, go: &Arc<Notify>) -> Router {
    let (begun, go) = (Arc::clone(begun), Arc::clone(go));
    Router::new().route(
        "/",
        get(move |request: axum::extract::Request| async move {
            let standing = request.extensions().get::<Standing>().unwrap().clone();
            standing.admit().await;
            begun.notify_one();
            go.notified().await;
            "done"
        }),
    )
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn a_request_that_has_begun_is_answered_after_the_stop() {
    let (begun, go) = (Arc::default(), Arc::default());
    let server = Server::start(slow(&begun, &go), GENEROUS).await;
    let mut client = server.connect().await;
    client.write_all(GET).await.unwrap();
    begun.notified().await;
    server.stop.notify_one();
    tokio::task::yield_now().await;
    go.notify_one();
    let answer = read_to_end(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
    server.task.await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn an_idle_connection_does_not_delay_the_end() {
    let server = Server::start(Router::new(), GENEROUS).await;
    let mut client = server.connect().await;
    client.write_all(GET).await.unwrap();
    client.read_exact(&mut [0; 12]).await.unwrap();
    server.stop.notify_one();
    server.task.await.unwrap();
}

/// Each is sent with a second request behind it, `DELETE`, that a body or a head may hide. It must be answered as a request of
/// its own where it is one and not at all where it may not be one.
#[tokio::test]
async fn requests_that_two_servers_read_differently_are_refused_or_are_the_last_of_their_connection() {
    let refused = "HTTP/1.1 400";
    let cases: [(&str, &str, &str); 18] = [
        ("length and chunks", "content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "POST 0."),
        ("chunks and length", "transfer-encoding: chunked\r\ncontent-length: 6\r\n\r\n0\r\n\r\n", "POST 0."),
        ("two lengths", "content-length: 0\r\ncontent-length: 6\r\n\r\n", refused),
        ("two lengths in one", "content-length: 0, 6\r\n\r\n", refused),
        ("a signed length", "content-length: +0\r\n\r\n", refused),
        ("a negative length", "content-length: -1\r\n\r\n", refused),
        ("a length that is none", "content-length: 0x0\r\n\r\n", refused),
        ("a length beyond numbers", "content-length: 99999999999999999999999\r\n\r\n", refused),
        ("another coding", "transfer-encoding: gzip\r\n\r\n0\r\n\r\n", refused),
        ("chunks that are not last", "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", refused),
        ("a coding that looks like it", "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", refused),
        ("a name before a space", "transfer-encoding : chunked\r\n\r\n0\r\n\r\n", refused),
        ("a folded line", "x: a\r\n transfer-encoding: chunked\r\n\r\n", refused),
        ("a name with a control character", "x\x0b: a\r\n\r\n", refused),
        ("a value with a carriage return", "x: a\rtransfer-encoding: chunked\r\n\r\n", refused),
        ("a value with a zero", "x: a\0b\r\n\r\n", refused),
        ("a chunk that is not closed", "transfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", ""),
        ("a chunk beyond numbers", "transfer-encoding: chunked\r\n\r\n11111111111111111\r\na", ""),
    ];
    let server = Server::start(measure(), GENEROUS).await;
    for (what, head, expected) in cases {
        let request = format!("POST / HTTP/1.1\r\nhost: x\r\n{head}DELETE / HTTP/1.1\r\nhost: x\r\n\r\n");
        let answer = server.say(request.as_bytes()).await;
        assert!(answer.contains(expected), "{what}: {answer}");
        assert!(!answer.contains("DELETE"), "{what}: {answer}");
    }
    let old =
        "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nDELETE / HTTP/1.1\r\nhost: x\r\n\r\n";
    let answer = server.say(old.as_bytes()).await;
    assert!(!answer.contains("DELETE") && !answer.contains(" 200"), "{answer}");
}

#[tokio::test]
async fn requests_that_read_in_one_way_are_served_one_after_the_other() {
    let server = Server::start(measure(), GENEROUS).await;
    let answer = server
        .say(
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc\
              PUT / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 30\r\n\r\nDELETE / HTTP/1.1\r\nhost: x\r\n\r\n.",
        )
        .await;
    assert!(
        answer.contains("POST 3.") && answer.contains("PUT 30.") && !answer.contains("DELETE"),
        "{answer}"
    );
    let tricks = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n\
        000003;name=\"value\"\r\nabc\r\n0\r\ncontent-length: 7\r\n\r\n";
    assert!(server.say(tricks).await.contains("POST 3."), "extensions and trailers are passed over");
}

#[tokio::test]
async fn heads_are_bounded() {
    let server = Server::start(measure(), GENEROUS).await;
    let head = |lines: &str| format!("GET / HTTP/1.1\r\nhost: x\r\n{lines}connection: close\r\n\r\n");
    let long = |len: usize| format!("x: {}\r\n", "a".repeat(len));
    let many = |count: usize| "x: a\r\n".repeat(count);
    for (what, request, status) in [
        ("a long header", head(&long(MAX_HEAD_LEN - 1024)), 200),
        ("a header that is too long", head(&long(2 * MAX_HEAD_LEN)), 431),
        ("many headers", head(&many(90)), 200),
        ("too many headers", head(&many(200)), 431),
        ("a URI that is too long", format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(2 * MAX_HEAD_LEN)), 431),
        ("a method that is none", "G@T / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("another version", "GET / HTTP/3.0\r\n\r\n".to_owned(), 400),
        ("another protocol", "\x16\x03\x01\x02\x00".to_owned(), 400),
    ] {
        let answer = server.say(request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{what}: {answer}");
    }
    // A head without an end, of whatever length, is cut off at the bound.
    let mut client = server.connect().await;
    let mut sent = 0;
    while client.write_all(&[b'a'; 4096]).await.is_ok() {
        sent += 4096;
        assert!(sent < 64 << 20, "nobody stops reading");
    }
}

#[tokio::test]
async fn a_head_that_trickles_in_is_given_up() {
    let bounds = Bounds { head_timeout: Duration::from_millis(200), ..GENEROUS };
    let server = Server::start(measure(), bounds).await;
    let mut client = server.connect().await;
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let (mut reader, mut writer) = client.split();
    let trickle = async {
        // A byte now and then does not buy time.
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut answer = [0; 64];
    tokio::select! {
        ended = reader.read(&mut answer) => assert!(!answer.starts_with(b"HTTP/1.1 200"), "{ended:?}"),
        () = trickle => {}
    }
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up() {
    let bounds = Bounds { write_timeout: Duration::from_millis(200), ..GENEROUS };
    let router = Router::new().route("/", get(|| async { vec![0; 64 << 20] }));
    let server = Server::start(router, bounds).await;
    let mut client = server.connect().await;
    client.write_all(GET).await.unwrap();
    // The stop waits for answers that are under way: for ever, if this one were.
    client.readable().await.unwrap();
    server.stop.notify_one();
    server.task.await.unwrap();
}

#[tokio::test]
async fn who_has_waited_for_longest_makes_room_and_who_is_served_does_not() {
    let (begun, go) = (Arc::default(), Arc::default());
    let router = slow(&begun, &go).merge(measure());
    let server = Server::start(router, Bounds { connections: 3, ..GENEROUS }).await;
    let mut served = server.connect().await;
    served.write_all(GET).await.unwrap();
    begun.notified().await;
    // One in the middle of a body that nobody has admitted, one that says nothing.
    let mut body = server.connect().await;
    body.write_all(b"POST /measure HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n").await.unwrap();
    let mut idle = server.connect().await;
    for _ in 0..20 {
        let mut next = server.connect().await;
        next.write_all(b"GET /measure HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        next.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
    assert_eq!(read_to_end(&mut idle).await, "");
    go.notify_one();
    let mut answer = [0; 12];
    served.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}
