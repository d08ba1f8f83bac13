//! Bodies of answers, member by member as AWS's: names, order of nothing, what is absent rather than null.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::functions::model::{FunctionConfig, LATEST, LoggingConfig, State, UpdateStatus};

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
    runtime: &'a str,
    role: &'a str,
    handler: &'a str,
    code_size: u64,
    description: &'a str,
    timeout: u32,
    memory_size: u32,
    last_modified: String,
    code_sha256: String,
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<Value>,
    tracing_config: Value,
    revision_id: &'a str,
    package_type: &'static str,
    architectures: [&'static str; 1],
    ephemeral_storage: Value,
    snap_start: Value,
    logging_config: Map<String, Value>,
    #[serde(flatten)]
    state: Map<String, Value>,
}

/// The configuration of a function; `arn` as the request named it.
pub(crate) fn configuration(config: &FunctionConfig, arn: String, detail: Detail) -> Value {
    let shape = FunctionConfiguration {
        function_name: &config.id.name,
        function_arn: arn,
        runtime: &config.runtime,
        role: &config.role,
        handler: &config.handler,
        code_size: config.code.size,
        description: &config.description,
        timeout: config.timeout_s,
        memory_size: config.memory_mib,
        last_modified: time(config.last_modified_ms),
        code_sha256: code_sha256(&config.code.sha256),
        version: &config.version,
        environment: config.environment.as_ref().map(|variables| json!({ "Variables": variables })),
        tracing_config: json!({ "Mode": config.tracing_mode }),
        revision_id: &config.revision_id,
        package_type: "Zip",
        architectures: ["x86_64"],
        ephemeral_storage: json!({ "Size": config.ephemeral_storage_mib }),
        snap_start: json!({ "ApplyOn": config.snap_start, "OptimizationStatus": "Off" }),
        logging_config: logging(&config.logging),
        state: if detail == Detail::Full { state(config) } else { Map::new() },
    };
    // A structure of strings and numbers: nothing in it can fail to be JSON.
    serde_json::to_value(shape).unwrap_or_default()
}

/// Body of GetFunction.
pub(crate) fn function(config: &FunctionConfig, arn: String, location: &str) -> Value {
    let mut body = json!({
        "Configuration": configuration(config, arn, Detail::Full),
        "Code": { "RepositoryType": "S3", "Location": location },
    });
    if !config.tags.is_empty() {
        body["Tags"] = json!(config.tags);
    }
    body
}

/// Body of ListFunctions.
pub(crate) fn functions(
    configs: &[impl AsRef<FunctionConfig>],
    versions: Versions,
    more: Option<&str>,
) -> Value {
    let shown = configs.iter().map(AsRef::as_ref).map(|config| {
        let arn = match versions {
            Versions::Latest => config.arn(),
            Versions::All => format!("{}:{LATEST}", config.arn()),
        };
        configuration(config, arn, Detail::Listed)
    });
    let mut body = json!({ "Functions": shown.collect::<Vec<_>>() });
    if let Some(more) = more {
        body["NextMarker"] = marker(more).into();
    }
    body
}

/// Which versions a list shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Versions {
    /// The function.
    Latest,
    /// All versions, each by its qualified ARN.
    All,
}

/// A marker: says where a list goes on, and nothing a client should look into.
fn marker(name: &str) -> String {
    BASE64_STANDARD.encode(name)
}

/// The name that a marker carries; `None` if it is not one of ours.
pub(crate) fn read_marker(marker: &str) -> Option<String> {
    String::from_utf8(BASE64_STANDARD.decode(marker).ok()?).ok()
}

fn state(config: &FunctionConfig) -> Map<String, Value> {
    const REASON: &str = "The function is being created.";
    const CODE: &str = "Creating";
    let mut members = Map::new();
    let mut add = |member: &str, value: &str| drop(members.insert(member.into(), value.into()));
    match config.state {
        State::Active => add("State", "Active"),
        State::Pending => {
            add("State", "Pending");
            add("StateReason", REASON);
            add("StateReasonCode", CODE);
        }
    }
    match config.last_update {
        None => {}
        Some(UpdateStatus::Successful) => add("LastUpdateStatus", "Successful"),
        Some(UpdateStatus::InProgress) => {
            add("LastUpdateStatus", "InProgress");
            add("LastUpdateStatusReason", REASON);
            add("LastUpdateStatusReasonCode", CODE);
        }
    }
    members.insert("RuntimeVersionConfig".into(), json!({ "RuntimeVersionArn": runtime_version(config) }));
    members
}

/// AWS names a runtime's build by a hash in an ARN; ours is the identifier's own.
fn runtime_version(config: &FunctionConfig) -> String {
    use sha2::Digest as _;
    let hash = crate::code::hex(&sha2::Sha256::digest(&config.runtime));
    format!("arn:aws:lambda:{}::runtime:{hash}", config.id.region)
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

/// `2026-11-23T05:25:24.000+0000`.
fn time(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms)
        .unwrap_or_default()
        .format("%Y-%m-%dT%H:%M:%S%.3f%z")
        .to_string()
}

/// Base64 of the digest that we keep as hexadecimal.
fn code_sha256(hex: &str) -> String {
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
        assert_eq!(code_sha256("00ff10"), "AP8Q");
    }

    #[test]
    fn a_marker_is_read_back() {
        assert_eq!(read_marker(&marker("my-function")).as_deref(), Some("my-function"));
        assert_eq!(read_marker("not base64!"), None);
    }
}
