//! The node's own operations on container images: `tinderbox images`. An archive comes in parts, each a request that is signed for
//! as every other one (`code::uploads`), and is verified and flattened when it is whole.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use chrono::{DateTime, SecondsFormat};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ApiError, App, call::Call, requests};
use crate::{
    code::{BuildError, CodeError, image::ImageRefusal, uploads::UploadError},
    disk::DiskError,
    functions::{
        images::{ImageError, ImageUri, TaggedImage, Which},
        pulls::PullError,
    },
    registry::Refusal,
    sandbox::describe,
};

/// What an archive is to be called.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
struct Naming {
    image: Option<String>,
}

/// All tags, and what they name.
pub(super) async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let images: Vec<_> = app.functions.images().list().iter().map(|image| shown(image)).collect();
    Json(json!({ "Images": images }))
}

/// Begins an archive, which is called by its name here: a name that is none is said before anything is sent.
pub(super) async fn begin(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    let Naming { image } = requests::parse(&call.body)?;
    let (name, tag) = tag(image.as_deref())?;
    let id = app.functions.uploads().begin(format!("{name}:{tag}")).map_err(not_taken)?;
    Ok((StatusCode::CREATED, Json(json!({ "UploadId": id }))).into_response())
}

/// Adds a part to it.
pub(super) async fn append(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let offset = call.query("Offset").and_then(|offset| offset.parse().ok());
    let offset = offset.ok_or_else(|| ApiError::invalid_content("Offset is missing, or no number."))?;
    let (id, part) = (call.path("UploadId").to_owned(), call.body.clone());
    let len = app.functions.uploads().append(&id, offset, part).await.map_err(not_taken)?;
    Ok(Json(json!({ "Length": len })))
}

/// Ends it: the image is there when this answers.
pub(super) async fn finish(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    let (name, archive) = app.functions.uploads().finish(call.path("UploadId")).await.map_err(not_taken)?;
    let pushed = app.functions.push_image(tag(Some(&name))?, archive).await.map_err(failed)?;
    Ok((StatusCode::CREATED, Json(shown(&pushed))).into_response())
}

/// Pulls what a tag names in its registry: the image is there when this answers.
pub(super) async fn pull(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    let Naming { image } = requests::parse(&call.body)?;
    let tag = tag(image.as_deref())?;
    if app.functions.waits_for_too_many() {
        return Err(ApiError::pulls_full());
    }
    let pulled = app.functions.pull_image(tag).await.map_err(not_pulled)?;
    Ok((StatusCode::CREATED, Json(shown(&pulled))).into_response())
}

/// Removes a tag. Functions keep what they were made of.
pub(super) async fn delete(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, ApiError> {
    let (name, tag) = tag(call.query("Image"))?;
    if app.functions.remove_image(&name, &tag).await.map_err(failed)? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::not_found(format!("There is no image {name}:{tag} on this node.")))
    }
}

fn tag(image: Option<&str>) -> Result<(String, String), ApiError> {
    let image = image.ok_or_else(|| ApiError::invalid_content("Image is missing."))?;
    match image.parse().map_err(|error| ApiError::invalid_content(describe(&error)))? {
        ImageUri { name, which: Which::Tag(tag) } => Ok((name, tag)),
        ImageUri { .. } => Err(ApiError::invalid_content("An image is pushed and removed by a tag.")),
    }
}

fn shown(image: &TaggedImage) -> Value {
    let pushed = DateTime::from_timestamp_millis(image.pushed_ms).unwrap_or_default();
    json!({
        "Name": image.name,
        "Tag": image.tag,
        "Digest": format!("sha256:{}", image.digest),
        "Size": image.size,
        "UnpackedSize": image.unpacked,
        "PushedAt": pushed.to_rfc3339_opts(SecondsFormat::Secs, true),
    })
}

fn not_taken(error: UploadError) -> ApiError {
    match &error {
        UploadError::Absent => ApiError::not_found(error.to_string()),
        UploadError::TooMany | UploadError::Offset { .. } | UploadError::TooLong => {
            ApiError::invalid_content(error.to_string())
        }
        UploadError::Disk(DiskError::Full { .. }) => ApiError::code_storage_exceeded(),
        UploadError::Disk(_) | UploadError::File(_) => {
            tracing::error!("an upload failed: {}", describe(&error));
            ApiError::internal()
        }
    }
}

fn not_pulled(error: PullError) -> ApiError {
    match error {
        PullError::Unknown | PullError::Pushed => {
            ApiError::invalid_content(format!("The image is not pulled: {error}."))
        }
        PullError::Refused(Refusal::Absent) => ApiError::not_found("The registry has no such image."),
        PullError::Refused(refusal) => ApiError::upkeep(format!("The image is not pulled: {refusal}.")),
        PullError::Failed(failure) => ApiError::upkeep(failure.reason),
        PullError::Image(error) => failed(error),
    }
}

fn failed(error: ImageError) -> ApiError {
    match &error {
        ImageError::Code(CodeError::Build(BuildError::Image(ImageRefusal::NoRoom { .. })))
        | ImageError::Code(CodeError::Disk(DiskError::Full { .. })) => ApiError::code_storage_exceeded(),
        ImageError::Code(CodeError::Build(BuildError::Image(refusal))) => {
            ApiError::invalid_content(format!("The image is refused: {refusal}."))
        }
        ImageError::TooMany => ApiError::invalid_content(error.to_string()),
        _ => {
            tracing::error!("an image failed: {}", describe(&error));
            ApiError::internal()
        }
    }
}
