//! The node's own operations on asynchronous events: `tinderbox events`, and what lies in its queues.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, ETAG},
    },
    response::Response,
};
use serde_json::{Value, json};

use super::{ApiError, App, call::Call};
use crate::{
    code::blocking,
    events::{Counts, EventsError, Limits, Lines, Past, QueueError, QueueName, Standing, Totals},
    invoke::InvokeError,
    sandbox::describe,
};

/// How full the queue is, and how the destinations are that are not the node's.
pub(super) async fn totals(State(app): State<Arc<App>>) -> Json<Value> {
    let (Totals { count, bytes }, Limits { max_count, max_bytes, .. }) = app.events.totals();
    let now_ms = app.events.now_ms();
    let shown = |(arn, standing, past): (String, Standing, Past)| {
        let Past { delivered, failed, lost, problem } = past;
        json!({
            "Destination": arn,
            "Queued": standing.queued,
            "InFlight": standing.in_flight,
            "OldestAgeInSeconds": standing.oldest_ms.map(|oldest| now_ms.saturating_sub(oldest) / 1000),
            "Delivered": delivered,
            "Failed": failed,
            "Lost": lost,
            "Problem": problem,
        })
    };
    let destinations: Vec<_> = app.events.lanes().into_iter().map(shown).collect();
    Json(json!({
        "Events": count,
        "Bytes": bytes,
        "MaxEvents": max_count,
        "MaxBytes": max_bytes,
        "Destinations": destinations,
    }))
}

/// How a function's events stand, and the last of its dead ones.
pub(super) async fn get(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let target = call.function("GetEvents")?;
    let Standing { queued, in_flight, oldest_ms, counts } = app.events.standing(&target.id);
    let Counts { delivered, retried, throttled, dropped, dead } = counts;
    let shown = app.events.dead(&target.id).await?;
    // Written by this node; what is no JSON is another version's.
    let shown: Vec<Value> = shown.iter().filter_map(|dead| serde_json::from_slice(dead).ok()).collect();
    let age_s = oldest_ms.map(|oldest| app.events.now_ms().saturating_sub(oldest) / 1000);
    Ok(Json(json!({
        "Queued": queued,
        "InFlight": in_flight,
        "OldestAgeInSeconds": age_s,
        "Delivered": delivered,
        "Retried": retried,
        "Throttled": throttled,
        "Dropped": dropped,
        "Dead": dead,
        "DeadEvents": shown,
    })))
}

/// How many bytes of lines wait behind those of an answer.
const LEFT: HeaderName = HeaderName::from_static("x-tinderbox-left");

/// The first lines of a queue.
pub(super) async fn read_queue(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    let (queues, queue) = (Arc::clone(app.events.queues()), named(&call)?);
    let Lines { lines, tag, left } = blocking(move || queues.read(&queue)).await.map_err(failed)?;
    let mut response = Response::new(Body::from(lines));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(LEFT, HeaderValue::from(left));
    // Digits and a dash.
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{tag}\"")) {
        headers.insert(ETAG, tag);
    }
    Ok(response)
}

/// Takes lines away that somebody has read, by the `ETag` that came with them: a request that is sent again takes no others.
pub(super) async fn drop_queue(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, ApiError> {
    let (queues, queue) = (Arc::clone(app.events.queues()), named(&call)?);
    let tag = call.header("if-match").map(|tag| tag.trim_matches('"').to_owned());
    let tag = tag.ok_or_else(|| ApiError::invalid_content("If-Match is missing: which lines were read."))?;
    blocking(move || queues.drop_first(&queue, &tag)).await.map_err(failed)?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<EventsError> for ApiError {
    fn from(error: EventsError) -> Self {
        match error {
            EventsError::Full => Self::events_full(),
            EventsError::Closed => InvokeError::ShuttingDown.into(),
            error => {
                tracing::error!("the queue of events failed: {}", describe(&error));
                Self::internal()
            }
        }
    }
}

fn named(call: &Call) -> Result<QueueName, ApiError> {
    let name = call.path("QueueName");
    let queue = QueueName::new(&call.caller.region, name);
    queue.ok_or_else(|| {
        ApiError::invalid_content("The name of a queue has up to 80 letters, digits, - and _.")
    })
}

fn failed(error: QueueError) -> ApiError {
    match error {
        QueueError::Changed(_) => ApiError::precondition(error.to_string()),
        error => ApiError::upkeep(describe(&error)),
    }
}
