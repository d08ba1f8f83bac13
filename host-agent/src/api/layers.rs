//! The operations on layers, and the layers that a function is given. `layer_policies` has those on their policies.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};

use super::{
    ApiError, App,
    call::Call,
    constraints::Constraints,
    layer_names::{self, Named, missing},
    lists::Page,
    names::Caller,
    requests::{self, PublishLayerVersion},
    responses::{base64_of, time},
    upload,
};
use crate::functions::{
    layers::{Held, Label, LayerId, LayerStoreError, LayerVersion, PublishLayerError},
    model::LayerRef,
};

/// Most layers of a function: Lambda's.
const MAX_LAYERS: usize = 5;

/// What the model lets lists of layers be asked for.
const MOST: i64 = 50;

const ARCHITECTURES: &[&str] = &["x86_64", "arm64"];

/// Every runtime that AWS has had, as it names them to who asks for layers of another one.
const RUNTIMES: &[&str] = &[
    "ruby3.5",
    "ruby2.6",
    "dotnetcore1.0",
    "python3.7",
    "nodejs8.10",
    "nasa",
    "ruby2.7",
    "python2.7-greengrass",
    "dotnetcore2.0",
    "python3.8",
    "java21",
    "dotnet6",
    "dotnetcore2.1",
    "python3.9",
    "java11",
    "nodejs6.10",
    "provided",
    "dotnetcore3.1",
    "dotnet8",
    "java25",
    "java17",
    "nodejs",
    "nodejs4.3",
    "java8.al2",
    "go1.x",
    "dotnet10",
    "nodejs20.x",
    "go1.9",
    "byol",
    "nodejs10.x",
    "provided.al2023",
    "nodejs22.x",
    "python3.10",
    "java8",
    "nodejs12.x",
    "python3.11",
    "nodejs24.x",
    "nodejs8.x",
    "python3.12",
    "nodejs14.x",
    "nodejs8.9",
    "nodejs26.x",
    "python3.13",
    "python3.14",
    "nodejs16.x",
    "python3.15",
    "provided.al2",
    "nodejs4.3-edge",
    "nodejs18.x",
    "ruby3.2",
    "python3.4",
    "ruby3.3",
    "ruby3.4",
    "ruby2.5",
    "python3.6",
    "python2.7",
];

/// Those that its model has beside these.
const MORE_RUNTIMES: &[&str] = &["java11.al2023", "java17.al2023", "java8.al2023", "ruby4.0"];

/// Those that it names to who publishes a layer for another one.
const CURRENT_RUNTIMES: &str = "nodejs20.x, python3.14, provided.al2023, python3.12, python3.13, nodejs24.x, nodejs22.x, java25, pyt\
    hon3.10, python3.11, java21, ruby3.3, ruby3.4, ruby3.2, python3.8, python3.9, java17, nodejs16.x, do\
    tnet10, dotnet8, java11, dotnet6, nodejs18.x, provided.al2, java8.al2";

/// PublishLayerVersion.
pub(super) async fn publish(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    let request: PublishLayerVersion = requests::parse_upload(call.body.clone()).await?;
    let name = call.path("LayerName");
    constrain(&request, name)?;
    let id = layer_names::resolve(&call.caller, "PublishLayerVersion", name)?;
    let label = Label {
        description: request.description.unwrap_or_default(),
        license: request.license_info,
        runtimes: request.compatible_runtimes.unwrap_or_default(),
        architectures: request.compatible_architectures.unwrap_or_default(),
    };
    let zip = upload::zip(&app, request.content.unwrap_or_default()).await?;
    let published = app.functions.publish_layer(id, label, zip).await;
    let version = published.map_err(|error| match error {
        PublishLayerError::Code(error) => upload::refusal(error),
        PublishLayerError::Store(error) => failed(error),
    })?;
    Ok((StatusCode::CREATED, Json(whole(&app, &call, &version))).into_response())
}

/// GetLayerVersion.
pub(super) async fn get(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let (id, number) = named(&call, "GetLayerVersion", Constraints::default())?;
    let held = app.functions.layers().get(&id, number).ok_or_else(missing)?;
    Ok(Json(whole(&app, &call, &held.version)))
}

