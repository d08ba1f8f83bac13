//! The requests on provisioned concurrency that recorded answers belong to.

use super::*;

const API: &str = "test_lambda_api.snapshot.json";
const INVOKED: &str = "test_lambda.snapshot.json";
const FUNCTION: &str = "/2019-09-30/functions/f/provisioned-concurrency";

fn provisioning(count: u32) -> Value {
    json!({ "ProvisionedConcurrentExecutions": count })
}

/// A node with a function and its version 1.
async fn with_version() -> Node {
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    node.post("/2015-03-31/functions/f/versions", &json!({})).await.ok(201);
    node
}

#[tokio::test]
pub(super) async fn limits_are_as_recorded() {
    let test = "TestLambdaProvisionedConcurrency::test_provisioned_concurrency_limits";
    let Some(mut recorded) = Recorded::of(API, test) else { return };
    let node = with_version().await;
    let version = format!("{FUNCTION}?Qualifier=1");
    let exceeded = "put_provisioned_concurrency_account_limit_exceeded";
    recorded.check(exceeded, &node.put(&version, &provisioning(1001)).await);
    let below = "put_provisioned_concurrency_below_unreserved_min_value";
    recorded.check(below, &node.put(&version, &provisioning(901)).await);
    node.put(&version, &provisioning(900)).await.ok(202);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn it_becomes_ready_as_recorded() {
    let test = "TestLambdaConcurrency::test_provisioned_concurrency";
    let Some(mut recorded) = Recorded::of(INVOKED, test) else { return };
    let node = with_version().await;
    let version = format!("{FUNCTION}?Qualifier=1");
    recorded.check("put_provisioned_5", &node.put(&version, &provisioning(5)).await);
    recorded.check("get_provisioned_prewait", &node.get(&version).await);
    node.stands("1", 5, None);
    recorded.check("get_provisioned_postwait", &node.get(&version).await);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn it_is_part_of_what_is_reserved_as_recorded() {
    let test = "TestLambdaConcurrency::test_reserved_provisioned_overlap";
    let Some(mut recorded) = Recorded::of(INVOKED, test) else { return };
    let node = with_version().await;
    let version = format!("{FUNCTION}?Qualifier=1");
    recorded.check("put_provisioned_5", &node.put(&version, &provisioning(2)).await);
    recorded.check("get_provisioned_prewait", &node.get(&version).await);
    node.stands("1", 2, None);
    recorded.check("get_provisioned_postwait", &node.get(&version).await);
    let reserve = "/2017-10-31/functions/f/concurrency";
    let reserving = |count: u32| json!({ "ReservedConcurrentExecutions": count });
    recorded.check("reserved_lower_than_provisioned_exc", &node.put(reserve, &reserving(1)).await);
    node.put(reserve, &reserving(2)).await.ok(200);
    recorded.check("get_concurrency", &node.get("/2019-09-30/functions/f/concurrency").await);
    let invoked = node.post("/2015-03-31/functions/f/invocations", &json!({})).await;
    recorded.check("reserved_equals_provisioned_latest_invoke_exc", &invoked);
    let configuration = "/2015-03-31/functions/f/configuration";
    recorded.check("update_func_config", &node.put(configuration, &json!({ "Timeout": 15 })).await);
    node.settled("f").await;
    let published = node.post("/2015-03-31/functions/f/versions", &json!({})).await.ok(201);
    assert_eq!(published["Version"], "2");
    let another = node.put(&format!("{FUNCTION}?Qualifier=2"), &provisioning(1)).await;
    recorded.check("reserved_equals_provisioned_another_provisioned_exc", &another);
    let increased = node.put(&version, &provisioning(3)).await;
    recorded.check("reserved_equals_provisioned_increase_provisioned_exc", &increased);
    recorded.finish();
}
