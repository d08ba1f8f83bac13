//! The node's own operations on where functions may go: `tinderbox egress`. It is said of names, whether or not there is such a
//! function.

use std::sync::Arc;

use axum::{Json, extract::State};
use gateway_api::Egress;
use serde::{Deserialize, Serialize};

use super::{ApiError, App, call::Call, requests};
use crate::{
    functions::model::FunctionId,
    network::{PolicyError, Wording},
    sandbox::describe,
};

/// What is said, and by whom.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Said {
    egress: Wording,
    /// Of this function, or of all that nothing else was said of.
    from: &'static str,
}

/// What is to be said.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
struct Saying {
    egress: Option<Wording>,
}

/// Where a function may go.
pub(super) async fn get(State(app): State<Arc<App>>, call: Call) -> Result<Json<Said>, ApiError> {
    Ok(said(&app, &call.function("GetEgress")?.id))
}

/// Says it.
pub(super) async fn put(State(app): State<Arc<App>>, call: Call) -> Result<Json<Said>, ApiError> {
    let Saying { egress } = requests::parse(&call.body)?;
    let egress = egress.ok_or_else(|| ApiError::invalid_content("Egress is missing."))?;
    let egress = Egress::try_from(egress).map_err(|error| ApiError::invalid_content(error.to_string()))?;
    set(&app, &call.function("PutEgress")?.id, Some(egress)).await
}

/// Says nothing of it any more.
pub(super) async fn delete(State(app): State<Arc<App>>, call: Call) -> Result<Json<Said>, ApiError> {
    set(&app, &call.function("DeleteEgress")?.id, None).await
}

async fn set(app: &App, function: &FunctionId, egress: Option<Egress>) -> Result<Json<Said>, ApiError> {
    let set = app.policies.set(function, egress).await;
    set.map_err(|error: PolicyError| ApiError::upkeep(describe(&error)))?;
    Ok(said(app, function))
}

fn said(app: &App, function: &FunctionId) -> Json<Said> {
    let (egress, own) = app.policies.get(function);
    Json(Said { egress: Wording::from(&egress), from: if own { "function" } else { "node" } })
}
