//! Code in a request: which of its members are there, base64 or a bucket, and what AWS says when the zip is no good.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;

use super::{
    ApiError, App,
    constraints::{ARN_OR_NOTHING, BUCKET, Constraints},
    objects,
    requests::Code,
};
use crate::{
    code::{BuildError, CodeError, archive::Refusal, buckets::ObjectName},
    disk::DiskError,
};

/// Checks the members against the model.
pub(crate) fn constrain(constraints: &mut Constraints, code: &Code) {
    constrain_source(constraints, "code", code);
    constraints.length("code.sourceKMSKeyArn", code.source_kms_key_arn.as_deref(), 0..=10_000);
    constraints.pattern("code.sourceKMSKeyArn", code.source_kms_key_arn.as_deref(), &ARN_OR_NOTHING);
}

/// Checks those of them that say where a zip comes from, below `member`.
pub(crate) fn constrain_source(constraints: &mut Constraints, member: &str, code: &Code) {
    let name = |of: &str| format!("{member}.{of}");
    constraints.length(&name("s3Bucket"), code.s3_bucket.as_deref(), 3..=63);
    constraints.pattern(&name("s3Bucket"), code.s3_bucket.as_deref(), &BUCKET);
    constraints.length(&name("s3Key"), code.s3_key.as_deref(), 1..=1024);
    constraints.length(&name("s3ObjectVersion"), code.s3_object_version.as_deref(), 1..=1024);
    let mode = code.s3_object_storage_mode.as_deref();
    constraints.one_of(&name("s3ObjectStorageMode"), mode, &["COPY", "REFERENCE"]);
}

/// The zip of a request, or the one in a bucket that it names.
///
/// # Errors
/// InvalidParameterValueException when there is none, or there is something beside it; as [`objects::fetch`].
pub(crate) async fn zip(app: &App, code: Code) -> Result<Bytes, ApiError> {
    let from_s3 = code.s3_bucket.is_some() || code.s3_key.is_some() || code.s3_object_version.is_some();
    if code.image_uri.is_some() {
        let message = "Please don't provide ImageUri when updating a function with packageType Zip.";
        return Err(ApiError::invalid_parameter(message));
    }
    let Some(zip) = code.zip_file else {
        let missing = || ApiError::invalid_parameter("Please provide a source for function code.");
        let (bucket, key) = code.s3_bucket.zip(code.s3_key).ok_or_else(missing)?;
        // Code is copied: what becomes of the object later changes no function.
        if code.s3_object_storage_mode.as_deref() == Some("REFERENCE") {
            return Err(ApiError::unsupported_parameter("S3ObjectStorageMode REFERENCE"));
        }
        return objects::fetch(app, &ObjectName { bucket, key, version: code.s3_object_version }).await;
    };
    if from_s3 {
        let message = "Please do not provide other FunctionCode parameters when providing a ZipFile.";
        return Err(ApiError::invalid_parameter(message));
    }
    match crate::code::blocking(move || BASE64_STANDARD.decode(zip)).await {
        Ok(zip) => Ok(zip.into()),
        Err(error) => {
            use serde::de::Error as _;
            Err(ApiError::serialization(&serde_json::Error::custom(format!(
                "ZipFile is not base64: {error}"
            ))))
        }
    }
}

/// What the client of a refused zip is told.
pub(crate) fn refusal(error: CodeError) -> ApiError {
    match error {
        CodeError::Build(BuildError::Refused(refusal)) => {
            tracing::info!("an uploaded zip is refused: {refusal}");
            ApiError::invalid_parameter(match refusal {
                Refusal::Empty => "Uploaded file must be a non-empty zip".into(),
                Refusal::TooLarge => "Unzipped size must be smaller than 262144000 bytes".into(),
                Refusal::TooLargeTogether(len) => format!(
                    "Function code combined with layers exceeds the maximum allowed size of 262144000 bytes. The actual \
                     size is {len} bytes."
                ),
                Refusal::Unusable(_) => String::from(
                    "Could not unzip uploaded file. Please check your file, then try to upload again.",
                ),
            })
        }
        CodeError::Gone { digest } => ApiError::invalid_parameter(format!(
            "Source image sha256:{digest} does not exist. Provide a valid source image."
        )),
        CodeError::Disk(error @ DiskError::Full { .. }) => {
            tracing::warn!("an uploaded zip is refused: {error}");
            ApiError::code_storage_exceeded()
        }
        error => {
            tracing::error!("an uploaded zip could not be stored: {:#}", anyhow::Error::from(error));
            ApiError::internal()
        }
    }
}
