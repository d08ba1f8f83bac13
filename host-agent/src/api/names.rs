//! The ways in which a request names a function: name, ARN, partial ARN, each with or without a qualifier, and the
//! `Qualifier` parameter beside it.
//!
//! Pure. What comes out is a function of this account and region, or AWS's refusal.

use super::{
    constraints::{
        Constraints, FUNCTION_NAME, NAMESPACED_NAME, QUALIFIER, TAGGABLE, URL_NAME, URL_QUALIFIER,
    },
    error::ApiError,
};
use crate::functions::model::{self, FunctionId};

/// Longest name of a function.
const MAX_NAME_LEN: usize = 64;

/// Who asks: fixed by the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Account of this node.
    pub(crate) account_id: String,
    /// Region that the request was signed for.
    pub(crate) region: String,
}

/// A function and, if named, which version or alias of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The function.
    pub(crate) id: FunctionId,
    /// Version or alias, from the name or the parameter.
    pub(crate) qualifier: Option<String>,
    account_id: String,
}

impl Target {
    /// ARN as named: with the qualifier when there is one.
    pub(crate) fn arn(&self) -> String {
        let arn = model::arn(&self.id, &self.account_id);
        match &self.qualifier {
            Some(qualifier) => format!("{arn}:{qualifier}"),
            None => arn,
        }
    }

    /// ARN without the qualifier.
    pub(crate) fn unqualified_arn(&self) -> String {
        model::arn(&self.id, &self.account_id)
    }

    /// The qualifier, or what none stands for.
    pub(crate) fn version(&self) -> &str {
        self.qualifier.as_deref().unwrap_or(model::LATEST)
    }

    /// ARN of something below the function: a version or an alias.
    pub(crate) fn arn_of(&self, qualifier: &str) -> String {
        format!("{}:{qualifier}", self.unqualified_arn())
    }
}

/// What a name says, piece by piece.
#[derive(Debug, PartialEq, Eq)]
struct Parsed<'a> {
    region: Option<&'a str>,
    account_id: Option<&'a str>,
    name: &'a str,
    qualifier: Option<&'a str>,
}

/// The function that a request for `action` names in its path, where no version can be meant.
///
/// # Errors
/// As [`resolve`], under the stricter pattern that AWS's model has for these.
pub(crate) fn resolve_function(caller: &Caller, action: &str, name: &str) -> Result<Target, ApiError> {
    let mut constraints = Constraints::default();
    constrain_new(&mut constraints, Some(name));
    constraints.finish()?;
    target(caller, action, &parse(name), None)
}

/// The function that a request for `action` names in its path and its `Qualifier`.
///
/// # Errors
/// ValidationException for what no name can be, and AWS's errors for other accounts, regions and contradictions.
pub(crate) fn resolve(
    caller: &Caller,
    action: &str,
    name: &str,
    qualifier: Option<&str>,
) -> Result<Target, ApiError> {
    let mut constraints = Constraints::default();
    constraints.length("functionName", Some(name), 1..=256);
    // `$latest` is no version, but AWS looks for it rather than refusing it.
    let looked_for = name.replace(":$latest", ":latest");
    if !NAMESPACED_NAME.matches(&looked_for) {
        constraints.pattern("functionName", Some(name), &NAMESPACED_NAME);
    }
    constraints.length("qualifier", qualifier, 1..=128);
    constraints.pattern("qualifier", qualifier, &QUALIFIER);
    constraints.finish()?;
    qualified(caller, action, name, qualifier)
}

/// The function, or the alias of it, whose URL a request for `action` is about.
///
/// # Errors
/// As [`resolve`]; a version, which has no URL.
pub(crate) fn resolve_with_url(
    caller: &Caller,
    action: &str,
    name: &str,
    qualifier: Option<&str>,
) -> Result<Target, ApiError> {
    let mut constraints = Constraints::default();
    constraints.length("functionName", Some(name), 1..=140);
    constraints.pattern("functionName", Some(name), &URL_NAME);
    constraints.length("qualifier", qualifier, 1..=128);
    constraints.pattern("qualifier", qualifier, &URL_QUALIFIER);
    constraints.finish()?;
    qualified(caller, action, name, qualifier)
}

