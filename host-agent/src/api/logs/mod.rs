//! What functions print, as CloudWatch Logs serves it: `POST /` with `X-Amz-Target: Logs_20140328.OPERATION`, in AWS's JSON 1.1. The
//! part of it that reads and tidies up: nobody but the node writes.

mod create;
mod describe;
mod events;

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    ApiError, App,
    call::Call,
    constraints::{Constraints, LOG_GROUP, LOG_GROUP_IDENTIFIER, LOG_STREAM},
    error::JSON_1_1,
    names::Caller,
    requests::parse,
};
use crate::logs::{GroupName, LogsError};

/// Before the operation's name in `X-Amz-Target`.
pub(crate) const TARGET_PREFIX: &str = "Logs_20140328.";

/// Header that names the operation.
pub(crate) const TARGET: &str = "x-amz-target";

/// Longest name of an operation that is repeated.
const MAX_NAME_LEN: usize = 64;

/// Days that a group may be told to keep its lines: AWS's.
const RETENTIONS: [&str; 22] = [
    "1", "3", "5", "7", "14", "30", "60", "90", "120", "150", "180", "365", "400", "545", "731", "1096",
    "1827", "2192", "2557", "2922", "3288", "3653",
];

/// Serves whatever a target names.
pub(super) async fn serve(State(app): State<Arc<App>>, call: Call) -> Response {
    let Some(operation) = call.header(TARGET).and_then(|target| target.strip_prefix(TARGET_PREFIX)) else {
        return ApiError::unknown_operation().into_response();
    };
    let answer = match operation {
        "CreateLogGroup" => create::create_group(&app, &call).await.map(|()| None),
        "ListTagsForResource" => create::tags(&app, &call).await.map(Some),
        "DescribeLogGroups" => describe::groups(&app, &call).await.map(Some),
        "DescribeLogStreams" => describe::streams(&app, &call).await.map(Some),
        "FilterLogEvents" => events::filter(&app, &call).await.map(Some),
        "GetLogEvents" => events::get(&app, &call).await.map(Some),
        "PutRetentionPolicy" => put_retention(&app, &call).await.map(|()| None),
        "DeleteRetentionPolicy" => delete_retention(&app, &call).await.map(|()| None),
        "DeleteLogGroup" => delete_group(&app, &call).await.map(|()| None),
        "DeleteLogStream" => delete_stream(&app, &call).await.map(|()| None),
        other => Err(ApiError::unknown_logs_operation(&other.chars().take(MAX_NAME_LEN).collect::<String>())),
    };
    match answer {
        Ok(Some(body)) => {
            let mut response = Json::<Value>(body).into_response();
            response.headers_mut().insert(CONTENT_TYPE, JSON_1_1);
            response
        }
        Ok(None) => StatusCode::OK.into_response(),
        Err(error) => error.into_json_1_1(),
    }
}

/// On what an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    /// All groups.
    Account,
    /// The group that the body names.
    Group,
    /// The group whose ARN it has, as of anything with tags.
    Resource,
    /// The stream that it names of a group.
    Stream,
}

/// Each operation, and on what it is: what else a body names the operation does not read, and a policy is not asked about.
const OPERATIONS: [(&str, On); 10] = [
    ("CreateLogGroup", On::Group),
    ("ListTagsForResource", On::Resource),
    ("DescribeLogGroups", On::Account),
    ("DescribeLogStreams", On::Group),
    ("FilterLogEvents", On::Group),
    ("GetLogEvents", On::Stream),
    ("PutRetentionPolicy", On::Group),
    ("DeleteRetentionPolicy", On::Group),
    ("DeleteLogGroup", On::Group),
    ("DeleteLogStream", On::Stream),
];

/// Members that name what an operation is on.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mentioned {
    log_group_name: Option<String>,
    log_group_identifier: Option<String>,
    log_stream_name: Option<String>,
    resource_arn: Option<String>,
}

