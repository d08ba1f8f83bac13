//! The operations on resource policies. What they grant to clients of the node `authorize` knows; what they grant to AWS's services
//! and to other accounts is kept and shown, and nobody of those can ask.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde_json::{Map, Value, json};

use super::{
    ApiError, App,
    call::Call,
    constraints::{
        ACTION, Constraints, EVENT_SOURCE_TOKEN, ORGANISATION, PRINCIPAL, SOURCE_ACCOUNT, SOURCE_ARN,
        STATEMENT, STATEMENT_NAMED,
    },
    functions::failed,
    names::Target,
    policies::{self, PolicyError, principal, text},
    requests::{self, AddPermission},
};
use crate::functions::{
    ChangeError,
    attached::{Attached, Statement},
    model::LATEST,
};

/// Why the policy of a function was not changed.
enum Refused {
    Policy(PolicyError),
    Change(ChangeError),
}

impl From<ChangeError> for Refused {
    fn from(error: ChangeError) -> Self {
        Self::Change(error)
    }
}

/// AddPermission.
pub(super) async fn add(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    let request: AddPermission = requests::parse(&call.body)?;
    constrain(&request)?;
    let target = call.target("AddPermission")?;
    refuse_latest(&target)?;
    if app.functions.get(&target.id).is_none() {
        return Err(ApiError::function_not_found(&target.unqualified_arn()));
    }
    // Of what the policy shall be; a first statement is added to no policy's revision.
    let own_revision = revision(&app, &target)?;
    let document = document(&request, &target)?;
    let statement = Statement { sid: request.statement_id.unwrap_or_default(), document };
    let expected = request.revision_id.as_deref();
    let change = |attached: &mut Attached| {
        policies::add(&mut attached.policy, &statement, expected, &own_revision).map_err(Refused::Policy)
    };
    let added = app.functions.attach(&target.id, target.version(), change).await;
    added.map_err(|error| refused(&target, &statement.sid, error))?;
    let body = json!({ "Statement": Value::Object(statement.document.clone()).to_string() });
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

/// RemovePermission.
pub(super) async fn remove(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, ApiError> {
    let sid = call.path("StatementId");
    let mut constraints = Constraints::default();
    constraints.length("statementId", Some(sid), 1..=100);
    constraints.pattern("statementId", Some(sid), &STATEMENT_NAMED);
    constraints.finish()?;
    let target = call.target("RemovePermission")?;
    if app.functions.get(&target.id).is_none() {
        return Err(ApiError::not_found(format!("No policy found for: {}", target.unqualified_arn())));
    }
    revision(&app, &target)?;
    let expected = call.query("RevisionId");
    let change = |attached: &mut Attached| {
        policies::remove(&mut attached.policy, sid, expected).map_err(Refused::Policy)
    };
    let removed = app.functions.attach(&target.id, target.version(), change).await;
    removed.map_err(|error| refused(&target, sid, error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// GetPolicy.
pub(super) async fn get(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let target = call.target("GetPolicy")?;
    let kept = app.functions.view().attached(&target.id, target.version());
    let policy = kept.as_ref().and_then(|kept| kept.attached.policy.as_ref());
    let policy = policy.ok_or_else(|| ApiError::not_found("The resource you requested does not exist."))?;
    Ok(Json(json!({ "Policy": text(policy), "RevisionId": policy.revision_id })))
}

fn constrain(request: &AddPermission) -> Result<(), ApiError> {
    let mut constraints = Constraints::default();
    constraints.required("statementId", request.statement_id.as_ref());
    constraints.required("action", request.action.as_ref());
    constraints.required("principal", request.principal.as_ref());
    for (member, value, bounds, pattern) in [
        ("statementId", &request.statement_id, 1..=100, &STATEMENT),
        ("action", &request.action, 0..=10_000, &ACTION),
        ("principal", &request.principal, 0..=2048, &PRINCIPAL),
        ("sourceArn", &request.source_arn, 0..=10_000, &SOURCE_ARN),
        ("sourceAccount", &request.source_account, 0..=12, &SOURCE_ACCOUNT),
        ("eventSourceToken", &request.event_source_token, 0..=256, &EVENT_SOURCE_TOKEN),
        ("principalOrgID", &request.principal_org_id, 12..=34, &ORGANISATION),
    ] {
        constraints.length(member, value.as_deref(), bounds);
        constraints.pattern(member, value.as_deref(), pattern);
    }
    constraints.one_of(
        "functionUrlAuthType",
        request.function_url_auth_type.as_deref(),
        &["NONE", "AWS_IAM"],
    );
    constraints.finish()
}

fn refuse_latest(target: &Target) -> Result<(), ApiError> {
    if target.qualifier.as_deref() == Some(LATEST) {
        return Err(ApiError::invalid_parameter("We currently do not support adding policies for $LATEST."));
    }
    Ok(())
}

/// The revision of the version or alias that is named; the function exists.
fn revision(app: &App, target: &Target) -> Result<String, ApiError> {
    let qualifier = target.version();
    let view = app.functions.view();
    if let Some(named) = view.alias(&target.id, qualifier) {
        return Ok(named.alias.revision_id.clone());
    }
    if let Some(function) = view.named(&target.id, qualifier) {
        return Ok(function.config.revision_id.clone());
    }
    let could_be_an_alias = !qualifier.contains('$') && !qualifier.bytes().all(|byte| byte.is_ascii_digit());
    Err(if could_be_an_alias {
        ApiError::not_found(format!("Cannot find alias arn: {}", target.arn()))
    } else {
        ApiError::function_not_found(&target.arn())
    })
}

/// The statement as IAM has it.
fn document(request: &AddPermission, target: &Target) -> Result<Map<String, Value>, ApiError> {
    let mut document = Map::new();
    document.insert("Sid".into(), json!(request.statement_id));
    document.insert("Effect".into(), "Allow".into());
    document.insert("Principal".into(), principal(request.principal.as_deref().unwrap_or_default())?);
    document.insert("Action".into(), json!(request.action));
    document.insert("Resource".into(), target.arn().into());
    let mut condition = Map::new();
    let mut add = |operator: &str, key: &str, value: Option<&str>| {
        if let (Some(value), Some(keys)) =
            (value, condition.entry(operator).or_insert_with(|| json!({})).as_object_mut())
        {
            keys.insert(key.into(), value.into());
        }
    };
    add("StringEquals", "AWS:SourceAccount", request.source_account.as_deref());
    add("StringEquals", "lambda:EventSourceToken", request.event_source_token.as_deref());
    add("StringEquals", "aws:PrincipalOrgID", request.principal_org_id.as_deref());
    add("StringEquals", "lambda:FunctionUrlAuthType", request.function_url_auth_type.as_deref());
    add("ArnLike", "AWS:SourceArn", request.source_arn.as_deref());
    let via_url = request.invoked_via_function_url.map(|via| if via { "true" } else { "false" });
    add("Bool", "lambda:InvokedViaFunctionUrl", via_url);
    condition.retain(|_, keys| keys.as_object().is_some_and(|keys| !keys.is_empty()));
    if !condition.is_empty() {
        document.insert("Condition".into(), Value::Object(condition));
    }
    Ok(document)
}

fn refused(target: &Target, sid: &str, error: Refused) -> ApiError {
    match error {
        Refused::Policy(error) => policies::refused(error, sid, "GetPolicy"),
        Refused::Change(error) => failed(&target.arn(), error),
    }
}
