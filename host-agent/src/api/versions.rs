//! The operations on published versions.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;

use super::{
    ApiError, App,
    call::Call,
    constraints::Constraints,
    functions::{failed, find_to_change},
    lists::{MOST, Page},
    names::Target,
    requests::{self, PublishVersion},
    responses::{self, Detail, configuration},
};
use crate::functions::versions::{Publication, VersionError};

/// PublishVersion.
pub(super) async fn publish(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    let request: PublishVersion = requests::parse(&call.body)?;
    let mut constraints = Constraints::default();
    constraints.length("description", request.description.as_deref(), 0..=256);
    constraints.one_of("publishTo", request.publish_to.as_deref(), &["LATEST_PUBLISHED"]);
    constraints.finish()?;
    let target = call.function("PublishVersion")?;
    let function = find_to_change(&app, &target)?;
    if request.publish_to.is_some() {
        return Err(ApiError::unsupported_parameter("PublishTo"));
    }
    let is_image = function.config.image.is_some();
    let other_code = |given: &str, current: &str| {
        let current = if is_image { current.to_owned() } else { responses::base64_of(current) };
        ApiError::invalid_parameter(format!(
            "CodeSHA256 ({given}) is different from current CodeSHA256 in $LATEST ({current}). Please try again with \
             the CodeSHA256 in $LATEST."
        ))
    };
    let given = request.code_sha256.filter(|given| !given.is_empty());
    let code_sha256 = match &given {
        None => None,
        Some(given) if is_image => Some(given.clone()),
        Some(given) => {
            let digest = BASE64_STANDARD.decode(given);
            Some(crate::code::hex(&digest.map_err(|_| other_code(given, &function.config.code.sha256))?))
        }
    };
    let publication =
        Publication { description: request.description, code_sha256, revision_id: request.revision_id };
    let config = app.functions.publish(&target.id, &publication).await.map_err(|error| match error {
        VersionError::OtherCode(current) => other_code(given.as_deref().unwrap_or_default(), &current),
        error => refused(&target, error),
    })?;
    let body = app.shown(&config, config.version_arn()).await;
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

/// ListVersionsByFunction.
pub(super) async fn list(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let mut constraints = Constraints::default();
    let page = Page::asked(&call, &mut constraints, MOST)?;
    constraints.finish()?;
    let target = call.target("ListVersionsByFunction")?;
    find_to_change(&app, &target)?;
    let versions = app.functions.view().versions(&target.id);
    let after = page.after.as_deref().map(place);
    let rest = versions
        .iter()
        .map(|function| &function.config)
        .filter(|config| after < Some(place(&config.version)));
    let marked = rest.map(|config| (config.version.clone(), config));
    Ok(Json(
        page.answer("Versions", marked, |config| configuration(config, config.version_arn(), Detail::Listed)),
    ))
}

/// DeleteFunction of a version.
pub(super) async fn delete(app: &App, target: &Target, version: &str) -> Result<StatusCode, ApiError> {
    let deleted = app.functions.delete_version(&target.id, version).await;
    deleted.map_err(|error| refused(target, error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// `$LATEST` comes before every number.
fn place(version: &str) -> u64 {
    version.parse().unwrap_or(0)
}

fn refused(target: &Target, error: VersionError) -> ApiError {
    match error {
        VersionError::Absent | VersionError::OtherCode(_) => ApiError::function_not_found(&target.arn()),
        VersionError::InUse(aliases) => ApiError::version_in_use(&aliases),
        VersionError::Change(error) => failed(&target.unqualified_arn(), error),
    }
}
