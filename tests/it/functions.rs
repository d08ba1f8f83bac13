//! Functions on a node: what to create from `tests/functions`, and what an invocation answered.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::client::{ApiError, Call, Client, bytes, tests_folder, to_bytes};
use crate::setting;

/// Memory of a function unless a test says otherwise.
pub(crate) const MEMORY_MIB: u32 = 192;

/// Memory of a function in Java.
const JAVA_MEMORY_MIB: u32 = 512;

/// Timeout of a function unless a test says otherwise: an emulated machine takes tens of seconds when it is busy.
const TIMEOUT_S: u32 = 120;

/// Characters of a payload that a failure shows.
const SHOWN_CHARS: usize = 1000;

/// Any role does: a node hands out no credentials.
pub(crate) const ROLE: &str = "arn:aws:iam::000000000000:role/lambda-role";

/// What CreateFunction is told, with a name that no other test uses.
pub(crate) struct Function {
    args: Value,
}

/// A function on a node; deleted when dropped.
pub(crate) struct Deployed {
    pub(crate) name: String,
    pub(crate) arn: String,
    client: Client,
    /// The version that is called, when it is not `$LATEST`.
    version: Option<String>,
}

/// How the sandboxes of a function come to be. A test runs in both lives, by [`in_both_lives`], unless
///
/// * no sandbox answers in it: `api`, `auth`, `command_line` and `refusals` but for the tests there that call a function for
///   what they changed or sent; `invoke`'s dry run; `image` and `machine`'s configurations. A call or two in such a test
///   shows that the node is well;
/// * the function's init fails in it, so that there is nothing to take a snapshot of: three of `faults`, one of `runtimes`.
///   What a publication says then, `snapstart` tests;
/// * it is about one life, or tells them apart: `java`, `snapstart`, `runtime_snapshots`, `kills`, `uniqueness`, `persistence`,
///   `invoke`'s qualifiers and phases;
/// * it keeps an emulated machine busy for minutes, and the other life differs in nothing that it is about, or in what another test
///   looks at: `limits`, `network`, changed code in `api`, links in `refusals`, a layer's runtime in `layers`;
/// * its guest runs no function, and its other life is a test in `snapshots`: kernels, processors, memory and disks of
///   `machine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Each is booted and initialised: `$LATEST` is called.
    Booted,
    /// Each is a clone of a snapshot: a published version with SnapStart is called.
    Restored,
}

