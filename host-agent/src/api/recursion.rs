//! The operations on what a function does in a loop of functions that cause each other's events.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::{
    ApiError, App,
    call::Call,
    concurrency::unqualified,
    constraints::Constraints,
    functions::{failed, find_to_change},
    requests::{self, PutFunctionRecursionConfig},
};
use crate::functions::model::RecursiveLoop;

const ALLOW: &str = "Allow";
const TERMINATE: &str = "Terminate";

/// PutFunctionRecursionConfig.
pub(super) async fn put(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let request: PutFunctionRecursionConfig = requests::parse(&call.body)?;
    let asked = request.recursive_loop.as_deref();
    let mut constraints = Constraints::default();
    constraints.required("recursiveLoop", asked.as_ref());
    constraints.one_of("recursiveLoop", asked, &[TERMINATE, ALLOW]);
    constraints.finish()?;
    let target = unqualified(&call, "PutFunctionRecursionConfig")?;
    let wanted = if asked == Some(ALLOW) { RecursiveLoop::Allow } else { RecursiveLoop::Terminate };
    let done = app.functions.set_recursive_loop(&target.id, wanted).await;
    done.map_err(|error| failed(&target.unqualified_arn(), error))?;
    Ok(shown(wanted))
}

/// GetFunctionRecursionConfig.
pub(super) async fn get(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let target = unqualified(&call, "GetFunctionRecursionConfig")?;
    Ok(shown(find_to_change(&app, &target)?.config.recursive_loop))
}

fn shown(kept: RecursiveLoop) -> Json<Value> {
    let word = match kept {
        RecursiveLoop::Allow => ALLOW,
        RecursiveLoop::Terminate => TERMINATE,
    };
    Json(json!({ "RecursiveLoop": word }))
}
