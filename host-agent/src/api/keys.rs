//! The node's own operations on access keys: `tinderbox keys`. Who may make keys may do everything: a key may be made that can.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use chrono::{DateTime, SecondsFormat};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{ApiError, App, authorize, call::Call};
use crate::{
    identity::{AccessKey, AccessKeyError, Document, KeyState, Policy, check_name},
    sandbox::describe,
};

/// A key that is to be made.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Wanted {
    name: Option<String>,
    policy: Document,
}

/// Whether a key is to be used.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Wished {
    state: KeyState,
}

/// All keys, without their secrets.
pub(super) async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let keys: Vec<_> = app.access_keys.list().iter().map(|key| shown(key)).collect();
    Json(json!({ "Keys": keys }))
}

/// Makes one. Its secret is in this answer and in no other.
pub(super) async fn create(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    let Wanted { name, policy } = parse(&call)?;
    if let Some(name) = &name {
        check_name(name).map_err(|error| ApiError::invalid_content(error.to_string()))?;
    }
    check_actions(&policy)?;
    let key = app.access_keys.create(name, policy).await.map_err(failed)?;
    let mut body = shown(&key);
    body["SecretAccessKey"] = key.secret.expose().as_str().into();
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

/// Sets what it may do: from the next decision on.
pub(super) async fn set_policy(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let policy = parse(&call)?;
    check_actions(&policy)?;
    let set = app.access_keys.set_policy(call.path("AccessKeyId"), policy).await;
    set.map(|key| Json(shown(&key))).map_err(failed)
}

/// Sets whether it may be used.
pub(super) async fn set_state(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let Wished { state } = parse(&call)?;
    let set = app.access_keys.set_state(call.path("AccessKeyId"), state).await;
    set.map(|key| Json(shown(&key))).map_err(failed)
}

/// Deletes it.
pub(super) async fn delete(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, ApiError> {
    app.access_keys.delete(call.path("AccessKeyId")).await.map_err(failed)?;
    Ok(StatusCode::NO_CONTENT)
}

fn shown(key: &AccessKey) -> Value {
    let created = DateTime::from_timestamp_millis(key.created_ms).unwrap_or_default();
    json!({
        "AccessKeyId": key.id,
        "Name": key.name,
        "State": key.state,
        "CreatedAt": created.to_rfc3339_opts(SecondsFormat::Secs, true),
        "Policy": key.document,
    })
}

fn parse<T: DeserializeOwned>(call: &Call) -> Result<T, ApiError> {
    serde_json::from_slice(&call.body).map_err(|error| ApiError::invalid_content(error.to_string()))
}

/// An action that does not exist is a slip, which in a denial would deny nothing.
fn check_actions(document: &Document) -> Result<(), ApiError> {
    let policy = Policy::try_from(document).map_err(|error| failed(error.into()))?;
    match policy.actions().find(|pattern| !authorize::is_of_an_action(pattern)) {
        Some(pattern) => {
            Err(ApiError::invalid_content(format!("`{}` is no action of Lambda's.", pattern.as_str())))
        }
        None => Ok(()),
    }
}

fn failed(error: AccessKeyError) -> ApiError {
    match &error {
        AccessKeyError::Absent(_) => ApiError::not_found(error.to_string()),
        AccessKeyError::TooMany | AccessKeyError::Policy(_) => ApiError::invalid_content(describe(&error)),
        _ => {
            tracing::error!("an access key failed: {}", describe(&error));
            ApiError::internal()
        }
    }
}