/// What IAM calls a request and what it is on, of its target and its body: a group, a stream of one, or everything.
///
/// # Errors
/// A body that the operation will not read either.
pub(super) fn action_and_resource(
    caller: &Caller,
    target: &str,
    body: &[u8],
) -> Result<(String, String), ApiError> {
    let operation = target.strip_prefix(TARGET_PREFIX).ok_or_else(ApiError::unknown_operation)?;
    let on = OPERATIONS.iter().find(|(name, _)| *name == operation).map_or(On::Account, |(_, on)| *on);
    let Mentioned { log_group_name, log_group_identifier, log_stream_name, resource_arn } = parse(body)?;
    let prefix = group_arn(caller, "");
    let named = if on == On::Resource { resource_arn } else { log_group_name.or(log_group_identifier) };
    let name = named.as_deref().map(|named| named.strip_prefix(&prefix).unwrap_or(named));
    let resource = match (on, name) {
        (On::Account, _) | (_, None) => "*".to_owned(),
        (On::Group | On::Resource, Some(name)) => group_resource(caller, name),
        (On::Stream, Some(name)) => {
            format!("{prefix}{name}:log-stream:{}", log_stream_name.unwrap_or_default())
        }
    };
    Ok((format!("logs:{operation}"), resource))
}

/// A group, as policies name it with all that is in it.
pub(super) fn group_resource(caller: &Caller, name: &str) -> String {
    format!("{}:*", group_arn(caller, name))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Named {
    log_group_name: Option<String>,
    log_stream_name: Option<String>,
    retention_in_days: Option<i64>,
}

async fn put_retention(app: &App, call: &Call) -> Result<(), ApiError> {
    let Named { log_group_name, retention_in_days, .. } = read(call)?;
    let mut constraints = Constraints::default();
    required_group(&mut constraints, log_group_name.as_deref());
    constraints.required("retentionInDays", retention_in_days.as_ref());
    let days = retention_in_days.map(|days| days.to_string());
    constraints.one_of("retentionInDays", days.as_deref(), &RETENTIONS);
    constraints.finish()?;
    let days = retention_in_days.and_then(|days| u32::try_from(days).ok());
    Ok(app.logs.set_retention(group(call, log_group_name), days).await?)
}

async fn delete_retention(app: &App, call: &Call) -> Result<(), ApiError> {
    let Named { log_group_name, .. } = read(call)?;
    let mut constraints = Constraints::default();
    required_group(&mut constraints, log_group_name.as_deref());
    constraints.finish()?;
    Ok(app.logs.set_retention(group(call, log_group_name), None).await?)
}

async fn delete_group(app: &App, call: &Call) -> Result<(), ApiError> {
    let Named { log_group_name, .. } = read(call)?;
    let mut constraints = Constraints::default();
    required_group(&mut constraints, log_group_name.as_deref());
    constraints.finish()?;
    Ok(app.logs.delete_group(group(call, log_group_name)).await?)
}

async fn delete_stream(app: &App, call: &Call) -> Result<(), ApiError> {
    let Named { log_group_name, log_stream_name, .. } = read(call)?;
    let mut constraints = Constraints::default();
    required_group(&mut constraints, log_group_name.as_deref());
    constraints.required("logStreamName", log_stream_name.as_ref());
    stream(&mut constraints, "logStreamName", log_stream_name.as_deref());
    constraints.finish()?;
    let group = group(call, log_group_name);
    Ok(app.logs.delete_stream(group, log_stream_name.unwrap_or_default()).await?)
}

/// A request's document; without a body an empty one.
fn read<T: DeserializeOwned + Default>(call: &Call) -> Result<T, ApiError> {
    parse(&call.body)
}

fn required_group(constraints: &mut Constraints, name: Option<&str>) {
    constraints.required("logGroupName", name.as_ref());
    group_name(constraints, "logGroupName", name);
}

fn group_name(constraints: &mut Constraints, member: &str, name: Option<&str>) {
    constraints.length(member, name, 1..=512);
    constraints.pattern(member, name, &LOG_GROUP);
}

fn stream(constraints: &mut Constraints, member: &str, name: Option<&str>) {
    constraints.length(member, name, 1..=512);
    constraints.pattern(member, name, &LOG_STREAM);
}

/// The group of that name in the caller's region. Whether there is a name, the constraints say.
fn group(call: &Call, name: Option<String>) -> GroupName {
    GroupName { region: call.caller.region.clone(), name: name.unwrap_or_default() }
}

/// A group that is named by its name or by its ARN.
#[derive(Debug, Default)]
struct Identified {
    name: Option<String>,
    identifier: Option<String>,
}

impl Identified {
    fn check(&self, constraints: &mut Constraints) {
        group_name(constraints, "logGroupName", self.name.as_deref());
        let identifier = self.identifier.as_deref();
        constraints.length("logGroupIdentifier", identifier, 1..=2048);
        constraints.pattern("logGroupIdentifier", identifier, &LOG_GROUP_IDENTIFIER);
    }

    /// The group, if it is one of this account and region.
    fn resolve(self, call: &Call) -> Result<GroupName, ApiError> {
        let identifier = match (self.name, self.identifier) {
            (Some(name), None) => return Ok(group(call, Some(name))),
            (None, Some(identifier)) => identifier,
            (Some(_), Some(_)) => {
                let message = "Only one of logGroupName and logGroupIdentifier can be specified.";
                return Err(ApiError::logs_parameter(message));
            }
            (None, None) => {
                return Err(ApiError::logs_parameter(
                    "One of logGroupName and logGroupIdentifier is required.",
                ));
            }
        };
        if !identifier.starts_with("arn:") {
            return Ok(group(call, Some(identifier)));
        }
        let name = identifier.strip_prefix(group_arn(&call.caller, "").as_str());
        let name = name.ok_or(LogsError::NoGroup)?;
        Ok(group(call, Some(name.to_owned())))
    }
}

fn group_arn(caller: &Caller, name: &str) -> String {
    format!("arn:aws:logs:{}:{}:log-group:{name}", caller.region, caller.account_id)
}

/// Text as a token that clients hand back as it is.
fn token(text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(text)
}

fn untoken(token: &str) -> Result<String, ApiError> {
    let text = BASE64_URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    text.ok_or_else(bad_token)
}

fn bad_token() -> ApiError {
    ApiError::logs_parameter("The specified nextToken is invalid.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_asked_about_the_group_and_stream_that_the_operation_will_read() {
        let caller = Caller { account_id: "000000000000".into(), region: "us-east-1".into() };
        let asked = |operation: &str, body: &str| {
            let target = format!("{TARGET_PREFIX}{operation}");
            action_and_resource(&caller, &target, body.as_bytes()).map_err(|error| error.name().to_owned())
        };
        let group = "arn:aws:logs:us-east-1:000000000000:log-group:/aws/lambda/f";
        let of_stream = r#"{"logGroupName":"/aws/lambda/f","logStreamName":"s"}"#;
        for (operation, body, resource) in [
            ("DescribeLogGroups", "", "*".to_owned()),
            ("FilterLogEvents", r#"{"logGroupName":"/aws/lambda/f"}"#, format!("{group}:*")),
            ("FilterLogEvents", &format!(r#"{{"logGroupIdentifier":"{group}"}}"#), format!("{group}:*")),
            ("GetLogEvents", of_stream, format!("{group}:log-stream:s")),
            // What it does not read it is not on.
            ("DescribeLogGroups", of_stream, "*".to_owned()),
            ("FilterLogEvents", of_stream, format!("{group}:*")),
            ("DeleteLogGroup", of_stream, format!("{group}:*")),
            ("CreateLogGroup", of_stream, format!("{group}:*")),
            ("ListTagsForResource", &format!(r#"{{"resourceArn":"{group}"}}"#), format!("{group}:*")),
            ("ListTagsForResource", of_stream, "*".to_owned()),
        ] {
            assert_eq!(asked(operation, body), Ok((format!("logs:{operation}"), resource)), "{body}");
        }
        assert_eq!(asked("FilterLogEvents", r#"{"logGroupName":1}"#), Err("SerializationException".into()));
    }
}
