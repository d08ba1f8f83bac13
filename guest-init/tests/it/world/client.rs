//! The runtime's calls, by a real HTTP client.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

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

    pub(crate) fn says(&self, words: &str) -> bool {
        String::from_utf8_lossy(&self.body).contains(words)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn error_type(&self) -> String {
        self.json()["errorType"].as_str().unwrap().to_owned()
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

/// A response that is being streamed. Dropping it breaks its connection.
pub(crate) struct Stream(TcpStream);

impl Stream {
    pub(crate) async fn chunk(&mut self, bytes: &[u8]) {
        let head = format!("{:x}\r\n", bytes.len());
        self.0.write_all(&[head.as_bytes(), bytes, b"\r\n"].concat()).await.unwrap();
    }

    /// Ends the response with these lines behind it; what is answered.
    pub(crate) async fn end(mut self, trailers: &str) -> String {
        self.0.write_all(format!("0\r\n{trailers}\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        self.0.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

impl Runtime {
    /// The API at this `host:port`.
    pub(crate) fn at(address: String) -> Self {
        Self { address }
    }

    /// Sends a GET; the answer is awaited apart.
    pub(crate) async fn get(&self, path: &str) -> Pending {
        self.call("GET", path, b"").await
    }

    /// Sends a POST.
    pub(crate) async fn post(&self, path: &str, body: &[u8]) -> Pending {
        self.call("POST", path, body).await
    }

    /// Begins to stream a response to `id-1`.
    pub(crate) async fn stream(&self) -> Stream {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let head = "POST /2018-06-01/runtime/invocation/id-1/response HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                    lambda-runtime-function-response-mode: streaming\r\ntransfer-encoding: chunked\r\n\
                    content-type: text/x-stream\r\n\
                    trailer: lambda-runtime-function-error-type, lambda-runtime-function-error-body\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        Stream(stream)
    }

    /// Asks the credentials endpoint, showing this token.
    pub(crate) async fn credentials(&self, token: &str) -> Reply {
        self.request("GET", "/2021-04-23/credentials", token, b"").await.await
    }

    /// An extension's call; `named` is its name or its identifier.
    pub(crate) async fn extension(&self, method: &str, path: &str, named: &str, body: &[u8]) -> Pending {
        self.request(method, &format!("/2020-01-01/extension/{path}"), named, body).await
    }

    /// Registers an extension that asks for these features.
    pub(crate) async fn register_with(&self, name: &str, features: &str, body: &[u8]) -> Reply {
        let uri = "/2020-01-01/extension/register";
        self.request_with("POST", uri, (name, features), body).await.await
    }

    /// Subscribes as the extension with this identifier.
    pub(crate) async fn subscribe(&self, api: &str, id: &str, document: &serde_json::Value) -> Reply {
        self.request("PUT", api, id, document.to_string().as_bytes()).await.await
    }

    async fn call(&self, method: &str, path: &str, body: &[u8]) -> Pending {
        self.request(method, &format!("/2018-06-01/runtime/{path}"), "", body).await
    }

    async fn request(&self, method: &str, uri: &str, token: &str, body: &[u8]) -> Pending {
        self.request_with(method, uri, (token, ""), body).await
    }

    /// The token is who asks, in each header that may say so; the features are those that an extension asks for.
    async fn request_with(
        &self,
        method: &str,
        uri: &str,
        (token, features): (&str, &str),
        body: &[u8],
    ) -> Pending {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("authorization", token)
            .header("host", &self.address)
            .header("lambda-extension-name", token)
            .header("lambda-extension-identifier", token)
            .header("lambda-extension-accept-feature", features)
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
