//! Each constraint of AWS's model violated in turn: refused with AWS's error, and nothing changes.

use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};

use super::*;

/// A violation: method, path, body, and the member at fault.
#[derive(Clone, Debug)]
struct Violation {
    method: &'static str,
    path: String,
    body: Value,
    member: &'static str,
}

const POLICY: &str = "/2015-03-31/functions/f/policy";
const CONCURRENCY: &str = "/2017-10-31/functions/f/concurrency";
const EVENTS: &str = "/2019-09-25/functions/f/event-invoke-config";

/// A string that a pattern of a few characters cannot match, or that is longer than it may be.
fn foreign(max: usize) -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{0,5}[ ?\u{e9}\n]{1,3}[a-z]{0,5}", Just("x".repeat(max + 1))]
}

fn permission() -> impl Strategy<Value = Violation> {
    let member = prop_oneof![
        Just(("/StatementId", "statementId", 100)),
        Just(("/Action", "action", 10_000)),
        Just(("/Principal", "principal", 2048)),
        Just(("/SourceArn", "sourceArn", 10_000)),
        Just(("/SourceAccount", "sourceAccount", 12)),
        Just(("/EventSourceToken", "eventSourceToken", 256)),
        Just(("/PrincipalOrgID", "principalOrgID", 34)),
        Just(("/FunctionUrlAuthType", "functionUrlAuthType", 8)),
    ];
    member.prop_flat_map(|(pointer, member, max)| {
        // A principal may be anything without white space.
        foreign(max)
            .prop_filter("é alone names a principal", move |text| {
                member != "principal" || text.len() > max || text.contains([' ', '\n'])
            })
            .prop_map(move |text| {
                let body =
                    json!({ "StatementId": "s", "Action": "lambda:*", "Principal": "s3.amazonaws.com" });
                Violation {
                    method: "POST",
                    path: POLICY.into(),
                    body: with(body, &[(pointer, json!(text))]),
                    member,
                }
            })
    })
}

fn number() -> impl Strategy<Value = Violation> {
    let event = |member: &'static str, at: &'static str, value: i64| Violation {
        method: "PUT",
        path: EVENTS.into(),
        body: json!({ member: value }),
        member: at,
    };
    prop_oneof![
        (i64::MIN..0).prop_map(|value| Violation {
            method: "PUT",
            path: CONCURRENCY.into(),
            body: json!({ "ReservedConcurrentExecutions": value }),
            member: "reservedConcurrentExecutions",
        }),
        prop_oneof![i64::MIN..0, 3..i64::MAX].prop_map(move |value| event(
            "MaximumRetryAttempts",
            "maximumRetryAttempts",
            value
        )),
        prop_oneof![i64::MIN..60, 21_601..i64::MAX].prop_map(move |value| event(
            "MaximumEventAgeInSeconds",
            "maximumEventAgeInSeconds",
            value
        )),
    ]
}

fn destination() -> impl Strategy<Value = Violation> {
    (prop_oneof![Just("OnSuccess"), Just("OnFailure")], "[a-z]{1,9}[ ?]|x{351}").prop_map(|(on, arn)| {
        Violation {
            method: "PUT",
            path: EVENTS.into(),
            body: json!({ "DestinationConfig": { on: { "Destination": arn } } }),
            member: if on == "OnSuccess" {
                "destinationConfig.onSuccess.destination"
            } else {
                "destinationConfig.onFailure.destination"
            },
        }
    })
}

fn query() -> impl Strategy<Value = Violation> {
    let violation = |path: String, member| Violation { method: "GET", path, body: json!({}), member };
    prop_oneof![
        prop_oneof![i64::MIN..1, 51..i64::MAX]
            .prop_map(move |items| violation(format!("{EVENTS}/list?MaxItems={items}"), "maxItems")),
        "[a-z]{0,9}%3F|x{129}"
            .prop_map(move |text| violation(format!("{POLICY}?Qualifier={text}"), "qualifier")),
    ]
}

#[tokio::test]
async fn a_violated_constraint_is_aws_error_and_changes_nothing() {
    let node = Node::new().await;
    node.function("f").await;
    let before = (node.settled("f").await, node.get("/2016-08-19/account-settings").await.ok(200));
    let strategy = prop_oneof![4 => permission(), 3 => number(), 1 => destination(), 2 => query()];
    let mut runner = TestRunner::deterministic();
    for _ in 0..400 {
        let Violation { method, path, body, member } = strategy.new_tree(&mut runner).unwrap().current();
        let got = node.call(method, &path, body.to_string()).await;
        let refusal = (got.status.as_u16(), got.header("x-amzn-errortype"));
        assert_eq!(refusal, (400, Some("ValidationException")), "{method} {path} {body}: {:?}", got.body);
        let said = got.json()["message"].as_str().unwrap().to_owned();
        let at = format!("' at '{member}' failed to satisfy constraint: Member must ");
        assert!(said.contains(" detected: Value '") && said.contains(&at), "{said}");
    }
    let after = (node.settled("f").await, node.get("/2016-08-19/account-settings").await.ok(200));
    assert_eq!(after, before);
    assert_eq!(node.get(POLICY).await.status, 404);
    assert_eq!(node.get(EVENTS).await.status, 404);
    assert_eq!(node.get("/2019-09-30/functions/f/concurrency").await.ok(200), json!({}));
}
