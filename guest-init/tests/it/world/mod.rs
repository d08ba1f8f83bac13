//! The world around a sandbox under test: the agent's end of its connection, a launcher that only keeps books, and an
//! HTTP client for the runtime's calls. Everything runs on one thread; a world that gets stuck fails its test.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod book;
mod client;
mod messages;
mod subscriber;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::Duration;

use guest_init::control::{self, Agent, Dial, Link};
use guest_init::lifecycle::Exit;
use guest_init::runtime_api::{self, CredentialStore};
use guest_init::sandbox::{self, Connections};
use guest_protocol::{
    BodyChunk, FrameReader, FunctionError, GuestMessage, HostMessage, InvocationReport, Invoke, LogFormat,
    MAX_CHUNK_LEN, Outcome, ResponseMode, Start, SystemLogLevel, encode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream, unix};
use tokio::sync::{mpsc, watch};

use book::{Bookkeeper, Books};
pub(crate) use client::{Pending, Reply, Runtime};
pub(crate) use messages::unique;
use messages::{snap_start, start};
pub(crate) use subscriber::{Extension, kinds};

/// How long a test may take: far above what any needs, far below what a person waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// Limit of an init that is to meet it; more than a few calls take.
const HASTE_MS: u32 = 500;

/// Runs a test in a fresh world.
pub(crate) fn in_world(test: impl AsyncFnOnce(World)) {
    in_world_of(start(), test);
}

/// The same for a function that is to be snapshotted.
pub(crate) fn in_snap_start_world(test: impl AsyncFnOnce(World)) {
    in_world_of(snap_start(), test);
}

/// The same with a limit that an init which hangs meets soon.
pub(crate) fn in_hasty_snap_start_world(test: impl AsyncFnOnce(World)) {
    in_world_of(Start { init_timeout_ms: HASTE_MS, ..snap_start() }, test);
}

