//! The operations on resource policies. A node has one account, whose keys may do everything: what a policy grants to others is
//! kept and shown, and nobody else can ask.

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
    requests::{self, AddPermission},
};
use crate::functions::{
    ChangeError,
    attached::{Policy, Statement},
    model::LATEST,
    new_id,
};

/// Longest policy: AWS's limit, in bytes.
const MAX_POLICY_LEN: usize = 20 * 1024;

/// Why a policy was not changed.
enum PolicyError {
    Taken,
    TooLong(usize),
    NoPolicy,
    NoStatement,
    Stale,
    Change(ChangeError),
}

impl From<ChangeError> for PolicyError {
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
    let sid = request.statement_id.unwrap_or_default();
    let statement = Statement { sid: sid.clone(), document };
    let expected = request.revision_id.as_deref();
    let change = |attached: &mut crate::functions::attached::Attached| {
        let current = attached.policy.as_ref().map_or(own_revision.as_str(), |policy| &policy.revision_id);
        if expected.is_some_and(|expected| expected != current) {
            return Err(PolicyError::Stale);
        }
        let mut statements = attached.policy.take().map(|policy| policy.statements).unwrap_or_default();
        if statements.iter().any(|has| has.sid == statement.sid) {
            return Err(PolicyError::Taken);
        }
        statements.push(statement.clone());
        let policy = Policy { revision_id: new_id(), statements };
        let len = text(&policy).len();
        if len > MAX_POLICY_LEN {
            return Err(PolicyError::TooLong(len));
        }
        attached.policy = Some(policy);
        Ok(())
    };
    let added = app.functions.attach(&target.id, target.version(), change).await;
    added.map_err(|error| refused(&target, &sid, error))?;
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
    let change = |attached: &mut crate::functions::attached::Attached| {
        let policy = attached.policy.as_mut().ok_or(PolicyError::NoPolicy)?;
        let place =
            policy.statements.iter().position(|has| has.sid == sid).ok_or(PolicyError::NoStatement)?;
        if expected.is_some_and(|expected| expected != policy.revision_id) {
            return Err(PolicyError::Stale);
        }
        policy.statements.remove(place);
        policy.revision_id = new_id();
        if policy.statements.is_empty() {
            attached.policy = None;
        }
        Ok(())
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

/// Everybody, an account, somebody in an account, or one of AWS's services.
fn principal(principal: &str) -> Result<Value, ApiError> {
    let is_account = principal.len() == 12 && principal.bytes().all(|byte| byte.is_ascii_digit());
    let is_service = [".amazonaws.com", ".amazonaws.com.cn", ".amazon.com"]
        .iter()
        .any(|domain| principal.strip_suffix(domain).is_some_and(|name| !name.is_empty()));
    let is_identity =
        principal.starts_with("arn:") && [":iam::", ":sts::"].iter().any(|part| principal.contains(part));
    Ok(if principal == "*" {
        principal.into()
    } else if is_account {
        json!({ "AWS": format!("arn:aws:iam::{principal}:root") })
    } else if is_identity {
        json!({ "AWS": principal })
    } else if is_service {
        json!({ "Service": principal })
    } else {
        let message = "The provided principal was invalid. Please check the principal and try again.";
        return Err(ApiError::invalid_parameter(message));
    })
}

/// The policy's text.
fn text(policy: &Policy) -> String {
    let statements: Vec<_> = policy.statements.iter().map(|statement| &statement.document).collect();
    json!({ "Version": "2012-10-17", "Id": "default", "Statement": statements }).to_string()
}

fn refused(target: &Target, sid: &str, error: PolicyError) -> ApiError {
    match error {
        PolicyError::Taken => ApiError::statement_exists(sid),
        PolicyError::TooLong(len) => ApiError::policy_too_long(len, MAX_POLICY_LEN),
        PolicyError::NoPolicy => ApiError::not_found("No policy is associated with the given resource."),
        PolicyError::NoStatement => {
            ApiError::not_found(format!("Statement {sid} is not found in resource policy."))
        }
        PolicyError::Stale => ApiError::stale_policy(),
        PolicyError::Change(error) => failed(&target.arn(), error),
    }
}
