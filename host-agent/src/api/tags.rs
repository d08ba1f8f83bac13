//! The operations on tags, and what a tag may be.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};

use super::{
    ApiError, App,
    call::Call,
    constraints::{Constraints, TAG},
    functions::{failed, find_to_change},
    names::{self, Target},
    requests::{self, TagResource},
};
use crate::functions::tags::{MAX_TAGS, TagError, Tags};

/// TagResource.
pub(super) async fn tag(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, ApiError> {
    let request: TagResource = requests::parse(&call.body)?;
    let mut constraints = Constraints::default();
    constraints.required("tags", request.tags.as_ref());
    constrain(&mut constraints, request.tags.as_ref());
    let target = named(&call, "TagResource", constraints)?;
    let tags = request.tags.unwrap_or_default();
    if tags.is_empty() {
        return Err(ApiError::unprocessable());
    }
    check(&tags)?;
    let tagged = app.functions.tag(&target.id, &tags).await;
    tagged.map_err(|error| refused(&target, error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// UntagResource.
pub(super) async fn untag(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, ApiError> {
    let keys = call.queries("tagKeys");
    let mut constraints = Constraints::default();
    constraints.required("tagKeys", keys.first());
    keys.iter().for_each(|key| constrain_key(&mut constraints, "tagKeys", key));
    let target = named(&call, "UntagResource", constraints)?;
    let untagged = app.functions.untag(&target.id, &keys).await;
    untagged.map_err(|error| refused(&target, error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// ListTags.
pub(super) async fn list(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let target = named(&call, "ListTags", Constraints::default())?;
    let function = find_to_change(&app, &target)?;
    Ok(Json(json!({ "Tags": function.config.tags })))
}

/// Adds what tags violate.
pub(super) fn constrain(constraints: &mut Constraints, tags: Option<&Tags>) {
    for (key, value) in tags.into_iter().flatten() {
        constrain_key(constraints, "tags", key);
        constraints.length("tags", Some(value), 0..=256);
        constraints.pattern("tags", Some(value), &TAG);
    }
}

/// Refuses tags that keep the constraints and that no function may be given all the same.
pub(super) fn check(tags: &Tags) -> Result<(), ApiError> {
    if tags.len() > MAX_TAGS {
        return Err(too_many());
    }
    if tags.keys().any(|key| key.to_ascii_lowercase().starts_with("aws:")) {
        return Err(ApiError::invalid_parameter(
            "Tag keys starting with 'aws:' are reserved for system use.",
        ));
    }
    Ok(())
}

fn constrain_key(constraints: &mut Constraints, member: &str, key: &str) {
    constraints.length(member, Some(key), 1..=128);
    constraints.pattern(member, Some(key), &TAG);
}

/// The function that the path names, once the path's violations are reported together with the others.
fn named(call: &Call, action: &str, mut constraints: Constraints) -> Result<Target, ApiError> {
    let resource = call.path("Resource");
    names::constrain_taggable(&mut constraints, resource);
    constraints.finish()?;
    let target = names::resolve_taggable(&call.caller, action, resource)?;
    if target.qualifier.is_some() {
        let message =
            "Tags on function aliases and versions are not supported. Please specify a function ARN.";
        return Err(ApiError::invalid_parameter(message));
    }
    Ok(target)
}

fn too_many() -> ApiError {
    ApiError::invalid_parameter("Number of tags exceeds resource tag limit.")
}

fn refused(target: &Target, error: TagError) -> ApiError {
    match error {
        TagError::TooMany(_) => too_many(),
        TagError::Change(error) => failed(&target.unqualified_arn(), error),
    }
}
