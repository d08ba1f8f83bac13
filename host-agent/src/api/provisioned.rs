//! The operations on provisioned concurrency. `functions::provisioned` keeps it, the invoker says how it stands.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use chrono::DateTime;
use serde_json::{Map, Value, json};

use super::{
    ApiError, App,
    call::Call,
    constraints::Constraints,
    functions::{failed, find_to_change},
    lists::Page,
    names::Target,
    requests::{self, PutProvisionedConcurrencyConfig},
};
use crate::{
    functions::{
        ChangeError,
        concurrency::MIN_UNRESERVED,
        model::LATEST,
        provisioned::{ProvisionError, Provisioned, shares},
    },
    invoke::{Failed, Lack, Provided},
};

/// What a list shows at most, and what may be asked for.
const MAX_ITEMS: i64 = 50;

/// PutProvisionedConcurrencyConfig.
pub(super) async fn put(
    State(app): State<Arc<App>>,
    call: Call,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let request: PutProvisionedConcurrencyConfig = requests::parse(&call.body)?;
    let asked = request.provisioned_concurrent_executions;
    let mut constraints = Constraints::default();
    constraints.required("provisionedConcurrentExecutions", asked.as_ref());
    constraints.range("provisionedConcurrentExecutions", asked, 1..=i64::from(i32::MAX));
    let target = call.target_to_provision("PutProvisionedConcurrencyConfig", constraints)?;
    if target.version() == LATEST {
        return Err(refused(&target, ProvisionError::Unpublished));
    }
    find(&app, &target)?;
    let requested = asked.and_then(|asked| u32::try_from(asked).ok()).unwrap_or_default();
    let account = app.concurrency.account();
    let done = app.functions.provision(&target.id, target.version(), requested, account).await;
    let provisioned = done.map_err(|error| refused(&target, error))?;
    let shown = shown(&app, &target, target.version(), provisioned);
    Ok((StatusCode::ACCEPTED, Json(Value::Object(shown))))
}

/// GetProvisionedConcurrencyConfig, and ListProvisionedConcurrencyConfigs, which is the same with `List=ALL`.
pub(super) async fn get(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    if call.query("List") == Some("ALL") {
        return list(&app, &call);
    }
    let target = named(&call, "GetProvisionedConcurrencyConfig")?;
    find(&app, &target)?;
    let kept = app.functions.view().attached(&target.id, target.version());
    let provisioned = kept.and_then(|kept| kept.attached.provisioned).ok_or_else(ApiError::no_provision)?;
    Ok(Json(Value::Object(shown(&app, &target, target.version(), provisioned))))
}

