//! As `called`, of calls that end in an error which is not the handler's: the runtime does not begin, it exits, or what it answers is
//! too long. What a runtime says of itself the stand-in says as it was recorded. What `guest-init` says of a runtime, it says in
//! `guest-init`'s words, which `guest-init`'s tests (`lifecycle::tests`) and those of a node (`tests/it/faults.rs`) hold it to.

use super::*;

const INVOKED: &str = "test_lambda.snapshot.json";

#[tokio::test]
pub(super) async fn the_end_of_a_runtime_is_told_as_recorded() {
    let Some(mut recorded) = Recorded::of(INVOKED, "TestLambdaErrors::test_lambda_handler_exit") else {
        return;
    };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    node.is_now(|call| {
        let message = "Runtime exited without providing a reason";
        Err(FunctionError::of_request(&call.request_id, "Runtime.ExitError", message).payload)
    });
    recorded.called(&node, "invocation_error", "f/invocations").await;
    recorded.finish();

    // The words of a runtime whose function cannot be loaded, which are passed on as they are.
    let test = "TestLambdaErrors::test_lambda_runtime_error";
    let Some(mut recorded) = Recorded::of(INVOKED, test) else { return };
    let document = recorded.answers["invocation_error"]["Payload"].to_string();
    node.is_now(move |_| Err(document.clone().into_bytes()));
    recorded.called(&node, "invocation_error", "f/invocations").await;
    recorded.finish();
}

#[tokio::test]
pub(super) async fn an_answer_that_is_too_long_is_told_as_recorded() {
    let test = "TestLambdaBaseFeatures::test_lambda_too_large_response";
    let Some(mut recorded) = Recorded::of(INVOKED, test) else { return };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    node.is_now(|_| {
        let most = guest_protocol::MAX_RESPONSE_LEN;
        let message = format!("Response payload size exceeded maximum allowed payload size ({most} bytes).");
        Err(FunctionError::new("Function.ResponseSizeTooLarge", &message).payload)
    });
    for answer in ["invoke_result", "invoke_result_2"] {
        recorded.called(&node, answer, "f/invocations").await;
    }
    recorded.finish();
}
