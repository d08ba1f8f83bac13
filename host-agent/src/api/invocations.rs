//! Invoke: from a request to an [`Invocation`], from an [`Answer`] to a response.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::task::JoinHandle;

use super::{
    ApiError, App,
    call::Call,
    constraints::{Constraints, EXECUTION, TENANT},
    gate::MAX_ASYNC_EVENT_LEN,
    names::Target,
};
use crate::{
    events::Event,
    functions::{
        Function,
        model::{self, FunctionConfig, FunctionId, StartKind},
    },
    invoke::{Answer, Invocation, InvokeError, Timing},
};

/// Longest client context, decoded, in bytes.
const MAX_CLIENT_CONTEXT_LEN: usize = 3583;

/// How much of the log an answer carries, in bytes before base64.
pub(super) const LOG_TAIL_LEN: usize = 4096;

/// Longest trace header that is passed on; X-Ray's have some 100 bytes.
pub(super) const MAX_TRACE_LEN: usize = 512;

pub(super) const EXECUTED_VERSION: HeaderName = HeaderName::from_static("x-amz-executed-version");
const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
const LOG_RESULT: HeaderName = HeaderName::from_static("x-amz-log-result");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Invoke.
pub(super) async fn invoke(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    let kind = call.header("x-amz-invocation-type").unwrap_or("RequestResponse");
    let log_type = call.header("x-amz-log-type").unwrap_or("None");
    let (tenant, execution) = (call.header("x-amz-tenant-id"), call.header("x-amz-durable-execution-name"));
    let mut constraints = Constraints::default();
    constraints.one_of("invocationType", Some(kind), &["Event", "RequestResponse", "DryRun"]);
    constraints.one_of("logType", Some(log_type), &["None", "Tail"]);
    constraints.length("tenantId", tenant, 1..=256);
    constraints.pattern("tenantId", tenant, &TENANT);
    constraints.length("durableExecutionName", execution, 1..=64);
    constraints.pattern("durableExecutionName", execution, &EXECUTION);
    constraints.finish()?;

    let target = call.target("InvokeFunction")?;
    let invoked_arn = target.arn();
    let function = find(&app, &target)?;
    if tenant.is_some() || execution.is_some() {
        let member = if tenant.is_some() { "TenantId" } else { "DurableExecutionName" };
        return Err(ApiError::unsupported_parameter(member));
    }
    if kind == "DryRun" {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    if kind == "Event" {
        if call.body.len() > MAX_ASYNC_EVENT_LEN {
            return Err(ApiError::too_large(MAX_ASYNC_EVENT_LEN, "InvokeFunction"));
        }
        return accept(&app, &call, target, &function.config).await;
    }
    serves(&function.config)?;
    let event = event(&call.body)?;
    let client_context = call.header("x-amz-client-context").map(client_context).transpose()?;
    let invocation = Invocation {
        function: function.config,
        code: function.code,
        invoked_arn,
        payload: event,
        client_context,
        trace_id: trace_id(&call),
        log_tail: log_type == "Tail",
        request_id: call.request_id,
        slot: None,
        sink: None,
        answers: app.answers.clone(),
    };
    // The event has its memory until its answer begins, and not longer.
    drop(call.body);
    let answer = run(&app, &target.id, invocation).await?;
    Ok(respond(answer))
}

/// InvokeAsync, which is older than invocation types and means `Event`.
pub(super) async fn invoke_async(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    let target = call.function("InvokeFunction")?;
    let function = find(&app, &target)?;
    accept(&app, &call, target, &function.config).await
}

/// The version that serves an invocation. A function that is not there is reported by its version.
fn find(app: &App, target: &Target) -> Result<Function, ApiError> {
    let function = app.functions.view().serving(&target.id, target.version(), roll()?);
    function.ok_or_else(|| ApiError::function_not_found(&target.arn_of(target.version())))
}

/// Keeps an event; which version it is for is looked up again when it is delivered.
async fn accept(
    app: &App,
    call: &Call,
    target: Target,
    function: &FunctionConfig,
) -> Result<Response, ApiError> {
    serves(function)?;
    let event = Event {
        function: target.id,
        incarnation: function.incarnation.clone(),
        qualifier: target.qualifier,
        request_id: call.request_id.clone(),
        client_context: call.header("x-amz-client-context").map(client_context).transpose()?,
        trace_id: trace_id(call),
        accepted_ms: app.events.now_ms(),
        calls: 0,
        failures: 0,
        lineage: Default::default(),
        payload: event(&call.body)?,
    };
    app.events.accept(event).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

fn trace_id(call: &Call) -> Option<String> {
    call.header("x-amzn-trace-id").filter(|id| id.len() <= MAX_TRACE_LEN).map(String::from)
}

/// Runs an invocation within what its function may take of the account's concurrency.
///
/// # Errors
/// As the invoker's; a throttling.
pub(super) async fn run(
    app: &App,
    id: &FunctionId,
    mut invocation: Invocation,
) -> Result<Answer, InvokeError> {
    let share = app.concurrency.share(app.functions.view(), id, &invocation.function.version);
    let slot = app.concurrency.enter(id, share).map_err(InvokeError::Throttled)?;
    invocation.slot = Some(Arc::new(slot));
    app.invoker.invoke(invocation).await
}

/// The same in a task of its own, whether or not anybody waits for it.
pub(super) fn begin(
    app: &Arc<App>,
    id: &FunctionId,
    invocation: Invocation,
) -> JoinHandle<Result<Answer, InvokeError>> {
    let (app, id) = (Arc::clone(app), id.clone());
    tokio::spawn(async move { run(&app, &id, invocation).await })
}

/// A number from 0.0 up to 1.0, for the share of an alias's second version.
pub(super) fn roll() -> Result<f64, ApiError> {
    let bits = getrandom::u32().map_err(|_| ApiError::internal())?;
    Ok(f64::from(bits) / (f64::from(u32::MAX) + 1.0))
}

/// Refuses a version that waits for its snapshot or its image, or that could not be initialised for it or has none. Any other that is pending is
/// so for no longer than a write takes.
pub(super) fn serves(config: &FunctionConfig) -> Result<(), ApiError> {
    match &config.state {
        model::State::Pending if config.awaits_image() => Err(ApiError::wrong_state("Pending")),
        model::State::Failed(_) if config.awaits_image() => Err(ApiError::wrong_state("Failed")),
        model::State::Pending if config.start_kind() == StartKind::Snapshot => {
            Err(ApiError::snapshot_not_ready())
        }
        model::State::Failed(failure) => Err(ApiError::snapshot_failed(failure.reason.as_str())),
        model::State::Pending | model::State::Active => Ok(()),
    }
}

/// The event: the body if it is JSON, an empty object if there is none.
pub(super) fn event(body: &Bytes) -> Result<Bytes, ApiError> {
    if body.is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    let text = std::str::from_utf8(body).map_err(ApiError::invalid_event)?;
    serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(ApiError::invalid_event)?;
    Ok(body.clone())
}

/// The JSON text of a client context.
pub(super) fn client_context(header: &str) -> Result<String, ApiError> {
    let text = BASE64_STANDARD.decode(header).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let text =
        text.filter(|text| serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).is_ok());
    match text {
        Some(text) if text.len() > MAX_CLIENT_CONTEXT_LEN => Err(ApiError::invalid_content(format!(
            "Client context must be no more than {MAX_CLIENT_CONTEXT_LEN} bytes when base64-decoded."
        ))),
        Some(text) => Ok(text),
        None => Err(ApiError::invalid_content("Client context must be a valid Base64-encoded JSON object.")),
    }
}

fn respond(answer: Answer) -> Response {
    let mut response = Response::new(Body::from(answer.payload));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Versions are digits or $LATEST, base64 and numbers are ASCII: none of these can fail to be a header.
    let mut insert = |name, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    insert(EXECUTED_VERSION, &answer.executed_version);
    if let Some(error) = answer.function_error {
        insert(FUNCTION_ERROR, error);
    }
    if let Some(log) = answer.log_tail {
        insert(LOG_RESULT, &BASE64_STANDARD.encode(&log[log.len().saturating_sub(LOG_TAIL_LEN)..]));
    }
    let timing = server_timing(&answer.timing);
    if !timing.is_empty() {
        insert(SERVER_TIMING, &timing);
    }
    response
}

/// `way;desc=boot, queue;dur=0.1, run;dur=3.2`: how the sandbox came to be, and milliseconds.
fn server_timing(timing: &Timing) -> String {
    let Timing { way, queue, place, boot, load, unique, gate, hooks, init, run } = *timing;
    let parts: [(&str, Option<Duration>); 9] = [
        ("queue", queue),
        ("place", place),
        ("boot", boot),
        ("load", load),
        ("unique", unique),
        ("gate", gate),
        ("hooks", hooks),
        ("init", init),
        ("run", run),
    ];
    let mut text = way.map(|way| format!("way;desc={way}")).unwrap_or_default();
    for (name, duration) in parts {
        if let Some(duration) = duration {
            let separator = if text.is_empty() { "" } else { ", " };
            // Writing to a string cannot fail.
            let _ = write!(text, "{separator}{name};dur={:.3}", duration.as_secs_f64() * 1000.0);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_any_json_document() {
        for good in ["1", "null", "\"x\"", "{}", "[1,[2]]", " {\"a\": \"é\"} "] {
            assert_eq!(event(&Bytes::from(good)).unwrap(), good.as_bytes());
        }
        assert_eq!(event(&Bytes::new()).unwrap(), "{}");
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        event(&Bytes::from(deep)).unwrap();
        for bad in [&b"{bad"[..], b"{} {}", b"\"\xff\"", b"'x'"] {
            assert_eq!(event(&Bytes::from(bad)).unwrap_err().name(), "InvalidRequestContentException");
        }
    }

    #[test]
    fn timing_is_written_in_milliseconds() {
        let timing = Timing {
            queue: Some(Duration::from_micros(1500)),
            run: Some(Duration::from_secs(2)),
            ..Timing::default()
        };
        assert_eq!(server_timing(&timing), "queue;dur=1.500, run;dur=2000.000");
        let cold = Timing { way: Some("boot"), ..timing };
        assert_eq!(server_timing(&cold), "way;desc=boot, queue;dur=1.500, run;dur=2000.000");
    }
}
