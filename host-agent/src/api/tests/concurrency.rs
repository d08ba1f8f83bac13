//! PutFunctionConcurrency, GetFunctionConcurrency, DeleteFunctionConcurrency, and what they do to invocations.

use super::*;

const PUT: &str = "/2017-10-31/functions/f/concurrency";
const GET: &str = "/2019-09-30/functions/f/concurrency";
const INVOKE: &str = "/2015-03-31/functions/f/invocations";

fn reserving(count: i64) -> Value {
    json!({ "ReservedConcurrentExecutions": count })
}

impl Node {
    /// What the account has left for functions that have reserved nothing.
    async fn unreserved(&self) -> Value {
        let settings = self.get("/2016-08-19/account-settings/").await.ok(200);
        settings["AccountLimit"]["UnreservedConcurrentExecutions"].clone()
    }

    /// Ends what the invoker holds.
    fn end_all(&self) {
        self.invoker.seen.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn a_reservation_is_kept_shown_and_given_back() {
    let node = Node::new().await;
    node.function("f").await;
    assert_eq!(node.get(GET).await.ok(200), json!({}));
    assert_eq!(node.put(PUT, &reserving(7)).await.ok(200), reserving(7));
    assert_eq!(node.unreserved().await, 993);
    node.call("POST", "/2015-03-31/functions/f/versions", "{}").await.ok(201);

    let node = node.restarted().await;
    assert_eq!(node.get(GET).await.ok(200), reserving(7));
    assert_eq!(node.unreserved().await, 993);
    for name in ["f", "f:1"] {
        let function = node.get(&format!("/2015-03-31/functions/{name}")).await.ok(200);
        assert_eq!(function["Concurrency"], reserving(7), "{name}");
    }
    node.call("DELETE", PUT, Body::empty()).await.ok(204);
    assert_eq!(node.get(GET).await.ok(200), json!({}));
    node.put(PUT, &reserving(900)).await.ok(200);
    node.call("DELETE", "/2015-03-31/functions/f", Body::empty()).await.ok(204);
    assert_eq!(node.unreserved().await, 1000);
}

#[tokio::test]
async fn a_function_has_as_much_as_it_reserved_and_no_more() {
    let node = Node::new().await;
    node.function("f").await;
    node.put(PUT, &reserving(2)).await.ok(200);
    // The invoker keeps what it was given: as if it ran.
    for _ in 0..2 {
        node.call("POST", INVOKE, "{}").await.ok(200);
    }
    let throttled = node.call("POST", INVOKE, "{}").await;
    throttled.is_error(429, "TooManyRequestsException", "Rate Exceeded.");
    assert_eq!(throttled.json()["Reason"], "ReservedFunctionConcurrentInvocationLimitExceeded");
    assert_eq!(throttled.header("retry-after"), Some("1"));
    node.end_all();
    node.call("POST", INVOKE, "{}").await.ok(200);
    node.end_all();
    node.put(PUT, &reserving(0)).await.ok(200);
    assert_eq!(node.call("POST", INVOKE, "{}").await.status, 429);
}

#[tokio::test]
async fn all_others_have_what_is_left() {
    let node = Node::new().await;
    node.function("f").await;
    node.function("g").await;
    node.put(PUT, &reserving(900)).await.ok(200);
    for _ in 0..100 {
        node.call("POST", "/2015-03-31/functions/g/invocations", "{}").await.ok(200);
    }
    let throttled = node.call("POST", "/2015-03-31/functions/g/invocations", "{}").await;
    assert_eq!(throttled.json()["Reason"], "ConcurrentInvocationLimitExceeded");
    node.call("POST", INVOKE, "{}").await.ok(200);
}

#[tokio::test]
async fn what_cannot_be_reserved_is_refused_in_aws_words() {
    let node = Node::new().await;
    node.function("f").await;
    node.function("g").await;
    node.put("/2017-10-31/functions/g/concurrency", &reserving(500)).await.ok(200);
    let parameter = "InvalidParameterValueException";
    let below = "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its minimum value of [100].";
    node.put(PUT, &reserving(401)).await.is_error(400, parameter, below);
    node.put(PUT, &reserving(400)).await.ok(200);
    let only = "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. Please specify either a function name or an unqualified function ARN.";
    node.put("/2017-10-31/functions/f:1/concurrency", &reserving(1)).await.is_error(400, parameter, only);
    let negative = "1 validation error detected: Value '-1' at 'reservedConcurrentExecutions' failed to satisfy constraint: Member must have value greater than or equal to 0";
    node.put(PUT, &reserving(-1)).await.is_error(400, "ValidationException", negative);
    let null = "1 validation error detected: Value null at 'reservedConcurrentExecutions' failed to satisfy constraint: Member must not be null";
    node.put(PUT, &json!({})).await.is_error(400, "ValidationException", null);
    let missing = "Function not found: arn:aws:lambda:us-east-1:000000000000:function:no";
    let absent = node.get("/2019-09-30/functions/no/concurrency").await;
    absent.is_error(404, "ResourceNotFoundException", missing);
    assert_eq!(node.get(GET).await.ok(200), reserving(400));
}
