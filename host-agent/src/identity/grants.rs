//! What the policy of a function (AddPermission) grants to clients of this node: an allowance beside their own policy.
//!
//! Pure. Whatever a statement asks for that a client's request does not have, such as an event's source, it does not grant.

use serde_json::{Map, Value};

use super::pattern::matches;
use crate::functions::attached::Policy;

/// To whom something may be granted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Grantee<'a> {
    /// Who did not say who they are.
    Anybody,
    /// A user of the node's account, by ARN.
    User(&'a str),
}

/// How a URL is used, if one is: what its `AuthType` is called.
#[derive(Clone, Copy, Debug)]
pub(crate) enum UrlUse {
    /// It is not.
    None,
    /// A URL of that type.
    Of(&'static str),
}

/// Whether the policy grants an action on a resource.
pub(crate) fn grants(policy: &Policy, to: Grantee<'_>, action: &str, resource: &str, url: UrlUse) -> bool {
    policy.statements.iter().any(|statement| {
        let document = &statement.document;
        let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default();
        // Names of actions are not told apart by their case; patterns are the whole, or all of Lambda's.
        let is_action = matches(&text("Action").to_ascii_lowercase(), &action.to_ascii_lowercase());
        text("Effect") == "Allow"
            && is_action
            && text("Resource") == resource
            && document.get("Principal").is_some_and(|principal| is_to(principal, to))
            && document.get("Condition").is_none_or(|condition| holds(condition, url))
    })
}

/// An account as a whole is not its users: that is what their own policies are for.
fn is_to(principal: &Value, to: Grantee<'_>) -> bool {
    let named = match principal {
        Value::String(everybody) => return everybody == "*",
        Value::Object(kinds) => kinds.get("AWS").and_then(Value::as_str),
        _ => None,
    };
    match to {
        Grantee::Anybody => named == Some("*"),
        Grantee::User(arn) => named == Some("*") || named == Some(arn),
    }
}

fn holds(condition: &Value, url: UrlUse) -> bool {
    let Value::Object(operators) = condition else { return false };
    operators
        .iter()
        .all(|(operator, keys)| keys.as_object().is_some_and(|keys| all_hold(operator, keys, url)))
}

fn all_hold(operator: &str, keys: &Map<String, Value>, url: UrlUse) -> bool {
    keys.iter().all(|(key, wanted)| match (operator, key.as_str(), url) {
        ("StringEquals", "lambda:FunctionUrlAuthType", UrlUse::Of(auth_type)) => wanted == auth_type,
        ("Bool", "lambda:InvokedViaFunctionUrl", url) => {
            wanted == if matches!(url, UrlUse::Of(_)) { "true" } else { "false" }
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::functions::attached::Statement;

    const F: &str = "arn:aws:lambda:us-east-1:000000000000:function:f";
    const ANN: &str = "arn:aws:iam::000000000000:user/ann";

    fn check(change: &[(&str, Value)], to: Grantee<'_>, url: UrlUse) -> bool {
        let mut document = json!({
            "Sid": "s",
            "Effect": "Allow",
            "Principal": "*",
            "Action": "lambda:InvokeFunctionUrl",
            "Resource": F,
            "Condition": { "StringEquals": { "lambda:FunctionUrlAuthType": "NONE" } },
        });
        for (member, value) in change {
            document[member] = value.clone();
        }
        let document = document.as_object().unwrap().clone();
        let statements = vec![Statement { sid: "s".into(), document }];
        let policy = Policy { revision_id: "r".into(), statements };
        grants(&policy, to, "lambda:InvokeFunctionUrl", F, url)
    }

    #[test]
    fn an_open_url_is_granted_by_the_statement_that_aws_asks_for() {
        let open = UrlUse::Of("NONE");
        assert!(check(&[], Grantee::Anybody, open) && check(&[], Grantee::User(ANN), open));
        assert!(check(&[("Principal", json!({ "AWS": "*" }))], Grantee::Anybody, open));
        assert!(check(&[("Action", json!("lambda:*"))], Grantee::Anybody, open));
        let unconditional = ("Condition", json!({}));
        assert!(check(&[unconditional], Grantee::Anybody, open));
        for refused in [
            ("Effect", json!("Deny")),
            ("Principal", json!({ "AWS": ANN })),
            ("Principal", json!({ "Service": "s3.amazonaws.com" })),
            ("Principal", json!({ "AWS": "arn:aws:iam::000000000000:root" })),
            ("Action", json!("lambda:InvokeFunction")),
            ("Resource", json!(format!("{F}:live"))),
            ("Condition", json!({ "StringEquals": { "lambda:FunctionUrlAuthType": "AWS_IAM" } })),
            ("Condition", json!({ "StringEquals": { "AWS:SourceAccount": "000000000000" } })),
            ("Condition", json!({ "ArnLike": { "AWS:SourceArn": "*" } })),
            ("Condition", json!({ "Bool": { "lambda:InvokedViaFunctionUrl": "false" } })),
            ("Condition", json!("")),
        ] {
            assert!(!check(std::slice::from_ref(&refused), Grantee::Anybody, open), "{refused:?}");
        }
        assert!(
            !check(&[], Grantee::Anybody, UrlUse::None)
                && !check(&[], Grantee::User(ANN), UrlUse::Of("AWS_IAM"))
        );
    }

    #[test]
    fn a_user_is_granted_what_is_granted_to_them() {
        let to = |arn: &str| ("Principal", json!({ "AWS": arn }));
        let none = ("Condition", json!({}));
        assert!(check(&[to(ANN), none.clone()], Grantee::User(ANN), UrlUse::None));
        assert!(!check(
            &[to("arn:aws:iam::000000000000:user/bob"), none.clone()],
            Grantee::User(ANN),
            UrlUse::None
        ));
        assert!(!check(&[to("arn:aws:iam::000000000000:root"), none], Grantee::User(ANN), UrlUse::None));
    }
}
