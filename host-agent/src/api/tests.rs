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
    code::{Builder, CodeStore, buckets::CodeBuckets, tests::zip_of},
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
use echo::{Echo, STOPPING};

mod aliases;
mod bodies;
mod buckets;
mod chunks;
mod concurrency;
mod constraints;
mod create;
mod departures;
mod destinations;
mod echo;
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

/// A key of the node's, which takes unsigned requests, too.
const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

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
        let code = (Arc::clone(&functions), CodeBuckets::open(&config.code_buckets).unwrap());
        let app = App::new(&config, code, invoker.clone(), kept, calls, access_keys, look);
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
