//! Tests of the API without a socket: requests in, answers out, against an invoker that answers by itself.
//!
//! What AWS answered is transcribed from recordings of it; where a test names a message it is AWS's, word for word.

use std::{
    collections::{BTreeMap, HashSet},
    pin::Pin,
    sync::Mutex,
};

use axum::{
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use cluster_store::{RedbStore, Store};
use guest_protocol::FunctionError;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt as _;

use super::*;
use crate::{
    chunks::tests::chunks_in,
    code::{Builder, CodeStore, tests::zip_of},
    config::AuthMode,
    disk::Disk,
    events::{Clock, Destinations, Parts},
    functions::model::{FunctionConfig, FunctionId},
    invoke::{
        Answer, CodeImage, Invocation, InvokeError, InvokeFuture, NODE_FAILED, PrepareError, PrepareFuture,
        Provided, Provision, Retired, Throttle, VersionFuture,
    },
    logs::tests::logs_in,
    network::tests::nowhere,
    registry::{Pretended, Puller, Registries},
};

mod aliases;
mod bodies;
mod chunks;
mod concurrency;
mod constraints;
mod create;
mod departures;
mod destinations;
mod egress;
mod event_invokes;
mod events;
mod images;
mod invoke;
mod keys;
mod layers;
mod list;
mod logs;
mod permissions;
mod provisioned;
mod pulls;
mod recorded;
mod recursion;
mod refusals;
mod runtime_management;
mod snap_start;
mod streaming;
mod tags;
mod tricks;
mod update;
mod url_auth;
mod url_configs;
mod urls;
mod versions;

/// Answers every invocation with its own event, or as the event's `do` says; remembers what it was given.
#[derive(Default)]
struct Echo {
    seen: Mutex<Vec<Invocation>>,
    retired: Mutex<Vec<(String, String)>>,
    /// As an event's `do`, for events that are made by the node.
    told: Mutex<Option<&'static str>>,
    /// Deployments that a snapshot was asked for.
    prepared: watch::Sender<Vec<String>>,
    /// How preparing a function's versions ends, by its name: well, or with an error of that type. It waits until then.
    snapshots: watch::Sender<Snapshots>,
    /// What it was told to keep ready, by function and version.
    provisions: Mutex<BTreeMap<String, BTreeMap<String, u32>>>,
    /// How that stands.
    provided: Mutex<BTreeMap<(String, String), Provided>>,
    /// Whether invocations end whose event says `hold`.
    released: watch::Sender<bool>,
    /// What answers in its place.
    function: Mutex<Option<Stand>>,
    /// Goes into its runtimes' versions: which image the node has.
    image: Mutex<&'static str>,
}

impl Echo {
    fn version_of(&self, runtime: &str) -> String {
        let image = format!("{runtime} {}", self.image.lock().unwrap());
        crate::code::hex(&<sha2::Sha256 as sha2::Digest>::digest(image))
    }
}

/// A function that is there in name only: what it returns when it is called, or the document of what it fails with.
type Stand = Box<dyn FnMut(&Invocation) -> Result<Vec<u8>, Vec<u8>> + Send>;

type Snapshots = BTreeMap<String, Option<&'static str>>;

/// A key of the node's, which takes unsigned requests, too.
const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// Among the names of [`Snapshots`]: the node is going down.
const STOPPING: &str = "(stopping)";

impl Invoker for Echo {
    fn invoke(&self, mut invocation: Invocation) -> InvokeFuture<'_> {
        let FunctionConfig { runtime, runtime_management, .. } = &*invocation.function;
        if !runtime_management.allows(&self.version_of(runtime)) {
            let error = InvokeError::InvalidRuntime("another version".into());
            return Box::pin(std::future::ready(Err(error)));
        }
        let event: Value = serde_json::from_slice(&invocation.payload).unwrap();
        let mut answer = Answer {
            payload: invocation.payload.clone(),
            log_tail: invocation.log_tail.then(|| Bytes::from("x".repeat(5000) + "END")),
            executed_version: invocation.function.version.clone(),
            ..Answer::default()
        };
        if let Some(function) = &mut *self.function.lock().unwrap() {
            let (Ok(document) | Err(document)) = &function(&invocation).inspect_err(|_| {
                answer.function_error = Some("Unhandled");
            });
            answer.payload = Bytes::copy_from_slice(document);
            return Box::pin(std::future::ready(Ok(answer)));
        }
        // Others are in flight until the test forgets them.
        let slot = if event["do"] == "hold" { invocation.slot.take() } else { None };
        let sink = invocation.sink.clone();
        // A copy: the event itself has memory of the budget.
        let payload = Bytes::copy_from_slice(&invocation.payload);
        self.seen.lock().unwrap().push(Invocation { payload, ..invocation });
        let told = self.told.lock().unwrap().take();
        let told = told.or(event["do"].as_str());
        if let (Some((content_type, pieces, fails)), Some(sink)) = (told.and_then(streaming::script), sink) {
            answer.payload = Bytes::from_static(if fails { b"midway" } else { b"" });
            answer.function_error = fails.then_some("Unhandled");
            return Box::pin(async move {
                streaming::send(sink, content_type, pieces).await;
                Ok(answer)
            });
        }
        let result = match told {
            Some("hold") => {
                return Box::pin(async move {
                    let _ = self.released.subscribe().wait_for(|released| *released).await;
                    drop(slot);
                    Ok(answer)
                });
            }
            Some("throttle") => Err(InvokeError::Throttled(Throttle::Concurrency)),
            Some("lose") => Err(InvokeError::Node("lost".into())),
            Some("no runtime") => Err(InvokeError::InvalidRuntime("no image".into())),
            Some("malformed") => {
                answer.payload = Bytes::from_static(br#"{"statusCode": 1}"#);
                Ok(answer)
            }
            Some("fail") => {
                answer.function_error = Some("Unhandled");
                Ok(answer)
            }
            _ => Ok(answer),
        };
        Box::pin(std::future::ready(result))
    }

    fn prepare(&self, function: Arc<FunctionConfig>, _code: Arc<CodeImage>) -> PrepareFuture<'_> {
        let name = function.id.name.clone();
        self.prepared.send_modify(|prepared| prepared.push(function.deployment_id.clone()));
        Box::pin(async move {
            let mut snapshots = self.snapshots.subscribe();
            let stopping = |made: &Snapshots| made.contains_key(STOPPING);
            let made = snapshots.wait_for(|made| stopping(made) || made.contains_key(&name)).await.unwrap();
            if stopping(&made) {
                return Err(PrepareError::ShuttingDown);
            }
            let error = |kind| match kind {
                NODE_FAILED => PrepareError::Node("its machine was lost".into()),
                kind => PrepareError::Init(FunctionError::new(kind, "no module")),
            };
            made[&name].map(error).map_or(Ok(()), Err)
        })
    }

    fn provide(&self, function: &FunctionId, wanted: Vec<Provision>) {
        let wanted = wanted.iter().map(|one| (one.function.version.clone(), one.count)).collect();
        self.provisions.lock().unwrap().insert(function.name.clone(), wanted);
    }

    fn provided(&self, function: &FunctionConfig) -> Provided {
        let stands = self.provided.lock().unwrap();
        stands.get(&(function.id.name.clone(), function.version.clone())).cloned().unwrap_or_default()
    }

    fn runtime_version(&self, function: &FunctionConfig) -> VersionFuture<'_> {
        let version = function.image.is_none().then(|| self.version_of(&function.runtime));
        Box::pin(std::future::ready(version))
    }

    fn retire(&self, function: &FunctionId, what: Retired<'_>) {
        let what = match what {
            Retired::Deployment(replaced) => replaced.into(),
            Retired::Version(version) => format!("version {version}"),
            Retired::Function => "all".into(),
            Retired::Sandboxes => "sandboxes".into(),
        };
        self.retired.lock().unwrap().push((function.name.clone(), what));
    }

    fn keep(&self, _deployments: HashSet<String>) {}

    fn shutdown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

