//! The operations on how asynchronous events are handled. `events` keeps to it.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Map, Value, json};

use super::{
    ApiError, App,
    call::Call,
    constraints::{Constraints, DESTINATION},
    functions::failed,
    lists::Page,
    names::{self, Target},
    requests::{self, EventInvokeConfig},
};
use crate::{
    events::QueueName,
    functions::{
        ChangeError,
        attached::{Attached, EventInvoke},
        now_ms,
    },
};

/// What a list shows at most, and what may be asked for.
const MAX_ITEMS: i64 = 50;

/// Why nothing was changed.
enum EventError {
    None,
    Change(ChangeError),
}

impl From<ChangeError> for EventError {
    fn from(error: ChangeError) -> Self {
        Self::Change(error)
    }
}

/// PutFunctionEventInvokeConfig.
pub(super) async fn put(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let (target, asked) = asked(&app, &call, "PutFunctionEventInvokeConfig")?;
    let change = |attached: &mut Attached| {
        attached.event_invoke = Some(asked.clone());
        Ok(())
    };
    write(&app, &target, change).await
}

/// UpdateFunctionEventInvokeConfig: what is absent stays as it is.
pub(super) async fn update(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let (target, asked) = asked(&app, &call, "UpdateFunctionEventInvokeConfig")?;
    let change = |attached: &mut Attached| {
        let old = attached.event_invoke.take().ok_or(EventError::None)?;
        let asked = asked.clone();
        attached.event_invoke = Some(EventInvoke {
            max_retries: asked.max_retries.or(old.max_retries),
            max_age_s: asked.max_age_s.or(old.max_age_s),
            on_success: asked.on_success.or(old.on_success),
            on_failure: asked.on_failure.or(old.on_failure),
            last_modified_ms: asked.last_modified_ms,
        });
        Ok(())
    };
    write(&app, &target, change).await
}

/// GetFunctionEventInvokeConfig.
pub(super) async fn get(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let target = call.target("GetFunctionEventInvokeConfig")?;
    let kept = app.functions.view().attached(&target.id, target.version());
    let found = kept.as_ref().and_then(|kept| kept.attached.event_invoke.as_ref());
    Ok(Json(shown(found.ok_or_else(|| none(&target))?, arn(&target))))
}

