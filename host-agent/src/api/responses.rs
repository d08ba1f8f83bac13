//! Bodies of answers, member by member as AWS's: names, order of nothing, what is absent rather than null.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::functions::model::{
    Alias, ContainerImage, FunctionConfig, Instead, LayerRef, LoggingConfig, StartKind, State, UpdateStatus,
};

/// How much of a function's configuration an answer shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// CreateFunction, UpdateFunction…, GetFunction….
    Full,
    /// ListFunctions: nothing that changes by itself.
    Listed,
}

/// FunctionConfiguration.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct FunctionConfiguration<'a> {
    function_name: &'a str,
    function_arn: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<&'a String>,
    role: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    handler: Option<&'a String>,
    code_size: u64,
    description: &'a str,
    timeout: u32,
    memory_size: u32,
    last_modified: String,
    code_sha256: String,
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter_config: Option<Value>,
    tracing_config: Value,
    revision_id: &'a str,
    package_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_config_response: Option<Value>,
    architectures: [&'static str; 1],
    ephemeral_storage: Value,
    snap_start: Value,
    logging_config: Map<String, Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<Value>,
    #[serde(flatten)]
    state: Map<String, Value>,
}

/// The configuration of a function, without the version of its runtime; `arn` as the request named it.
pub(crate) fn configuration(config: &FunctionConfig, arn: String, detail: Detail) -> Value {
    let updated = config.incoming.as_ref().map(|_| config.updated());
    let config = updated.as_ref().unwrap_or(config);
    let shape = FunctionConfiguration {
        function_name: &config.id.name,
        function_arn: arn,
        runtime: config.image.is_none().then_some(&config.runtime),
        role: &config.role,
        handler: config.image.is_none().then_some(&config.handler),
        code_size: config.code.size,
        description: &config.description,
        timeout: config.timeout_s,
        memory_size: config.memory_mib,
        last_modified: time(config.last_modified_ms),
        code_sha256: code_sha256(config),
        version: &config.version,
        environment: config.environment.as_ref().map(|variables| json!({ "Variables": variables })),
        dead_letter_config: config.dead_letter.as_ref().map(|arn| json!({ "TargetArn": arn })),
        tracing_config: json!({ "Mode": config.tracing_mode }),
        revision_id: &config.revision_id,
        package_type: if config.image.is_some() { "Image" } else { "Zip" },
        image_config_response: config.image.as_ref().and_then(image_config),
        architectures: ["x86_64"],
        ephemeral_storage: json!({ "Size": config.ephemeral_storage_mib }),
        snap_start: json!({ "ApplyOn": config.snap_start, "OptimizationStatus": optimization(config) }),
        logging_config: logging(&config.logging),
        layers: config.layers.iter().map(layer).collect(),
        state: if detail == Detail::Full { state(config) } else { Map::new() },
    };
    // A structure of strings and numbers: nothing in it can fail to be JSON.
    serde_json::to_value(shape).unwrap_or_default()
}

/// Body of GetFunction; `shown`: its configuration; `reserved`: what the function has reserved, whichever version is shown.
pub(crate) fn function(config: &FunctionConfig, shown: Value, reserved: Option<u32>, source: Value) -> Value {
    let mut body = json!({ "Configuration": shown, "Code": source });
    if !config.tags.is_empty() {
        body["Tags"] = json!(config.tags);
    }
    if let Some(reserved) = reserved {
        body["Concurrency"] = json!({ "ReservedConcurrentExecutions": reserved });
    }
    body
}

/// Where its code is: what it was made of, or what `location` says.
pub(crate) fn source(config: &FunctionConfig, location: impl FnOnce() -> String) -> Value {
    let incoming = config.incoming.as_ref().map(|incoming| (&incoming.image, &incoming.code));
    match incoming.or(config.image.as_ref().map(|image| (image, &config.code))) {
        Some((ContainerImage { uri, name, .. }, code)) => json!({
            "RepositoryType": "ECR",
            "ImageUri": uri,
            "ResolvedImageUri": format!("{name}@sha256:{}", code.sha256),
        }),
        None => json!({ "RepositoryType": "S3", "Location": location() }),
    }
}