/// DeleteProvisionedConcurrencyConfig. What is not there is as good as deleted.
pub(super) async fn delete(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, ApiError> {
    let target = named(&call, "DeleteProvisionedConcurrencyConfig")?;
    find(&app, &target)?;
    match app.functions.unprovision(&target.id, target.version()).await {
        Ok(()) | Err(ProvisionError::None) => Ok(StatusCode::NO_CONTENT),
        Err(error) => Err(refused(&target, error)),
    }
}

fn list(app: &App, call: &Call) -> Result<Json<Value>, ApiError> {
    let mut constraints = Constraints::default();
    let page = Page::asked(call, &mut constraints, MAX_ITEMS)?;
    constraints.finish()?;
    let target = call.function("ListProvisionedConcurrencyConfigs")?;
    find_to_change(app, &target)?;
    let all = app.functions.view().all_attached(&target.id);
    let rest =
        all.iter().filter(|one| page.after.as_deref().is_none_or(|after| one.qualifier.as_str() > after));
    let marked = rest.filter_map(|one| Some((one.qualifier.clone(), (&one.qualifier, one.provisioned?))));
    let show = |(qualifier, provisioned): (&String, Provisioned)| {
        let mut members = shown(app, &target, qualifier, provisioned);
        members.insert("FunctionArn".into(), target.arn_of(qualifier).into());
        Value::Object(members)
    };
    Ok(Json(page.answer("ProvisionedConcurrencyConfigs", marked, show)))
}

/// What a request is about that changes nothing, or takes away.
fn named(call: &Call, action: &str) -> Result<Target, ApiError> {
    let target = call.target_to_provision(action, Constraints::default())?;
    if target.version() == LATEST {
        let message = "The function resource provided must be an alias or a published version.";
        return Err(ApiError::invalid_parameter(message));
    }
    Ok(target)
}

/// The version or alias exists.
fn find(app: &App, target: &Target) -> Result<(), ApiError> {
    let (view, qualifier) = (app.functions.view(), target.version());
    if view.named(&target.id, qualifier).is_some() {
        return Ok(());
    }
    Err(match qualifier.parse::<u64>() {
        Ok(_) => ApiError::function_not_found(&target.arn()),
        Err(_) => ApiError::not_found(format!("Cannot find alias arn: {}", target.arn())),
    })
}

/// The members that all answers share. What is allocated is there and initialised, whether or not it serves.
fn shown(app: &App, target: &Target, qualifier: &str, provisioned: Provisioned) -> Map<String, Value> {
    let Provisioned { requested, last_modified_ms } = provisioned;
    let (ready, lack) = standing(app, target, qualifier, requested);
    let (status, reason) = if ready >= requested { ("READY", None) } else { status(lack) };
    let modified = DateTime::from_timestamp_millis(last_modified_ms).unwrap_or_default();
    let mut members = Map::new();
    members.insert("RequestedProvisionedConcurrentExecutions".into(), requested.into());
    members.insert("AllocatedProvisionedConcurrentExecutions".into(), ready.into());
    members.insert("AvailableProvisionedConcurrentExecutions".into(), ready.into());
    members.insert("Status".into(), status.into());
    if let Some(reason) = reason {
        members.insert("StatusReason".into(), reason.into());
    }
    members.insert("LastModified".into(), json!(modified.format("%Y-%m-%dT%H:%M:%S+0000").to_string()));
    members
}

/// How many are there of the versions that it is for, and why there are no more.
fn standing(app: &App, target: &Target, qualifier: &str, requested: u32) -> (u32, Option<Lack>) {
    let view = app.functions.view();
    let shares = match view.alias(&target.id, qualifier) {
        Some(named) => shares(&named.alias, requested),
        None => [(qualifier.to_owned(), requested)].into(),
    };
    let mut standing = (0, None);
    for (version, count) in shares {
        let Some(function) = view.named(&target.id, &version) else { continue };
        let Provided { ready, lack } = app.invoker.provided(&function.config);
        standing = (standing.0 + ready.min(count), standing.1.or(lack));
    }
    standing
}

fn status(lack: Option<Lack>) -> (&'static str, Option<&'static str>) {
    match lack {
        None => ("IN_PROGRESS", None),
        Some(Lack::Memory) => (
            "IN_PROGRESS",
            Some("This Tinderbox node's memory is in use: the rest is allocated when there is room."),
        ),
        Some(Lack::LargerThanNode) => {
            ("FAILED", Some("This Tinderbox node does not have the memory for as many executions."))
        }
        // AWS's word.
        Some(Lack::Failed(Failed::Function)) => ("FAILED", Some("FUNCTION_ERROR_INIT_FAILURE")),
        Some(Lack::Failed(Failed::Node)) => {
            ("FAILED", Some("An internal error occurred. The node's log has the details."))
        }
    }
}

/// AWS's words for what cannot be provisioned.
pub(super) fn refused(target: &Target, error: ProvisionError) -> ApiError {
    match error {
        ProvisionError::Unpublished => ApiError::invalid_parameter(
            "Provisioned Concurrency Configs cannot be applied to unpublished function versions.",
        ),
        ProvisionError::Weighted => {
            ApiError::invalid_parameter("Alias with weights can not be used with Provisioned Concurrency")
        }
        ProvisionError::SnapStart => ApiError::invalid_parameter(
            "Provisioned Concurrency is not supported for function versions with SnapStart enabled.",
        ),
        ProvisionError::OfProvisioned => ApiError::provisioned_twice(
            "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version",
        ),
        ProvisionError::OfAlias => {
            ApiError::provisioned_twice("Version is pointed by a Provisioned Concurrency alias")
        }
        ProvisionError::MoreThanReserved => ApiError::invalid_parameter(
            "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function",
        ),
        ProvisionError::MoreThanLeft(left) => ApiError::invalid_concurrency(format!(
            "Specified ConcurrentExecutions for function is greater than account's unreserved concurrency [{left}]."
        )),
        ProvisionError::TooMany => ApiError::invalid_concurrency(format!(
            "Specified ConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its \
             minimum value of [{MIN_UNRESERVED}]."
        )),
        ProvisionError::None => ApiError::no_provision(),
        ProvisionError::Change(ChangeError::Absent) => ApiError::function_not_found(&target.arn()),
        ProvisionError::Change(error) => failed(&target.arn(), error),
    }
}
