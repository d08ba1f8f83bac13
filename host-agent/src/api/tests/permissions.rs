//! AddPermission, RemovePermission, GetPolicy.

use super::*;

const PATH: &str = "/2015-03-31/functions/f/policy";
const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:f";

fn permission(sid: &str) -> Value {
    json!({
        "StatementId": sid,
        "Action": "lambda:InvokeFunction",
        "Principal": "s3.amazonaws.com",
        "SourceArn": "arn:aws:s3:::bucket",
    })
}

fn statement(sid: &str, resource: &str) -> Value {
    json!({
        "Sid": sid,
        "Effect": "Allow",
        "Principal": { "Service": "s3.amazonaws.com" },
        "Action": "lambda:InvokeFunction",
        "Resource": resource,
        "Condition": { "ArnLike": { "AWS:SourceArn": "arn:aws:s3:::bucket" } },
    })
}

impl Node {
    async fn permit(&self, path: &str, body: &Value) -> Got {
        self.call("POST", path, body.to_string()).await
    }

    /// A policy and its revision.
    async fn policy(&self, path: &str) -> (Value, String) {
        let got = self.get(path).await.ok(200);
        let policy = serde_json::from_str(got["Policy"].as_str().unwrap()).unwrap();
        (policy, got["RevisionId"].as_str().unwrap().into())
    }
}

#[tokio::test]
async fn a_policy_grows_shrinks_and_outlives_a_restart() {
    let node = Node::new().await;
    node.function("f").await;
    let before = node.settled("f").await["RevisionId"].clone();
    let added = node.permit(PATH, &permission("a")).await.ok(201);
    let said: Value = serde_json::from_str(added["Statement"].as_str().unwrap()).unwrap();
    assert_eq!(said, statement("a", ARN));
    let (_, first) = node.policy(PATH).await;
    node.permit(PATH, &with(permission("b"), &[("/RevisionId", json!(first))])).await.ok(201);
    let stale = node.permit(PATH, &with(permission("c"), &[("/RevisionId", json!(first))])).await;
    let message = "The Revision Id provided does not match the latest Revision Id. Call the GetPolicy API to retrieve \
                   the latest Revision Id";
    stale.is_error(412, "PreconditionFailedException", message);

    let node = node.restarted().await;
    let (policy, second) = node.policy(PATH).await;
    let statements = json!([statement("a", ARN), statement("b", ARN)]);
    assert_eq!(policy, json!({ "Version": "2012-10-17", "Id": "default", "Statement": statements }));
    assert_eq!(node.settled("f").await["RevisionId"], before, "a policy is no part of the function");
    let stale = node.call("DELETE", &format!("{PATH}/a?RevisionId={first}"), Body::empty()).await;
    stale.is_error(412, "PreconditionFailedException", message);
    node.call("DELETE", &format!("{PATH}/a?RevisionId={second}"), Body::empty()).await.ok(204);
    node.call("DELETE", &format!("{PATH}/b"), Body::empty()).await.ok(204);
    let gone = "The resource you requested does not exist.";
    node.get(PATH).await.is_error(404, "ResourceNotFoundException", gone);
}

#[tokio::test]
async fn versions_and_aliases_have_policies_of_their_own_that_go_with_them() {
    let node = Node::new().await;
    node.function("f").await;
    node.call("POST", "/2015-03-31/functions/f/versions", "{}").await.ok(201);
    let alias = json!({ "Name": "live", "FunctionVersion": "1" }).to_string();
    node.call("POST", "/2015-03-31/functions/f/aliases", alias.clone()).await.ok(201);
    for qualifier in ["1", "live"] {
        let path = format!("{PATH}?Qualifier={qualifier}");
        node.permit(&path, &permission("s")).await.ok(201);
        let (policy, _) = node.policy(&path).await;
        assert_eq!(policy["Statement"][0], statement("s", &format!("{ARN}:{qualifier}")));
    }
    let gone = "The resource you requested does not exist.";
    node.get(PATH).await.is_error(404, "ResourceNotFoundException", gone);
    node.call("DELETE", "/2015-03-31/functions/f/aliases/live", Body::empty()).await.ok(204);
    node.call("POST", "/2015-03-31/functions/f/aliases", alias).await.ok(201);
    node.get(&format!("{PATH}?Qualifier=live")).await.is_error(404, "ResourceNotFoundException", gone);

    node.call("DELETE", "/2015-03-31/functions/f", Body::empty()).await.ok(204);
    node.function("f").await;
    node.get(&format!("{PATH}?Qualifier=1")).await.is_error(404, "ResourceNotFoundException", gone);
}

