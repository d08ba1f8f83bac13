//! The Lambda Runtime API: HTTP on loopback between the runtime and the sandbox.
//!
//! Here are routes, bodies and their bounds; what a call means and whether it is allowed, [`crate::lifecycle`] decides
//! through [`crate::sandbox`]. The client is the customer's code: every body, header and connection is bounded.

mod body;
mod credentials;
mod extensions;
mod reply;
mod stream;
mod telemetry;

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use guest_protocol::{FunctionError, MAX_RESPONSE_LEN, MAX_STREAM_LEN, ResponseMode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::lifecycle::{Answer, Refusal};
use body::Document;
pub use credentials::{CredentialStore, PATH as CREDENTIALS_PATH, TOKEN_LEN};
pub use extensions::{ExtensionCall, Features, Registered};
pub use telemetry::NotTaken;

/// Where the runtime finds it in a guest.
pub const ADDRESS: &str = "127.0.0.1:9001";

/// Version that the documentation gives; the only one there is.
const PREFIX: &str = "/2018-06-01/runtime/";

/// Connections served at once; more wait in the listener's backlog. Runtimes use one, or one per worker.
const MAX_CONNECTIONS: usize = 64;

/// Bodies read at once. One: a runtime gives one answer, and each may take [`MAX_RESPONSE_LEN`] of the guest's memory.
const MAX_BODIES: usize = 1;

/// Names an error: in the head of one that is reported, and behind a response that was streamed.
const ERROR_TYPE: &str = "lambda-runtime-function-error-type";

/// The error's document as base64, behind a response that was streamed.
const ERROR_BODY: &str = "lambda-runtime-function-error-body";

/// Says that a response is written while it is made.
const RESPONSE_MODE: &str = "lambda-runtime-function-response-mode";

/// Longest error type kept, bytes; Lambda's are below 100.
const MAX_ERROR_TYPE_LEN: usize = 256;

/// Longest content type kept, bytes; fits any registered media type with parameters.
const MAX_CONTENT_TYPE_LEN: usize = 1024;

/// A call of the runtime, for the sandbox to decide.
#[derive(Debug)]
pub enum Call {
    /// `GET invocation/next`. Answered when there is one.
    Next(Reply<Delivery>),
    /// Whether an answer to this invocation would be taken, and how a response is wanted.
    AdmitAnswer(String, Reply<ResponseMode>),
    /// A response begins that comes in pieces.
    Begin {
        /// The invocation it names.
        request_id: String,
        /// Content type of the response.
        content_type: String,
        /// Whether it is taken.
        reply: Reply<()>,
    },
    /// Its next piece.
    Piece {
        /// The invocation it names.
        request_id: String,
        /// At most [`guest_protocol::MAX_CHUNK_LEN`] bytes, and some.
        piece: Bytes,
        /// When the next may come.
        reply: Reply<()>,
    },
    /// The answer; the bytes are the response's when it is one.
    Answer {
        /// The invocation it names.
        request_id: String,
        /// What it says.
        answer: Answer,
        /// Content type and document of a response.
        content_type: String,
        /// Empty unless the answer is a response that has not come in pieces.
        document: Bytes,
        /// Whether it was taken.
        reply: Reply<()>,
    },
    /// Whether an init error would be taken.
    AdmitInitError(Reply<()>),
    /// `POST init/error`.
    InitError(FunctionError, Reply<()>),
    /// `GET restore/next`. Answered after a resume.
    RestoreNext(Reply<()>),
    /// Whether a restore error would be taken.
    AdmitRestoreError(Reply<()>),
    /// `POST restore/error`.
    RestoreError(FunctionError, Reply<()>),
    /// One of an extension's.
    Extension(ExtensionCall),
}

/// Where the sandbox puts its decision.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// An invocation on its way to the runtime.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Headers, `Lambda-Runtime-…`; values are made printable here.
    pub headers: Vec<(&'static str, String)>,
    /// The event.
    pub event: Bytes,
}

/// Serves connections until the listener fails, which on loopback it does not.
pub async fn serve(listener: TcpListener, calls: mpsc::Sender<Call>, credentials: CredentialStore) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let api = Rc::new(Api { calls, credentials, bodies: Semaphore::new(MAX_BODIES) });
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let api = Rc::clone(&api);
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| {
                let api = Rc::clone(&api);
                async move { Ok::<_, Infallible>(api.route(request).await) }
            });
            // A connection that breaks is the runtime's business; dropping the call tells the sandbox.
            let _ = http1::Builder::new()
                .header_read_timeout(None)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(permit);
        });
    }
}

