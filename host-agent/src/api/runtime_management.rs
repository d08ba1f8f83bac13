//! The operations on when a function's runtime becomes another version of itself, and what an answer says of the version that it is.
//! `functions::runtime_management` keeps it, the invoker holds to it.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::{
    ApiError, App,
    call::Call,
    constraints::{Constraints, RUNTIME_VERSION},
    functions::failed,
    names::Target,
    requests::{self, PutRuntimeManagementConfig},
    responses::{self, Detail},
};
use crate::functions::{
    Function,
    model::FunctionConfig,
    runtime_management::{RuntimeManagement, Wanted, version_arn},
};

/// `ErrorCode` of a version that the node does not have: by the name of the error of a call.
const INVALID_RUNTIME: &str = "InvalidRuntimeException";

const AUTO: &str = "Auto";
const FUNCTION_UPDATE: &str = "FunctionUpdate";
const MANUAL: &str = "Manual";

/// PutRuntimeManagementConfig.
pub(super) async fn put(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let request: PutRuntimeManagementConfig = requests::parse(&call.body)?;
    let (mode, arn) = (request.update_runtime_on.as_deref(), request.runtime_version_arn.as_deref());
    let mut constraints = Constraints::default();
    constraints.required("updateRuntimeOn", mode.as_ref());
    constraints.one_of("updateRuntimeOn", mode, &[AUTO, FUNCTION_UPDATE, MANUAL]);
    constraints.length("runtimeVersionArn", arn, 26..=2048);
    constraints.pattern("runtimeVersionArn", arn, &RUNTIME_VERSION);
    constraints.finish()?;
    let (target, function) = find(&app, &call, "PutRuntimeManagementConfig")?;
    let config = &function.config;
    let wanted = match mode {
        Some(MANUAL) => Wanted::Manual,
        Some(FUNCTION_UPDATE) => Wanted::FunctionUpdate,
        _ => Wanted::Auto,
    };
    let here = app.invoker.runtime_version(&config.runtime).await;
    match (wanted, arn) {
        (Wanted::Manual, None) => {
            let message = "RuntimeVersionArn is required when UpdateRuntimeOn is Manual.";
            return Err(ApiError::invalid_parameter(message));
        }
        (Wanted::Manual, Some(arn)) => check_version(config, here.as_deref(), arn)?,
        (Wanted::Auto | Wanted::FunctionUpdate, Some(_)) => {
            let message = "RuntimeVersionArn can only be given when UpdateRuntimeOn is Manual.";
            return Err(ApiError::invalid_parameter(message));
        }
        (Wanted::Auto | Wanted::FunctionUpdate, None) => {}
    }
    let version = match here {
        Some(version) => version,
        None if wanted == Wanted::Auto => String::new(),
        None => return Err(ApiError::invalid_parameter(unknown(config))),
    };
    let of = (config.runtime.as_str(), version.as_str());
    let managed = app.functions.manage_runtime(&target.id, target.version(), wanted, of).await;
    let config = managed.map_err(|error| failed(&target.arn(), error))?;
    Ok(Json(answer(&config, &target)))
}

/// GetRuntimeManagementConfig.
pub(super) async fn get(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let (target, function) = find(&app, &call, "GetRuntimeManagementConfig")?;
    Ok(Json(answer(&function.config, &target)))
}

/// Refuses an update after which the function is pinned to the version of a runtime that it no longer is of.
pub(super) async fn check_change(app: &App, changed: &FunctionConfig) -> Result<(), ApiError> {
    let RuntimeManagement::Manual { version } = &changed.runtime_management else { return Ok(()) };
    match app.invoker.runtime_version(&changed.runtime).await {
        Some(here) if here == *version => Ok(()),
        _ => Err(ApiError::invalid_parameter(format!(
            "The function's UpdateRuntimeOn is Manual, and {} is no version of the runtime {} that this Tinderbox node has. \
             Set another UpdateRuntimeOn first.",
            version_arn(&changed.id.region, version),
            changed.runtime
        ))),
    }
}

impl App {
    /// The whole configuration of a function, with the version of its runtime; `arn` as the request named it.
    pub(super) async fn shown(&self, config: &FunctionConfig, arn: String) -> Value {
        let mut body = responses::configuration(config, arn, Detail::Full);
        if config.image.is_none() {
            let here = self.invoker.runtime_version(&config.runtime).await;
            body["RuntimeVersionConfig"] = runtime_version(config, here.as_deref());
        }
        body
    }
}

/// The version or `$LATEST` that a request is about, which has a runtime.
fn find(app: &App, call: &Call, action: &str) -> Result<(Target, Function), ApiError> {
    let target = call.target(action)?;
    let view = app.functions.view();
    if view.alias(&target.id, target.version()).is_some() {
        let message = "Runtime management is set for $LATEST or a published version. Aliases do not support this operation.";
        return Err(ApiError::invalid_parameter(message));
    }
    let found = view.named(&target.id, target.version());
    let function = found.ok_or_else(|| ApiError::function_not_found(&target.arn()))?;
    if function.config.image.is_some() {
        let message = "A function that is a container image has no runtime of Lambda's to manage.";
        return Err(ApiError::invalid_parameter(message));
    }
    Ok((target, function))
}

/// The node has one version of each runtime.
fn check_version(config: &FunctionConfig, here: Option<&str>, arn: &str) -> Result<(), ApiError> {
    let here = here.map(|here| version_arn(&config.id.region, here));
    match here {
        Some(here) if here == arn => Ok(()),
        Some(here) => Err(ApiError::invalid_parameter(format!(
            "The runtime version {arn} is not available. The only version of {} on this Tinderbox node is {here}.",
            config.runtime
        ))),
        None => Err(ApiError::invalid_parameter(unknown(config))),
    }
}

fn unknown(config: &FunctionConfig) -> String {
    format!("This Tinderbox node has no image of the runtime {} that it can read.", config.runtime)
}

/// The ARN is that of the request; a runtime's is told when a client has named it.
fn answer(config: &FunctionConfig, target: &Target) -> Value {
    let (mode, version) = match &config.runtime_management {
        RuntimeManagement::Auto => (AUTO, None),
        RuntimeManagement::FunctionUpdate { .. } => (FUNCTION_UPDATE, None),
        RuntimeManagement::Manual { version } => (MANUAL, Some(version_arn(&config.id.region, version))),
    };
    json!({ "UpdateRuntimeOn": mode, "FunctionArn": target.arn(), "RuntimeVersionArn": version })
}

/// RuntimeVersionConfig: the version that the function runs on, and why it cannot.
fn runtime_version(config: &FunctionConfig, here: Option<&str>) -> Value {
    let error = |message| json!({ "ErrorCode": INVALID_RUNTIME, "Message": message });
    match (config.runtime_management.pinned(), here) {
        (None, Some(here)) => json!({ "RuntimeVersionArn": version_arn(&config.id.region, here) }),
        (None, None) => json!({ "Error": error(unknown(config)) }),
        (Some(pinned), Some(here)) if pinned == here => {
            json!({ "RuntimeVersionArn": version_arn(&config.id.region, here) })
        }
        (Some(pinned), here) => {
            let message = match here {
                Some(here) => format!(
                    "This Tinderbox node no longer has the runtime version; it has {}.",
                    version_arn(&config.id.region, here)
                ),
                None => unknown(config),
            };
            json!({ "RuntimeVersionArn": version_arn(&config.id.region, pinned), "Error": error(message) })
        }
    }
}