#[tokio::test]
async fn what_cannot_be_permitted_is_refused_in_aws_words() {
    let node = Node::new().await;
    node.function("f").await;
    node.permit(PATH, &permission("s3")).await.ok(201);
    let (parameter, missing) = ("InvalidParameterValueException", "ResourceNotFoundException");
    let pattern = "1 validation error detected: Value 'example.com' at 'statementId' failed to satisfy constraint: Member must satisfy regular expression pattern: ([a-zA-Z0-9-_]+)";
    node.permit(PATH, &permission("example.com")).await.is_error(400, "ValidationException", pattern);
    let taken = "The statement id (s3) provided already exists. Please provide a new statement id, or remove the existing statement.";
    node.permit(PATH, &permission("s3")).await.is_error(409, "ResourceConflictException", taken);
    let stranger = with(permission("x"), &[("/Principal", json!("invalid.nonaws.com"))]);
    let message = "The provided principal was invalid. Please check the principal and try again.";
    node.permit(PATH, &stranger).await.is_error(400, parameter, message);
    let latest = "We currently do not support adding policies for $LATEST.";
    let none = "No policy is associated with the given resource.";
    for (qualifier, status, name, message) in [
        ("$LATEST", 400, parameter, latest.to_owned()),
        ("42", 404, missing, format!("Function not found: {ARN}:42")),
        ("a-$-b", 404, missing, format!("Function not found: {ARN}:a-$-b")),
        ("live", 404, missing, format!("Cannot find alias arn: {ARN}:live")),
    ] {
        let path = format!("{PATH}?Qualifier={qualifier}");
        node.permit(&path, &permission("x")).await.is_error(status, name, &message);
    }
    let absent = node.permit("/2015-03-31/functions/no/policy", &permission("x")).await;
    absent.is_error(404, missing, "Function not found: arn:aws:lambda:us-east-1:000000000000:function:no");
    let delete = async |path: &str| node.call("DELETE", path, Body::empty()).await;
    let nowhere = delete("/2015-03-31/functions/no/policy/x").await;
    nowhere.is_error(404, missing, "No policy found for: arn:aws:lambda:us-east-1:000000000000:function:no");
    let unknown = "Statement x is not found in resource policy.";
    delete(&format!("{PATH}/x")).await.is_error(404, missing, unknown);
    delete(&format!("{PATH}/s3")).await.ok(204);
    delete(&format!("{PATH}/s3")).await.is_error(404, missing, none);
}

#[tokio::test]
async fn a_policy_has_a_longest_length() {
    let node = Node::new().await;
    node.function("f").await;
    let long = |sid: usize| {
        let source = format!("arn:aws:s3:::{}", "b".repeat(5000));
        with(permission(&sid.to_string()), &[("/SourceArn", json!(source))])
    };
    for sid in 0..3 {
        node.permit(PATH, &long(sid)).await.ok(201);
    }
    let refused = node.permit(PATH, &long(3)).await;
    assert_eq!(refused.header("x-amzn-errortype"), Some("PolicyLengthExceededException"));
    assert_eq!(node.policy(PATH).await.0["Statement"].as_array().unwrap().len(), 3);
}
