//! DescribeLogGroups and DescribeLogStreams.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Identified, bad_token, group_arn, group_name, read, stream, token, untoken};
use crate::{
    api::{ApiError, App, call::Call, constraints::Constraints},
    logs::{GroupInfo, StreamInfo},
};

/// Items of one answer, at most and unless a client wants fewer: AWS's.
const MAX_ITEMS: i64 = 50;

/// The only class of groups here.
pub(super) const CLASS: &str = "STANDARD";

/// The classes of AWS's.
pub(super) const CLASSES: [&str; 4] = ["STANDARD", "INFREQUENT_ACCESS", "DELIVERY", "ESSENTIALS"];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Groups {
    log_group_name_prefix: Option<String>,
    log_group_name_pattern: Option<String>,
    log_group_class: Option<String>,
    log_group_identifiers: Option<Vec<Value>>,
    account_identifiers: Option<Vec<Value>>,
    include_linked_accounts: Option<bool>,
    next_token: Option<String>,
    limit: Option<i64>,
}

/// DescribeLogGroups.
pub(super) async fn groups(app: &App, call: &Call) -> Result<Value, ApiError> {
    let Groups {
        log_group_name_prefix,
        log_group_name_pattern,
        log_group_class,
        log_group_identifiers,
        account_identifiers,
        include_linked_accounts,
        next_token,
        limit,
    } = read(call)?;
    let mut constraints = Constraints::default();
    group_name(&mut constraints, "logGroupNamePrefix", log_group_name_prefix.as_deref());
    constraints.length("logGroupNamePattern", log_group_name_pattern.as_deref(), 0..=512);
    constraints.one_of("logGroupClass", log_group_class.as_deref(), &CLASSES);
    constraints.range("limit", limit, 1..=MAX_ITEMS);
    constraints.finish()?;
    for (member, is_given) in [
        ("logGroupIdentifiers", log_group_identifiers.is_some_and(|given| !given.is_empty())),
        ("accountIdentifiers", account_identifiers.is_some_and(|given| !given.is_empty())),
        ("includeLinkedAccounts", include_linked_accounts == Some(true)),
    ] {
        if is_given {
            return Err(ApiError::unsupported_in_logs(member));
        }
    }
    if log_group_name_prefix.is_some() && log_group_name_pattern.is_some() {
        let message = "LogGroup name prefix and LogGroup name pattern are mutually exclusive parameters.";
        return Err(ApiError::logs_parameter(message));
    }
    let after = next_token.map(|token| untoken(&token)).transpose()?.unwrap_or_default();
    let keep = move |name: &str| {
        log_group_name_prefix.as_ref().is_none_or(|prefix| name.starts_with(prefix.as_str()))
            && log_group_name_pattern.as_ref().is_none_or(|part| name.contains(part.as_str()))
            && log_group_class.as_ref().is_none_or(|class| class == CLASS)
    };
    let mut groups = app.logs.groups(call.caller.region.clone(), keep, after).await?;
    let limit = items(limit);
    let next = (groups.len() > limit).then(|| groups[limit - 1].id.name.clone());
    groups.truncate(limit);
    let groups: Vec<Value> = groups.iter().map(|group| described(call, group)).collect();
    Ok(with_next(json!({ "logGroups": groups }), next))
}

fn described(call: &Call, group: &GroupInfo) -> Value {
    let arn = group_arn(&call.caller, &group.id.name);
    let mut described = json!({
        "logGroupName": group.id.name,
        "creationTime": group.created_ms,
        "metricFilterCount": 0,
        "arn": format!("{arn}:*"),
        "storedBytes": group.stored_bytes,
        "logGroupClass": CLASS,
        "logGroupArn": arn,
    });
    if let Some(days) = group.retention_days {
        described["retentionInDays"] = days.into();
    }
    described
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Described {
    log_group_name: Option<String>,
    log_group_identifier: Option<String>,
    log_stream_name_prefix: Option<String>,
    order_by: Option<String>,
    descending: Option<bool>,
    next_token: Option<String>,
    limit: Option<i64>,
}

/// DescribeLogStreams.
pub(super) async fn streams(app: &App, call: &Call) -> Result<Value, ApiError> {
    let Described {
        log_group_name: name,
        log_group_identifier: identifier,
        log_stream_name_prefix,
        order_by,
        descending,
        next_token,
        limit,
    } = read(call)?;
    let named = Identified { name, identifier };
    let mut constraints = Constraints::default();
    named.check(&mut constraints);
    stream(&mut constraints, "logStreamNamePrefix", log_stream_name_prefix.as_deref());
    constraints.one_of("orderBy", order_by.as_deref(), &["LogStreamName", "LastEventTime"]);
    constraints.range("limit", limit, 1..=MAX_ITEMS);
    constraints.finish()?;
    let by_time = order_by.as_deref() == Some("LastEventTime");
    if by_time && log_stream_name_prefix.is_some() {
        return Err(ApiError::logs_parameter("Cannot order by LastEventTime with a logStreamNamePrefix."));
    }
    let key = |stream: &StreamInfo| (if by_time { stream.last_ms } else { 0 }, stream.name.clone());
    let after = next_token.map(|token| key_of(&untoken(&token)?)).transpose()?;
    let descending = descending.unwrap_or(false);
    let group = named.resolve(call)?;
    let name = group.name.clone();
    let mut streams = app.logs.streams(group).await?;
    streams.retain(|stream| {
        let is_behind =
            |after: &(u64, String)| if descending { key(stream) < *after } else { key(stream) > *after };
        log_stream_name_prefix.as_ref().is_none_or(|prefix| stream.name.starts_with(prefix.as_str()))
            && after.as_ref().is_none_or(is_behind)
    });
    streams.sort_by_cached_key(key);
    if descending {
        streams.reverse();
    }
    let limit = items(limit);
    let next = (streams.len() > limit)
        .then(|| key(&streams[limit - 1]))
        .map(|(time, name)| format!("{time}:{name}"));
    streams.truncate(limit);
    let streams: Vec<Value> = streams
        .iter()
        .map(|StreamInfo { name: stream, created_ms, first_ms, last_ms, kept_ms }| {
            json!({
                "logStreamName": stream,
                "creationTime": created_ms,
                "firstEventTimestamp": first_ms,
                "lastEventTimestamp": last_ms,
                "lastIngestionTime": kept_ms,
                "arn": format!("{}:log-stream:{stream}", group_arn(&call.caller, &name)),
                // AWS's answer since 2019.
                "storedBytes": 0,
            })
        })
        .collect();
    Ok(with_next(json!({ "logStreams": streams }), next))
}

/// What a stream is ordered by, as a token has it.
fn key_of(text: &str) -> Result<(u64, String), ApiError> {
    let (time, name) = text.split_once(':').ok_or_else(bad_token)?;
    Ok((time.parse().map_err(|_| bad_token())?, name.to_owned()))
}

fn items(limit: Option<i64>) -> usize {
    usize::try_from(limit.unwrap_or(MAX_ITEMS)).unwrap_or(1).max(1)
}

fn with_next(mut answer: Value, next: Option<String>) -> Value {
    if let Some(next) = next {
        answer["nextToken"] = token(&next).into();
    }
    answer
}
