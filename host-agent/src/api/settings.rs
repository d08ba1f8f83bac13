//! From what a client asked for to what a function is: checks in AWS's order and words, and defaults.
//!
//! Pure: bodies and the node's runtimes in, changes to a record or a refusal out.

use std::collections::BTreeMap;

use super::{
    constraints::{
        ARN_OR_NOTHING, CODE_SIGNING, Constraints, HANDLER, LAYER, LOG_GROUP, ROLE, VARIABLE_NAME,
    },
    containers::{self, PackageType},
    error::ApiError,
    names,
    requests::{CreateFunction, Settings, Structure, UpdateFunctionConfiguration},
    tags,
};
use crate::{
    events::{QueueName, destinations::Destinations},
    functions::{
        model::{
            CodeRef, ContainerImage, FunctionConfig, FunctionId, LATEST, LoggingConfig, RecursiveLoop, State,
        },
        new_id, now_ms,
        runtimes::Runtimes,
    },
    log::NOTICE,
};

/// Longest environment as JSON, in bytes.
const MAX_ENVIRONMENT_LEN: usize = 4096;

/// Longest ARN of a layer version.
const MAX_LAYER_ARN_LEN: usize = 2048;

/// Variables that the platform sets and customers may not.
const RESERVED: &[&str] = &[
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_MAX_CONCURRENCY",
    "AWS_LAMBDA_METADATA_API",
    "AWS_LAMBDA_METADATA_TOKEN",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECRET_KEY",
    "AWS_SESSION_TOKEN",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
];

/// Checks the members of a CreateFunction's body against the model.
pub(crate) fn constrain_create(request: &CreateFunction) -> Result<(), ApiError> {
    let mut constraints = Constraints::default();
    constraints.required("functionName", request.function_name.as_ref());
    constraints.required("role", request.settings.role.as_ref());
    constraints.required("code", request.code.as_ref());
    names::constrain_new(&mut constraints, request.function_name.as_deref());
    constraints.one_of("packageType", request.package_type.as_deref(), &["Zip", "Image"]);
    constrain_architectures(&mut constraints, request.architectures.as_deref());
    constraints.one_of("publishTo", request.publish_to.as_deref(), &["LATEST_PUBLISHED"]);
    constraints.length("codeSigningConfigArn", request.code_signing_config_arn.as_deref(), 0..=200);
    constraints.pattern("codeSigningConfigArn", request.code_signing_config_arn.as_deref(), &CODE_SIGNING);
    tags::constrain(&mut constraints, request.tags.as_ref());
    if let Some(code) = &request.code {
        super::upload::constrain(&mut constraints, code);
    }
    constrain_settings(&mut constraints, &request.settings);
    constraints.finish()
}

/// Checks the members of an UpdateFunctionConfiguration's body against the model.
pub(crate) fn constrain_update(request: &UpdateFunctionConfiguration) -> Result<(), ApiError> {
    let mut constraints = Constraints::default();
    constrain_settings(&mut constraints, &request.settings);
    constraints.finish()
}

/// Checks a list of architectures against the model.
pub(crate) fn constrain_architectures(constraints: &mut Constraints, architectures: Option<&[String]>) {
    constraints.count("architectures", architectures, 1..=1);
    for architecture in architectures.unwrap_or_default() {
        constraints.one_of("architectures", Some(architecture), &["x86_64", "arm64"]);
    }
}

fn constrain_settings(constraints: &mut Constraints, settings: &Settings) {
    constraints.length("role", settings.role.as_deref(), 0..=10_000);
    constraints.pattern("role", settings.role.as_deref(), &ROLE);
    constraints.length("handler", settings.handler.as_deref(), 0..=128);
    constraints.pattern("handler", settings.handler.as_deref(), &HANDLER);
    constraints.length("description", settings.description.as_deref(), 0..=256);
    constraints.range("timeout", settings.timeout, 1..=900);
    constraints.range("memorySize", settings.memory_size, 128..=10_240);
    constraints.length("kMSKeyArn", settings.kms_key_arn.as_deref(), 0..=10_000);
    constraints.pattern("kMSKeyArn", settings.kms_key_arn.as_deref(), &ARN_OR_NOTHING);
    if let Some(storage) = &settings.ephemeral_storage {
        constraints.required("ephemeralStorage.size", storage.size.as_ref());
        constraints.range("ephemeralStorage.size", storage.size, 512..=10_240);
    }
    if let Some(tracing) = &settings.tracing_config {
        constraints.one_of("tracingConfig.mode", tracing.mode.as_deref(), &["Active", "PassThrough"]);
    }
    if let Some(snap_start) = &settings.snap_start {
        constraints.one_of(
            "snapStart.applyOn",
            snap_start.apply_on.as_deref(),
            &["PublishedVersions", "None"],
        );
    }
    if let Some(dead_letter) = &settings.dead_letter_config {
        constraints.length("deadLetterConfig.targetArn", dead_letter.target_arn.as_deref(), 0..=10_000);
        constraints.pattern("deadLetterConfig.targetArn", dead_letter.target_arn.as_deref(), &ARN_OR_NOTHING);
    }
    constrain_layers(constraints, settings.layers.as_deref());
    constrain_nested(constraints, settings);
}

