//! The operations on functions: create, read, list, update, delete. Each is: what was named, what was asked, do it,
//! answer. `versions` and `aliases` have theirs.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    ApiError, App,
    call::Call,
    constraints::{Constraints, MASTER_REGION},
    containers::{self, Doing, PackageType, Source},
    layers,
    lists::{MOST, Page},
    names::{self, Target},
    requests::{self, Code, CreateFunction, UpdateFunctionCode, UpdateFunctionConfiguration},
    responses::{self, Detail, configuration},
    runtime_management, settings, upload, versions,
};
use crate::{
    functions::{
        ChangeError, Function, Publish,
        model::{CodeRef, FunctionConfig, LATEST},
    },
    invoke::CodeImage,
};

/// CreateFunction.
pub(super) async fn create(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    let mut request: CreateFunction = requests::parse_upload(call.body.clone()).await?;
    settings::constrain_create(&request)?;
    let name = request.function_name.clone().unwrap_or_default();
    let id = names::resolve_new(&call.caller, &name)?;
    let code = request.code.take().unwrap_or_default();
    let arns = request.settings.layers.clone();
    let publish = Publish::from(request.publish);
    let mut config = settings::create(request, id, app.offered())?;
    if app.functions.get(&config.id).is_some() {
        return Err(ApiError::function_exists(&config.id.name));
    }
    let wanted = layers::wanted(&app, &call.caller, arns.as_deref())?.unwrap_or_default();
    config.layers = wanted.iter().map(|(layer, _)| layer.clone()).collect();
    let given = Given::of(&app, &config, code, Doing::Creating).await?;
    drop(call);
    // Held until the record names the code: nothing else keeps it from being collected.
    let held = given.keep(&app, &config).await?;
    held.give(&mut config);
    let name = config.id.name.clone();
    let created = app.functions.create(config, publish).await.map_err(|error| match error {
        ChangeError::Exists => ApiError::function_exists(&name),
        error => failed(&name, error),
    })?;
    // AWS names a version that came with its function by the function's own ARN.
    let config = created.version.unwrap_or(created.latest);
    let body = app.shown(&config, config.arn()).await;
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

/// GetFunction.
pub(super) async fn get(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let target = call.target("GetFunction")?;
    let function = find(&app, &target)?;
    let location = || app.downloads.location(&function.config.code, call.header("host"), chrono::Utc::now());
    let source = responses::source(&function.config, location);
    let reserved = app.functions.get(&target.id).and_then(|latest| latest.config.reserved_concurrency);
    let shown = app.shown(&function.config, target.arn()).await;
    Ok(Json(responses::function(&function.config, shown, reserved, source)))
}

/// GetFunctionConfiguration.
pub(super) async fn get_configuration(
    State(app): State<Arc<App>>,
    call: Call,
) -> Result<Json<Value>, ApiError> {
    let target = call.target("GetFunctionConfiguration")?;
    let function = find(&app, &target)?;
    Ok(Json(app.shown(&function.config, target.arn()).await))
}

/// ListFunctions.
pub(super) async fn list(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let mut constraints = Constraints::default();
    let page = Page::asked(&call, &mut constraints, MOST)?;
    constraints.one_of("functionVersion", call.query("FunctionVersion"), &["ALL"]);
    constraints.length("masterRegion", call.query("MasterRegion"), 1..=50);
    constraints.pattern("masterRegion", call.query("MasterRegion"), &MASTER_REGION);
    constraints.finish()?;

    // A marker of the list of all versions says which version it ended with.
    let after = page.after.as_deref().map(|after| after.split_once(' ').unwrap_or((after, "")));
    if call.query("FunctionVersion").is_none() {
        let after = after.map(|(name, _)| name);
        let functions = app.functions.view().list(&call.caller.region, after, page.limit + 1);
        let shown = functions.iter().map(|config| (config.id.name.clone(), config));
        return Ok(Json(
            page.answer("Functions", shown, |config| configuration(config, config.arn(), Detail::Listed)),
        ));
    }
    let versions = app.functions.view().list_versions(&call.caller.region, after, page.limit + 1);
    let shown = versions.iter().map(|config| (format!("{} {}", config.id.name, config.version), config));
    Ok(Json(
        page.answer("Functions", shown, |config| configuration(config, config.version_arn(), Detail::Listed)),
    ))
}

/// The model's bound of a name by which a function is changed; one that is only looked up may be longer.
fn constrain_changed(constraints: &mut Constraints, call: &Call) {
    constraints.length("functionName", Some(call.path("FunctionName")), 1..=140);
}

/// UpdateFunctionConfiguration.
pub(super) async fn update_configuration(
    State(app): State<Arc<App>>,
    call: Call,
) -> Result<Json<Value>, ApiError> {
    let request: UpdateFunctionConfiguration = requests::parse(&call.body)?;
    let mut constraints = Constraints::default();
    constrain_changed(&mut constraints, &call);
    constraints.finish()?;
    settings::constrain_update(&request)?;
    let target = call.target("UpdateFunctionConfiguration")?;
    let mut changed = FunctionConfig::clone(&*find_to_change(&app, &target)?.config);
    containers::check(&request.settings, PackageType::of(&changed))?;
    settings::check(&request.settings, app.offered())?;
    settings::change(&request.settings, &mut changed);
    settings::check_start(&changed)?;
    if request.settings.runtime.is_some() {
        runtime_management::check_change(&app, &changed).await?;
    }
    // Held until the record names them, as code is.
    let wanted = layers::wanted(&app, &call.caller, request.settings.layers.as_deref())?;
    let change = |config: &mut FunctionConfig| {
        settings::change(&request.settings, config);
        if let Some(wanted) = &wanted {
            config.layers = wanted.iter().map(|(layer, _)| layer.clone()).collect();
        }
    };
    let updated = app.functions.update(&target.id, request.revision_id.as_deref(), Publish::No, change).await;
    let config = updated.map_err(|error| failed(&target.unqualified_arn(), error))?.latest;
    Ok(Json(app.shown(&config, config.arn()).await))
}

/// UpdateFunctionCode.
pub(super) async fn update_code(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let request: UpdateFunctionCode = requests::parse_upload(call.body.clone()).await?;
    let mut constraints = Constraints::default();
    constrain_changed(&mut constraints, &call);
    settings::constrain_architectures(&mut constraints, request.architectures.as_deref());
    constraints.one_of("publishTo", request.publish_to.as_deref(), &["LATEST_PUBLISHED"]);
    upload::constrain(&mut constraints, &request.code);
    constraints.finish()?;
    let target = call.target("UpdateFunctionCode")?;
    let function = find_to_change(&app, &target)?;
    if request.publish_to.is_some() {
        return Err(ApiError::unsupported_parameter("PublishTo"));
    }
    settings::refuse_architectures(request.architectures.as_deref())?;
    let expected = request.revision_id;
    if expected.as_ref().is_some_and(|expected| *expected != function.config.revision_id) {
        return Err(ApiError::stale_revision());
    }
    let given = Given::of(&app, &function.config, request.code, Doing::Updating).await?;
    drop(call);
    let held = given.keep(&app, &function.config).await?;
    if request.dry_run == Some(true) {
        let mut config = FunctionConfig::clone(&function.config);
        held.give(&mut config);
        config.state = function.config.state.clone();
        return Ok(Json(app.shown(&config, config.arn()).await));
    }
    let change = |config: &mut FunctionConfig| held.give(config);
    let updated = app.functions.update(&target.id, expected.as_deref(), request.publish.into(), change).await;
    let updated = updated.map_err(|error| failed(&target.unqualified_arn(), error))?;
    Ok(Json(match updated.version {
        Some(version) => app.shown(&version, version.version_arn()).await,
        None => app.shown(&updated.latest, updated.latest.arn()).await,
    }))
}

/// DeleteFunction.
pub(super) async fn delete(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, ApiError> {
    let target = call.target("DeleteFunction")?;
    match target.qualifier.as_deref() {
        None => {}
        Some(LATEST) => {
            let message = "$LATEST version cannot be deleted without deleting the function.";
            return Err(ApiError::invalid_parameter(message));
        }
        Some(version) if version.starts_with('$') => {
            return Err(ApiError::function_not_found(&target.unqualified_arn()));
        }
        Some(version) if version.bytes().all(|byte| byte.is_ascii_digit()) => {
            return versions::delete(&app, &target, version).await;
        }
        Some(_) => {
            return Err(ApiError::invalid_parameter("Deletion of aliases is not currently supported."));
        }
    }
    let deleted = app.functions.delete(&target.id).await;
    deleted.map_err(|error| failed(&target.unqualified_arn(), error))?;
    if let Err(error) = app.events.forget(&target.id).await {
        // It is deleted all the same; the next start forgets them.
        tracing::warn!(function = target.id.name, "its dead events are still shown: {error}");
    }
    Ok(StatusCode::NO_CONTENT)
}

/// GetAccountSettings.
pub(super) async fn account_settings(State(app): State<Arc<App>>, call: Call) -> Json<Value> {
    let sizes = app.functions.view().collect(|function| {
        let config = &function.config;
        // AWS counts what is in its own store, where images are not.
        let size = if config.image.is_some() { 0 } else { config.code.size };
        (config.id.region == call.caller.region).then_some((size, config.version == LATEST))
    });
    let account = app.concurrency.account();
    let layers_size = app.functions.layers().size(&call.caller.region);
    Json(json!({
        "AccountLimit": {
            "TotalCodeSize": 80_530_636_800u64,
            "CodeSizeUnzipped": 262_144_000,
            "CodeSizeZipped": 52_428_800,
            "ConcurrentExecutions": account,
            "UnreservedConcurrentExecutions": account.saturating_sub(app.functions.view().claimed()),
        },
        "AccountUsage": {
            "TotalCodeSize": sizes.iter().map(|(size, _)| size).sum::<u64>() + layers_size,
            "FunctionCount": sizes.iter().filter(|(_, latest)| *latest).count(),
        },
    }))
}

/// Code as a request gives it.
enum Given {
    Zip(Bytes),
    Image(Source),
}

/// The same when it is on the node, where it stays while this lives.
enum HeldCode {
    Zip(CodeRef, Arc<CodeImage>),
    Image(Source),
}

impl Given {
    /// For a function of that type.
    async fn of(app: &App, config: &FunctionConfig, code: Code, doing: Doing) -> Result<Self, ApiError> {
        match PackageType::of(config) {
            PackageType::Zip => upload::zip(app, code).await.map(Self::Zip),
            PackageType::Image => containers::source(app, code, doing).await.map(Self::Image),
        }
    }

    async fn keep(self, app: &App, config: &FunctionConfig) -> Result<HeldCode, ApiError> {
        match self {
            Self::Zip(zip) => {
                let (code, image) =
                    app.functions.ingest(zip, &config.layers).await.map_err(upload::refusal)?;
                Ok(HeldCode::Zip(code, image))
            }
            Self::Image(source) => Ok(HeldCode::Image(source)),
        }
    }
}

impl HeldCode {
    fn give(&self, config: &mut FunctionConfig) {
        match self {
            Self::Zip(code, _held) => config.code = code.clone(),
            Self::Image(source) => source.give(config),
        }
    }
}

/// The function or version that is named, directly or by an alias.
fn find(app: &App, target: &Target) -> Result<Function, ApiError> {
    let found = app.functions.view().named(&target.id, target.version());
    found.ok_or_else(|| ApiError::function_not_found(&target.arn()))
}

/// The function that an update names: always the function itself.
pub(super) fn find_to_change(app: &App, target: &Target) -> Result<Function, ApiError> {
    app.functions.get(&target.id).ok_or_else(|| ApiError::function_not_found(&target.unqualified_arn()))
}

pub(super) fn failed(arn: &str, error: ChangeError) -> ApiError {
    match error {
        ChangeError::Absent => ApiError::function_not_found(arn),
        ChangeError::Stale => ApiError::stale_revision(),
        ChangeError::Busy => ApiError::update_in_progress(arn),
        ChangeError::Unfinished(state) => ApiError::wrong_state(state),
        ChangeError::Code(error) => upload::refusal(error),
        ChangeError::Exists | ChangeError::Store(_) | ChangeError::Encode(_) => {
            tracing::error!(function = arn, "a change was not made: {:#}", anyhow::Error::from(error));
            ApiError::internal()
        }
    }
}