/// DeleteFunctionEventInvokeConfig.
pub(super) async fn delete(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, ApiError> {
    let target = call.target("DeleteFunctionEventInvokeConfig")?;
    let change = |attached: &mut Attached| match attached.event_invoke.take() {
        Some(_) => Ok(()),
        None => Err(EventError::None),
    };
    let deleted = app.functions.attach(&target.id, target.version(), change).await;
    deleted.map_err(|error| match error {
        EventError::Change(ChangeError::Absent) => none(&target),
        error => refused(&target, error),
    })?;
    Ok(StatusCode::NO_CONTENT)
}

/// ListFunctionEventInvokeConfigs.
pub(super) async fn list(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let mut constraints = Constraints::default();
    let page = Page::asked(&call, &mut constraints, MAX_ITEMS)?;
    constraints.finish()?;
    let target = call.target("ListFunctionEventInvokeConfigs")?;
    if app.functions.get(&target.id).is_none() {
        return Err(no_function());
    }
    let all = app.functions.view().all_attached(&target.id);
    let rest =
        all.iter().filter(|one| page.after.as_deref().is_none_or(|after| one.qualifier.as_str() > after));
    let marked = rest.filter_map(|one| Some((one.qualifier.clone(), (one, one.event_invoke.as_ref()?))));
    let show = |(one, config): (&Arc<Attached>, &EventInvoke)| shown(config, target.arn_of(&one.qualifier));
    Ok(Json(page.answer("FunctionEventInvokeConfigs", marked, show)))
}

/// What a request wants, checked.
fn asked(app: &App, call: &Call, action: &str) -> Result<(Target, EventInvoke), ApiError> {
    let request: EventInvokeConfig = requests::parse(&call.body)?;
    let destinations = request.destination_config.as_ref();
    let on_success = destinations.and_then(|config| config.on_success.as_ref()?.destination.as_deref());
    let on_failure = destinations.and_then(|config| config.on_failure.as_ref()?.destination.as_deref());
    let mut constraints = Constraints::default();
    constraints.range("maximumRetryAttempts", request.maximum_retry_attempts, 0..=2);
    constraints.range("maximumEventAgeInSeconds", request.maximum_event_age_in_seconds, 60..=21_600);
    for (member, arn) in [("onSuccess", on_success), ("onFailure", on_failure)] {
        let member = format!("destinationConfig.{member}.destination");
        constraints.length(&member, arn, 0..=350);
        constraints.pattern(&member, arn, &DESTINATION);
    }
    constraints.finish()?;
    let target = call.target(action)?;
    let view = app.functions.view();
    if view.alias(&target.id, target.version()).is_none()
        && view.named(&target.id, target.version()).is_none()
    {
        return Err(no_function());
    }
    if destinations.is_none()
        && request.maximum_retry_attempts.is_none()
        && request.maximum_event_age_in_seconds.is_none()
    {
        let message = "You must specify at least one of error handling or destination setting.";
        return Err(ApiError::invalid_parameter(message));
    }
    check_destinations(app, call, &target, on_success, on_failure)?;
    let asked = EventInvoke {
        max_retries: request.maximum_retry_attempts,
        max_age_s: request.maximum_event_age_in_seconds,
        on_success: on_success.map(String::from),
        on_failure: on_failure.map(String::from),
        last_modified_ms: now_ms(),
    };
    Ok((target, asked))
}

/// A destination is another function of this node, a queue of its, or a bucket or topic that its configuration names. As with AWS, a
/// bucket is told of failures alone.
fn check_destinations(
    app: &App,
    call: &Call,
    target: &Target,
    on_success: Option<&str>,
    on_failure: Option<&str>,
) -> Result<(), ApiError> {
    let is_misplaced = |arn: &str| on_success == Some(arn) && arn.split(':').nth(2) == Some("s3");
    for arn in [on_success, on_failure].into_iter().flatten().filter(|arn| !arn.is_empty()) {
        match arn.split(':').nth(2).unwrap_or_default() {
            "lambda" => {}
            "sqs" => match QueueName::of_arn(arn, &app.account_id) {
                Some(_) => continue,
                None => {
                    return Err(ApiError::invalid_parameter(format!(
                        "The destination ARN {arn} is invalid."
                    )));
                }
            },
            "sns" | "s3" if app.events.destinations().has(arn) && !is_misplaced(arn) => continue,
            "sns" | "events" | "s3" if !is_misplaced(arn) => {
                let what =
                    "A destination that is no function, no queue and nothing that its configuration names";
                return Err(ApiError::unsupported_parameter(what));
            }
            _ => {
                let said = |name: &str, arn: Option<&str>| {
                    arn.map_or("null".to_owned(), |arn| format!("{name}(destination={arn})"))
                };
                return Err(ApiError::invalid_parameter(format!(
                    "The provided destination config DestinationConfig(onSuccess={}, onFailure={}) is invalid.",
                    said("OnSuccess", on_success),
                    said("OnFailure", on_failure),
                )));
            }
        }
        let invalid = || ApiError::invalid_parameter(format!("The destination ARN {arn} is invalid."));
        let named = names::resolve(&call.caller, "InvokeFunction", arn, None).map_err(|_| invalid())?;
        if named.id == target.id {
            let message = "You can't specify the function as a destination for itself.";
            return Err(ApiError::invalid_parameter(message));
        }
        app.functions.view().named(&named.id, named.version()).ok_or_else(invalid)?;
    }
    Ok(())
}

async fn write(
    app: &App,
    target: &Target,
    change: impl Fn(&mut Attached) -> Result<(), EventError> + Send,
) -> Result<Json<Value>, ApiError> {
    let written = app.functions.attach(&target.id, target.version(), change).await;
    let attached = written.map_err(|error| refused(target, error))?;
    let config = attached.event_invoke.as_ref().ok_or_else(ApiError::internal)?;
    Ok(Json(shown(config, arn(target))))
}

/// FunctionEventInvokeConfig.
fn shown(config: &EventInvoke, arn: String) -> Value {
    let destination = |arn: &Option<String>| match arn.as_deref().filter(|arn| !arn.is_empty()) {
        Some(arn) => json!({ "Destination": arn }),
        None => json!({}),
    };
    let mut members = Map::new();
    // Seconds since the Unix epoch, as AWS's SDKs read them.
    members.insert("LastModified".into(), json!(config.last_modified_ms as f64 / 1000.0));
    members.insert("FunctionArn".into(), arn.into());
    if let Some(attempts) = config.max_retries {
        members.insert("MaximumRetryAttempts".into(), attempts.into());
    }
    if let Some(age) = config.max_age_s {
        members.insert("MaximumEventAgeInSeconds".into(), age.into());
    }
    let destinations =
        json!({ "OnSuccess": destination(&config.on_success), "OnFailure": destination(&config.on_failure) });
    members.insert("DestinationConfig".into(), destinations);
    Value::Object(members)
}

/// A function without a qualifier is named by the version that none stands for.
fn arn(target: &Target) -> String {
    target.arn_of(target.version())
}

fn no_function() -> ApiError {
    ApiError::not_found("The function doesn't exist.")
}

fn none(target: &Target) -> ApiError {
    ApiError::not_found(format!("The function {} doesn't have an EventInvokeConfig", arn(target)))
}

fn refused(target: &Target, error: EventError) -> ApiError {
    match error {
        EventError::None => none(target),
        EventError::Change(ChangeError::Absent) => no_function(),
        EventError::Change(error) => failed(&target.arn(), error),
    }
}