fn constrain_layers(constraints: &mut Constraints, layers: Option<&[String]>) {
    let holds = |layer: &str| (1..=MAX_LAYER_ARN_LEN).contains(&layer.len()) && LAYER.matches(layer);
    let constraint = format!(
        "Member must satisfy constraint: [Member must have length less than or equal to {MAX_LAYER_ARN_LEN}, Member must \
         have length greater than or equal to 1, Member must satisfy regular expression pattern: {}, Member must not be \
         null]",
        LAYER.text()
    );
    constraints.each("layers", layers, holds, constraint);
}

fn constrain_nested(constraints: &mut Constraints, settings: &Settings) {
    if let Some(logging) = &settings.logging_config {
        const APPLICATION: &[&str] = &["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];
        constraints.one_of("loggingConfig.logFormat", logging.log_format.as_deref(), &["JSON", "Text"]);
        let level = logging.application_log_level.as_deref();
        constraints.one_of("loggingConfig.applicationLogLevel", level, APPLICATION);
        let level = logging.system_log_level.as_deref();
        constraints.one_of("loggingConfig.systemLogLevel", level, &["DEBUG", "INFO", "WARN"]);
        constraints.length("loggingConfig.logGroup", logging.log_group.as_deref(), 1..=512);
        constraints.pattern("loggingConfig.logGroup", logging.log_group.as_deref(), &LOG_GROUP);
    }
    if let Some(vpc) = &settings.vpc_config {
        constraints.count("vpcConfig.subnetIds", vpc.subnet_ids.as_deref(), 0..=16);
        constraints.count("vpcConfig.securityGroupIds", vpc.security_group_ids.as_deref(), 0..=5);
    }
    if let Some(image) = &settings.image_config {
        constraints.count("imageConfig.entryPoint", image.entry_point.as_deref(), 0..=1500);
        constraints.count("imageConfig.command", image.command.as_deref(), 0..=1500);
        constraints.length("imageConfig.workingDirectory", image.working_directory.as_deref(), 0..=1000);
    }
    let variables =
        settings.environment.iter().filter_map(|environment| environment.variables.as_ref()).flatten();
    let wrong: Vec<_> = variables.map(|(name, _)| name).filter(|name| !VARIABLE_NAME.matches(name)).collect();
    if let Some(name) = wrong.first() {
        let constraint = "Map keys must satisfy constraint: [Member must satisfy regular expression pattern: \
                          [a-zA-Z]([a-zA-Z0-9_])+]";
        constraints.add("environment.variables", format!("{{{name}=***}}"), constraint);
    }
}

/// Refuses what the model has and this node has not.
fn refuse_unsupported(settings: &Settings) -> Result<(), ApiError> {
    let vpc = settings.vpc_config.as_ref();
    let networks =
        vpc.into_iter().flat_map(|vpc| [&vpc.subnet_ids, &vpc.security_group_ids]).flatten().flatten();
    let given = |value: Option<&str>| value.is_some_and(|value| !value.is_empty());
    let present =
        |structure: &Option<Structure>| structure.as_ref().is_some_and(|members| !members.is_empty());
    let unsupported = [
        ("VpcConfig", networks.count() > 0),
        ("KMSKeyArn", given(settings.kms_key_arn.as_deref())),
        (
            "FileSystemConfigs",
            settings.file_system_configs.as_ref().is_some_and(|configs| !configs.is_empty()),
        ),
        ("CapacityProviderConfig", present(&settings.capacity_provider_config)),
        ("DurableConfig", present(&settings.durable_config)),
        ("RuntimeConfig", present(&settings.runtime_config)),
        ("AcceleratorConfig", present(&settings.accelerator_config)),
    ];
    match unsupported.iter().find(|(_, present)| *present) {
        Some((member, _)) => Err(ApiError::unsupported_parameter(member)),
        None => Ok(()),
    }
}

/// Refuses architectures that the node's processor is not.
pub(crate) fn refuse_architectures(architectures: Option<&[String]>) -> Result<(), ApiError> {
    match architectures.unwrap_or_default().iter().find(|architecture| *architecture != "x86_64") {
        Some(other) => Err(ApiError::unsupported_parameter(&format!("Architecture {other}"))),
        None => Ok(()),
    }
}

/// What a node has that settings may name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offered<'a> {
    /// Whose queues it has.
    pub(crate) account_id: &'a str,
    /// Those that it has images for.
    pub(crate) runtimes: &'a Runtimes,
    /// Buckets and topics that its configuration names.
    pub(crate) destinations: &'a Destinations,
}

