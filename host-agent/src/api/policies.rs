//! Resource policies, whatever they are of: a statement is added and taken away, and what both are shown as.
//!
//! Pure: a policy and what is asked of it in, the changed policy or why not out.

use serde_json::{Value, json};

use super::ApiError;
use crate::functions::{
    attached::{Policy, Statement},
    new_id,
};

/// Longest policy: AWS's limit, in bytes.
const MAX_POLICY_LEN: usize = 20 * 1024;

/// Why a policy was not changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PolicyError {
    /// It has a statement of that name.
    Taken,
    /// It would have so many bytes.
    TooLong(usize),
    /// There is none.
    NoPolicy,
    /// It has no statement of that name.
    NoStatement,
    /// It is not of the revision that was named.
    Stale,
}

/// Adds a statement; `first_revision` is what a client names that adds to no policy.
pub(super) fn add(
    policy: &mut Option<Policy>,
    statement: &Statement,
    expected: Option<&str>,
    first_revision: &str,
) -> Result<(), PolicyError> {
    let current = policy.as_ref().map_or(first_revision, |policy| &policy.revision_id);
    if expected.is_some_and(|expected| expected != current) {
        return Err(PolicyError::Stale);
    }
    let mut statements = policy.take().map(|policy| policy.statements).unwrap_or_default();
    if statements.iter().any(|has| has.sid == statement.sid) {
        return Err(PolicyError::Taken);
    }
    statements.push(statement.clone());
    let added = Policy { revision_id: new_id(), statements };
    let len = text(&added).len();
    if len > MAX_POLICY_LEN {
        return Err(PolicyError::TooLong(len));
    }
    *policy = Some(added);
    Ok(())
}

/// Takes a statement away, and with the last one the policy.
pub(super) fn remove(
    policy: &mut Option<Policy>,
    sid: &str,
    expected: Option<&str>,
) -> Result<(), PolicyError> {
    let has = policy.as_mut().ok_or(PolicyError::NoPolicy)?;
    let place = has.statements.iter().position(|has| has.sid == sid).ok_or(PolicyError::NoStatement)?;
    if expected.is_some_and(|expected| expected != has.revision_id) {
        return Err(PolicyError::Stale);
    }
    has.statements.remove(place);
    has.revision_id = new_id();
    if has.statements.is_empty() {
        *policy = None;
    }
    Ok(())
}

/// Everybody, an account, somebody in an account, or one of AWS's services.
pub(super) fn principal(principal: &str) -> Result<Value, ApiError> {
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
pub(super) fn text(policy: &Policy) -> String {
    let statements: Vec<_> = policy.statements.iter().map(|statement| &statement.document).collect();
    json!({ "Version": "2012-10-17", "Id": "default", "Statement": statements }).to_string()
}

/// What a client is told; `shown_by`: the operation that AWS says shows the policy.
pub(super) fn refused(error: PolicyError, sid: &str, shown_by: &str) -> ApiError {
    match error {
        PolicyError::Taken => ApiError::statement_exists(sid),
        PolicyError::TooLong(len) => ApiError::policy_too_long(len, MAX_POLICY_LEN),
        PolicyError::NoPolicy => ApiError::not_found("No policy is associated with the given resource."),
        PolicyError::NoStatement => {
            ApiError::not_found(format!("Statement {sid} is not found in resource policy."))
        }
        PolicyError::Stale => ApiError::stale_policy(shown_by),
    }
}
