//! The node's own operations on what images, code and snapshots consist of: `tinderbox chunks`. They read all there is, so one runs
//! at a time.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;
use serde_json::json;

use super::{ApiError, App};
use crate::{
    chunks::{Chunks, ChunksError},
    code::blocking,
    sandbox::describe,
};

/// How much there is.
pub(super) async fn stats(State(app): State<Arc<App>>) -> Result<Json<impl Serialize>, ApiError> {
    on(&app, Chunks::stats).await
}

/// Whether it is whole.
pub(super) async fn verify(State(app): State<Arc<App>>) -> Result<Json<impl Serialize>, ApiError> {
    on(&app, Chunks::verify).await
}

/// Deletes what nobody needs.
pub(super) async fn gc(State(app): State<Arc<App>>) -> Result<Json<impl Serialize>, ApiError> {
    on(&app, |chunks| {
        chunks.collect().map(|collected| json!({ "kept": collected.kept, "deleted": collected.deleted }))
    })
    .await
}

/// Has what is damaged or missing written again.
pub(super) async fn repair(State(app): State<Arc<App>>) -> Result<Json<impl Serialize>, ApiError> {
    on(&app, Chunks::repair).await
}

async fn on<T: Serialize + Send + 'static>(
    app: &App,
    work: impl FnOnce(&Chunks) -> Result<T, ChunksError> + Send + 'static,
) -> Result<Json<T>, ApiError> {
    // The semaphore is never closed.
    let _turn = app.upkeep.acquire().await;
    let chunks = Arc::clone(&app.chunks);
    let done = blocking(move || work(&chunks)).await;
    done.map(Json).map_err(|error| ApiError::upkeep(describe(&error)))
}
