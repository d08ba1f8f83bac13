//! As `scripts`, of tags and of the policies of a function.

use super::*;

const API: &str = "test_lambda_api.snapshot.json";
const FUNCTIONS: &str = "/2015-03-31/functions";
const ACCOUNT: &str = "arn:aws:lambda:us-east-1:000000000000";

fn tags_of(arn: &str) -> String {
    format!("/2017-03-31/tags/{}", arn.replace(':', "%3A"))
}

/// So many tags.
fn tags(count: usize) -> Value {
    let tags: BTreeMap<_, _> =
        (0..count).map(|number| (format!("{number}_key"), format!("{number}_value"))).collect();
    json!({ "Tags": tags })
}

#[tokio::test]
pub(super) async fn tags_of_what_is_gone_are_as_recorded() {
    let Some(mut recorded) = Recorded::of(API, "TestLambdaTag::test_tag_nonexisting_resource") else {
        return;
    };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    recorded.check("pre_delete_get_function", &node.get(&format!("{FUNCTIONS}/f")).await);
    node.delete(&format!("{FUNCTIONS}/f")).await.ok(204);
    let path = tags_of(&format!("{ACCOUNT}:function:f"));
    recorded.check("not_found_exception_tag", &node.post(&path, &json!({ "Tags": { "A": "B" } })).await);
    recorded.check("not_found_exception_untag", &node.delete(&format!("{path}?tagKeys=A")).await);
    recorded.check("not_found_exception_list", &node.get(&path).await);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn tags_of_what_a_node_has_none_of_are_as_recorded() {
    let test = "TestLambdaTag::test_tag_exceptions[event_source_mapping]";
    let Some(mut recorded) = Recorded::of(API, test) else { return };
    let node = node().await;
    let arn = format!("{ACCOUNT}:event-source-mapping:0d0f4ac1-94ab-4f14-9ff2-0b4f2d2fa2f5");
    let path = tags_of(&arn);
    recorded.check("not_found_exception_tag", &node.post(&path, &json!({ "Tags": { "A": "B" } })).await);
    recorded.check("not_found_exception_untag", &node.delete(&format!("{path}?tagKeys=A")).await);
    recorded.check("not_found_exception_list", &node.get(&path).await);
    recorded.check("aliased_arn_exception", &node.get(&tags_of(&format!("{arn}:alias"))).await);
    let other = tags_of(&arn.replace("event-source-mapping", "foobar"));
    recorded.check("invalid_arn_exception", &node.get(&other).await);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn a_tag_too_many_is_refused_as_recorded() {
    let Some(mut recorded) = Recorded::of(API, "TestLambdaTags::test_tag_limits") else { return };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    let path = tags_of(&format!("{ACCOUNT}:function:f"));
    recorded.check("tag_lambda_too_many_tags", &node.post(&path, &tags(51)).await);
    recorded.check("tag_response", &node.post(&path, &tags(50)).await);
    recorded.check("list_tags_response", &node.get(&path).await);
    recorded.check("get_fn_response", &node.get(&format!("{FUNCTIONS}/f")).await);
    let another = json!({ "Tags": { "a_key": "a_value" } });
    recorded.check("tag_lambda_too_many_tags_additional", &node.post(&path, &another).await);
    let created = node.create(&with(request("g"), &[("/Tags", tags(51)["Tags"].clone())])).await;
    recorded.check("create_function_invalid_tags", &created);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn tags_of_versions_are_refused_as_recorded() {
    let Some(mut recorded) = Recorded::of(API, "TestLambdaTags::test_tag_versions") else { return };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    node.post(&format!("{FUNCTIONS}/f/versions"), &json!({})).await.ok(201);
    for (answer, version) in [("tag_resource_exception", "1"), ("tag_resource_latest_exception", "$LATEST")] {
        let path = tags_of(&format!("{ACCOUNT}:function:f:{version}"));
        recorded.check(answer, &node.post(&path, &tags(4)).await);
    }
    recorded.finish();
}

#[tokio::test]
pub(super) async fn a_policy_grows_as_recorded() {
    let test = "TestLambdaPermissions::test_create_multiple_lambda_permissions";
    let Some(mut recorded) = Recorded::of(API, test) else { return };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    let path = format!("{FUNCTIONS}/f/policy");
    for (answer, service) in [("add_permission_response_1", "logs"), ("add_permission_response_2", "kinesis")]
    {
        let permission = json!({
            "StatementId": service,
            "Action": "lambda:InvokeFunction",
            "Principal": format!("{service}.amazonaws.com"),
        });
        recorded.check(answer, &node.post(&path, &permission).await);
    }
    recorded.check("policy_after_2_add", &node.get(&path).await);
    recorded.finish();
}