/// The version or the alias of a function whose provisioned concurrency a request for `action` is about.
///
/// # Errors
/// As [`resolve`], and what was found about the request before.
pub(crate) fn resolve_provisioned(
    caller: &Caller,
    action: &str,
    name: &str,
    qualifier: Option<&str>,
    mut constraints: Constraints,
) -> Result<Target, ApiError> {
    constrain_new(&mut constraints, Some(name));
    constraints.required("qualifier", qualifier.as_ref());
    constraints.length("qualifier", qualifier, 1..=128);
    constraints.pattern("qualifier", qualifier, &QUALIFIER);
    constraints.finish()?;
    qualified(caller, action, name, qualifier)
}

/// The function that a name means, and what of it; name and qualifier are well formed.
fn qualified(caller: &Caller, action: &str, name: &str, qualifier: Option<&str>) -> Result<Target, ApiError> {
    let parsed = parse(name);
    if let (Some(derived), Some(given)) = (parsed.qualifier, qualifier)
        && derived != given
    {
        let message = "The derived qualifier from the function name does not match the specified qualifier.";
        return Err(ApiError::invalid_parameter(message));
    }
    target(caller, action, &parsed, qualifier)
}

/// The function that CreateFunction names in its body.
///
/// # Errors
/// As [`resolve`]; a name that is too long for a new function.
pub(crate) fn resolve_new(caller: &Caller, name: &str) -> Result<FunctionId, ApiError> {
    let parsed = parse(name);
    if parsed.name.len() > MAX_NAME_LEN {
        let constraint = format!("Member must have length less than or equal to {MAX_NAME_LEN}");
        let violation = super::constraints::violation("functionName", parsed.name, constraint);
        return Err(ApiError::invalid_parameter_violation(violation));
    }
    Ok(target(caller, "CreateFunction", &parsed, None)?.id)
}

/// Adds what a function's name violates where no version can be meant.
pub(crate) fn constrain_new(constraints: &mut Constraints, name: Option<&str>) {
    constraints.length("functionName", name, 1..=140);
    constraints.pattern("functionName", name, &FUNCTION_NAME);
}

/// The function whose ARN a request for `action` on tags has in its path.
///
/// # Errors
/// As [`resolve`]; the ARN of something else that can have tags, of which the node has none.
pub(crate) fn resolve_taggable(caller: &Caller, action: &str, resource: &str) -> Result<Target, ApiError> {
    let kind = resource.split(':').nth(5).unwrap_or_default();
    let missing = |what: &str| Err(ApiError::not_found(format!("{what} not found: {resource}")));
    match kind {
        "function" => target(caller, action, &parse(resource), None),
        "event-source-mapping" => missing("Event source mapping"),
        "code-signing-config" => missing("Code signing config"),
        "capacity-provider" => missing("Capacity provider"),
        _ => missing("Layer"),
    }
}

/// Adds what the ARN of something that can have tags violates.
pub(crate) fn constrain_taggable(constraints: &mut Constraints, resource: &str) {
    constraints.length("resource", Some(resource), 1..=256);
    constraints.pattern("resource", Some(resource), &TAGGABLE);
}

/// The ARN of the function that a name of any form means, without what it says of a version; of whatever account and region it
/// says. For deciding who may have it, before it is looked at.
pub(crate) fn arn_of_any(caller: &Caller, name: &str, qualifier: Option<&str>) -> String {
    let parsed = parse(name);
    let arn = format!(
        "arn:aws:lambda:{}:{}:function:{}",
        parsed.region.unwrap_or(&caller.region),
        parsed.account_id.unwrap_or(&caller.account_id),
        parsed.name
    );
    match qualifier {
        Some(qualifier) => format!("{arn}:{}", canonical(qualifier)),
        None => arn,
    }
}

