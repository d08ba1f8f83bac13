//! The runtimes that the node has images of, for its operator.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::{App, call::Call};
use crate::functions::runtime_management::version_arn;

/// Each runtime with an image, its version, and the other runtimes whose functions it serves.
pub(super) async fn list(State(app): State<Arc<App>>, call: Call) -> Json<Value> {
    let mut listed = Vec::new();
    for (runtime, others) in app.runtimes.list() {
        let version = app.invoker.runtime_version(runtime).await;
        let arn = version.map(|version| version_arn(&call.caller.region, &version));
        listed.push(json!({ "Runtime": runtime, "RuntimeVersionArn": arn, "StandsInFor": others }));
    }
    Json(json!({ "Runtimes": listed }))
}
