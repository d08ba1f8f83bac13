//! The Extensions API: how extensions register, wait for events, and say that they failed. On the Runtime API's address, as on
//! Lambda; the caller is the customer's code.

use std::str;

use bytes::Bytes;
use guest_protocol::FunctionError;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::telemetry::NotTaken;
use super::{Call, reply};
use crate::extensions::{Notice, Refusal};
use crate::telemetry::Subscription;

/// Version that the documentation gives; the only one there is.
const PREFIX: &str = "/2020-01-01/extension/";

/// Longest document of an extension, bytes: a list of two words, a subscription, or an error.
const MAX_DOCUMENT_LEN: usize = 64 * 1024;

const NAME: &str = "lambda-extension-name";
const IDENTIFIER: HeaderName = HeaderName::from_static("lambda-extension-identifier");
const EVENT_IDENTIFIER: HeaderName = HeaderName::from_static("lambda-extension-event-identifier");
const ACCEPT_FEATURE: &str = "lambda-extension-accept-feature";
const ERROR_TYPE: &str = "lambda-extension-function-error-type";

/// A call of an extension, for the sandbox to decide.
#[derive(Debug)]
pub enum ExtensionCall {
    /// `POST register`.
    Register {
        /// What it names itself.
        name: String,
        /// The events that it wants.
        events: Vec<String>,
        /// What else it knows how to be told.
        features: Features,
        /// What it is known by, and what it is told of the function.
        reply: Answer<Registered>,
    },
    /// `GET event/next`.
    Next(String, Answer<Notice>),
    /// `PUT` to the Telemetry API or the Logs API: identifier, what it wants, and whether it is taken.
    Subscribe(String, Subscription, oneshot::Sender<Result<(), NotTaken>>),
    /// `POST init/error`, `POST exit/error`: identifier, and what the function's caller is told.
    Fail(String, FunctionError, Answer<()>),
}

/// Where the sandbox puts its decision.
pub(super) type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// What an extension asks for beyond what every one is told, by `Lambda-Extension-Accept-Feature`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// `accountId`: whose function it is.
    pub account_id: bool,
}

impl Features {
    /// Those among the names, which commas are between, that are known: an extension may know newer ones.
    fn named(names: &str) -> Self {
        Self { account_id: names.split(',').any(|name| name.trim() == "accountId") }
    }
}

/// An extension that has been taken.
#[derive(Debug)]
pub struct Registered {
    /// `Lambda-Extension-Identifier`.
    pub id: String,
    /// JSON about the function.
    pub document: String,
}

/// What a path below [`PREFIX`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Register,
    Next,
    InitError,
    ExitError,
}

impl Route {
    pub(super) fn parse(method: &Method, path: &str) -> Option<Self> {
        let (wanted, route) = match path.strip_prefix(PREFIX)? {
            "register" => (Method::POST, Self::Register),
            "event/next" => (Method::GET, Self::Next),
            "init/error" => (Method::POST, Self::InitError),
            "exit/error" => (Method::POST, Self::ExitError),
            _ => return None,
        };
        (*method == wanted).then_some(route)
    }
}

/// Answers one call.
pub(super) async fn route(
    calls: &mpsc::Sender<Call>,
    route: Route,
    headers: &HeaderMap,
    body: Incoming,
) -> Response<Full<Bytes>> {
    let answered = match route {
        Route::Register => register(calls, headers, body).await,
        Route::Next => next(calls, headers).await,
        Route::InitError => fail(calls, headers, body, "Extension.InitError").await,
        Route::ExitError => fail(calls, headers, body, "Extension.ExitError").await,
    };
    answered.unwrap_or_else(|error| unanswered(&error))
}