/// GetLayerVersionByArn and ListLayers, which AWS tells apart by a parameter.
pub(super) async fn find(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    if call.query("find") != Some("LayerVersion") {
        return list(&app, &call);
    }
    let (id, number) = layer_names::resolve_arn(&call.caller, call.query("Arn"))?;
    let held = app.functions.layers().get(&id, number).ok_or_else(missing)?;
    Ok(Json(whole(&app, &call, &held.version)))
}

/// ListLayers.
fn list(app: &App, call: &Call) -> Result<Json<Value>, ApiError> {
    let mut constraints = Constraints::default();
    let page = Page::asked(call, &mut constraints, MOST)?;
    constrain_filters(&mut constraints, call);
    constraints.finish()?;
    let Caller { region, account_id } = &call.caller;
    let layers = app.functions.layers();
    let newest =
        layers.list(region, page.after.as_deref(), page.limit + 1, |version| is_wanted(call, version));
    let marked = newest.iter().map(|version| (version.id.name.clone(), version));
    Ok(Json(page.answer("Layers", marked, |version| {
        json!({
            "LayerName": version.id.name,
            "LayerArn": layer_names::arn(&version.id, account_id),
            "LatestMatchingVersion": item(version, account_id),
        })
    })))
}

/// ListLayerVersions.
pub(super) async fn list_versions(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let mut constraints = Constraints::default();
    let page = Page::asked(&call, &mut constraints, MOST)?;
    constrain_filters(&mut constraints, &call);
    let name = call.path("LayerName");
    layer_names::constrain(&mut constraints, name);
    constraints.finish()?;
    let id = layer_names::resolve(&call.caller, "ListLayerVersions", name)?;
    let after = page.after.as_deref().and_then(|after| after.parse().ok()).unwrap_or(u64::MAX);
    let versions = app.functions.layers().versions(&id);
    let rest = versions.iter().filter(|version| version.number < after && is_wanted(&call, version));
    let marked = rest.map(|version| (version.number.to_string(), version));
    Ok(Json(page.answer("LayerVersions", marked, |version| item(version, &call.caller.account_id))))
}

