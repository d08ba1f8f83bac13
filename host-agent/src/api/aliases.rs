//! The operations on aliases.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde_json::Value;

use super::{
    ApiError, App,
    call::Call,
    constraints::{ALIAS_CHARACTERS, Constraints, VERSION, VERSION_NUMBER},
    functions::{failed, find_to_change},
    lists::{MOST, Page},
    names::{Target, canonical},
    provisioned,
    requests::{self, AliasRequest},
    responses,
};
use crate::functions::aliases::{AliasChange, AliasError};

/// CreateAlias.
pub(super) async fn create(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    let request: AliasRequest = requests::parse(&call.body)?;
    let mut constraints = Constraints::default();
    constraints.required("name", request.name.as_ref());
    constraints.required("functionVersion", request.function_version.as_ref());
    constrain_name(&mut constraints, request.name.as_deref());
    constrain(&mut constraints, &request);
    constraints.finish()?;
    let target = call.function("CreateAlias")?;
    let name = request.name.clone().unwrap_or_default();
    let arn = target.arn_of(&name);
    // A function that is not there is reported by the version that was asked for.
    let version = request.function_version.clone().unwrap_or_default();
    if app.functions.get(&target.id).is_none() {
        return Err(ApiError::function_not_found(&target.arn_of(&version)));
    }
    let created = app.functions.create_alias(&target.id, &name, change(request)?).await;
    let alias = created.map_err(|error| refused(&target, &name, error))?;
    Ok((StatusCode::CREATED, Json(responses::alias(&alias, arn))).into_response())
}

/// GetAlias.
pub(super) async fn get(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let (target, name) = named(&call, "GetAlias")?;
    let arn = target.arn_of(&name);
    let found = app.functions.view().alias(&target.id, &name);
    let named = found.ok_or_else(|| ApiError::not_found(format!("Cannot find alias arn: {arn}")))?;
    Ok(Json(responses::alias(&named.alias, arn)))
}

/// ListAliases.
pub(super) async fn list(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let version = call.query("FunctionVersion");
    let mut constraints = Constraints::default();
    let page = Page::asked(&call, &mut constraints, MOST)?;
    constraints.length("functionVersion", version, 1..=1024);
    constraints.pattern("functionVersion", version, &VERSION);
    constraints.finish()?;
    let version = version.map(canonical);
    let target = call.function("ListAliases")?;
    find_to_change(&app, &target)?;
    let aliases = app.functions.view().aliases(&target.id);
    let rest =
        aliases.iter().filter(|alias| page.after.as_deref().is_none_or(|after| alias.name.as_str() > after));
    let asked = rest.filter(|alias| {
        let names = |wanted: &str| {
            alias.version == wanted || alias.second.as_ref().is_some_and(|(second, _)| second == wanted)
        };
        version.as_deref().is_none_or(names)
    });
    let marked = asked.map(|alias| (alias.name.clone(), alias));
    Ok(Json(page.answer("Aliases", marked, |alias| responses::alias(alias, target.arn_of(&alias.name)))))
}

/// UpdateAlias.
pub(super) async fn update(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let mut request: AliasRequest = requests::parse(&call.body)?;
    let mut constraints = Constraints::default();
    constrain(&mut constraints, &request);
    constraints.finish()?;
    let (target, name) = named(&call, "UpdateAlias")?;
    let arn = target.arn_of(&name);
    if app.functions.view().alias(&target.id, &name).is_none() {
        return Err(ApiError::not_found(format!("Alias not found: {arn}")));
    }
    let expected = request.revision_id.take();
    let updated = app.functions.update_alias(&target.id, &name, expected.as_deref(), change(request)?).await;
    let alias = updated.map_err(|error| refused(&target, &name, error))?;
    Ok(Json(responses::alias(&alias, arn)))
}

