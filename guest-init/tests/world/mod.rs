//! The world around a sandbox under test: the agent's end of its connection, a launcher that only keeps books, and an
//! HTTP client for the runtime's calls. Everything runs on one thread; a world that gets stuck fails its test.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::cell::RefCell;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use guest_init::control;
use guest_init::environment::Environment;
use guest_init::lifecycle::Exit;
use guest_init::platform_log::Memory;
use guest_init::runtime_api;
use guest_init::sandbox::{self, Connections, LaunchError, Launched, Launcher};
use guest_protocol::{
    BodyChunk, FrameReader, GuestMessage, HostMessage, InitializationType, InvocationReport, Invoke,
    MAX_CHUNK_LEN, Start, encode,
};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream, unix};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// How long a test may take: far above what any needs, far below what a person waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test in a fresh world.
pub(crate) fn in_world(test: impl AsyncFnOnce(World)) {
    let event_loop = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async {
        let world = World::new().await;
        test(world).await;
    };
    let test = async { tokio::time::timeout(PATIENCE, test).await.expect("the test is stuck") };
    tokio::task::LocalSet::new().block_on(&event_loop, test);
}

/// What the launcher has done, and the ends that a real process would hold.
struct Books {
    launched: watch::Sender<usize>,
    kills: usize,
    exit: Option<oneshot::Sender<Exit>>,
    output: Option<OwnedFd>,
}

struct Bookkeeper(Rc<RefCell<Books>>);

impl Launcher for Bookkeeper {
    fn launch(&mut self, _: &Environment) -> Result<Launched, LaunchError> {
        let (output, writer) = std::io::pipe().unwrap();
        let (tell, exit) = oneshot::channel();
        let mut books = self.0.borrow_mut();
        books.exit = Some(tell);
        books.output = Some(writer.into());
        books.launched.send_modify(|count| *count += 1);
        Ok(Launched { exit, output: output.into() })
    }

    fn kill(&mut self) {
        self.0.borrow_mut().kills += 1;
    }

    fn memory(&self) -> Memory {
        Memory { size_mib: 0, used_mib: 20, exhausted: false }
    }
}

/// A sandbox and everything around it.
pub(crate) struct World {
    incoming: unix::OwnedReadHalf,
    frames: FrameReader,
    outgoing: mpsc::UnboundedSender<Vec<u8>>,
    books: Rc<RefCell<Books>>,
    launched: watch::Receiver<usize>,
    runtime: Runtime,
}

/// What the agent has seen up to a message.
#[derive(Default)]
pub(crate) struct Seen {
    /// Platform's and function's log, as one text.
    pub(crate) log: String,
    /// The last response's document.
    pub(crate) response: Vec<u8>,
}

impl World {
    async fn new() -> Self {
        let (agent, guest) = UnixStream::pair().unwrap();
        let (from_agent, to_agent) = guest.into_split();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (to_sandbox, calls) = mpsc::channel(8);
        tokio::task::spawn_local(runtime_api::serve(listener, to_sandbox));
        let connections = Connections {
            requests: control::spawn_reader(from_agent),
            agent: control::spawn_writer(to_agent),
            calls,
            runtime_api: address.clone(),
        };
        let (launched, watch) = watch::channel(0);
        let books = Books { launched, kills: 0, exit: None, output: None };
        let books = Rc::new(RefCell::new(books));
        tokio::task::spawn_local(sandbox::run(start(), Bookkeeper(Rc::clone(&books)), connections));
        let (incoming, mut to_guest) = agent.into_split();
        let (outgoing, mut queue) = mpsc::unbounded_channel::<Vec<u8>>();
        tokio::task::spawn_local(async move {
            while let Some(bytes) = queue.recv().await {
                to_guest.write_all(&bytes).await.unwrap();
            }
        });
        let runtime = Runtime { address };
        let frames = FrameReader::default();
        let mut world = Self { incoming, frames, outgoing, books, launched: watch, runtime };
        world.until_launched(1).await;
        world
    }

    /// The client that plays the runtime.
    pub(crate) fn runtime(&self) -> Runtime {
        self.runtime.clone()
    }

    /// A runtime that has taken invocation `id-1`.
    pub(crate) async fn running(&mut self) -> Runtime {
        let runtime = self.runtime();
        let next = runtime.get("invocation/next").await;
        self.until_init_done().await;
        self.invoke(b"{}");
        assert_eq!(next.await.status, 200);
        runtime
    }

    /// Sends invocation `id-1`.
    pub(crate) fn invoke(&self, event: &[u8]) {
        self.invoke_with(event, |invoke| invoke);
    }

    /// Sends it with changes.
    pub(crate) fn invoke_with(&self, event: &[u8], change: impl FnOnce(Invoke) -> Invoke) {
        let invoke = change(Invoke {
            request_id: "id-1".into(),
            timeout_ms: 20_000,
            invoked_function_arn: "arn:f".into(),
            trace_id: "Root=1".into(),
            client_context: None,
            cognito_identity: None,
            event_len: u32::try_from(event.len()).unwrap(),
        });
        self.send(&HostMessage::Invoke(invoke));
        let mut pieces = event.chunks(MAX_CHUNK_LEN).peekable();
        while let Some(piece) = pieces.next() {
            let last = pieces.peek().is_none();
            self.send(&HostMessage::Body(BodyChunk { bytes: piece.to_vec(), last }));
        }
    }