/// A version's number without its zeros: it is looked up by that, and what is attached to it has one place.
pub(crate) fn canonical(qualifier: &str) -> String {
    qualifier.parse::<u64>().map_or_else(|_| qualifier.to_owned(), |number| number.to_string())
}

/// The same, with the version or alias that the name or the parameter says.
pub(crate) fn arn_with(caller: &Caller, name: &str, qualifier: Option<&str>) -> String {
    arn_of_any(caller, name, parse(name).qualifier.or(qualifier))
}

/// The function of this account that an ARN of [`arn_with`] is of, and what of it.
pub(crate) fn function_of(account_id: &str, arn: &str) -> Option<(FunctionId, Option<String>)> {
    let parts: Vec<_> = arn.split(':').collect();
    let (region, account, name, qualifier) = match parts[..] {
        ["arn", "aws", "lambda", region, account, "function", name] => (region, account, name, None),
        ["arn", "aws", "lambda", region, account, "function", name, qualifier] => {
            (region, account, name, Some(qualifier.to_owned()))
        }
        _ => return None,
    };
    (account == account_id).then(|| (FunctionId { region: region.into(), name: name.into() }, qualifier))
}

fn target(
    caller: &Caller,
    action: &str,
    parsed: &Parsed<'_>,
    qualifier: Option<&str>,
) -> Result<Target, ApiError> {
    let id = FunctionId { region: caller.region.clone(), name: parsed.name.to_owned() };
    let qualifier = parsed.qualifier.or(qualifier).map(canonical);
    let target = Target { id, qualifier, account_id: caller.account_id.clone() };
    if let Some(account_id) = parsed.account_id
        && account_id != caller.account_id
    {
        let arn = model::arn(&target.id, account_id);
        return Err(ApiError::other_account(&caller.account_id, action, &arn));
    }
    if let Some(region) = parsed.region
        && region != caller.region
    {
        return Err(ApiError::other_region(region, &caller.region));
    }
    Ok(target)
}