/// A node with two runtimes and no sandboxes.
struct Node {
    router: Router,
    body_budget: Arc<Semaphore>,
    url_budget: Arc<Semaphore>,
    invoker: Arc<Echo>,
    events: Arc<Events>,
    /// The events' clock; it stands still unless a test moves it.
    clock: watch::Sender<u64>,
    logs: Arc<LogStore>,
    functions: Arc<Functions>,
    registry: Arc<Pretended>,
    /// More lines of its configuration.
    more: String,
    dir: tempfile::TempDir,
}

/// When tests begin, in milliseconds since the Unix epoch.
const BEGIN_MS: u64 = 1_764_000_000_000;

/// An answer, taken apart.
#[derive(Debug)]
struct Got {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Checks an error in all its parts: status, header, message.
    #[track_caller]
    fn is_error(&self, status: u16, name: &str, message: &str) {
        let body = self.json();
        let said = body["message"].as_str().or_else(|| body["Message"].as_str());
        assert_eq!((self.status.as_u16(), self.header("x-amzn-errortype")), (status, Some(name)), "{body}");
        assert_eq!(said, Some(message));
        assert_eq!(self.header("x-amzn-requestid").map(str::len), Some(36));
    }

    #[track_caller]
    fn ok(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{:?}", self.body);
        if self.body.is_empty() { Value::Null } else { self.json() }
    }
}

