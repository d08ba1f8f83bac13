//! The operations on functions' URLs. Who serves the URLs is `urls`.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode},
    response::{IntoResponse as _, Response},
};
use chrono::DateTime;
use serde_json::{Map, Value, json};

use super::{
    ApiError, App,
    call::Call,
    constraints::Constraints,
    functions::failed,
    lists::Page,
    names::Target,
    requests::{self, FunctionUrlConfig},
};
use crate::functions::{
    ChangeError,
    attached::Attached,
    now_ms,
    urls::{Cors, FunctionUrl, UrlAuth, UrlMode, new_url_id},
};

/// What a list shows at most, and what may be asked for.
const MAX_ITEMS: i64 = 50;

/// Why nothing was changed.
enum UrlError {
    None,
    Taken,
    Change(ChangeError),
}

impl From<ChangeError> for UrlError {
    fn from(error: ChangeError) -> Self {
        Self::Change(error)
    }
}

/// CreateFunctionUrlConfig.
pub(super) async fn create(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    let asked = Asked::of(&call, Required::Yes)?;
    let target = call.target_with_url("CreateFunctionUrlConfig")?;
    asked.settle(&app, &target)?;
    let now = now_ms();
    let url = FunctionUrl {
        id: new_url_id().map_err(|_| ApiError::internal())?,
        auth: asked.auth.unwrap_or(UrlAuth::Signed),
        mode: asked.mode.unwrap_or_default(),
        cors: asked.cors.clone().filter(|cors| *cors != Cors::default()),
        created_ms: now,
        last_modified_ms: now,
    };
    let change = |attached: &mut Attached| {
        if attached.url.is_some() {
            return Err(UrlError::Taken);
        }
        attached.url = Some(url.clone());
        Ok(())
    };
    let created = app.functions.attach(&target.id, target.version(), change).await;
    created.map_err(|error| refused(&target, error))?;
    let mut members = shown(&app, &target, &url, target.arn());
    members.remove("LastModifiedTime");
    Ok((StatusCode::CREATED, Json(with_mode(members, asked.mode))).into_response())
}

/// UpdateFunctionUrlConfig: what is absent stays as it is.
pub(super) async fn update(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let asked = Asked::of(&call, Required::No)?;
    let target = call.target_with_url("UpdateFunctionUrlConfig")?;
    asked.settle(&app, &target)?;
    let change = |attached: &mut Attached| {
        let url = attached.url.as_mut().ok_or(UrlError::None)?;
        url.auth = asked.auth.unwrap_or(url.auth);
        url.mode = asked.mode.unwrap_or(url.mode);
        if let Some(cors) = &asked.cors {
            url.cors = Some(cors.clone()).filter(|cors| *cors != Cors::default());
        }
        url.last_modified_ms = now_ms();
        Ok(())
    };
    let updated = app.functions.attach(&target.id, target.version(), change).await;
    let attached = updated.map_err(|error| refused(&target, error))?;
    let url = attached.url.as_ref().ok_or_else(ApiError::internal)?;
    Ok(Json(with_mode(shown(&app, &target, url, target.arn()), asked.mode)))
}

/// GetFunctionUrlConfig.
pub(super) async fn get(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let target = call.target_with_url("GetFunctionUrlConfig")?;
    let kept = app.functions.view().attached(&target.id, target.version());
    let url = kept.as_ref().and_then(|kept| kept.attached.url.as_ref()).ok_or_else(none)?;
    Ok(Json(with_mode(shown(&app, &target, url, target.arn()), Some(url.mode))))
}

/// DeleteFunctionUrlConfig.
pub(super) async fn delete(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, ApiError> {
    let target = call.target_with_url("DeleteFunctionUrlConfig")?;
    let change = |attached: &mut Attached| match attached.url.take() {
        Some(_) => Ok(()),
        None => Err(UrlError::None),
    };
    let deleted = app.functions.attach(&target.id, target.version(), change).await;
    deleted.map_err(|error| match error {
        UrlError::Change(ChangeError::Absent) => none(),
        error => refused(&target, error),
    })?;
    Ok(StatusCode::NO_CONTENT)
}

/// ListFunctionUrlConfigs.
pub(super) async fn list(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let mut constraints = Constraints::default();
    let page = Page::asked(&call, &mut constraints, MAX_ITEMS)?;
    constraints.finish()?;
    let target = call.target_with_url("ListFunctionUrlConfigs")?;
    if app.functions.get(&target.id).is_none() {
        return Err(no_function());
    }
    let all = app.functions.view().all_attached(&target.id);
    let rest =
        all.iter().filter(|one| page.after.as_deref().is_none_or(|after| one.qualifier.as_str() > after));
    let marked = rest.filter_map(|one| Some((one.qualifier.clone(), (one, one.url.as_ref()?))));
    let show = |(one, url): (&Arc<Attached>, &FunctionUrl)| {
        let arn = match one.qualifier.as_str() {
            crate::functions::model::LATEST => target.unqualified_arn(),
            alias => target.arn_of(alias),
        };
        with_mode(shown(&app, &target, url, arn), Some(url.mode))
    };
    Ok(Json(page.answer("FunctionUrlConfigs", marked, show)))
}

/// Whether `AuthType` has to be there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Required {
    Yes,
    No,
}