/// Takes a name apart that matches the model's pattern; anything else comes out as some name that does not exist.
fn parse(name: &str) -> Parsed<'_> {
    let mut parts: Vec<&str> = name.split(':').collect();
    if parts.first() == Some(&"arn") {
        parts.drain(..parts.len().min(3));
    }
    let is_region =
        |part: &str| part.matches('-').count() >= 2 && part.ends_with(|last: char| last.is_ascii_digit());
    let is_account = |part: &str| part.len() == 12 && part.bytes().all(|byte| byte.is_ascii_digit());
    let (mut region, mut account_id) = (None, None);
    // Functions are called `my-app-1`, too: only what an account or the word `function` follows is a region.
    if parts.len() > 2 && is_region(parts[0]) && (is_account(parts[1]) || parts[1] == "function") {
        region = Some(parts.remove(0));
    }
    if parts.len() > 1 && is_account(parts[0]) {
        account_id = Some(parts.remove(0));
    }
    if parts.len() > 1 && parts[0] == "function" {
        parts.remove(0);
    }
    Parsed {
        region,
        account_id,
        name: parts.first().copied().unwrap_or_default(),
        qualifier: parts.get(1).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Caller {
        Caller { account_id: "000000000000".into(), region: "us-east-1".into() }
    }

    /// What a name and a qualifier resolve to: the ARN, or the error.
    fn check(name: &str, qualifier: Option<&str>) -> Result<String, String> {
        resolve(&caller(), "GetFunction", name, qualifier)
            .map(|target| target.arn())
            .map_err(|error| format!("{}: {}", error.name(), error.message()))
    }

    #[test]
    fn every_form_names_the_function() {
        let arn = "arn:aws:lambda:us-east-1:000000000000:function:f";
        for name in [
            "f",
            arn,
            "000000000000:function:f",
            "function:f",
            "000000000000:f",
            "us-east-1:000000000000:function:f",
        ] {
            assert_eq!(check(name, None), Ok(arn.into()), "{name}");
            assert_eq!(check(name, Some("7")), Ok(format!("{arn}:7")), "{name}");
            assert_eq!(check(&format!("{name}:$LATEST"), None), Ok(format!("{arn}:$LATEST")), "{name}");
        }
        assert_eq!(check("f:7", Some("7")), Ok(format!("{arn}:7")));
        for (name, qualifier) in [("f", Some("007")), ("f:07", None)] {
            assert_eq!(check(name, qualifier), Ok(format!("{arn}:7")), "{name} {qualifier:?}");
        }
        assert_eq!(
            check("arn:aws:lambda:function", None),
            Ok("arn:aws:lambda:us-east-1:000000000000:function:function".into())
        );
    }

    #[test]
    fn contradictions_and_strangers_are_refused() {
        for (name, qualifier, error) in [
            ("f:7", Some("8"), "InvalidParameterValueException: The derived qualifier"),
            (
                "arn:aws:lambda:eu-west-1:000000000000:function:f",
                None,
                "ResourceNotFoundException: Functions from 'eu-west-1' are not reachable in this region ('us-east-1')",
            ),
            ("arn:aws:lambda:us-east-1:111111111111:function:f", None, "AccessDeniedException: "),
            ("111111111111:function:f", None, "AccessDeniedException: "),
            ("f!", None, "ValidationException: 1 validation error detected: Value 'f!' at 'functionName'"),
            ("f", Some("a!"), "ValidationException: 1 validation error detected: Value 'a!' at 'qualifier'"),
            ("f:1:2", None, "ValidationException: "),
            ("", None, "ValidationException: 2 validation errors"),
        ] {
            let refused = check(name, qualifier).unwrap_err();
            assert!(refused.starts_with(error), "{name}: {refused}");
        }
        let long = "a".repeat(65);
        assert_eq!(check(&long, None), Ok(format!("arn:aws:lambda:us-east-1:000000000000:function:{long}")));
        let refused = resolve_new(&caller(), &long).unwrap_err();
        assert_eq!(refused.name(), "InvalidParameterValueException");
    }

    #[test]
    fn a_function_that_is_called_like_a_region_has_qualifiers_as_others_do() {
        for name in ["my-app-1", "us-east-1", "thumbnails-for-team-7", "function-1-2"] {
            let arn = format!("arn:aws:lambda:us-east-1:000000000000:function:{name}");
            assert_eq!(check(name, None), Ok(arn.clone()));
            assert_eq!(check(&format!("{name}:live"), None), Ok(format!("{arn}:live")));
            assert_eq!(check(&format!("{arn}:live"), None), Ok(format!("{arn}:live")));
        }
    }

    #[test]
    fn who_may_have_a_function_is_decided_on_what_is_looked_up() {
        let arn = "arn:aws:lambda:us-east-1:000000000000:function:f";
        for name in [
            "f",
            arn,
            "000000000000:function:f",
            "function:f",
            "arn:aws-cn:lambda:us-east-1:000000000000:function:f",
        ] {
            assert_eq!(arn_with(&caller(), name, None), arn, "{name}");
            assert_eq!(arn_with(&caller(), name, Some("007")), format!("{arn}:7"), "{name}");
            assert_eq!(arn_with(&caller(), &format!("{name}:01"), None), format!("{arn}:1"), "{name}");
            assert_eq!(arn_of_any(&caller(), &format!("{name}:live"), None), arn, "{name}");
        }
        let other = "arn:aws:lambda:eu-west-1:111111111111:function:f";
        assert_eq!(arn_with(&caller(), other, None), other);
        assert_eq!(function_of("000000000000", other), None);
        let id = FunctionId { region: "us-east-1".into(), name: "f".into() };
        assert_eq!(function_of("000000000000", &format!("{arn}:live")), Some((id, Some("live".into()))));
    }

    #[test]
    fn latest_in_lower_case_is_looked_for() {
        let arn = "arn:aws:lambda:us-east-1:000000000000:function:f";
        assert_eq!(check(&format!("{arn}:$latest"), None), Ok(format!("{arn}:$latest")));
    }
}
