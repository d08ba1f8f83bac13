//! Tests of policies: what IAM's documentation says of them, and what is refused rather than misunderstood.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const F: &str = "arn:aws:lambda:us-east-1:000000000000:function:f";

fn policy(statement: Value) -> Result<Policy, String> {
    let document = json!({ "Version": VERSION, "Statement": statement }).to_string();
    let document: Document = serde_json::from_str(&document).map_err(|error| error.to_string())?;
    Policy::try_from(&document).map_err(|error| error.to_string())
}

fn judge(statement: Value, action: &str, resource: &str) -> Verdict {
    policy(statement).unwrap().judge(action, resource)
}

fn allow(action: &str, resource: &str) -> Value {
    json!({ "Effect": "Allow", "Action": action, "Resource": resource })
}

#[test]
fn an_action_is_matched_whatever_its_case_and_whole() {
    for (pattern, allowed) in [
        ("*", true),
        ("lambda:*", true),
        ("lambda:InvokeFunction", true),
        ("LAMBDA:invokefunction", true),
        ("lambda:Invoke*", true),
        ("lambda:InvokeFunctio?", true),
        ("lambda:Invoke", false),
        ("lambda:Get*", false),
        ("tinderbox:*", false),
    ] {
        let verdict = judge(allow(pattern, "*"), "lambda:InvokeFunction", F);
        assert_eq!(verdict == Verdict::Allowed, allowed, "{pattern}");
    }
}

#[test]
fn a_resource_is_matched_part_by_part() {
    let (live, layer) = (format!("{F}:live"), "arn:aws:lambda:us-east-1:000000000000:layer:f:1");
    for (pattern, whole, of_alias, of_layer) in [
        ("*", true, true, true),
        (F, true, false, false),
        ("arn:aws:lambda:us-east-1:000000000000:function:f:*", false, true, false),
        ("arn:aws:lambda:*:*:function:f*", true, true, false),
        ("arn:aws:lambda:us-east-1:000000000000:function:f:l?ve", false, true, false),
        ("arn:aws:lambda:eu-west-1:000000000000:function:f", false, false, false),
        ("arn:aws:lambda:us-east-1:000000000000:*", true, true, true),
        // Would match were `*` to reach over a colon.
        ("arn:*:f:x:y:z", false, false, false),
        ("f", true, true, false),
        ("f:live", false, true, false),
        ("f:*", false, true, false),
        ("?", true, true, false),
        ("g*", false, false, false),
    ] {
        for (resource, allowed) in [(F, whole), (&*live, of_alias), (layer, of_layer)] {
            let verdict = judge(allow("lambda:*", pattern), "lambda:GetFunction", resource);
            assert_eq!(verdict == Verdict::Allowed, allowed, "{pattern} and {resource}");
        }
    }
    assert_eq!(judge(allow("*", "*"), "lambda:ListFunctions", "*"), Verdict::Allowed);
    assert_eq!(judge(allow("*", "f"), "lambda:ListFunctions", "*"), Verdict::Unmentioned);
}

#[test]
fn all_but_some_is_everything_else() {
    let statement = json!([
        { "Effect": "Allow", "NotAction": ["lambda:Delete*", "tinderbox:*"], "Resource": "*" },
        { "Sid": "only f", "Effect": "Deny", "Action": "lambda:InvokeFunction", "NotResource": [F, "f:live"] },
    ]);
    let judge = |action: &str, resource: &str| judge(statement.clone(), action, resource);
    assert_eq!(judge("lambda:DeleteFunction", F), Verdict::Unmentioned);
    assert_eq!(judge("tinderbox:GetKeys", "*"), Verdict::Unmentioned);
    assert_eq!(judge("lambda:GetFunction", F), Verdict::Allowed);
    assert_eq!(judge("lambda:InvokeFunction", F), Verdict::Allowed);
    assert_eq!(judge("lambda:InvokeFunction", &format!("{F}:1")), Verdict::Denied);
    assert_eq!(judge("lambda:InvokeFunction", "*"), Verdict::Denied);
}