/// DeleteAlias.
pub(super) async fn delete(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, ApiError> {
    let (target, name) = named(&call, "DeleteAlias")?;
    let deleted = app.functions.delete_alias(&target.id, &name).await;
    deleted.map_err(|error| refused(&target, &name, error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// The function and the alias that a path names.
fn named(call: &Call, action: &str) -> Result<(Target, String), ApiError> {
    let name = call.path("Name");
    let mut constraints = Constraints::default();
    constrain_name(&mut constraints, Some(name));
    constraints.finish()?;
    Ok((call.function(action)?, name.to_owned()))
}

/// The model's pattern looks ahead, which ours cannot: characters and what no name may be are checked apart.
fn constrain_name(constraints: &mut Constraints, name: Option<&str>) {
    const PATTERN: &str = "Member must satisfy regular expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)";
    constraints.length("name", name, 1..=128);
    let number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(name) = name.filter(|name| number(name) || !ALIAS_CHARACTERS.matches(name)) {
        constraints.add("name", name, PATTERN);
    }
}

fn constrain(constraints: &mut Constraints, request: &AliasRequest) {
    constraints.length("functionVersion", request.function_version.as_deref(), 1..=1024);
    constraints.pattern("functionVersion", request.function_version.as_deref(), &VERSION);
    constraints.length("description", request.description.as_deref(), 0..=256);
    let weights =
        request.routing_config.as_ref().and_then(|routing| routing.additional_version_weights.as_ref());
    let Some(weights) = weights else { return };
    let shown = || {
        let shown: Vec<_> = weights.iter().map(|(version, weight)| format!("{version}={weight:?}")).collect();
        format!("{{{}}}", shown.join(", "))
    };
    const AT: &str = "routingConfig.additionalVersionWeights";
    if weights.keys().any(|version| version.len() > 1024 || !VERSION_NUMBER.matches(version)) {
        let constraint = "Map keys must satisfy constraint: [Member must have length less than or equal to 1024, \
                          Member must have length greater than or equal to 1, Member must satisfy regular expression \
                          pattern: [0-9]+, Member must not be null]";
        constraints.add(AT, shown(), constraint);
    }
    if weights.values().any(|weight| !(0.0..=1.0).contains(weight)) {
        let constraint = "Map value must satisfy constraint: [Member must have value less than or equal to 1.0, Member \
                          must have value greater than or equal to 0.0, Member must not be null]";
        constraints.add(AT, shown(), constraint);
    }
}

fn change(request: AliasRequest) -> Result<AliasChange, ApiError> {
    let AliasRequest { function_version: version, description, routing_config, .. } = request;
    let second = match routing_config.map(|routing| routing.additional_version_weights.unwrap_or_default()) {
        None => None,
        Some(weights) => Some(only(weights)?),
    };
    Ok(AliasChange { version: version.as_deref().map(canonical), description, second })
}

fn only(weights: BTreeMap<String, f64>) -> Result<Option<(String, f64)>, ApiError> {
    if weights.len() > 1 {
        let message = "Number of items in AdditionalVersionWeights cannot be greater than 1";
        return Err(ApiError::invalid_parameter(message));
    }
    Ok(weights.into_iter().next().map(|(version, weight)| (canonical(&version), weight)))
}

fn refused(target: &Target, name: &str, error: AliasError) -> ApiError {
    match error {
        AliasError::Exists => ApiError::alias_exists(&target.arn_of(name)),
        AliasError::Absent => ApiError::not_found(format!("Alias not found: {}", target.arn_of(name))),
        AliasError::NoVersion(version) => ApiError::function_not_found(&target.arn_of(&version)),
        AliasError::SharedLatest => ApiError::invalid_parameter(
            "$LATEST is not supported for an alias pointing to more than 1 version",
        ),
        AliasError::Twice(version) => ApiError::invalid_parameter(format!(
            "Invalid function version {version}. Function version {version} is already included in routing \
             configuration."
        )),
        AliasError::Provisioned(error) => provisioned::refused(target, error),
        AliasError::Change(error) => failed(&target.unqualified_arn(), error),
    }
}
