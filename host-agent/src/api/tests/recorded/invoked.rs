//! As `scripts`, of calls: what is answered without a guest, and how functions that are called are made.

use super::*;

const INVOKED: &str = "test_lambda.snapshot.json";
const FUNCTIONS: &str = "/2015-03-31/functions";

/// An answer to a call as the recordings have it: the payload as a document if that has members, or as it is.
pub(super) fn as_boto_reads_calls(got: &Got) -> Value {
    if got.header("x-amzn-errortype").is_some() {
        return as_boto_reads(got);
    }
    let text = String::from_utf8(got.body.to_vec()).unwrap();
    let status = got.status.as_u16();
    let document = serde_json::from_str(&text).ok().filter(|document: &Value| document.is_object());
    let mut shown = json!({
        "Payload": document.unwrap_or(Value::String(text)),
        "StatusCode": status,
        "ResponseMetadata": { "HTTPHeaders": {}, "HTTPStatusCode": status },
    });
    for (member, header) in [
        ("ExecutedVersion", "x-amz-executed-version"),
        ("FunctionError", "x-amz-function-error"),
        ("LogResult", "x-amz-log-result"),
    ] {
        if let Some(value) = got.header(header) {
            shown[member] = json!(value);
        }
    }
    shown
}

#[tokio::test]
pub(super) async fn calls_of_each_type_are_as_recorded() {
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    for (test, kind) in [
        ("test_invocation_type_request_response", "RequestResponse"),
        ("test_invocation_type_event", "Event"),
        ("test_invocation_type_no_return_payload", "Event"),
        ("test_invocation_type_dry_run", "DryRun"),
    ] {
        for (_, mut recorded) in Recorded::all_of(INVOKED, &format!("TestLambdaFeatures::{test}")) {
            let request = Request::builder()
                .method("POST")
                .uri(format!("{FUNCTIONS}/f/invocations"))
                .header("host", "node:9000")
                .header("x-amz-invocation-type", kind);
            let got = node.send(request.body("{}".into()).unwrap()).await;
            recorded.check_shown("invoke-result", &as_boto_reads_calls(&got));
            recorded.finish();
        }
    }
}