#[test]
fn what_is_not_understood_is_refused() {
    let whole = allow("lambda:*", "*");
    let with = |member: &str, value: Value| {
        let mut statement = whole.clone();
        statement[member] = value;
        statement
    };
    for (statement, said) in [
        (with("Condition", json!({})), "Condition is not supported"),
        (with("Principal", json!("*")), "Principal is not supported"),
        (with("NotPrincipal", json!({ "AWS": "*" })), "NotPrincipal is not supported"),
        (with("Conditions", json!({})), "unknown field `Conditions`"),
        (with("NotAction", json!("*")), "either Action or NotAction"),
        (with("NotResource", json!("*")), "either Resource or NotResource"),
        (with("Resource", json!([])), "Resource is empty"),
        (with("Effect", json!("allow")), "Effect has to be"),
        (with("Action", json!("ec2:RunInstances")), "`ec2:RunInstances` is no action"),
        (with("Action", json!("lambda")), "is no action"),
        (with("Action", json!("l*:InvokeFunction")), "is no action"),
        (with("Action", json!("lambda:Invoke Function")), "is no action"),
        (with("Action", json!(1)), "one, or a list"),
        (with("Resource", json!("arn:aws:lambda:*")), "is no resource"),
        (with("Resource", json!("function/f")), "is no resource"),
        (with("Resource", json!("f:1:2")), "is no resource"),
        (with("Resource", json!("arn:aws:lambda:*:*:function:${aws:username}")), "is no resource"),
        (json!({ "Effect": "Allow", "Action": "*" }), "either Resource or NotResource"),
        (json!([]), "no Statement"),
        (allow("*", &format!("arn:aws:lambda:*:*:function:{}", "f".repeat(MAX_POLICY_LEN))), "is the most"),
    ] {
        let refused = policy(statement.clone()).unwrap_err();
        assert!(refused.contains(said), "{statement}: {refused}");
    }
    for (text, said) in [
        (
            r#"{"Version": "2008-10-17", "Statement": {"Effect": "Deny", "Action": "*", "Resource": "*"}}"#,
            "Version has to be",
        ),
        (r#"{"Statement": {"Effect": "Deny", "Action": "*", "Resource": "*"}}"#, "missing field `Version`"),
        (
            r#"{"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Effect": "Allow", "Action": "*", "Resource": "*"}}"#,
            "duplicate field `Effect`",
        ),
    ] {
        let document = serde_json::from_str::<Document>(text).map_err(|error| error.to_string());
        let checked =
            document.and_then(|document| Policy::try_from(&document).map_err(|error| error.to_string()));
        assert!(checked.as_ref().unwrap_err().contains(said), "{checked:?}");
    }
}

prop_compose! {
    fn statement()(
        effect in prop::sample::select(vec!["Allow", "Deny"]),
        action in prop::sample::select(vec!["*", "lambda:*", "lambda:InvokeFunction", "lambda:Get*", "tinderbox:*"]),
        resource in prop::sample::select(vec!["*", "f", "f:live", "g*", F]),
        negated: (bool, bool),
    ) -> Value {
        let mut statement = json!({ "Effect": effect });
        statement[if negated.0 { "NotAction" } else { "Action" }] = action.into();
        statement[if negated.1 { "NotResource" } else { "Resource" }] = resource.into();
        statement
    }
}

proptest! {
    /// In whatever order: what one statement denies is denied, what none mentions is not allowed, and no statement more allows
    /// what was denied.
    #[test]
    fn a_denial_wins_and_silence_allows_nothing(
        statements in prop::collection::vec(statement(), 1..6),
        action in prop::sample::select(vec!["lambda:InvokeFunction", "lambda:GetFunction", "tinderbox:GetKeys"]),
        resource in prop::sample::select(vec!["*".to_owned(), F.to_owned(), format!("{F}:live"), F.replace("n:f", "n:g")]),
    ) {
        let verdict = judge(statements.clone().into(), action, &resource);
        let alone: Vec<_> =
            statements.iter().map(|statement| judge(statement.clone(), action, &resource)).collect();
        let expected = if alone.contains(&Verdict::Denied) {
            Verdict::Denied
        } else if alone.contains(&Verdict::Allowed) {
            Verdict::Allowed
        } else {
            Verdict::Unmentioned
        };
        prop_assert_eq!(verdict, expected);
        let reversed: Vec<_> = statements.iter().rev().cloned().collect();
        prop_assert_eq!(judge(reversed.into(), action, &resource), expected);
    }

    /// No text makes a panic, and what is taken reads the same when it is written.
    #[test]
    fn any_document_is_taken_or_refused(action in ".{0,12}", resource in ".{0,24}") {
        if let Ok(taken) = policy(allow(&action, &resource)) {
            let document: Document = serde_json::from_value(
                json!({ "Version": VERSION, "Statement": [allow(&action, &resource)] })
            ).unwrap();
            let again: Document = serde_json::from_str(&serde_json::to_string(&document).unwrap()).unwrap();
            prop_assert_eq!(Policy::try_from(&again).unwrap(), taken);
        }
    }
}