/// ImageConfigResponse, if anything is said in place of what the image says.
fn image_config(image: &ContainerImage) -> Option<Value> {
    let Instead { entry_point, command, working_directory } = &image.instead;
    let said = [
        ("EntryPoint", json!(entry_point), !entry_point.is_empty()),
        ("Command", json!(command), !command.is_empty()),
        ("WorkingDirectory", json!(working_directory), !working_directory.is_empty()),
    ];
    let said: Map<String, Value> = said
        .into_iter()
        .filter_map(|(member, value, is_said)| is_said.then(|| (member.to_owned(), value)))
        .collect();
    (!said.is_empty()).then(|| json!({ "ImageConfig": said }))
}

/// AliasConfiguration.
pub(crate) fn alias(alias: &Alias, arn: String) -> Value {
    let mut body = json!({
        "AliasArn": arn,
        "Name": alias.name,
        "FunctionVersion": alias.version,
        "Description": alias.description,
        "RevisionId": alias.revision_id,
    });
    if let Some((version, weight)) = &alias.second {
        body["RoutingConfig"] = json!({ "AdditionalVersionWeights": { version.as_str(): weight } });
    }
    body
}

fn state(config: &FunctionConfig) -> Map<String, Value> {
    const REASON: &str = "The function is being created.";
    const CODE: &str = "Creating";
    let mut members = Map::new();
    let mut add = |member: &str, value: &str| drop(members.insert(member.into(), value.into()));
    match &config.state {
        State::Active => add("State", "Active"),
        State::Failed(failure) => {
            add("State", "Failed");
            add("StateReason", &failure.reason);
            add("StateReasonCode", &failure.code);
        }
        State::Pending => {
            add("State", "Pending");
            add("StateReason", REASON);
            add("StateReasonCode", CODE);
        }
    }
    match &config.last_update {
        None => {}
        Some(UpdateStatus::Successful) => add("LastUpdateStatus", "Successful"),
        Some(UpdateStatus::InProgress) => {
            add("LastUpdateStatus", "InProgress");
            // AWS says a code beside it, `Creating`, which its service model does not list: clients that are made of the model need not
            // know it, and none waits for it.
            add("LastUpdateStatusReason", REASON);
        }
        Some(UpdateStatus::Failed(failure)) => {
            add("LastUpdateStatus", "Failed");
            add("LastUpdateStatusReason", &failure.reason);
            add("LastUpdateStatusReasonCode", &failure.code);
        }
    }
    members
}

/// Whether a snapshot stands behind this version.
fn optimization(config: &FunctionConfig) -> &'static str {
    let snapshotted = config.start_kind() == StartKind::Snapshot && config.state == State::Active;
    if snapshotted { "On" } else { "Off" }
}

fn logging(logging: &LoggingConfig) -> Map<String, Value> {
    let mut members = Map::new();
    members.insert("LogFormat".into(), logging.format.as_str().into());
    if let Some(level) = &logging.application_level {
        members.insert("ApplicationLogLevel".into(), level.as_str().into());
    }
    if let Some(level) = &logging.system_level {
        members.insert("SystemLogLevel".into(), level.as_str().into());
    }
    members.insert("LogGroup".into(), logging.group.as_str().into());
    members
}

fn layer(layer: &LayerRef) -> Value {
    json!({ "Arn": layer.arn, "CodeSize": layer.code.size })
}

/// `2026-11-23T05:25:24.000+0000`.
pub(crate) fn time(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms)
        .unwrap_or_default()
        .format("%Y-%m-%dT%H:%M:%S%.3f%z")
        .to_string()
}

/// The digest of a function's code: base64 of a zip's, an image's as it is written in its name.
pub(crate) fn code_sha256(config: &FunctionConfig) -> String {
    let digest = &config.code.sha256;
    if config.image.is_some() { digest.clone() } else { base64_of(digest) }
}

/// Base64 of a digest that we keep as hexadecimal.
pub(crate) fn base64_of(hex: &str) -> String {
    let digits = hex.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok());
    let bytes: Vec<u8> = digits.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect();
    BASE64_STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_digest_look_as_aws_writes_them() {
        assert_eq!(time(1_764_000_000_123), "2025-11-24T16:00:00.123+0000");
        assert_eq!(base64_of("00ff10"), "AP8Q");
    }
}