#[tokio::test]
pub(super) async fn an_alias_moves_as_recorded() {
    let Some(mut recorded) = Recorded::of(INVOKED, "TestLambdaAliases::test_lambda_alias_moving") else {
        return;
    };
    let node = node().await;
    let (function, aliases) = (format!("{FUNCTIONS}/f"), format!("{FUNCTIONS}/f/aliases"));
    let members = [
        ("/Runtime", json!("python3.12")),
        ("/Handler", json!("handler.handler")),
        ("/Description", json!("No version :(")),
    ];
    recorded.check("create_response", &node.create(&with(request("f"), &members)).await);
    node.settled("f").await;
    let publish = |text: &str| json!({ "Description": text });
    node.post(&format!("{function}/versions"), &publish("First version description :)")).await.ok(201);
    let alias = json!({ "FunctionVersion": "1", "Name": "alias1" });
    recorded.check("create_alias_response", &node.post(&aliases, &alias).await);
    node.is_its_code();
    let alias = "arn:aws:lambda:us-east-1:000000000000:function:f:alias1";
    recorded.called(&node, "invocation_result_qualifier_v1", "f/invocations?Qualifier=alias1").await;
    recorded.called(&node, "invocation_result_qualifier_v1_arn", &format!("{alias}/invocations")).await;
    let update = json!({ "ZipFile": zip_base64("x = 2") });
    recorded.check("update_lambda_response", &node.put(&format!("{function}/code"), &update).await);
    node.settled("f").await;
    recorded
        .called(&node, "invocation_result_qualifier_v1_after_update", &format!("{alias}/invocations"))
        .await;
    let second = node.post(&format!("{function}/versions"), &publish("Second version description :)")).await;
    recorded.check("second_publish_response", &second);
    recorded
        .called(&node, "invocation_result_qualifier_v1_after_publish", &format!("{alias}/invocations"))
        .await;
    let moved = node.put(&format!("{aliases}/alias1"), &json!({ "FunctionVersion": "2" })).await;
    recorded.check("update_alias_response", &moved);
    recorded.called(&node, "invocation_result_qualifier_v2", &format!("{alias}/invocations")).await;
    let nobody = node.post(&format!("{function}/invocations?Qualifier=non-existent-alias"), &json!({})).await;
    recorded.check("invocation_exc_not_existent", &nobody);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn a_call_beyond_what_is_reserved_is_refused_as_recorded() {
    let test = "TestLambdaConcurrency::test_reserved_concurrency_async_queue";
    let Some(mut recorded) = Recorded::of(INVOKED, test) else { return };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    let function = format!("{FUNCTIONS}/f");
    recorded.check("fn", &node.get(&format!("{function}/configuration?Qualifier=$LATEST")).await);
    let reserved =
        node.put("/2017-10-31/functions/f/concurrency", &json!({ "ReservedConcurrentExecutions": 1 })).await;
    recorded.check("put_fn_concurrency", &reserved);
    let invocations = format!("{function}/invocations");
    let event = json!({ "do": "hold" });
    let held = node.post(&invocations, &event);
    let refused = async {
        while node.invoker.seen.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let refused = node.post(&invocations, &json!({})).await;
        node.invoker.released.send_replace(true);
        refused
    };
    let (held, refused) = tokio::join!(held, refused);
    held.ok(200);
    recorded.check("too_many_requests_exc", &refused);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn a_function_that_is_made_again_is_as_recorded() {
    let Some(mut recorded) = Recorded::of(INVOKED, "TestLambdaCleanup::test_recreate_function") else {
        return;
    };
    let node = node().await;
    let handler = [("/Handler", json!("lambda_echo.handler"))];
    recorded.check("create_function_response_one", &node.recorded_with("f", &handler).await);
    node.delete(&format!("{FUNCTIONS}/f")).await.ok(204);
    recorded.check("create_function_response_two", &node.recorded_with("f", &handler).await);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn functions_to_call_are_as_recorded() {
    for (test, answer, more) in [
        ("TestLambdaBaseFeatures::test_lambda_different_iam_keys_environment", "create-result", vec![]),
        (
            "TestLambdaBehavior::test_lambda_init_environment",
            "create-result",
            vec![("/Runtime", json!("python3.14"))],
        ),
        ("TestLambdaBehavior::test_mixed_architecture", "create_function_response", vec![]),
    ] {
        let Some(mut recorded) = Recorded::of(INVOKED, test) else { return };
        recorded.check(answer, &node().await.recorded_with("f", &more).await);
        recorded.finish();
    }
    let Some(mut recorded) = Recorded::of(INVOKED, "TestLambdaFeatures::test_invocation_with_qualifier")
    else {
        return;
    };
    let members = [
        ("/Runtime", json!("python3.12")),
        ("/Handler", json!("handler.handler")),
        ("/Timeout", json!(10)),
        ("/Publish", json!(true)),
    ];
    let node = node().await;
    recorded.check("creation-response", &node.create(&with(request("f"), &members)).await);
    node.settled("f").await;
    recorded.called_as_it_was(&node, "invocation-response", "f/invocations?Qualifier=1").await;
    recorded.finish();
}

#[tokio::test]
pub(super) async fn one_provisioned_sandbox_is_ready_as_recorded() {
    let test = "TestLambdaConcurrency::test_lambda_provisioned_concurrency_scheduling";
    let Some(mut recorded) = Recorded::of(INVOKED, test) else { return };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    node.post(&format!("{FUNCTIONS}/f/versions"), &json!({})).await.ok(201);
    let path = "/2019-09-30/functions/f/provisioned-concurrency?Qualifier=1";
    node.put(path, &json!({ "ProvisionedConcurrentExecutions": 1 })).await.ok(202);
    node.stands("1", 1, None);
    recorded.check("get_provisioned_postwait", &node.get(path).await);
    recorded.finish();
}