/// Makes two tests of each function that takes a [`Life`].
macro_rules! in_both_lives {
    ($($test:ident,)+) => {
        mod booted {
            $(#[test] fn $test() { super::$test($crate::functions::Life::Booted); })+
        }
        mod restored {
            $(#[test] fn $test() { super::$test($crate::functions::Life::Restored); })+
        }
    };
}
pub(crate) use in_both_lives;

/// What Invoke answered.
pub(crate) struct Invocation {
    pub(crate) status: u64,
    pub(crate) function_error: Option<String>,
    pub(crate) executed_version: Option<String>,
    pub(crate) payload: Vec<u8>,
    /// The decoded tail, when it was asked for.
    pub(crate) log: Option<String>,
}

impl Function {
    /// The Python function in `tests/functions/FOLDER`.
    pub(crate) fn python(folder: &str) -> Self {
        Self::new("python3.13", "app.handler", &zip_of(folder))
    }

    /// The Rust function of `examples`, built on AWS's own runtime client.
    pub(crate) fn rust() -> Self {
        Self::provided(&setting("TINDERBOX_RUST_HELLO"))
    }

    /// The Rust function without a runtime client, which knows nothing of snapshots.
    pub(crate) fn plain() -> Self {
        Self::provided(&setting("TINDERBOX_PLAIN_RUST"))
    }

    /// The Java function, by one of its handlers, with the memory that a JVM wants.
    pub(crate) fn java(handler: &str) -> Self {
        let mut zip = Vec::new();
        entries_below(&setting("TINDERBOX_JAVA_FUNCTION"), "", &mut zip);
        Self::new("java21", handler, &zip.into()).with("MemorySize", JAVA_MEMORY_MIB)
    }

    /// A program that is its own runtime.
    pub(crate) fn provided(bootstrap: &Path) -> Self {
        let zip = json!([{ "name": "bootstrap", "file": bootstrap, "mode": 0o100_755 }]);
        Self::new("provided.al2023", "bootstrap", &zip)
    }

    /// A function that is a container image of the node.
    pub(crate) fn container(uri: &str) -> Self {
        let args = json!({
            "FunctionName": unique_name(),
            "PackageType": "Image",
            "Role": ROLE,
            "Code": { "ImageUri": uri },
            "MemorySize": MEMORY_MIB,
            "Timeout": TIMEOUT_S,
        });
        Self { args }
    }

    /// A function with exactly these entries in its zip; see `tests/clients/driver.py`.
    pub(crate) fn new(runtime: &str, handler: &str, zip: &Value) -> Self {
        let args = json!({
            "FunctionName": unique_name(),
            "Runtime": runtime,
            "Role": ROLE,
            "Handler": handler,
            "Code": { "ZipFile": { "__zip__": zip } },
            "MemorySize": MEMORY_MIB,
            "Timeout": TIMEOUT_S,
        });
        Self { args }
    }

    /// Adds a program in `restore.d` that does as it is ordered; see `tests/functions/plain-rust`.
    pub(crate) fn with_restore_hook(mut self, orders: &str) -> Self {
        let program = setting("TINDERBOX_RESTORE_HOOK");
        let zip = self.args["Code"]["ZipFile"]["__zip__"].as_array_mut().expect("code is a zip");
        zip.push(json!({ "name": "tinderbox/restore.d/10-report", "file": program, "mode": 0o100_755 }));
        self.with_file("orders", orders)
    }

    /// Adds a file to the zip.
    pub(crate) fn with_file(mut self, name: &str, text: &str) -> Self {
        let zip = self.args["Code"]["ZipFile"]["__zip__"].as_array_mut().expect("code is a zip");
        zip.push(json!({ "name": name, "text": text }));
        self
    }

    /// Sets or replaces a member of the request.
    pub(crate) fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.args[member] = value.into();
        self
    }

    /// All of it but its name.
    pub(crate) fn recipe(&self) -> String {
        let mut args = self.args.clone();
        args["FunctionName"] = Value::Null;
        args.to_string()
    }

    pub(crate) fn name(&self) -> String {
        self.args["FunctionName"].as_str().expect("a function has a name").to_owned()
    }

    /// The bare CreateFunction call.
    pub(crate) fn create(&self, client: &Client) -> Result<Value, ApiError> {
        client.call("create_function", self.args.clone())
    }

    /// Creates the function and waits until it is active.
    pub(crate) fn deploy(self, client: &Client) -> Deployed {
        let created = self.create(client).unwrap_or_else(|error| panic!("create {}: {error:?}", self.name()));
        let arn = created["FunctionArn"].as_str().expect("a created function has an ARN").to_owned();
        let function = Deployed { name: self.name(), arn, client: client.clone(), version: None };
        function.wait("function_active_v2");
        function
    }

    /// Creates the function and waits until calls of it are served in this way.
    pub(crate) fn deploy_in(self, life: Life, client: &Client) -> Deployed {
        match life {
            Life::Booted => self.deploy(client),
            Life::Restored => {
                let snap_start = json!({ "ApplyOn": "PublishedVersions" });
                let mut function = self.with("SnapStart", snap_start).deploy(client);
                function.version = Some(function.publish_active());
                function
            }
        }
    }
}

impl Deployed {
    /// Another call about this function; its name is filled in.
    pub(crate) fn call(&self, operation: &str, mut args: Value) -> Result<Value, ApiError> {
        args["FunctionName"] = self.name.as_str().into();
        self.client.call(operation, args)
    }

    /// Who deployed it.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn wait(&self, waiter: &str) {
        let waited = self.client.wait(waiter, json!({ "FunctionName": self.name }));
        waited.unwrap_or_else(|error| panic!("wait for {waiter} of {}: {error:?}", self.name));
    }

    /// What a call is told to be of: `$LATEST` or a number.
    pub(crate) fn called_version(&self) -> &str {
        self.version.as_deref().unwrap_or("$LATEST")
    }

    /// What a call is told to name.
    pub(crate) fn called_arn(&self) -> String {
        self.version.as_ref().map_or_else(|| self.arn.clone(), |version| format!("{}:{version}", self.arn))
    }

    /// Changes the configuration, and waits until calls are served with it.
    pub(crate) fn update(&mut self, change: Value) {
        self.change("update_function_configuration", change);
    }

    /// Changes the code, and waits until calls are served with it; what the update answered.
    pub(crate) fn update_code(&mut self, zip: &Value) -> Value {
        self.change("update_function_code", json!({ "ZipFile": { "__zip__": zip } }))
    }

    /// Has it be another image, and does not wait; what the update answered.
    pub(crate) fn update_image(&mut self, uri: &str) -> Value {
        let updated = self.call("update_function_code", json!({ "ImageUri": uri }));
        updated.unwrap_or_else(|error| panic!("update {}: {error:?}", self.name))
    }

    fn change(&mut self, operation: &str, change: Value) -> Value {
        let changed = self.call(operation, change);
        let changed = changed.unwrap_or_else(|error| panic!("{operation} of {}: {error:?}", self.name));
        self.wait("function_updated_v2");
        if self.version.is_some() {
            self.version = Some(self.publish_active());
        }
        changed
    }

    /// Publishes the function as it is; its version, which may still be pending.
    pub(crate) fn publish(&self) -> String {
        let published = self.call("publish_version", json!({}));
        let published = published.unwrap_or_else(|error| panic!("publish {}: {error:?}", self.name));
        published["Version"].as_str().expect("a version has a number").to_owned()
    }

    /// Publishes the function and waits until the version is active.
    pub(crate) fn publish_active(&self) -> String {
        let version = self.publish();
        let args = json!({ "FunctionName": self.name, "Qualifier": version });
        let waited = self.client.wait("published_version_active", args);
        waited.unwrap_or_else(|error| panic!("wait for version {version} of {}: {error:?}", self.name));
        version
    }

    /// The settings of a version.
    pub(crate) fn version(&self, version: &str) -> Value {
        let read = self.call("get_function_configuration", json!({ "Qualifier": version }));
        read.unwrap_or_else(|error| panic!("read {}:{version}: {error:?}", self.name))
    }

    /// Sends an invocation of a version or an alias without waiting for its answer.
    pub(crate) fn begin_as(&self, qualifier: &str, event: &Value) -> Call {
        let payload = bytes(event.to_string().as_bytes());
        let args = json!({
            "FunctionName": self.name, "Qualifier": qualifier, "Payload": payload, "LogType": "Tail",
        });
        self.client.begin("invoke", args)
    }

    /// Invokes a version or an alias; only the API's own errors are errors.
    pub(crate) fn invoke_as(&self, qualifier: &str, event: &Value) -> Result<Invocation, ApiError> {
        self.begin_as(qualifier, event).end().map(|answer| Invocation::parse(&answer))
    }

    /// Invokes with the log's tail; only the API's own errors are errors.
    pub(crate) fn try_invoke(&self, event: &Value) -> Result<Invocation, ApiError> {
        self.begin(event).end().map(|answer| Invocation::parse(&answer))
    }

    /// Invokes and expects an answer of the function or about it.
    pub(crate) fn invoke(&self, event: Value) -> Invocation {
        self.try_invoke(&event).unwrap_or_else(|error| panic!("invoke {} with {event}: {error:?}", self.name))
    }

    /// Invokes and expects the function's own answer, without an error.
    pub(crate) fn answer(&self, event: Value) -> Value {
        let invocation = self.invoke(event);
        assert_eq!(invocation.function_error, None, "{invocation:?}");
        invocation.json()
    }

    /// Sends an invocation without waiting for its answer.
    pub(crate) fn begin(&self, event: &Value) -> Call {
        self.begin_with(json!({ "Payload": bytes(event.to_string().as_bytes()), "LogType": "Tail" }))
    }

    /// Sends an invocation with these arguments without waiting for its answer.
    pub(crate) fn begin_with(&self, mut args: Value) -> Call {
        args["FunctionName"] = self.name.as_str().into();
        if let Some(version) = &self.version {
            args["Qualifier"] = version.as_str().into();
        }
        self.client.begin("invoke", args)
    }
}