/// The answer that is an error.
pub(super) fn unanswered(error: &Unanswered) -> Response<Full<Bytes>> {
    match error {
        Unanswered::Refused(refusal) => {
            reply::error(StatusCode::FORBIDDEN, refusal.error_type(), &refusal.to_string())
        }
        Unanswered::NoIdentifier => reply::error(
            StatusCode::FORBIDDEN,
            "Extension.MissingExtensionIdentifier",
            "Missing Lambda-Extension-Identifier header",
        ),
        Unanswered::Closed => {
            reply::error(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", "The sandbox has ended")
        }
    }
}

/// Why there is no answer but an error.
pub(super) enum Unanswered {
    Refused(Refusal),
    NoIdentifier,
    Closed,
}

impl From<Refusal> for Unanswered {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

type Answered = Result<Response<Full<Bytes>>, Unanswered>;

async fn register(calls: &mpsc::Sender<Call>, headers: &HeaderMap, body: Incoming) -> Answered {
    let name = text(headers, NAME).unwrap_or_default().to_owned();
    let document = read(body).await.ok_or(Refusal::Format)?;
    let document: Value = serde_json::from_slice(&document).map_err(|_| Refusal::Format)?;
    let events = match document.get("events") {
        None => Vec::new(),
        Some(events) => {
            let events = events.as_array().ok_or(Refusal::Format)?.iter();
            let names: Option<_> = events.map(|event| event.as_str().map(str::to_owned)).collect();
            names.ok_or(Refusal::Format)?
        }
    };
    let features = Features::named(text(headers, ACCEPT_FEATURE).unwrap_or_default());
    let taken = ask(calls, |reply| ExtensionCall::Register { name, events, features, reply }).await?;
    let mut response = reply::document(taken.document);
    set(&mut response, IDENTIFIER, &taken.id);
    Ok(response)
}

async fn next(calls: &mpsc::Sender<Call>, headers: &HeaderMap) -> Answered {
    let id = identifier(headers)?;
    let notice = ask(calls, |reply| ExtensionCall::Next(id, reply)).await?;
    let mut response = reply::document(notice.document);
    set(&mut response, EVENT_IDENTIFIER, &notice.event_id);
    Ok(response)
}

/// `kind` is what the caller of the function is told; the extension's own word for it is in the message.
async fn fail(calls: &mpsc::Sender<Call>, headers: &HeaderMap, body: Incoming, kind: &str) -> Answered {
    let id = identifier(headers)?;
    let said = text(headers, ERROR_TYPE).unwrap_or("Extension.Unknown").to_owned();
    let document = read(body).await.unwrap_or_default();
    let document: Value = serde_json::from_slice(&document).unwrap_or_default();
    let message = document.get("errorMessage").and_then(Value::as_str).unwrap_or_default();
    let error = FunctionError::new(kind, &format!("{said}: {message}"));
    ask(calls, |reply| ExtensionCall::Fail(id, error, reply)).await?;
    Ok(reply::accepted())
}

async fn ask<T>(
    calls: &mpsc::Sender<Call>,
    call: impl FnOnce(Answer<T>) -> ExtensionCall,
) -> Result<T, Unanswered> {
    let (reply, decision) = oneshot::channel();
    calls.send(Call::Extension(call(reply))).await.map_err(|_| Unanswered::Closed)?;
    Ok(decision.await.map_err(|_| Unanswered::Closed)??)
}

/// A document within its bound.
pub(super) async fn read(body: Incoming) -> Option<Bytes> {
    Some(Limited::new(body, MAX_DOCUMENT_LEN).collect().await.ok()?.to_bytes())
}

pub(super) fn identifier(headers: &HeaderMap) -> Result<String, Unanswered> {
    text(headers, IDENTIFIER.as_str()).map(str::to_owned).ok_or(Unanswered::NoIdentifier)
}

/// hyper bounds how long heads are.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Values are identifiers that this program made.
fn set(response: &mut Response<Full<Bytes>>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_their_methods() {
        let parse = |method, path: &str| Route::parse(&method, &format!("/2020-01-01/extension/{path}"));
        assert_eq!(parse(Method::POST, "register"), Some(Route::Register));
        assert_eq!(parse(Method::GET, "event/next"), Some(Route::Next));
        assert_eq!(parse(Method::GET, "register"), None);
        assert_eq!(parse(Method::POST, "event/next"), None);
        assert_eq!(parse(Method::POST, "exit"), None);
    }

    #[test]
    fn features_are_those_that_are_known() {
        for (names, account_id) in [
            ("accountId", true),
            ("newer, accountId ,", true),
            ("", false),
            ("accountid", false),
            ("accountId newer", false),
        ] {
            assert_eq!(Features::named(names), Features { account_id }, "{names}");
        }
    }
}
