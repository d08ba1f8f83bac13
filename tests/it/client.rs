//! boto3 as a Rust value: a [`Client`] has the settings of a boto3 client, and calls go through one Python process for
//! the whole run (`tests/clients/driver.py`), as many at once as a test likes.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::setting;

/// Longer than any answer takes on an emulated machine that is busy with other tests, in seconds.
const ANSWER_TIMEOUT_S: u32 = 600;

/// An AWS error as boto3 raises it. `status` is 0 when no answer came at all; `code` is the exception's name then.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiError {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) status: u64,
    /// The parsed answer, with its own members and `ResponseMetadata`.
    pub(crate) response: Value,
}

/// The settings of a boto3 client.
#[derive(Clone)]
pub(crate) struct Client {
    driver: Arc<Driver>,
    endpoint: String,
    access_key_id: String,
    secret_access_key: String,
    region: String,
    signing: Signing,
    answer_timeout_s: u32,
    /// File of who vouches for an https endpoint.
    ca: Option<PathBuf>,
    service: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
enum Signing {
    Signed,
    Unsigned,
}

impl Client {
    /// With the key `test`/`test` that every node of these tests knows.
    pub(crate) fn new(endpoint: &str) -> Self {
        static SHARED: OnceLock<Arc<Driver>> = OnceLock::new();
        Self {
            driver: SHARED.get_or_init(|| Arc::new(Driver::start(0))).clone(),
            endpoint: endpoint.to_owned(),
            access_key_id: "test".into(),
            secret_access_key: "test".into(),
            region: "us-east-1".into(),
            signing: Signing::Signed,
            answer_timeout_s: ANSWER_TIMEOUT_S,
            ca: None,
            service: "lambda",
        }
    }

    pub(crate) fn with_key(self, access_key_id: &str, secret_access_key: &str) -> Self {
        Self { access_key_id: access_key_id.into(), secret_access_key: secret_access_key.into(), ..self }
    }

    /// Takes whom the certificates in a file vouch for.
    pub(crate) fn trusting(self, ca: &Path) -> Self {
        Self { ca: Some(ca.to_owned()), ..self }
    }

    pub(crate) fn in_region(self, region: &str) -> Self {
        Self { region: region.into(), ..self }
    }

    /// Of CloudWatch Logs.
    pub(crate) fn of_logs(self) -> Self {
        Self { service: "logs", ..self }
    }

    pub(crate) fn unsigned(self) -> Self {
        Self { signing: Signing::Unsigned, ..self }
    }

    /// Signs as if it were so many seconds later (or earlier) than it is.
    pub(crate) fn with_clock_off_by(self, seconds: i64) -> Self {
        Self { driver: Arc::new(Driver::start(seconds)), ..self }
    }

    /// Gives a call up that is not answered in this time.
    pub(crate) fn with_answer_within(self, seconds: u32) -> Self {
        Self { answer_timeout_s: seconds, ..self }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// One operation, named as boto3 names it.
    pub(crate) fn call(&self, operation: &str, args: Value) -> Result<Value, ApiError> {
        self.begin(operation, args).end()
    }

    /// Sends an operation without waiting for its answer.
    pub(crate) fn begin(&self, operation: &str, args: Value) -> Call {
        Call(self.driver.ask(json!({ "operation": operation, "client": self.settings(), "args": args })))
    }

    /// All pages of an operation as one answer.
    pub(crate) fn pages(&self, operation: &str, args: Value) -> Result<Value, ApiError> {
        let asked = json!({ "paginator": operation, "client": self.settings(), "args": args });
        Call(self.driver.ask(asked)).end()
    }

    /// One of boto3's waiters.
    pub(crate) fn wait(&self, waiter: &str, args: Value) -> Result<(), ApiError> {
        let answer = self.driver.ask(json!({ "waiter": waiter, "client": self.settings(), "args": args }));
        Call(answer).end().map(drop)
    }

    /// A request to a function's URL, signed as this client signs: `method`, and if they are there `body` and `headers`.
    pub(crate) fn fetch(&self, url: &str, args: Value) -> Value {
        let answer = self.driver.ask(json!({ "url": url, "client": self.settings(), "args": args }));
        Call(answer).end().expect("a URL answers")
    }

    fn settings(&self) -> Value {
        json!({
            "endpoint": self.endpoint,
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
            "region": self.region,
            "unsigned": self.signing == Signing::Unsigned,
            "timeout_s": self.answer_timeout_s,
            "ca": self.ca,
            "service": self.service,
        })
    }
}

/// A call that was sent.
pub(crate) struct Call(Receiver<Value>);

impl Call {
    /// Waits for the answer.
    pub(crate) fn end(self) -> Result<Value, ApiError> {
        let mut answer = self.0.recv().expect("the boto3 driver ended; its error is above");
        if let Some(error) = answer.get("error") {
            let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
            return Err(ApiError {
                code: text("code"),
                message: text("message"),
                status: error["status"].as_u64().unwrap_or_default(),
                response: error["response"].clone(),
            });
        }
        Ok(answer["ok"].take())
    }
}

/// Bytes as the driver takes them.
pub(crate) fn bytes(bytes: &[u8]) -> Value {
    json!({ "__bytes__": STANDARD.encode(bytes) })
}

/// Bytes as the driver returns them.
pub(crate) fn to_bytes(value: &Value) -> Vec<u8> {
    let text = value["__bytes__"].as_str().unwrap_or_else(|| panic!("not bytes: {value}"));
    STANDARD.decode(text).expect("the driver's base64")
}

/// The Python of the tests' virtual environment.
pub(crate) fn python() -> PathBuf {
    setting("TINDERBOX_TEST_VENV").join("bin/python")
}

/// The folder `tests/` of the checkout.
pub(crate) fn tests_folder() -> PathBuf {
    // At run time: a target folder shared by two checkouts holds one binary for both.
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// The Python process.
struct Driver {
    input: Mutex<ChildStdin>,
    waiting: Arc<Mutex<HashMap<u64, Sender<Value>>>>,
    next_id: AtomicU64,
    /// Ends by itself when its input is closed.
    _process: Child,
}

impl Driver {
    fn start(skew_clock_s: i64) -> Self {
        let mut process = Command::new(python())
            .arg(tests_folder().join("clients/driver.py"))
            .arg(format!("--skew-clock-s={skew_clock_s}"))
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the boto3 driver");
        let input = process.stdin.take().expect("standard input is piped");
        let output = BufReader::new(process.stdout.take().expect("standard output is piped"));
        let waiting: Arc<Mutex<HashMap<u64, Sender<Value>>>> = Arc::default();
        let senders = Arc::clone(&waiting);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let answer: Value = serde_json::from_str(&line).expect("the driver answers in JSON");
                let id = answer["id"].as_u64().expect("an answer has its request's id");
                let sender = senders.lock().expect("no panic under this lock").remove(&id);
                // A test that no longer waits has failed already.
                sender.map(|sender| sender.send(answer));
            }
            // Whoever still waits is told by the end of its channel.
            senders.lock().expect("no panic under this lock").clear();
        });
        Self { input: Mutex::new(input), waiting, next_id: AtomicU64::new(0), _process: process }
    }

    fn ask(&self, mut request: Value) -> Receiver<Value> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        request["id"] = id.into();
        let (sender, receiver) = channel();
        self.waiting.lock().expect("no panic under this lock").insert(id, sender);
        let mut input = self.input.lock().expect("no panic under this lock");
        writeln!(input, "{request}").expect("the boto3 driver takes requests");
        receiver
    }
}