/// DeleteLayerVersion.
pub(super) async fn delete(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, ApiError> {
    let (id, number) = named(&call, "DeleteLayerVersion", Constraints::default())?;
    app.functions.delete_layer(&id, number).await.map_err(failed)?;
    Ok(StatusCode::NO_CONTENT)
}

/// The version that the path names, once its violations are reported together with the others.
pub(super) fn named(
    call: &Call,
    action: &str,
    mut constraints: Constraints,
) -> Result<(LayerId, u64), ApiError> {
    let name = call.path("LayerName");
    layer_names::constrain(&mut constraints, name);
    constraints.finish()?;
    let number = layer_names::number(call.path("VersionNumber"))?;
    Ok((layer_names::resolve(&call.caller, action, name)?, number))
}

/// The layers that a function is to have, each with what keeps its zip, by ARNs that keep the constraints; `None` if nothing is said
/// of them.
///
/// # Errors
/// InvalidParameterValueException in AWS's words and order: too many, of another region, none, two of one layer.
pub(super) fn wanted(
    app: &App,
    caller: &Caller,
    arns: Option<&[String]>,
) -> Result<Option<Vec<(LayerRef, Held)>>, ApiError> {
    let Some(arns) = arns else { return Ok(None) };
    if arns.len() > MAX_LAYERS {
        return Err(ApiError::invalid_parameter(format!("Cannot reference more than {MAX_LAYERS} layers.")));
    }
    let mut wanted: Vec<(LayerRef, Held)> = Vec::new();
    for arn in arns {
        let missing = || ApiError::invalid_parameter(format!("Layer version {arn} does not exist."));
        let Named { region, account_id, name, number } = Named::parse(arn).ok_or_else(missing)?;
        if account_id != Some(&caller.account_id) {
            return Err(ApiError::other_account(&caller.account_id, "GetLayerVersion", arn));
        }
        if region != Some(&caller.region) {
            return Err(ApiError::invalid_parameter(format!(
                "Layers are not in the same region as the function. Layers are expected to be in region {}.",
                caller.region
            )));
        }
        let id = LayerId { region: caller.region.clone(), name: name.into() };
        let held = number.and_then(|number| app.functions.layers().get(&id, number)).ok_or_else(missing)?;
        if let Some((first, _)) = wanted.iter().find(|(_, other)| other.version.id == id) {
            return Err(ApiError::invalid_parameter(format!(
                "Two different versions of the same layer are not allowed to be referenced in the same function. {} and \
                 {arn} are versions of the same layer.",
                first.arn
            )));
        }
        let arn = layer_names::version_arn(&id, &caller.account_id, held.version.number);
        wanted.push((LayerRef { arn, code: held.version.code.clone() }, held));
    }
    Ok(Some(wanted))
}

fn constrain(request: &PublishLayerVersion, name: &str) -> Result<(), ApiError> {
    let mut constraints = Constraints::default();
    layer_names::constrain(&mut constraints, name);
    constraints.required("content", request.content.as_ref());
    constraints.length("description", request.description.as_deref(), 0..=256);
    constraints.length("licenseInfo", request.license_info.as_deref(), 0..=512);
    let runtimes = request.compatible_runtimes.as_deref();
    constraints.count("compatibleRuntimes", runtimes, 0..=15);
    let is_runtime = |runtime: &str| RUNTIMES.contains(&runtime) || MORE_RUNTIMES.contains(&runtime);
    let current = format!("Member must satisfy enum value set: [{CURRENT_RUNTIMES}]");
    constraints.each("compatibleRuntimes", runtimes, is_runtime, current);
    let architectures = request.compatible_architectures.as_deref();
    constraints.count("compatibleArchitectures", architectures, 0..=2);
    let known = "Member must satisfy constraint: [Member must satisfy enum value set: [x86_64, arm64], Member must not be \
                 null]";
    let is_architecture = |architecture: &str| ARCHITECTURES.contains(&architecture);
    constraints.each("compatibleArchitectures", architectures, is_architecture, known);
    if let Some(content) = &request.content {
        upload::constrain_source(&mut constraints, "content", content);
    }
    constraints.finish()
}

fn constrain_filters(constraints: &mut Constraints, call: &Call) {
    let runtime = call.query("CompatibleRuntime").filter(|runtime| !MORE_RUNTIMES.contains(runtime));
    constraints.one_of("compatibleRuntime", runtime, RUNTIMES);
    constraints.one_of("compatibleArchitecture", call.query("CompatibleArchitecture"), ARCHITECTURES);
}

/// Whether a version is among those that a list asks for.
fn is_wanted(call: &Call, version: &LayerVersion) -> bool {
    let has = |filter: &str, given: &[String]| {
        call.query(filter).is_none_or(|wanted| given.iter().any(|given| given == wanted))
    };
    has("CompatibleRuntime", &version.label.runtimes)
        && has("CompatibleArchitecture", &version.label.architectures)
}

/// LayerVersionsListItem.
fn item(version: &LayerVersion, account_id: &str) -> Value {
    let LayerVersion { id, number, label, created_ms, .. } = version;
    let mut shown = json!({
        "LayerVersionArn": layer_names::version_arn(id, account_id, *number),
        "Version": number,
        "Description": label.description,
        "CreatedDate": time(*created_ms),
        "CompatibleRuntimes": label.runtimes,
        "CompatibleArchitectures": label.architectures,
    });
    if let Some(license) = &label.license {
        shown["LicenseInfo"] = license.as_str().into();
    }
    shown
}

/// GetLayerVersionResponse.
fn whole(app: &App, call: &Call, version: &LayerVersion) -> Value {
    let account_id = &call.caller.account_id;
    let mut shown = item(version, account_id);
    shown["LayerArn"] = layer_names::arn(&version.id, account_id).into();
    shown["Content"] = json!({
        "Location": app.downloads.location(&version.code, call.header("host"), chrono::Utc::now()),
        "CodeSha256": base64_of(&version.code.sha256),
        "CodeSize": version.code.size,
    });
    shown
}

/// A change of layers was not made.
pub(super) fn failed(error: LayerStoreError) -> ApiError {
    tracing::error!("layers were not changed: {:#}", anyhow::Error::from(error));
    ApiError::internal()
}