    fn send(&self, message: &HostMessage) {
        self.outgoing.send(encode(message).unwrap()).unwrap();
    }

    /// Reads until a message of this kind.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&GuestMessage) -> bool) -> Seen {
        self.collect(|message| wanted(message).then_some(())).await.1
    }

    /// Reads until init is done.
    pub(crate) async fn until_init_done(&mut self) {
        self.until(|message| matches!(message, GuestMessage::InitDone(_))).await;
    }

    /// Reads until the invocation is done.
    pub(crate) async fn until_done(&mut self) -> (InvocationReport, Seen) {
        self.collect(|message| match message {
            GuestMessage::Done(report) => Some(report.clone()),
            _ => None,
        })
        .await
    }

    async fn collect<T>(&mut self, wanted: impl Fn(&GuestMessage) -> Option<T>) -> (T, Seen) {
        let mut seen = Seen::default();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            while let Some(message) = self.frames.next_message::<GuestMessage>().unwrap() {
                if let Some(found) = wanted(&message) {
                    return (found, seen);
                }
                match message {
                    GuestMessage::Log(chunk) => seen.log.push_str(&String::from_utf8_lossy(&chunk.bytes)),
                    GuestMessage::Response(_) => seen.response.clear(),
                    GuestMessage::Body(chunk) => seen.response.extend(chunk.bytes),
                    _ => {}
                }
            }
            let len = self.incoming.read(&mut buffer).await.unwrap();
            assert_ne!(len, 0, "the sandbox hung up; it had logged {:?}", seen.log);
            self.frames.push(&buffer[..len]);
        }
    }

    /// Waits for the n-th start of the runtime's process.
    pub(crate) async fn until_launched(&mut self, count: usize) {
        self.launched.wait_for(|launched| *launched >= count).await.unwrap();
    }

    /// Writes to the function's standard output.
    pub(crate) fn function_writes(&self, bytes: &[u8]) {
        let books = self.books.borrow();
        let mut output = std::fs::File::from(books.output.as_ref().unwrap().try_clone().unwrap());
        output.write_all(bytes).unwrap();
    }

    /// Writes as fast as the pipe takes it, until nothing was taken for the time of `quiet`; how much it was.
    pub(crate) async fn function_floods(&self, quiet: Duration) -> usize {
        let output = self.books.borrow().output.as_ref().unwrap().try_clone().unwrap();
        let output = unix::pipe::Sender::from_owned_fd(output).unwrap();
        let mut taken = 0;
        while let Ok(writable) = tokio::time::timeout(quiet, output.writable()).await {
            writable.unwrap();
            taken += output.try_write(&[b'~'; 4096]).unwrap_or(0);
        }
        taken
    }

    /// Ends the runtime's process.
    pub(crate) fn runtime_exits(&self, exit: Exit) {
        let mut books = self.books.borrow_mut();
        books.output = None;
        books.exit.take().unwrap().send(exit).unwrap();
    }

    /// How often the function's processes were killed.
    pub(crate) fn kills(&self) -> usize {
        self.books.borrow().kills
    }
}

/// An HTTP client for the Runtime API.
#[derive(Clone)]
pub(crate) struct Runtime {
    address: String,
}

/// What the Runtime API answered.
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: hyper::HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    pub(crate) fn error_type(&self) -> String {
        let document: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        document["errorType"].as_str().unwrap().to_owned()
    }
}

/// A call under way. Dropping it breaks its connection.
pub(crate) struct Pending(JoinHandle<Reply>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Future for Pending {
    type Output = Reply;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Reply> {
        std::pin::Pin::new(&mut self.0).poll(context).map(Result::unwrap)
    }
}

impl Runtime {
    /// Sends a GET; the answer is awaited apart.
    pub(crate) async fn get(&self, path: &str) -> Pending {
        self.call("GET", path, b"").await
    }

    /// Sends a POST.
    pub(crate) async fn post(&self, path: &str, body: &[u8]) -> Pending {
        self.call("POST", path, body).await
    }

    async fn call(&self, method: &str, path: &str, body: &[u8]) -> Pending {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let request = Request::builder()
            .method(method)
            .uri(format!("/2018-06-01/runtime/{path}"))
            .header("host", &self.address)
            .header("lambda-runtime-function-error-type", "Function.Test")
            .body(Full::new(Bytes::copy_from_slice(body)))
            .unwrap();
        Pending(tokio::task::spawn_local(async move {
            // In one task, so that dropping the call drops the connection.
            let reply = async {
                let (head, body) = sender.send_request(request).await.unwrap().into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                Reply { status: head.status.as_u16(), headers: head.headers, body }
            };
            tokio::pin!(connection, reply);
            tokio::select! {
                reply = &mut reply => reply,
                result = &mut connection => {
                    result.unwrap();
                    reply.await
                }
            }
        }))
    }
}

fn start() -> Start {
    Start {
        function_name: "f".into(),
        function_version: "$LATEST".into(),
        handler: "app.handler".into(),
        memory_mib: 128,
        init_timeout_ms: 20_000,
        timeout_ms: 20_000,
        region: "us-east-1".into(),
        log_group: "/aws/lambda/f".into(),
        log_stream: "s".into(),
        wall_clock_unix_ns: 0,
        entropy: [0; 32],
        environment: vec![],
        platform_environment: vec![],
        credentials: None,
        initialization_type: InitializationType::OnDemand,
    }
}
