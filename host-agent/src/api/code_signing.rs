//! What there is to read of code signing: nothing. This node has no such configurations, and says so as AWS does of an account
//! that has none.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::{
    ApiError, App,
    call::Call,
    constraints::{CODE_SIGNING, Constraints},
    functions::find_to_change,
    lists::{MOST, Page},
};

/// GetFunctionCodeSigningConfig.
pub(super) async fn get_of_function(
    State(app): State<Arc<App>>,
    call: Call,
) -> Result<Json<Value>, ApiError> {
    let target = call.function("GetFunctionCodeSigningConfig")?;
    let function = find_to_change(&app, &target)?;
    // AWS's service model wants an ARN: the empty one is that of nothing.
    Ok(Json(json!({ "CodeSigningConfigArn": "", "FunctionName": function.config.id.name })))
}

/// ListCodeSigningConfigs.
pub(super) async fn list(call: Call) -> Result<Json<Value>, ApiError> {
    let mut constraints = Constraints::default();
    Page::asked(&call, &mut constraints, MOST)?;
    constraints.finish()?;
    Ok(Json(json!({ "CodeSigningConfigs": [] })))
}

/// GetCodeSigningConfig and ListFunctionsByCodeSigningConfig.
pub(super) async fn none(call: Call) -> Result<Json<Value>, ApiError> {
    let arn = call.path("CodeSigningConfigArn");
    let mut constraints = Constraints::default();
    Page::asked(&call, &mut constraints, MOST)?;
    constraints.length("codeSigningConfigArn", Some(arn), 0..=200);
    constraints.pattern("codeSigningConfigArn", Some(arn), &CODE_SIGNING);
    constraints.finish()?;
    Err(ApiError::not_found(format!("The Lambda code signing configuration {arn} can not be found.")))
}
