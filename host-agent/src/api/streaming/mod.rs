//! InvokeWithResponseStream, and responses that come while their function makes them.
//!
//! Memory: [`WAITING_PARTS`] pieces of a response wait for its client, and the function waits when they are that many. A client
//! that takes nothing, or too little, is given up by the server; a function runs to its end without it.

mod event_stream;

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::stream;
use guest_protocol::MAX_CHUNK_LEN;
use serde_json::{Map, Value};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    ApiError, App,
    call::Call,
    constraints::{Constraints, TENANT},
    invocations::{self, EXECUTED_VERSION, LOG_TAIL_LEN, MAX_TRACE_LEN},
};
use crate::{
    functions::model::{FunctionId, LATEST},
    invoke::{Answer, Invocation, InvokeError, Part},
};

/// Pieces that wait for a response's client, 128 KiB each at most.
const WAITING_PARTS: usize = 4;

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("application/vnd.amazon.eventstream");
const OCTETS: &str = "application/octet-stream";

/// How an invocation whose response may be streamed goes on.
pub(super) enum Beginning {
    /// It is being streamed; its content type.
    Streamed(String, Streaming),
    /// It was not streamed, and it has ended.
    Whole(Box<Answer>),
}

/// A response on its way.
pub(super) struct Streaming {
    parts: mpsc::Receiver<Part>,
    end: JoinHandle<Result<Answer, InvokeError>>,
}

/// What comes next of it.
pub(super) enum Next {
    /// Some bytes.
    Piece(Bytes),
    /// The end: an answer without a payload unless the function failed.
    End(Result<Box<Answer>, InvokeError>),
}

/// Runs an invocation until its response begins, or to its end if it is not streamed.
///
/// # Errors
/// As the invoker's; a throttling.
pub(super) async fn begin(
    app: &Arc<App>,
    id: &FunctionId,
    invocation: Invocation,
) -> Result<Beginning, InvokeError> {
    let (sink, mut parts) = mpsc::channel(WAITING_PARTS);
    let invocation = Invocation { sink: Some(sink), ..invocation };
    let mut end = invocations::begin(app, id, invocation);
    tokio::select! {
        biased;
        Some(Part::Head(content_type)) = parts.recv() => {
            Ok(Beginning::Streamed(content_type, Streaming { parts, end }))
        }
        ended = &mut end => joined(ended).map(Beginning::Whole),
    }
}

impl Streaming {
    /// The next piece, or the end when there is none; not to be asked again then.
    pub(super) async fn next(&mut self) -> Next {
        loop {
            // In this order: what was sent before the end is not lost to it.
            tokio::select! {
                biased;
                Some(part) = self.parts.recv() => match part {
                    Part::Piece(piece) => return Next::Piece(piece),
                    Part::Head(_) => {}
                },
                ended = &mut self.end => return Next::End(joined(ended)),
            }
        }
    }
}

/// How an invocation's task ended.
pub(super) fn joined(
    ended: Result<Result<Answer, InvokeError>, tokio::task::JoinError>,
) -> Result<Box<Answer>, InvokeError> {
    let ended =
        ended.unwrap_or_else(|error| Err(InvokeError::Node(format!("the invocation's task: {error}"))));
    ended.map(Box::new)
}

/// InvokeWithResponseStream.
pub(super) async fn invoke(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    let kind = call.header("x-amz-invocation-type").unwrap_or("RequestResponse");
    let log_type = call.header("x-amz-log-type").unwrap_or("None");
    let tenant = call.header("x-amz-tenant-id");
    let mut constraints = Constraints::default();
    constraints.one_of("invocationType", Some(kind), &["RequestResponse", "DryRun"]);
    constraints.one_of("logType", Some(log_type), &["None", "Tail"]);
    constraints.length("tenantId", tenant, 1..=256);
    constraints.pattern("tenantId", tenant, &TENANT);
    constraints.finish()?;
    let mut target = call.target("InvokeFunction")?;
    let invoked_arn = target.arn();
    // A function that is not there is reported by its version.
    target.qualifier.get_or_insert_with(|| LATEST.into());
    let function = app.functions.view().serving(&target.id, target.version(), invocations::roll()?);
    let function = function.ok_or_else(|| ApiError::function_not_found(&target.arn()))?;
    if tenant.is_some() {
        return Err(ApiError::unsupported_parameter("TenantId"));
    }
    if kind == "DryRun" {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    invocations::serves(&function.config)?;
    let version = function.config.version.clone();
    let invocation = Invocation {
        function: function.config,
        code: function.code,
        invoked_arn,
        payload: invocations::event(&call.body)?,
        client_context: call.header("x-amz-client-context").map(invocations::client_context).transpose()?,
        trace_id: call.header("x-amzn-trace-id").filter(|id| id.len() <= MAX_TRACE_LEN).map(String::from),
        log_tail: log_type == "Tail",
        request_id: call.request_id,
        slot: None,
        sink: None,
        answers: app.answers.clone(),
    };
    // The event has its memory until its answer begins, and not longer.
    drop(call.body);
    let body = match begin(&app, &target.id, invocation).await? {
        Beginning::Streamed(_, streaming) => events(streaming),
        Beginning::Whole(answer) => whole(answer),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, EVENT_STREAM);
    if let Ok(version) = HeaderValue::from_str(&version) {
        response.headers_mut().insert(EXECUTED_VERSION, version);
    }
    Ok(response)
}

/// The events of a response that is being streamed.
fn events(streaming: Streaming) -> Body {
    Body::from_stream(stream::unfold(Some(streaming), |streaming| async {
        let mut streaming = streaming?;
        Some(match streaming.next().await {
            Next::Piece(piece) => (Ok::<_, Infallible>(chunk(&piece)), Some(streaming)),
            Next::End(ended) => (Ok(complete(ended)), None),
        })
    }))
}

/// The events of a response that was not: in pieces as well, so that there is one of them beside it and not a second copy of all.
fn whole(answer: Box<Answer>) -> Body {
    let rest = match answer.function_error {
        None => answer.payload.clone(),
        Some(_) => Bytes::new(),
    };
    Body::from_stream(stream::unfold(Some((rest, answer)), |left| async {
        let (mut rest, answer) = left?;
        Some(if rest.is_empty() {
            (Ok::<_, Infallible>(complete(Ok(answer))), None)
        } else {
            let piece = rest.split_to(rest.len().min(MAX_CHUNK_LEN));
            (Ok(chunk(&piece)), Some((rest, answer)))
        })
    }))
}

fn chunk(payload: &[u8]) -> Bytes {
    event_stream::event("PayloadChunk", OCTETS, payload)
}

fn complete(ended: Result<Box<Answer>, InvokeError>) -> Bytes {
    let mut members = Map::new();
    let mut say = |name: &str, value: String| drop(members.insert(name.into(), Value::String(value)));
    match ended {
        Ok(answer) => {
            if let Some(error) = answer.function_error {
                say("ErrorCode", error.into());
                say("ErrorDetails", String::from_utf8_lossy(&answer.payload).into_owned());
            }
            if let Some(log) = answer.log_tail {
                let tail = &log[log.len().saturating_sub(LOG_TAIL_LEN)..];
                say("LogResult", BASE64_STANDARD.encode(tail));
            }
        }
        Err(error) => {
            let error = ApiError::from(error);
            say("ErrorCode", error.name().into());
            say("ErrorDetails", error.said().1);
        }
    }
    event_stream::event("InvokeComplete", "application/json", Value::Object(members).to_string().as_bytes())
}
