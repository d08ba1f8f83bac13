//! FilterLogEvents and GetLogEvents.

use std::ops::RangeInclusive;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Identified, bad_token, read, stream, token, untoken};
use crate::{
    api::{ApiError, App, call::Call, constraints::Constraints},
    logs::{Found, Page, Pattern, Position, Query, Reading, Streams},
};

/// Events of one answer, at most and unless a client wants fewer: AWS's.
const MAX_EVENTS: i64 = 10_000;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    log_group_name: Option<String>,
    log_group_identifier: Option<String>,
    log_stream_names: Option<Vec<String>>,
    log_stream_name_prefix: Option<String>,
    start_time: Option<i64>,
    end_time: Option<i64>,
    filter_pattern: Option<String>,
    next_token: Option<String>,
    limit: Option<i64>,
    start_from_head: Option<bool>,
}

/// FilterLogEvents. What is matched is in the order in which it was written; `interleaved` is how it always is.
pub(super) async fn filter(app: &App, call: &Call) -> Result<Value, ApiError> {
    let Filter {
        log_group_name: name,
        log_group_identifier: identifier,
        log_stream_names,
        log_stream_name_prefix,
        start_time,
        end_time,
        filter_pattern,
        next_token,
        limit,
        start_from_head,
    } = read(call)?;
    let named = Identified { name, identifier };
    let mut constraints = Constraints::default();
    named.check(&mut constraints);
    constraints.count("logStreamNames", log_stream_names.as_deref(), 1..=100);
    constraints.lengths("logStreamNames", log_stream_names.as_deref(), 1..=512);
    stream(&mut constraints, "logStreamNamePrefix", log_stream_name_prefix.as_deref());
    times_and_limit(&mut constraints, (start_time, end_time), limit);
    constraints.length("filterPattern", filter_pattern.as_deref(), 0..=1024);
    constraints.length("nextToken", next_token.as_deref(), 1..=usize::MAX);
    constraints.finish()?;
    if start_from_head == Some(false) {
        return Err(ApiError::logs_parameter("startFromHead=false is not supported by this Tinderbox node."));
    }
    let streams = match (log_stream_names, log_stream_name_prefix) {
        (Some(_), Some(_)) => {
            let message = "logStreamNames and logStreamNamePrefix are mutually exclusive parameters.";
            return Err(ApiError::logs_parameter(message));
        }
        (Some(names), None) => Streams::Named(names),
        (None, Some(prefix)) => Streams::Prefixed(prefix),
        (None, None) => Streams::All,
    };
    let pattern = Pattern::parse(filter_pattern.as_deref().unwrap_or_default());
    let pattern = pattern.map_err(|error| ApiError::logs_parameter(error.to_string()))?;
    // Both ends are meant.
    let times = milliseconds(start_time, 0)..=milliseconds(end_time, u64::MAX);
    let from = match next_token {
        Some(token) => position(&untoken(&token)?)?,
        None => Position::FIRST,
    };
    let query = Query { streams, times, pattern, limit: events(limit) };
    let Page { mut events, next, .. } = app.logs.find(named.resolve(call)?, query, from).await?;
    // Each sandbox tells its own time, and two lines may have been handed over in the other order.
    events.sort_by_key(|event| event.at_ms);
    let events: Vec<Value> = events.iter().map(filtered).collect();
    let mut answer = json!({ "events": events, "searchedLogStreams": [] });
    if let Some(next) = next {
        answer["nextToken"] = token(&text(next)).into();
    }
    Ok(answer)
}

