//! What a guest is told about a function and an event, from the function's record and the invocation. Pure but for
//! the clock and the entropy, which are the caller's.

use std::time::Duration;

use guest_protocol::{
    CodeLayout, Container, Credentials, InitializationType, Invoke, LogFormat, ResponseMode, SEED_LEN, Seed,
    Start, SystemLogLevel, Unique, generation_counter,
};

use super::{CodeImage, Invocation, runtimes::Pair};
use crate::{
    functions::model::{ContainerImage, FunctionConfig, FunctionId, LoggingConfig},
    logs::{GroupName, StreamId},
    sandbox::{
        VersionKey,
        boot::{Root, Spec},
        machine,
        policy::Demand,
    },
};

/// An init that no invocation waits for, of a function that is to be snapshotted or was provisioned: AWS's 130 s, or its own timeout if that is longer.
const LONG_INIT: Duration = Duration::from_secs(130);

/// Credentials that a function finds in its environment. The node assumes no roles, so they open nothing and say so;
/// they are set because code that reads them, or an SDK that looks for some before it does anything else, should fail
/// at the call that needs a real credential and not before.
fn no_credentials() -> Credentials {
    Credentials {
        access_key_id: "ASIATINDERBOXNOROLE0".into(),
        secret_access_key: "tinderbox-assumes-no-role".into(),
        session_token: "tinderbox-assumes-no-role".into(),
        // They never end. A client that is given a date asks again when it has passed: far, and before 2038.
        expiration: "2037-12-31T23:59:59Z".into(),
    }
}

/// Size of the /tmp that stands in for a function's: Lambda's default, so that the node has a template of it.
const PLACEHOLDER_MIB: u32 = 512;

/// What a container image's own runtime is called where others have their identifier.
pub(super) const CONTAINER: &str = "container";

/// Prefix of the runtimes that bring no language: Lambda tells those no `AWS_EXECUTION_ENV`.
const OS_ONLY: &str = "provided";

/// What the moment of a start adds to the function's record.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    /// Nanoseconds since the Unix epoch.
    pub(super) wall_clock_unix_ns: u64,
    /// Fresh from the host's kernel.
    pub(super) entropy: [u8; 32],
    /// Where the sandbox's lines go.
    pub(super) log_stream: String,
    /// Limit of one init.
    pub(super) init_timeout: Duration,
}

/// What the pool has to find for an invocation.
pub(super) fn demand(function: &FunctionConfig) -> Demand {
    let key = VersionKey {
        function: function.id.clone(),
        version: function.version.clone(),
        deployment_id: function.deployment_id.clone(),
        pin: function.runtime_management.pinned().map(str::to_owned),
    };
    Demand { key: key.into(), charge_mib: machine::charge_mib(function.memory_mib) }
}

/// As [`demand`], for a sandbox that serves nobody: it becomes a snapshot.
pub(super) fn snapshot_demand(function: &FunctionConfig) -> Demand {
    let key = VersionKey {
        function: function.id.clone(),
        version: function.version.clone(),
        deployment_id: format!("{} (snapshot)", function.deployment_id),
        pin: None,
    };
    Demand { key: key.into(), charge_mib: machine::charge_mib(function.memory_mib) }
}

/// As [`demand`], for a guest that is nobody's yet.
pub(super) fn nobodys_demand(pair: &Pair) -> Demand {
    let key = VersionKey {
        // No function has an empty name.
        function: FunctionId { region: String::new(), name: String::new() },
        version: pair.runtime.clone(),
        deployment_id: String::new(),
        pin: None,
    };
    Demand { key: key.into(), charge_mib: machine::charge_mib(pair.memory_mib) }
}

/// As [`spec`], for a guest that is nobody's yet.
pub(super) fn nobodys_spec(pair: &Pair) -> Spec {
    Spec {
        function: format!("({})", pair.runtime),
        memory_mib: pair.memory_mib,
        ephemeral_storage_mib: PLACEHOLDER_MIB,
        owner: None,
        runtime: pair.runtime.clone(),
        root: Root::Runtime,
        log: None,
        code: None,
    }
}

/// What a sandbox for the function is made from, whose lines go to that stream; `image` is the runtime that serves it.
pub(super) fn spec(function: &FunctionConfig, code: &CodeImage, image: &str, log_stream: String) -> Spec {
    let group = GroupName { region: function.id.region.clone(), name: function.logging.group.clone() };
    Spec {
        function: format!("{}:{}", function.id.name, function.version),
        memory_mib: function.memory_mib,
        ephemeral_storage_mib: function.ephemeral_storage_mib,
        owner: Some(function.id.clone()),
        runtime: image.into(),
        root: if function.image.is_some() { Root::Code } else { Root::Runtime },
        log: Some(StreamId { group, stream: log_stream, format: log_format(&function.logging) }),
        code: Some(code.label.clone()),
    }
}

/// How long an init may take that no invocation waits for.
pub(super) fn long_init_timeout(function: &FunctionConfig) -> Duration {
    LONG_INIT.max(Duration::from_secs(function.timeout_s.into()))
}

