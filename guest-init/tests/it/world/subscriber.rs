//! An extension that has subscribed: what it listens with, and what it has been told.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::{Runtime, World};

const BOTH: &[u8] = br#"{"events":["INVOKE","SHUTDOWN"]}"#;

/// An extension that listens.
pub(crate) struct Extension {
    pub(crate) id: String,
    runtime: Runtime,
    listener: TcpListener,
    pub(crate) stream: Option<BufReader<TcpStream>>,
    events: Vec<Value>,
}

impl Extension {
    /// One that has registered.
    pub(crate) async fn registered(world: &World) -> Self {
        let runtime = world.runtime();
        let registered = runtime.extension("POST", "register", "agent", BOTH).await.await;
        let id = registered.header("lambda-extension-identifier").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { id, runtime, listener, stream: None, events: Vec::new() }
    }

    /// A document with that destination.
    pub(crate) fn document(&self, schema: &str, protocol: &str) -> Value {
        let port = self.listener.local_addr().unwrap().port();
        json!({
            "schemaVersion": schema,
            "destination": {
                "protocol": protocol,
                "URI": format!("{}://sandbox.localdomain:{port}/told", protocol.to_lowercase()),
            },
            "types": ["platform", "function", "extension"],
            "buffering": { "timeoutMs": 25 },
        })
    }

    /// One that has subscribed.
    pub(crate) async fn subscribed(world: &World, api: &str, schema: &str, protocol: &str) -> Self {
        let extension = Self::registered(world).await;
        let answer =
            extension.runtime.subscribe(api, &extension.id, &extension.document(schema, protocol)).await;
        assert_eq!((answer.status, answer.json()), (200, "OK".into()));
        extension
    }

    /// What it is told on.
    pub(crate) async fn stream(&mut self) -> &mut BufReader<TcpStream> {
        if self.stream.is_none() {
            self.stream = Some(BufReader::new(self.listener.accept().await.unwrap().0));
        }
        self.stream.as_mut().unwrap()
    }

    /// Takes the next delivery and answers so.
    pub(crate) async fn delivery(&mut self, answer: &str) -> Vec<Value> {
        let stream = self.stream().await;
        let (mut line, mut len) = (String::new(), 0);
        stream.read_line(&mut line).await.unwrap();
        assert_eq!(line, "POST /told HTTP/1.1\r\n");
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).await.unwrap();
            if let Some(value) = line.strip_prefix("content-length: ") {
                len = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; len];
        stream.read_exact(&mut body).await.unwrap();
        let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    /// Sees its connection end.
    pub(crate) async fn is_hung_up_on(&mut self) {
        let mut rest = Vec::new();
        self.stream().await.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty(), "nothing comes behind its last delivery");
        self.stream = None;
    }

    /// What was told up to an event of this type, which is the last.
    pub(crate) async fn until(&mut self, kind: &str) -> Vec<Value> {
        loop {
            if let Some(at) = self.events.iter().position(|event| event["type"] == kind) {
                return self.events.drain(..=at).collect();
            }
            let events = self.delivery("200 OK").await;
            self.events.extend(events);
        }
    }

    /// The same by lines.
    pub(crate) async fn lines_until(&mut self, kind: &str) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let mut line = String::new();
            self.stream().await.read_line(&mut line).await.unwrap();
            let event: Value = serde_json::from_str(&line).unwrap();
            let is_last = event["type"] == kind;
            events.push(event);
            if is_last {
                return events;
            }
        }
    }
}

/// Their types.
pub(crate) fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}