fn filtered(event: &Found) -> Value {
    let Found { stream, at_ms, kept_ms, message, position } = event;
    // Unlike any other's of the group, and as long as AWS's.
    let id = (u128::from(position.segment) << 64) + u128::from(position.offset);
    json!({
        "logStreamName": stream,
        "timestamp": at_ms,
        "message": message,
        "ingestionTime": kept_ms,
        "eventId": format!("{id:056}"),
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Get {
    log_group_name: Option<String>,
    log_group_identifier: Option<String>,
    log_stream_name: Option<String>,
    start_time: Option<i64>,
    end_time: Option<i64>,
    next_token: Option<String>,
    limit: Option<i64>,
    start_from_head: Option<bool>,
}

/// GetLogEvents: the first or the last events of a stream, or those beside a token. At either end the same token comes back.
pub(super) async fn get(app: &App, call: &Call) -> Result<Value, ApiError> {
    let Get {
        log_group_name: name,
        log_group_identifier: identifier,
        log_stream_name,
        start_time,
        end_time,
        next_token,
        limit,
        start_from_head,
    } = read(call)?;
    let named = Identified { name, identifier };
    let mut constraints = Constraints::default();
    named.check(&mut constraints);
    constraints.required("logStreamName", log_stream_name.as_ref());
    stream(&mut constraints, "logStreamName", log_stream_name.as_deref());
    times_and_limit(&mut constraints, (start_time, end_time), limit);
    constraints.finish()?;
    let reading = match (next_token.as_deref(), start_from_head) {
        (Some(token), _) => beside(token)?,
        (None, Some(true)) => Reading::From(Position::FIRST),
        (None, _) => Reading::Before(Position::LAST),
    };
    let stream = log_stream_name.unwrap_or_default();
    let query = Query {
        streams: Streams::Named(vec![stream.clone()]),
        times: before(start_time, end_time),
        pattern: Pattern::all(),
        limit: events(limit),
    };
    let page = app.logs.read_stream((named.resolve(call)?, stream), query, reading).await?;
    let events: Vec<Value> = page.events.iter().map(plain).collect();
    // An answer without events has looked at as much as one may, and its token goes on from there.
    let forward = match (reading, page.events.is_empty()) {
        (Reading::From(_), true) => page.next.unwrap_or(page.end),
        _ => page.end,
    };
    Ok(json!({
        "events": events,
        "nextForwardToken": format!("f/{}/s", token(&text(forward))),
        "nextBackwardToken": format!("b/{}/s", token(&text(page.begin))),
    }))
}

fn plain(event: &Found) -> Value {
    json!({ "timestamp": event.at_ms, "message": event.message, "ingestionTime": event.kept_ms })
}

/// Times of which the last one is not meant.
fn before(start: Option<i64>, end: Option<i64>) -> RangeInclusive<u64> {
    match milliseconds(end, u64::MAX).checked_sub(1) {
        Some(last) => milliseconds(start, 0)..=last,
        None => RangeInclusive::new(1, 0),
    }
}

fn times_and_limit(constraints: &mut Constraints, times: (Option<i64>, Option<i64>), limit: Option<i64>) {
    constraints.range("startTime", times.0, 0..=i64::MAX);
    constraints.range("endTime", times.1, 0..=i64::MAX);
    constraints.range("limit", limit, 1..=MAX_EVENTS);
}

fn milliseconds(time: Option<i64>, otherwise: u64) -> u64 {
    time.and_then(|time| u64::try_from(time).ok()).unwrap_or(otherwise)
}

fn events(limit: Option<i64>) -> usize {
    usize::try_from(limit.unwrap_or(MAX_EVENTS)).unwrap_or(usize::MAX)
}

/// The events behind a forward token, or before a backward one.
fn beside(token: &str) -> Result<Reading, ApiError> {
    let inner = |prefix| token.strip_prefix(prefix).and_then(|rest: &str| rest.strip_suffix("/s"));
    match (inner("f/"), inner("b/")) {
        (Some(token), _) => Ok(Reading::From(position(&untoken(token)?)?)),
        (_, Some(token)) => Ok(Reading::Before(position(&untoken(token)?)?)),
        _ => Err(bad_token()),
    }
}

fn text(position: Position) -> String {
    format!("{}.{}", position.segment, position.offset)
}

fn position(text: &str) -> Result<Position, ApiError> {
    let (segment, offset) = text.split_once('.').ok_or_else(bad_token)?;
    match (segment.parse(), offset.parse()) {
        (Ok(segment), Ok(offset)) => Ok(Position { segment, offset }),
        _ => Err(bad_token()),
    }
}
