//! As `scripts`, of calls that functions answer. What runs is a stand-in that returns, or fails with, what the recorded function did;
//! what a function learns of its call, the stand-in takes from the call. Status, version, kind of error, log and payload on the way
//! back are the node's. What a function says of the guest that it runs in is not compared here; `ends` has errors that guests make.

use super::{invoked::as_boto_reads_calls, *};

const INVOKED: &str = "test_lambda.snapshot.json";
const RUNTIMES: &str = "test_lambda_runtimes.snapshot.json";

impl Recorded {
    /// Calls a function that does what it did when it was recorded; the path behind `functions/` says how it is called.
    pub(super) async fn called_as_it_was(&mut self, node: &Node, answer: &str, path: &str) {
        let recorded = &self.answers[answer];
        let (document, fails) = (recorded["Payload"].clone(), recorded.get("FunctionError").is_some());
        node.is_now(move |call| {
            let bytes = match &document {
                Value::String(text) => text.clone().into_bytes(),
                document => serde_json::to_vec(&in_call(document, call)).unwrap(),
            };
            if fails { Err(bytes) } else { Ok(bytes) }
        });
        self.called(node, answer, path).await;
    }

    /// Calls whatever the function is; with its log if that was recorded.
    pub(super) async fn called(&mut self, node: &Node, answer: &str, path: &str) {
        let log = if self.answers[answer].get("LogResult").is_some() { "Tail" } else { "None" };
        let request = Request::builder()
            .method("POST")
            .uri(format!("/2015-03-31/functions/{path}"))
            .header("host", "node:9000")
            .header("x-amz-log-type", log);
        let got = node.send(request.body("{}".into()).unwrap()).await;
        self.check_shown(answer, &as_boto_reads_calls(&got));
    }
}

impl Node {
    /// All functions are this one until there is another.
    pub(super) fn is_now(
        &self,
        function: impl FnMut(&Invocation) -> Result<Vec<u8>, Vec<u8>> + Send + 'static,
    ) {
        *self.invoker.function.lock().unwrap() = Some(Box::new(function));
    }

    /// All functions say which code they were called with, of those that they have seen, and how they were called.
    pub(super) fn is_its_code(&self) {
        let mut seen = Vec::new();
        self.is_now(move |call| {
            let code = &call.function.code.sha256;
            if !seen.contains(code) {
                seen.push(code.clone());
            }
            let number = seen.iter().position(|one| one == code).unwrap() + 1;
            let said = json!({
                "version_id": format!("version{number}"),
                "invoked_arn": call.invoked_arn,
                "version_from_ctx": call.function.version,
            });
            Ok(serde_json::to_vec(&said).unwrap())
        });
    }
}

/// A recorded document with what its function had from its call as this call has it.
fn in_call(document: &Value, call: &Invocation) -> Value {
    let Value::Object(members) = document else { return document.clone() };
    let of_call = |(name, value): (&String, &Value)| {
        let value = match name.as_str() {
            "invoked_function_arn" => json!(call.invoked_arn),
            "function_version" => json!(call.function.version),
            "function_name" => json!(call.function.id.name),
            "memory_limit_in_mb" => json!(call.function.memory_mib.to_string()),
            "aws_request_id" | "requestId" => json!(call.request_id),
            "log_group_name" => json!(call.function.logging.group),
            "client_context" => json!(call.client_context),
            _ => in_call(value, call),
        };
        (name.clone(), value)
    };
    Value::Object(members.iter().map(of_call).collect())
}

#[tokio::test]
pub(super) async fn calls_count_as_recorded() {
    for (_, mut recorded) in Recorded::all_of(INVOKED, "TestLambdaBehavior::test_lambda_cache_local") {
        let node = node().await;
        node.recorded_function("f").await.ok(201);
        let mut calls = 0..;
        node.is_now(move |_| Ok(json!({ "counter": calls.next() }).to_string().into_bytes()));
        for answer in ["first_invoke_result", "second_invoke_result"] {
            recorded.called(&node, answer, "f/invocations").await;
        }
        recorded.finish();
    }
}

/// How it is made, AWS says otherwise by now; how it answers, it does not.
#[tokio::test]
pub(super) async fn the_oldest_call_is_answered_as_recorded() {
    let Some(mut recorded) = Recorded::of(INVOKED, "TestLambdaFeatures::test_basic_invoke") else { return };
    let node = node_of_all().await;
    node.recorded_with("f", &[("/Runtime", json!("python3.9"))]).await.ok(201);
    recorded.called_as_it_was(&node, "lambda_invoke_result", "f/invocations").await;
    recorded.finish();
}

#[tokio::test]
pub(super) async fn calls_are_answered_as_recorded() {
    for (file, test, answer) in [
        (INVOKED, "TestLambdaFeatures::test_invocation_with_logs[nodejs16.x]", "invoke"),
        (INVOKED, "TestLambdaFeatures::test_invocation_with_logs[python3.10]", "invoke"),
        (INVOKED, "TestLambdaFeatures::test_upload_lambda_from_s3", "invocation-response"),
        (RUNTIMES, "TestJavaRuntimes::test_stream_handler[java21]", "invoke_result"),
        (RUNTIMES, "TestJavaRuntimes::test_stream_handler[java25]", "invoke_result"),
    ] {
        let Some(mut recorded) = Recorded::of(file, test) else { return };
        let node = node_of_all().await;
        let given = test.split_once('[').and_then(|(_, given)| given.strip_suffix(']'));
        let runtime = json!(given.unwrap_or("python3.12"));
        node.recorded_with("f", &[("/Runtime", runtime)]).await.ok(201);
        recorded.called_as_it_was(&node, answer, "f/invocations").await;
        recorded.finish();
    }
}