/// What is random about a clone.
#[derive(Debug)]
pub(super) struct Chance {
    pub(super) seed: [u8; SEED_LEN],
    pub(super) generation: [u8; 16],
    pub(super) machine_id: [u8; 16],
    pub(super) boot_id: [u8; 16],
    pub(super) hostname: [u8; 6],
}

/// What makes a clone of a snapshot unique.
pub(super) fn unique(instance: String, wall_clock_unix_ns: u64, chance: &Chance, limit: Duration) -> Unique {
    let limit_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    Unique {
        entropy: Seed::new(chance.seed),
        wall_clock_unix_ns,
        generation: chance.generation,
        generation_counter: generation_counter(&chance.generation),
        instance_id: instance,
        hostname: format!("sandbox-{}", crate::code::hex(&chance.hostname)),
        machine_id: chance.machine_id,
        boot_id: chance.boot_id,
        credentials: Some(no_credentials()),
        elapsed_us: 0,
        hook_timeout_ms: limit_ms,
        restore_timeout_ms: limit_ms,
    }
}

/// The function, as its guest is told; `image` is the runtime that serves it, in the version `runtime_version`.
pub(super) fn start(
    function: &FunctionConfig,
    (image, runtime_version): (&str, String),
    moment: Moment,
    initialization_type: InitializationType,
) -> Start {
    let environment = function.environment.iter().flatten();
    Start {
        function_name: function.id.name.clone(),
        account_id: function.account_id.clone(),
        function_version: function.version.clone(),
        runtime: image.into(),
        runtime_version,
        handler: function.handler.clone(),
        memory_mib: function.memory_mib,
        init_timeout_ms: u32::try_from(moment.init_timeout.as_millis()).unwrap_or(u32::MAX),
        timeout_ms: timeout_ms(function),
        region: function.id.region.clone(),
        log_group: function.logging.group.clone(),
        log_stream: moment.log_stream,
        wall_clock_unix_ns: moment.wall_clock_unix_ns,
        entropy: moment.entropy,
        environment: environment.map(|(name, value)| (name.clone(), value.clone())).collect(),
        platform_environment: platform_environment(function),
        credentials: Some(no_credentials()),
        initialization_type,
        code: match (&function.image, function.layers.is_empty()) {
            (Some(_), _) => CodeLayout::Root,
            (None, true) => CodeLayout::Alone,
            (None, false) => CodeLayout::WithLayers,
        },
        container: function.image.as_ref().map(container),
        log_format: log_format(&function.logging),
    }
}

/// How a container image is run.
fn container(image: &ContainerImage) -> Container {
    Container {
        arguments: image.arguments(),
        working_directory: image.working_directory().into(),
        environment: image.own.environment.clone(),
    }
}

/// How the platform's lines look.
fn log_format(logging: &LoggingConfig) -> LogFormat {
    if logging.format != "JSON" {
        return LogFormat::Text;
    }
    LogFormat::Json(match logging.system_level.as_deref() {
        Some("DEBUG") => SystemLogLevel::Debug,
        Some("WARN") => SystemLogLevel::Warn,
        _ => SystemLogLevel::Info,
    })
}

/// The event's head, as the guest is told.
pub(super) fn invoke(invocation: &Invocation, event_len: usize) -> Invoke {
    Invoke {
        request_id: invocation.request_id.clone(),
        timeout_ms: timeout_ms(&invocation.function),
        invoked_function_arn: invocation.invoked_arn.clone(),
        trace_id: invocation.trace_id.clone().unwrap_or_else(|| trace_id(&invocation.request_id)),
        client_context: invocation.client_context.clone(),
        cognito_identity: None,
        event_len: u32::try_from(event_len).unwrap_or(u32::MAX),
        response_mode: match invocation.sink {
            Some(_) => ResponseMode::Streamed,
            None => ResponseMode::Buffered,
        },
    }
}

/// The function's timeout in milliseconds.
pub(super) fn timeout_ms(function: &FunctionConfig) -> u32 {
    function.timeout_s.saturating_mul(1000)
}

fn platform_environment(function: &FunctionConfig) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = Vec::new();
    if function.image.is_some() {
        variables.push(("AWS_EXECUTION_ENV".into(), "AWS_Lambda_Image".into()));
    } else if !function.runtime.starts_with(OS_ONLY) {
        variables.push(("AWS_EXECUTION_ENV".into(), format!("AWS_Lambda_{}", function.runtime)));
    }
    if function.logging.format == "JSON" {
        variables.push(("AWS_LAMBDA_LOG_FORMAT".into(), "JSON".into()));
        let level = function.logging.application_level.clone();
        variables.extend(level.map(|level| ("AWS_LAMBDA_LOG_LEVEL".into(), level)));
    }
    variables
}

/// A trace header for a request that brought none: functions that read it find one, and it says "not sampled".
pub(crate) fn trace_id(request_id: &str) -> String {
    let hex: String = request_id.chars().filter(char::is_ascii_hexdigit).collect();
    let part = |from: usize, len: usize| hex.get(from..from + len).unwrap_or("0").to_owned();
    format!("Root=1-{}-{};Parent={};Sampled=0", part(0, 8), part(8, 24), part(16, 16))
}