impl Drop for Deployed {
    fn drop(&mut self) {
        // A test that deleted its function itself, or whose node is gone, has nothing left to delete.
        drop(self.client.call("delete_function", json!({ "FunctionName": self.name })));
    }
}

impl fmt::Debug for Invocation {
    /// The payload as the text that it nearly always is, and not six megabytes of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload: String = String::from_utf8_lossy(&self.payload).chars().take(SHOWN_CHARS).collect();
        writeln!(f, "{} {:?} {payload}", self.status, self.function_error)?;
        write!(f, "{}", self.log.as_deref().unwrap_or("(no log)"))
    }
}

impl Invocation {
    pub(crate) fn parse(answer: &Value) -> Self {
        let text = |name: &str| answer[name].as_str().map(str::to_owned);
        let log = text("LogResult").map(|log| STANDARD.decode(log).expect("a log result is base64"));
        Self {
            status: answer["StatusCode"].as_u64().unwrap_or_default(),
            function_error: text("FunctionError"),
            executed_version: text("ExecutedVersion"),
            payload: to_bytes(&answer["Payload"]),
            log: log.map(|log| String::from_utf8_lossy(&log).into_owned()),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// `errorType` and `errorMessage` of an answer that must be a function error.
    pub(crate) fn error(&self) -> (String, String) {
        assert!(self.function_error.is_some(), "no function error: {self:?}");
        let payload = self.json();
        let text = |name: &str| payload[name].as_str().unwrap_or_default().to_owned();
        (text("errorType"), text("errorMessage"))
    }
}

/// Adds the zip entries of all files in a folder.
fn entries_below(folder: &Path, prefix: &str, zip: &mut Vec<Value>) {
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let entry = entry.expect("an entry");
        let name = format!("{prefix}{}", entry.file_name().to_str().expect("names are UTF-8"));
        if entry.path().is_dir() {
            entries_below(&entry.path(), &format!("{name}/"), zip);
        } else {
            zip.push(json!({ "name": name, "file": entry.path() }));
        }
    }
}

/// The zip entries of `tests/functions/FOLDER`.
pub(crate) fn zip_of(folder: &str) -> Value {
    json!([{ "name": "app.py", "file": tests_folder().join("functions").join(folder).join("app.py") }])
}

pub(crate) fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