/// The record of a new function, whose code and layers come later.
pub(crate) fn create(
    request: CreateFunction,
    id: FunctionId,
    node: Offered<'_>,
) -> Result<FunctionConfig, ApiError> {
    let package_type = match request.package_type.as_deref() {
        Some("Image") => PackageType::Image,
        _ => PackageType::Zip,
    };
    if request.publish_to.is_some() {
        return Err(ApiError::unsupported_parameter("PublishTo"));
    }
    if request.code_signing_config_arn.is_some() {
        return Err(ApiError::unsupported_parameter("CodeSigningConfigArn"));
    }
    if request.tenancy_config.is_some() {
        return Err(ApiError::unsupported_parameter("TenancyConfig"));
    }
    refuse_architectures(request.architectures.as_deref())?;
    let without = request.settings.runtime.is_none() || request.settings.handler.is_none();
    if package_type == PackageType::Zip && without {
        let message =
            "Runtime and Handler are mandatory parameters for functions created with deployment packages.";
        return Err(ApiError::invalid_parameter(message));
    }
    containers::check(&request.settings, package_type)?;
    let tags = request.tags.unwrap_or_default();
    tags::check(&tags)?;
    let logging = LoggingConfig {
        format: "Text".into(),
        application_level: None,
        system_level: None,
        group: format!("/aws/lambda/{}", id.name),
    };
    let mut config = FunctionConfig {
        id,
        account_id: node.account_id.into(),
        version: LATEST.into(),
        runtime: String::new(),
        handler: String::new(),
        role: String::new(),
        description: String::new(),
        memory_mib: 128,
        timeout_s: 3,
        ephemeral_storage_mib: 512,
        environment: None,
        tracing_mode: "PassThrough".into(),
        snap_start: "None".into(),
        dead_letter: None,
        logging,
        tags,
        code: CodeRef { sha256: String::new(), size: 0 },
        incoming: None,
        image: (package_type == PackageType::Image).then(ContainerImage::default),
        layers: Vec::new(),
        runtime_management: Default::default(),
        revision_id: new_id(),
        deployment_id: new_id(),
        last_modified_ms: now_ms(),
        state: State::Pending,
        last_update: None,
        incarnation: new_id(),
        published: None,
        reserved_concurrency: None,
        recursive_loop: RecursiveLoop::default(),
    };
    check(&request.settings, node)?;
    apply(&request.settings, &mut config);
    check_start(&config)?;
    Ok(config)
}

/// Refuses snapshots of what cannot have them, as Lambda words it.
pub(crate) fn check_start(config: &FunctionConfig) -> Result<(), ApiError> {
    if config.wants_snapshots() && !config.can_be_snapshotted() {
        let what = if config.image.is_some() { "ContainerImage" } else { &config.runtime };
        let message = format!("{what} is not supported for SnapStart enabled functions.");
        return Err(ApiError::invalid_parameter(message));
    }
    Ok(())
}

/// Checks what the model's constraints do not: support, runtime, environment.
pub(crate) fn check(settings: &Settings, node: Offered<'_>) -> Result<(), ApiError> {
    let Offered { account_id, runtimes, destinations } = node;
    if let Some(refusal) = settings.runtime.as_deref().and_then(|runtime| runtimes.refusal(runtime)) {
        return Err(ApiError::invalid_parameter(refusal));
    }
    if let Some(runtime) = settings.runtime.as_deref()
        && let Some(image) = runtimes.image(runtime).filter(|image| *image != runtime)
    {
        tracing::info!(target: NOTICE, runtime, image, "this node has no image of a runtime: the nearest one serves");
    }
    refuse_unsupported(settings)?;
    let target = settings.dead_letter_config.as_ref().and_then(|config| config.target_arn.as_deref());
    // A bucket takes none, on AWS either.
    let is_topic = |arn: &str| arn.split(':').nth(2) == Some("sns") && destinations.has(arn);
    let takes = |arn: &str| arn.is_empty() || QueueName::of_arn(arn, account_id).is_some() || is_topic(arn);
    if target.is_some_and(|arn| !takes(arn)) {
        let what = "A DeadLetterConfig that is no queue and no topic that its configuration names";
        return Err(ApiError::unsupported_parameter(what));
    }
    let logging = settings.logging_config.as_ref();
    let levels = logging
        .is_some_and(|logging| logging.application_log_level.is_some() || logging.system_log_level.is_some());
    if levels && logging.is_some_and(|logging| logging.log_format.as_deref() == Some("Text")) {
        let message = "To specify log levels, the log format must be JSON.";
        return Err(ApiError::invalid_parameter(message));
    }
    match settings.environment.as_ref().and_then(|environment| environment.variables.as_ref()) {
        Some(variables) => check_environment(variables),
        None => Ok(()),
    }
}