/// What a request wants, checked against the model.
struct Asked {
    auth: Option<UrlAuth>,
    cors: Option<Cors>,
    mode: Option<UrlMode>,
}

impl Asked {
    fn of(call: &Call, auth_type: Required) -> Result<Self, ApiError> {
        let FunctionUrlConfig { auth_type: auth, cors, invoke_mode: mode } = requests::parse(&call.body)?;
        let mut constraints = Constraints::default();
        if auth_type == Required::Yes {
            constraints.required("authType", auth.as_ref());
        }
        constraints.one_of("authType", auth.as_deref(), &["NONE", "AWS_IAM"]);
        constraints.one_of("invokeMode", mode.as_deref(), &["RESPONSE_STREAM", "BUFFERED"]);
        if let Some(cors) = &cors {
            constrain_cors(&mut constraints, cors);
        }
        constraints.finish()?;
        let auth = auth.map(|name| if name == "NONE" { UrlAuth::Open } else { UrlAuth::Signed });
        let mode = mode.map(|name| if name == "BUFFERED" { UrlMode::Buffered } else { UrlMode::Streamed });
        Ok(Self { auth, cors, mode })
    }

    /// Refuses what cannot be.
    fn settle(&self, app: &App, target: &Target) -> Result<(), ApiError> {
        let view = app.functions.view();
        let exists = match &target.qualifier {
            Some(alias) => view.alias(&target.id, alias).is_some(),
            None => view.get(&target.id).is_some(),
        };
        if !exists {
            return Err(no_function());
        }
        let lists = self.cors.iter().flat_map(|cors| {
            [&cors.allow_headers, &cors.allow_methods, &cors.allow_origins, &cors.expose_headers]
        });
        // They become headers of answers.
        if let Some(wrong) = lists.flatten().flatten().find(|item| HeaderValue::from_str(item).is_err()) {
            return Err(ApiError::invalid_parameter(format!("Cors: {wrong:?} cannot be in a header.")));
        }
        Ok(())
    }
}

fn constrain_cors(constraints: &mut Constraints, cors: &Cors) {
    for (member, items, most, lengths) in [
        ("cors.allowHeaders", &cors.allow_headers, 100, 0..=1024),
        ("cors.allowMethods", &cors.allow_methods, 6, 0..=6),
        ("cors.allowOrigins", &cors.allow_origins, 100, 1..=253),
        ("cors.exposeHeaders", &cors.expose_headers, 100, 0..=1024),
    ] {
        constraints.count(member, items.as_deref(), 0..=most);
        constraints.lengths(member, items.as_deref(), lengths);
    }
    constraints.range("cors.maxAge", cors.max_age, 0..=86_400);
}

/// FunctionUrlConfig without its mode.
fn shown(app: &App, target: &Target, url: &FunctionUrl, arn: String) -> Map<String, Value> {
    let mut members = Map::new();
    members.insert("FunctionUrl".into(), app.urls.url_of(&url.id, &target.id.region).into());
    members.insert("FunctionArn".into(), arn.into());
    members.insert("AuthType".into(), url.auth.name().into());
    if let Some(cors) = &url.cors {
        members.insert("Cors".into(), json!(cors));
    }
    members.insert("CreationTime".into(), time(url.created_ms).into());
    members.insert("LastModifiedTime".into(), time(url.last_modified_ms).into());
    members
}

/// AWS says the mode of what is read, and of what is written if it was asked for.
fn with_mode(mut members: Map<String, Value>, mode: Option<UrlMode>) -> Value {
    if let Some(mode) = mode {
        members.insert("InvokeMode".into(), mode.name().into());
    }
    Value::Object(members)
}

fn time(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms).unwrap_or_default().format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn no_function() -> ApiError {
    ApiError::not_found("Function does not exist")
}

fn none() -> ApiError {
    ApiError::not_found("The resource you requested does not exist.")
}

fn refused(target: &Target, error: UrlError) -> ApiError {
    match error {
        UrlError::Taken => ApiError::url_exists(&target.arn()),
        UrlError::None => none(),
        UrlError::Change(ChangeError::Absent) => no_function(),
        UrlError::Change(error) => failed(&target.arn(), error),
    }
}
