//! Bodies of requests, as clients send them: every member optional, nothing checked but types.
//!
//! `api::settings` turns them into what a function is. Members that AWS's model has and this node does not support are
//! here too: they are refused by name, never ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};

use super::{error::ApiError, structures::structure};
use crate::functions::urls::Cors;

/// A structure of which only the presence matters.
pub(crate) type Structure = serde_json::Map<String, serde_json::Value>;

/// CreateFunction.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct CreateFunction {
    pub(crate) function_name: Option<String>,
    #[serde(deserialize_with = "structure")]
    pub(crate) code: Option<Code>,
    pub(crate) package_type: Option<String>,
    pub(crate) architectures: Option<Vec<String>>,
    pub(crate) publish: Option<bool>,
    pub(crate) publish_to: Option<String>,
    pub(crate) tags: Option<BTreeMap<String, String>>,
    pub(crate) code_signing_config_arn: Option<String>,
    pub(crate) tenancy_config: Option<Structure>,
    #[serde(flatten)]
    pub(crate) settings: Settings,
}

/// UpdateFunctionConfiguration.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct UpdateFunctionConfiguration {
    pub(crate) revision_id: Option<String>,
    #[serde(flatten)]
    pub(crate) settings: Settings,
}

/// UpdateFunctionCode.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct UpdateFunctionCode {
    pub(crate) architectures: Option<Vec<String>>,
    pub(crate) publish: Option<bool>,
    pub(crate) publish_to: Option<String>,
    pub(crate) dry_run: Option<bool>,
    pub(crate) revision_id: Option<String>,
    #[serde(flatten)]
    pub(crate) code: Code,
}

/// PublishVersion.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct PublishVersion {
    pub(crate) code_sha256: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) revision_id: Option<String>,
    pub(crate) publish_to: Option<String>,
}

/// TagResource.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct TagResource {
    pub(crate) tags: Option<BTreeMap<String, String>>,
}

/// CreateAlias and UpdateAlias, whose name is in the path.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct AliasRequest {
    pub(crate) name: Option<String>,
    pub(crate) function_version: Option<String>,
    pub(crate) description: Option<String>,
    #[serde(deserialize_with = "structure")]
    pub(crate) routing_config: Option<RoutingConfig>,
    pub(crate) revision_id: Option<String>,
}

/// PutFunctionConcurrency.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct PutFunctionConcurrency {
    pub(crate) reserved_concurrent_executions: Option<i64>,
}

/// PutFunctionRecursionConfig.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct PutFunctionRecursionConfig {
    pub(crate) recursive_loop: Option<String>,
}

/// PutProvisionedConcurrencyConfig.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct PutProvisionedConcurrencyConfig {
    pub(crate) provisioned_concurrent_executions: Option<i64>,
}

/// PutRuntimeManagementConfig.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct PutRuntimeManagementConfig {
    pub(crate) update_runtime_on: Option<String>,
    pub(crate) runtime_version_arn: Option<String>,
}

/// AddPermission.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct AddPermission {
    pub(crate) statement_id: Option<String>,
    pub(crate) action: Option<String>,
    pub(crate) principal: Option<String>,
    pub(crate) source_arn: Option<String>,
    pub(crate) source_account: Option<String>,
    pub(crate) event_source_token: Option<String>,
    pub(crate) revision_id: Option<String>,
    #[serde(rename = "PrincipalOrgID")]
    pub(crate) principal_org_id: Option<String>,
    pub(crate) function_url_auth_type: Option<String>,
    pub(crate) invoked_via_function_url: Option<bool>,
}

/// PublishLayerVersion.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct PublishLayerVersion {
    pub(crate) description: Option<String>,
    #[serde(deserialize_with = "structure")]
    pub(crate) content: Option<Code>,
    pub(crate) compatible_runtimes: Option<Vec<String>>,
    pub(crate) compatible_architectures: Option<Vec<String>>,
    pub(crate) license_info: Option<String>,
}

/// AddLayerVersionPermission.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct AddLayerVersionPermission {
    pub(crate) statement_id: Option<String>,
    pub(crate) action: Option<String>,
    pub(crate) principal: Option<String>,
    pub(crate) organization_id: Option<String>,
}

/// PutFunctionEventInvokeConfig and UpdateFunctionEventInvokeConfig.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct EventInvokeConfig {
    pub(crate) maximum_retry_attempts: Option<i64>,
    pub(crate) maximum_event_age_in_seconds: Option<i64>,
    #[serde(deserialize_with = "structure")]
    pub(crate) destination_config: Option<DestinationConfig>,
}

/// Who is told of an asynchronous event's end.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct DestinationConfig {
    #[serde(deserialize_with = "structure")]
    pub(crate) on_success: Option<Destination>,
    #[serde(deserialize_with = "structure")]
    pub(crate) on_failure: Option<Destination>,
}

