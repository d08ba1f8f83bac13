//! The operations on reserved concurrency.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};

use super::{
    ApiError, App,
    call::Call,
    constraints::Constraints,
    functions::{failed, find_to_change},
    names::Target,
    requests::{self, PutFunctionConcurrency},
};
use crate::functions::concurrency::{MIN_UNRESERVED, ReserveError};

/// PutFunctionConcurrency.
pub(super) async fn put(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let request: PutFunctionConcurrency = requests::parse(&call.body)?;
    let asked = request.reserved_concurrent_executions;
    let mut constraints = Constraints::default();
    constraints.required("reservedConcurrentExecutions", asked.as_ref());
    constraints.range("reservedConcurrentExecutions", asked, 0..=i64::from(i32::MAX));
    constraints.finish()?;
    let target = unqualified(&call, "PutFunctionConcurrency")?;
    let reserved = asked.and_then(|asked| u32::try_from(asked).ok()).unwrap_or_default();
    reserve(&app, &target, Some(reserved)).await?;
    Ok(Json(json!({ "ReservedConcurrentExecutions": reserved })))
}

/// GetFunctionConcurrency.
pub(super) async fn get(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let target = unqualified(&call, "GetFunctionConcurrency")?;
    Ok(Json(match find_to_change(&app, &target)?.config.reserved_concurrency {
        Some(reserved) => json!({ "ReservedConcurrentExecutions": reserved }),
        None => json!({}),
    }))
}

/// DeleteFunctionConcurrency.
pub(super) async fn delete(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, ApiError> {
    let target = unqualified(&call, "DeleteFunctionConcurrency")?;
    reserve(&app, &target, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn reserve(app: &App, target: &Target, reserved: Option<u32>) -> Result<(), ApiError> {
    let done = app.functions.reserve(&target.id, reserved, app.concurrency.account()).await;
    done.map_err(|error| match error {
        ReserveError::LessThanProvisioned(reserved, provisioned) => ApiError::invalid_concurrency(format!(
            " ReservedConcurrentExecutions  {reserved} should not be lower than function's total provisioned \
             concurrency [{provisioned}]."
        )),
        ReserveError::TooMany => ApiError::invalid_concurrency(format!(
            "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution \
             below its minimum value of [{MIN_UNRESERVED}]."
        )),
        ReserveError::Change(error) => failed(&target.unqualified_arn(), error),
    })
}

/// The function that the path names: versions and aliases share what it has.
pub(super) fn unqualified(call: &Call, action: &str) -> Result<Target, ApiError> {
    let target = call.function(action)?;
    if target.qualifier.is_some() {
        let message = "This operation is permitted on Lambda functions only. Aliases and versions do not support this \
                       operation. Please specify either a function name or an unqualified function ARN.";
        return Err(ApiError::invalid_parameter(message));
    }
    Ok(target)
}
