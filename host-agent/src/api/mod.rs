//! The Lambda HTTP API: routes, wire shapes, validation and errors. Knows HTTP and AWS's names; decides nothing about
//! sandboxes.

use axum::{Json, Router, routing::get};

/// The whole API as one service.
pub(crate) fn router() -> Router {
    Router::new().route("/tinderbox/health", get(health))
}

async fn health() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }))
}
