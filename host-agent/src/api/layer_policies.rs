//! The operations on the policies of layer versions: kept and shown, as those of functions are (`permissions`).

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
    constraints::{Constraints, LAYER_ACTION, LAYER_PRINCIPAL, ORGANISATION, STATEMENT, STATEMENT_NAMED},
    layer_names, layers,
    policies::{self, PolicyError, principal, text},
    requests::{self, AddLayerVersionPermission},
};
use crate::functions::{
    attached::{Policy, Statement},
    layers::{LayerId, LayerStoreError},
};

/// The operation that AWS says shows such a policy.
const SHOWN_BY: &str = "GetLayerPolicy";

/// Why the policy of a version was not changed.
enum Refused {
    Policy(PolicyError),
    Store(LayerStoreError),
}

impl From<LayerStoreError> for Refused {
    fn from(error: LayerStoreError) -> Self {
        Self::Store(error)
    }
}

/// AddLayerVersionPermission.
pub(super) async fn add(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    let request: AddLayerVersionPermission = requests::parse(&call.body)?;
    let (id, number) = layers::named(&call, "AddLayerVersionPermission", constrain(&request))?;
    let arn = layer_names::version_arn(&id, &call.caller.account_id, number);
    let statement = statement(request, &arn)?;
    let expected = call.query("RevisionId");
    // Nothing to add to has no revision that could be named.
    let policy = change(&app, &id, number, &arn, &statement.sid, |policy| {
        policies::add(policy, &statement, expected, "")
    });
    let policy = policy.await?;
    let revision_id = policy.map(|policy| policy.revision_id);
    let body =
        json!({ "Statement": Value::Object(statement.document).to_string(), "RevisionId": revision_id });
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

/// RemoveLayerVersionPermission.
pub(super) async fn remove(State(app): State<Arc<App>>, call: Call) -> Result<StatusCode, ApiError> {
    let sid = call.path("StatementId");
    let mut constraints = Constraints::default();
    constraints.length("statementId", Some(sid), 1..=100);
    constraints.pattern("statementId", Some(sid), &STATEMENT_NAMED);
    let (id, number) = layers::named(&call, "RemoveLayerVersionPermission", constraints)?;
    let arn = layer_names::version_arn(&id, &call.caller.account_id, number);
    let expected = call.query("RevisionId");
    change(&app, &id, number, &arn, sid, |policy| policies::remove(policy, sid, expected)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// GetLayerVersionPolicy.
pub(super) async fn get(State(app): State<Arc<App>>, call: Call) -> Result<Json<Value>, ApiError> {
    let (id, number) = layers::named(&call, "GetLayerVersionPolicy", Constraints::default())?;
    let held = app.functions.layers().get(&id, number);
    let held =
        held.ok_or_else(|| missing(&layer_names::version_arn(&id, &call.caller.account_id, number)))?;
    let none = || policies::refused(PolicyError::NoPolicy, "", SHOWN_BY);
    let policy = held.version.policy.as_ref().ok_or_else(none)?;
    Ok(Json(json!({ "Policy": text(policy), "RevisionId": policy.revision_id })))
}

/// Changes the policy of a version; what it is then.
async fn change(
    app: &App,
    id: &LayerId,
    number: u64,
    arn: &str,
    sid: &str,
    change: impl FnOnce(&mut Option<Policy>) -> Result<(), PolicyError> + Send,
) -> Result<Option<Policy>, ApiError> {
    let layers = app.functions.layers();
    let changed = layers.change_policy(id, number, |policy| change(policy).map_err(Refused::Policy)).await;
    match changed {
        Ok(Some(version)) => Ok(version.policy.clone()),
        Ok(None) => Err(missing(arn)),
        Err(Refused::Policy(error)) => Err(policies::refused(error, sid, SHOWN_BY)),
        Err(Refused::Store(error)) => Err(layers::failed(error)),
    }
}

fn constrain(request: &AddLayerVersionPermission) -> Constraints {
    let mut constraints = Constraints::default();
    constraints.required("statementId", request.statement_id.as_ref());
    constraints.required("action", request.action.as_ref());
    constraints.required("principal", request.principal.as_ref());
    for (member, value, bounds, pattern) in [
        ("statementId", &request.statement_id, 1..=100, &STATEMENT),
        ("action", &request.action, 0..=22, &LAYER_ACTION),
        ("principal", &request.principal, 0..=10_000, &LAYER_PRINCIPAL),
        ("organizationId", &request.organization_id, 0..=34, &ORGANISATION),
    ] {
        constraints.length(member, value.as_deref(), bounds);
        constraints.pattern(member, value.as_deref(), pattern);
    }
    constraints
}

/// The statement as IAM has it.
fn statement(request: AddLayerVersionPermission, arn: &str) -> Result<Statement, ApiError> {
    let sid = request.statement_id.unwrap_or_default();
    let mut document = Map::new();
    document.insert("Sid".into(), sid.as_str().into());
    document.insert("Effect".into(), "Allow".into());
    document.insert("Principal".into(), principal(request.principal.as_deref().unwrap_or_default())?);
    document.insert("Action".into(), json!(request.action));
    document.insert("Resource".into(), arn.into());
    if let Some(organisation) = request.organization_id {
        let condition = json!({ "StringEquals": { "aws:PrincipalOrgID": organisation } });
        document.insert("Condition".into(), condition);
    }
    Ok(Statement { sid, document })
}

fn missing(arn: &str) -> ApiError {
    ApiError::not_found(format!("Layer version {arn} does not exist."))
}