/// The same for one of these external extensions, whose log is JSON; an init that hangs meets its limit soon.
pub(crate) fn in_json_world_with(extensions: &[&'static str], test: impl AsyncFnOnce(World)) {
    let start =
        Start { log_format: LogFormat::Json(SystemLogLevel::Warn), init_timeout_ms: HASTE_MS, ..start() };
    in_full_world(start, extensions.to_vec(), test);
}

/// The same for a function that is to be snapshotted and has these external extensions.
pub(crate) fn in_snap_start_world_with(extensions: &[&'static str], test: impl AsyncFnOnce(World)) {
    in_full_world(snap_start(), extensions.to_vec(), test);
}

/// The same for a function with these external extensions, in which no runtime has been started yet.
pub(crate) fn in_world_with(extensions: &[&'static str], test: impl AsyncFnOnce(World)) {
    in_full_world(start(), extensions.to_vec(), test);
}

fn in_world_of(start: Start, test: impl AsyncFnOnce(World)) {
    in_full_world(start, Vec::new(), test);
}

fn in_full_world(start: Start, extensions: Vec<&'static str>, test: impl AsyncFnOnce(World)) {
    let event_loop = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async {
        let world = World::new(start, extensions).await;
        test(world).await;
    };
    let test = async { tokio::time::timeout(PATIENCE, test).await.expect("the test is stuck") };
    tokio::task::LocalSet::new().block_on(&event_loop, test);
}

/// A sandbox and everything around it.
pub(crate) struct World {
    incoming: unix::OwnedReadHalf,
    frames: FrameReader,
    outgoing: mpsc::UnboundedSender<Vec<u8>>,
    books: Rc<RefCell<Books>>,
    launched: watch::Receiver<usize>,
    /// The agent's ends of connections that the guest makes after a resume.
    dialled: mpsc::UnboundedReceiver<UnixStream>,
    runtime: Runtime,
}

/// What the agent has seen up to a message.
#[derive(Default)]
pub(crate) struct Seen {
    /// Platform's and function's log, as one text.
    pub(crate) log: String,
    /// The last response's document.
    pub(crate) response: Vec<u8>,
    /// The last error that was an answer.
    pub(crate) error: Option<FunctionError>,
}

impl World {
    async fn new(start: Start, extensions: Vec<&'static str>) -> Self {
        let precedes = !extensions.is_empty();
        let (agent, guest) = UnixStream::pair().unwrap();
        let (from_agent, to_agent) = guest.into_split();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (to_sandbox, calls) = mpsc::channel(8);
        let credentials = CredentialStore::default();
        tokio::task::spawn_local(runtime_api::serve(listener, to_sandbox, credentials.clone()));
        let (dialling, dialled) = mpsc::unbounded_channel();
        let dial: Dial = Box::new(move || {
            let (agent, guest) = UnixStream::pair().unwrap();
            let accepted = dialling.send(agent).map_err(io::Error::other);
            let (from_agent, to_agent) = guest.into_split();
            let link = Link {
                requests: control::spawn_reader(from_agent, std::future::pending()),
                outgoing: Box::new(to_agent),
            };
            Box::pin(std::future::ready(accepted.map(|()| link)))
        });
        let connections = Connections {
            requests: control::spawn_reader(from_agent, std::future::pending()),
            agent: Agent::spawn(Box::new(to_agent)),
            dial,
            calls,
            runtime_api: address.clone(),
            credentials,
        };
        let (launched, watch) = watch::channel(0);
        let books = Books {
            launched,
            kills: 0,
            ends_of_runtime: 0,
            extensions,
            extension_exits: HashMap::new(),
            machine: vec![],
            fails: None,
            environment: None,
            exit: None,
            output: None,
        };
        let books = Rc::new(RefCell::new(books));
        tokio::task::spawn_local(sandbox::run(start, Bookkeeper(Rc::clone(&books)), connections));
        let (incoming, outgoing) = carry(agent);
        let runtime = Runtime::at(address);
        let frames = FrameReader::default();
        let mut world = Self { incoming, frames, outgoing, books, launched: watch, dialled, runtime };
        if !precedes {
            world.until_launched(1).await;
        }
        world
    }

    /// The guest has been resumed: its old connection breaks, and it makes a new one.
    pub(crate) async fn resume(&mut self) {
        let (incoming, outgoing) = carry(UnixStream::pair().unwrap().0);
        self.incoming = incoming;
        self.outgoing = outgoing;
        self.frames = FrameReader::default();
        let agent = self.dialled.recv().await.unwrap();
        (self.incoming, self.outgoing) = carry(agent);
        self.until(|message| matches!(message, GuestMessage::Resumed(_))).await;
    }

    /// Lets the step of this name fail.
    pub(crate) fn fail(&self, step: &'static str) {
        self.books.borrow_mut().fails = Some(step);
    }

    /// What was done to the machine since the last call.
    pub(crate) fn done_to_machine(&self) -> Vec<String> {
        std::mem::take(&mut self.books.borrow_mut().machine)
    }

    /// A variable of the runtime's environment.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        self.books.borrow().environment.as_ref()?.get(name).map(str::to_owned)
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

    /// The same with an invocation whose response is wanted as it comes.
    pub(crate) async fn streaming(&mut self) -> Runtime {
        let runtime = self.runtime();
        let next = runtime.get("invocation/next").await;
        self.until_init_done().await;
        self.invoke_with(b"{}", |invoke| Invoke { response_mode: ResponseMode::Streamed, ..invoke });
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
            response_mode: ResponseMode::Buffered,
        });
        self.send(&HostMessage::Invoke(invoke));
        let mut pieces = event.chunks(MAX_CHUNK_LEN).peekable();
        while let Some(piece) = pieces.next() {
            let last = pieces.peek().is_none();
            self.send(&HostMessage::Body(BodyChunk { bytes: piece.to_vec(), last }));
        }
    }

    pub(crate) fn send(&self, message: &HostMessage) {
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

    /// Reads until the invocation is done; an error that was told before is in its report.
    pub(crate) async fn until_done(&mut self) -> (InvocationReport, Seen) {
        let done = self.collect(|message| match message {
            GuestMessage::Done(report) => Some(report.clone()),
            _ => None,
        });
        let (mut report, mut seen) = done.await;
        if let (Outcome::Failed(error), Some(told)) = (&mut report.outcome, seen.error.take()) {
            assert_eq!((&error.error_type, error.payload.len()), (&told.error_type, 0), "it is told once");
            *error = told;
        }
        (report, seen)
    }

    pub(crate) async fn collect<T>(&mut self, wanted: impl Fn(&GuestMessage) -> Option<T>) -> (T, Seen) {
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
                    GuestMessage::Failed(error) => seen.error = Some(error),
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

    /// Closes the function's standard output and error.
    pub(crate) fn function_closes_output(&self) {
        self.books.borrow_mut().output = None;
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

    /// Ends the process of an extension.
    pub(crate) fn extension_exits(&self, name: &str, exit: Exit) {
        let process = self.books.borrow_mut().extension_exits.remove(name);
        process.unwrap().send(exit).unwrap();
    }

    /// How often the runtime's end was asked for, and no extension's.
    pub(crate) fn ends_of_runtime(&self) -> usize {
        self.books.borrow().ends_of_runtime
    }

    /// How often the runtime was started.
    pub(crate) fn launches(&self) -> usize {
        *self.launched.borrow()
    }

    /// How often the function's processes were killed.
    pub(crate) fn kills(&self) -> usize {
        self.books.borrow().kills
    }
}

/// Splits the agent's end; what is queued is written in order.
fn carry(agent: UnixStream) -> (unix::OwnedReadHalf, mpsc::UnboundedSender<Vec<u8>>) {
    let (incoming, mut to_guest) = agent.into_split();
    let (outgoing, mut queue) = mpsc::unbounded_channel::<Vec<u8>>();
    tokio::task::spawn_local(async move {
        while let Some(bytes) = queue.recv().await {
            to_guest.write_all(&bytes).await.unwrap();
        }
    });
    (incoming, outgoing)
}