/// One of them.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Destination {
    pub(crate) destination: Option<String>,
}

/// CreateFunctionUrlConfig and UpdateFunctionUrlConfig.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct FunctionUrlConfig {
    pub(crate) auth_type: Option<String>,
    #[serde(deserialize_with = "structure")]
    pub(crate) cors: Option<Cors>,
    pub(crate) invoke_mode: Option<String>,
}

/// Where an alias sends some of its invocations.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RoutingConfig {
    pub(crate) additional_version_weights: Option<BTreeMap<String, f64>>,
}

/// Where code comes from.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Code {
    pub(crate) zip_file: Option<String>,
    #[serde(rename = "S3Bucket")]
    pub(crate) s3_bucket: Option<String>,
    #[serde(rename = "S3Key")]
    pub(crate) s3_key: Option<String>,
    #[serde(rename = "S3ObjectVersion")]
    pub(crate) s3_object_version: Option<String>,
    #[serde(rename = "S3ObjectStorageMode")]
    pub(crate) s3_object_storage_mode: Option<String>,
    pub(crate) image_uri: Option<String>,
    #[serde(rename = "SourceKMSKeyArn")]
    pub(crate) source_kms_key_arn: Option<String>,
}

/// What creation and update of a configuration share.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Settings {
    pub(crate) runtime: Option<String>,
    pub(crate) role: Option<String>,
    pub(crate) handler: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) timeout: Option<i64>,
    pub(crate) memory_size: Option<i64>,
    #[serde(deserialize_with = "structure")]
    pub(crate) environment: Option<Environment>,
    #[serde(deserialize_with = "structure")]
    pub(crate) ephemeral_storage: Option<EphemeralStorage>,
    #[serde(deserialize_with = "structure")]
    pub(crate) tracing_config: Option<TracingConfig>,
    #[serde(deserialize_with = "structure")]
    pub(crate) snap_start: Option<SnapStart>,
    #[serde(deserialize_with = "structure")]
    pub(crate) logging_config: Option<LoggingConfig>,
    #[serde(deserialize_with = "structure")]
    pub(crate) vpc_config: Option<VpcConfig>,
    pub(crate) layers: Option<Vec<String>>,
    #[serde(deserialize_with = "structure")]
    pub(crate) dead_letter_config: Option<DeadLetterConfig>,
    #[serde(rename = "KMSKeyArn")]
    pub(crate) kms_key_arn: Option<String>,
    pub(crate) file_system_configs: Option<Vec<Structure>>,
    #[serde(deserialize_with = "structure")]
    pub(crate) image_config: Option<ImageConfig>,
    pub(crate) capacity_provider_config: Option<Structure>,
    pub(crate) durable_config: Option<Structure>,
    pub(crate) runtime_config: Option<Structure>,
    pub(crate) accelerator_config: Option<Structure>,
}

/// Variables.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Environment {
    pub(crate) variables: Option<BTreeMap<String, String>>,
}

/// `/tmp`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct EphemeralStorage {
    pub(crate) size: Option<i64>,
}

/// Tracing.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct TracingConfig {
    pub(crate) mode: Option<String>,
}

/// Snapshots of published versions.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct SnapStart {
    pub(crate) apply_on: Option<String>,
}

/// Logs.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct LoggingConfig {
    pub(crate) log_format: Option<String>,
    pub(crate) application_log_level: Option<String>,
    pub(crate) system_log_level: Option<String>,
    pub(crate) log_group: Option<String>,
}

/// Networks.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct VpcConfig {
    pub(crate) subnet_ids: Option<Vec<String>>,
    pub(crate) security_group_ids: Option<Vec<String>>,
}

/// Where lost events go.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct DeadLetterConfig {
    pub(crate) target_arn: Option<String>,
}

/// A container image's settings.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ImageConfig {
    pub(crate) entry_point: Option<Vec<String>>,
    pub(crate) command: Option<Vec<String>>,
    pub(crate) working_directory: Option<String>,
}

/// Reads a body. No body at all is an object without members, as AWS has it.
///
/// # Errors
/// SerializationException.
pub(crate) fn parse<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, ApiError> {
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => Ok(T::default()),
        // serde would read a struct from an array, too.
        Some(b'[') => Err(ApiError::serialization(&serde::de::Error::custom("an object is expected"))),
        Some(_) => serde_json::from_slice(body).map_err(|error| ApiError::serialization(&error)),
    }
}

/// Reads a body that may hold tens of megabytes, where it holds up nobody.
///
/// # Errors
/// SerializationException.
pub(crate) async fn parse_upload<T>(body: bytes::Bytes) -> Result<T, ApiError>
where
    T: DeserializeOwned + Default + Send + 'static,
{
    crate::code::blocking(move || parse(&body)).await
}