fn check_environment(variables: &BTreeMap<String, String>) -> Result<(), ApiError> {
    const UNABLE: &str = "Lambda was unable to configure your environment variables because the environment \
                          variables you have provided";
    let reserved: Vec<_> =
        variables.keys().map(String::as_str).filter(|name| RESERVED.contains(name)).collect();
    if !reserved.is_empty() {
        return Err(ApiError::invalid_parameter(format!(
            "{UNABLE} contains reserved keys that are currently not supported for modification. Reserved keys used \
             in this request: {}",
            reserved.join(", ")
        )));
    }
    // A map of strings cannot fail to be JSON.
    let measured = serde_json::to_string(variables).unwrap_or_default();
    if measured.len() > MAX_ENVIRONMENT_LEN {
        return Err(ApiError::invalid_parameter(format!(
            "{UNABLE} exceeded the 4KB limit. String measured: {measured}"
        )));
    }
    if variables.values().any(|value| value.contains('\0')) {
        return Err(ApiError::invalid_parameter("Environment variables cannot contain null characters."));
    }
    Ok(())
}

/// Applies checked settings to a function that there is. One that is left no variables has no environment any more, unlike one that is
/// created with none: Terraform would find something to take away in each plan.
pub(crate) fn change(settings: &Settings, config: &mut FunctionConfig) {
    apply(settings, config);
    if settings.environment.is_some() {
        config.environment.take_if(|variables| variables.is_empty());
    }
}

/// Applies checked settings to a record: what is absent stays as it is.
fn apply(settings: &Settings, config: &mut FunctionConfig) {
    let keep = |new: &Option<String>, old: &mut String| {
        if let Some(new) = new {
            old.clone_from(new);
        }
    };
    let number = |new: Option<i64>, old: &mut u32| {
        if let Some(new) = new.and_then(|new| u32::try_from(new).ok()) {
            *old = new;
        }
    };
    keep(&settings.runtime, &mut config.runtime);
    keep(&settings.handler, &mut config.handler);
    keep(&settings.role, &mut config.role);
    keep(&settings.description, &mut config.description);
    number(settings.memory_size, &mut config.memory_mib);
    number(settings.timeout, &mut config.timeout_s);
    number(
        settings.ephemeral_storage.as_ref().and_then(|storage| storage.size),
        &mut config.ephemeral_storage_mib,
    );
    containers::apply(settings, config);
    if let Some(environment) = &settings.environment {
        config.environment = Some(environment.variables.clone().unwrap_or_default());
    }
    if let Some(tracing) = &settings.tracing_config {
        keep(&tracing.mode, &mut config.tracing_mode);
    }
    if let Some(snap_start) = &settings.snap_start {
        keep(&snap_start.apply_on, &mut config.snap_start);
    }
    if let Some(arn) = settings.dead_letter_config.as_ref().and_then(|config| config.target_arn.as_ref()) {
        config.dead_letter = Some(arn.clone()).filter(|arn| !arn.is_empty());
    }
    if let Some(logging) = &settings.logging_config {
        keep(&logging.log_format, &mut config.logging.format);
        keep(&logging.log_group, &mut config.logging.group);
        if config.logging.format == "JSON" {
            let level = |new: &Option<String>, old: &Option<String>| {
                new.clone().or_else(|| old.clone()).or_else(|| Some("INFO".into()))
            };
            let (application, system) = (&logging.application_log_level, &logging.system_log_level);
            config.logging.application_level = level(application, &config.logging.application_level);
            config.logging.system_level = level(system, &config.logging.system_level);
        } else {
            config.logging.application_level = None;
            config.logging.system_level = None;
        }
    }
}