impl Node {
    async fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap()).await
    }

    async fn at(dir: tempfile::TempDir) -> Self {
        Self::with(dir, "", watch::Sender::new(BEGIN_MS)).await
    }

    /// With more lines in its configuration, and that clock.
    async fn with(dir: tempfile::TempDir, more: &str, clock: watch::Sender<u64>) -> Self {
        Self::beside(Arc::default(), dir, more, clock).await
    }

    /// With what its registries are.
    async fn beside(
        registry: Arc<Pretended>,
        dir: tempfile::TempDir,
        more: &str,
        clock: watch::Sender<u64>,
    ) -> Self {
        let runtimes = dir.path().join("runtimes");
        std::fs::create_dir_all(&runtimes).unwrap();
        for name in ["nodejs20.x.pack", "python3.13.pack", "provided.al2023.pack"] {
            std::fs::write(runtimes.join(name), "").unwrap();
        }
        let file = dir.path().join("agent.toml");
        let key = format!("[[keys]]\naccess_key_id = '{KEY}'\nsecret_access_key = '{SECRET}'");
        std::fs::write(&file, format!("lib_dir = '{}'\n{more}\n{key}", dir.path().display())).unwrap();
        let config = Config::load(Some(&file), None, Some(AuthMode::Optional)).unwrap();
        let store = RedbStore::open(dir.path().join("store.redb")).await.unwrap();
        let chunks = chunks_in(dir.path());
        let code = Arc::new(
            CodeStore::open(dir.path(), Builder::InProcess, Disk::of(dir.path()), Arc::clone(&chunks))
                .unwrap(),
        );
        let invoker = Arc::new(Echo::default());
        let store: Arc<dyn Store> = Arc::new(store);
        let policies = Policies::open(Arc::clone(&store), nowhere(), invoker.clone()).await.unwrap();
        let access_keys = AccessKeys::open(Arc::clone(&store), chunks.roots()).await.unwrap();
        let pretended = Puller::Pretended(Arc::clone(&registry));
        let registries = Registries::open(&config.registries, pretended).unwrap();
        let functions = Functions::open(store, code, invoker.clone(), registries).await.unwrap();
        let concurrency = Arc::new(Concurrency::new(&config.concurrency));
        let parts = Parts {
            functions: Arc::clone(&functions),
            invoker: invoker.clone(),
            concurrency: Arc::clone(&concurrency),
            disk: Disk::of(dir.path()),
            clock: Clock::Pretended(clock.clone()),
            account_id: config.account_id.clone(),
            destinations: Destinations::open(&config.events, dir.path()).unwrap(),
        };
        let events = Events::open(dir.path(), &config.events, parts).await.unwrap();
        let calls = (concurrency, Arc::clone(&events));
        let logs = logs_in(dir.path());
        let (kept, access_keys) = ((chunks, policies, Arc::clone(&logs)), Arc::new(access_keys));
        let look = NodeState::look();
        let app = App::new(&config, Arc::clone(&functions), invoker.clone(), kept, calls, access_keys, look);
        let (body_budget, url_budget) = (Arc::clone(&app.body_budget), Arc::clone(&app.url_budget));
        Self {
            router: router(app),
            body_budget,
            url_budget,
            invoker,
            events,
            clock,
            logs,
            functions,
            registry,
            more: more.into(),
            dir,
        }
    }

    /// The same node after a restart, however it ended.
    async fn restarted(self) -> Self {
        let Self { router, invoker, events, clock, logs, functions, registry, more, dir, .. } = self;
        invoker.snapshots.send_modify(|made| made.extend([(STOPPING.into(), None)]));
        functions.stop_pulls();
        drop((router, invoker, events, logs, functions));
        // The view's task, settling tasks and deliveries hold the stores until they see that nobody else does.
        for name in ["store.redb", "events.redb"] {
            while redb::Database::open(dir.path().join(name)).is_err() {
                tokio::task::yield_now().await;
            }
        }
        Self::beside(registry, dir, &more, clock).await
    }

    async fn send(&self, request: Request<Body>) -> Got {
        let (head, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Got { status: head.status, headers: head.headers, body }
    }

    async fn call(&self, method: &str, path: &str, body: impl Into<Body>) -> Got {
        let request = Request::builder().method(method).uri(path).header("host", "node:9000");
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn get(&self, path: &str) -> Got {
        self.call("GET", path, Body::empty()).await
    }

    async fn put(&self, path: &str, body: &Value) -> Got {
        self.call("PUT", path, body.to_string()).await
    }

    async fn create(&self, body: &Value) -> Got {
        self.call("POST", "/2015-03-31/functions", body.to_string()).await
    }

    /// Makes a function and waits until it is active.
    async fn function(&self, name: &str) -> Value {
        let created = self.create(&request(name)).await.ok(201);
        self.settled(name).await;
        created
    }

    /// Waits until nothing of a function is in progress.
    async fn settled(&self, name: &str) -> Value {
        loop {
            let config = self.get(&format!("/2015-03-31/functions/{name}/configuration")).await.ok(200);
            if config["State"] == "Active" && config["LastUpdateStatus"] == "Successful" {
                return config;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// The least body that creates a function.
fn request(name: &str) -> Value {
    json!({
        "FunctionName": name,
        "Runtime": "python3.13",
        "Role": "arn:aws:iam::000000000000:role/r",
        "Handler": "index.handler",
        "Code": { "ZipFile": zip_base64("x = 1") },
    })
}

fn zip_base64(content: &str) -> String {
    BASE64_STANDARD.encode(zip_of("index.py", content))
}

/// `body` with members set, at JSON pointers.
fn with(mut body: Value, members: &[(&str, Value)]) -> Value {
    for (pointer, value) in members {
        let (parent, member) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[member] = value.clone();
    }
    body
}