struct Api {
    calls: mpsc::Sender<Call>,
    credentials: CredentialStore,
    bodies: Semaphore,
}

/// What a path names.
enum Route<'a> {
    Next,
    Response(&'a str),
    Error(&'a str),
    InitError,
    RestoreNext,
    RestoreError,
    Credentials,
}

impl<'a> Route<'a> {
    fn parse(method: &Method, path: &'a str) -> Option<Self> {
        if path == CREDENTIALS_PATH {
            return (*method == Method::GET).then_some(Self::Credentials);
        }
        let rest = path.strip_prefix(PREFIX)?;
        let route = match rest.split_once('/')? {
            ("init", "error") => (Method::POST, Self::InitError),
            ("restore", "next") => (Method::GET, Self::RestoreNext),
            ("restore", "error") => (Method::POST, Self::RestoreError),
            ("invocation", "next") => (Method::GET, Self::Next),
            ("invocation", answer) => match answer.split_once('/')? {
                (id, "response") => (Method::POST, Self::Response(id)),
                (id, "error") => (Method::POST, Self::Error(id)),
                _ => return None,
            },
            _ => return None,
        };
        (*method == route.0).then_some(route.1)
    }
}

impl Api {
    async fn route(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        if let Some(route) = extensions::Route::parse(&head.method, head.uri.path()) {
            return extensions::route(&self.calls, route, &head.headers, body).await;
        }
        if let Some(api) = telemetry::parse(&head.method, head.uri.path()) {
            return telemetry::route(&self.calls, api, &head.headers, body).await;
        }
        let Some(route) = Route::parse(&head.method, head.uri.path()) else { return reply::not_found() };
        let outcome = match route {
            Route::Next => {
                return match self.ask(Call::Next).await {
                    Ok(delivery) => reply::delivery(&delivery),
                    Err(error) => reply::refused(error),
                };
            }
            Route::Response(id) => self.response(id, &head.headers, body).await,
            Route::Error(id) => self.error(id, &head.headers, body).await,
            Route::InitError => self.init_error(&head.headers, body).await,
            Route::RestoreNext => {
                return match self.ask(Call::RestoreNext).await {
                    Ok(()) => reply::restored(),
                    Err(error) => reply::refused(error),
                };
            }
            Route::RestoreError => self.restore_error(&head.headers, body).await,
            Route::Credentials => {
                let token = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
                return self.credentials.document(token).map_or_else(reply::not_found, reply::document);
            }
        };
        match outcome {
            Ok(()) => reply::accepted(),
            Err(error) => reply::refused(error),
        }
    }

    async fn response(&self, id: &str, headers: &HeaderMap, body: Incoming) -> Result<(), CallError> {
        let wanted = self.ask(|reply| Call::AdmitAnswer(id.to_owned(), reply)).await?;
        let _turn = self.bodies.acquire().await.map_err(|_| CallError::Closed)?;
        let (request_id, content_type) = (id.to_owned(), content_type(headers));
        let streams = headers.get(RESPONSE_MODE).is_some_and(|mode| mode == "streaming");
        if wanted == ResponseMode::Streamed && streams {
            let relay = stream::relay(self.calls.clone(), request_id, content_type, body);
            return tokio::task::spawn_local(relay).await.map_err(|_| CallError::Closed)?;
        }
        let (document, trailers) = body::read(body).await?;
        let (answer, document, taken) = match (error_behind(&trailers), document) {
            (Some(error), _) => (Answer::Error(error), Bytes::new(), Ok(())),
            (None, Document::Whole(document)) => (Answer::Response, document, Ok(())),
            (None, Document::TooLong) => (Answer::TooLarge, Bytes::new(), Err(CallError::TooLong)),
        };
        self.ask(|reply| Call::Answer { request_id, answer, content_type, document, reply }).await?;
        taken
    }

    async fn error(&self, id: &str, headers: &HeaderMap, body: Incoming) -> Result<(), CallError> {
        self.ask(|reply| Call::AdmitAnswer(id.to_owned(), reply)).await?;
        let _turn = self.bodies.acquire().await.map_err(|_| CallError::Closed)?;
        let answer = Answer::Error(function_error(headers, body).await?);
        let (request_id, content_type) = (id.to_owned(), String::new());
        self.ask(|reply| Call::Answer { request_id, answer, content_type, document: Bytes::new(), reply })
            .await
    }

    async fn init_error(&self, headers: &HeaderMap, body: Incoming) -> Result<(), CallError> {
        self.ask(Call::AdmitInitError).await?;
        let _turn = self.bodies.acquire().await.map_err(|_| CallError::Closed)?;
        let error = function_error(headers, body).await?;
        self.ask(|reply| Call::InitError(error, reply)).await
    }

    async fn restore_error(&self, headers: &HeaderMap, body: Incoming) -> Result<(), CallError> {
        self.ask(Call::AdmitRestoreError).await?;
        let _turn = self.bodies.acquire().await.map_err(|_| CallError::Closed)?;
        let error = function_error(headers, body).await?;
        self.ask(|reply| Call::RestoreError(error, reply)).await
    }

    async fn ask<T>(&self, call: impl FnOnce(Reply<T>) -> Call) -> Result<T, CallError> {
        ask(&self.calls, call).await
    }
}

/// Asks the sandbox.
async fn ask<T>(calls: &mpsc::Sender<Call>, call: impl FnOnce(Reply<T>) -> Call) -> Result<T, CallError> {
    let (reply, decision) = oneshot::channel();
    calls.send(call(reply)).await.map_err(|_| CallError::Closed)?;
    Ok(decision.await.map_err(|_| CallError::Closed)??)
}

fn content_type(headers: &HeaderMap) -> String {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .filter(|value| value.len() <= MAX_CONTENT_TYPE_LEN)
        .unwrap_or("application/json")
        .to_owned()
}

/// The error that a runtime reports: its document as it is, its type from the header.
async fn function_error(headers: &HeaderMap, body: Incoming) -> Result<FunctionError, CallError> {
    let error_type = error_type(headers).unwrap_or("Function.Unknown");
    Ok(match body::read(body).await?.0 {
        Document::Whole(payload) => {
            FunctionError { error_type: error_type.to_owned(), payload: payload.to_vec() }
        }
        Document::TooLong => {
            let message = format!("Error document exceeded maximum allowed size ({MAX_RESPONSE_LEN} bytes).");
            FunctionError::new(error_type, &message)
        }
    })
}

/// The error that a runtime reports behind a response that it had begun to stream: what came of the response is none then.
fn error_behind(trailers: &HeaderMap) -> Option<FunctionError> {
    let error_type = error_type(trailers)?;
    let document = trailers.get(ERROR_BODY).and_then(|value| BASE64_STANDARD.decode(value).ok());
    Some(match document {
        Some(payload) => FunctionError { error_type: error_type.to_owned(), payload },
        None => FunctionError::new(error_type, "The response ended with an error."),
    })
}

fn error_type(headers: &HeaderMap) -> Option<&str> {
    let said = headers.get(ERROR_TYPE)?.to_str().ok()?;
    (!said.is_empty() && said.len() <= MAX_ERROR_TYPE_LEN).then_some(said)
}

/// Why a call is not answered with success.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("Exceeded maximum allowed payload size ({MAX_RESPONSE_LEN} bytes).")]
    TooLong,
    #[error("Exceeded maximum allowed size of a streamed response ({MAX_STREAM_LEN} bytes).")]
    StreamTooLong,
    #[error("The request body could not be read")]
    Body(#[from] hyper::Error),
    #[error("The sandbox has ended")]
    Closed,
}
