//! As `scripts`, of functions of each runtime that AWS's answers are of: how they are made, and what comes of a call of them. A node has
//! whatever runtimes it was given images of; here those that no stand-in is for are files without content.

use super::*;

const FUNCTIONS: &str = "/2015-03-31/functions";

/// Tests, with the answers to the creation of their function, and to a call of it.
const MADE: &[(&str, &str, &str, Option<&str>)] = &[
    (COMMON, "TestLambdaRuntimesCommon::test_introspection_invoke", "create_function_result", None),
    (
        COMMON,
        "TestLambdaRuntimesCommon::test_uncaught_exception_invoke",
        "create_function_result",
        Some("error_result"),
    ),
    (COMMON, "TestLambdaRuntimesCommon::test_runtime_wrapper_invoke", "create_function_result", None),
    (
        RUNTIMES,
        "TestGoProvidedRuntimes::test_uncaught_exception_invoke",
        "create_function_result",
        Some("error_result"),
    ),
    (
        RUNTIMES,
        "TestNodeJSRuntimes::test_invoke_nodejs_es6_lambda",
        "creation-result",
        Some("invocation-result"),
    ),
    (
        RUNTIMES,
        "TestJavaRuntimes::test_java_custom_handler_method_specification",
        "create-result",
        Some("invoke-result"),
    ),
    (RUNTIMES, "TestJavaRuntimes::test_serializable_input_object", "create-result", Some("invoke-result")),
];
const COMMON: &str = "test_lambda_common.snapshot.json";
const RUNTIMES: &str = "test_lambda_runtimes.snapshot.json";

#[tokio::test]
pub(super) async fn functions_of_each_runtime_are_made_and_called_as_recorded() {
    for (file, test, made, called) in MADE {
        for (_, mut recorded) in Recorded::all_of(file, test) {
            let node = node_of_all().await;
            recorded.made(&node, made, "f").await;
            if let Some(called) = called {
                recorded.called_as_it_was(&node, called, "f/invocations").await;
            }
            recorded.finish();
        }
    }
}

#[tokio::test]
pub(super) async fn functions_with_libraries_are_made_and_called_as_recorded() {
    let Some(mut recorded) = Recorded::of(RUNTIMES, "TestJavaRuntimes::test_java_runtime_with_lib") else {
        return;
    };
    let node = node_with(&["java21"]).await;
    for (answer, name) in [
        ("create-result-jar-with-lib", "f"),
        ("create-result-zip-with-lib", "g"),
        ("create-result-zip-with-lib-gradle", "h"),
    ] {
        recorded.made(&node, answer, name).await;
        let called = answer.replace("create", "invoke");
        recorded.called_as_it_was(&node, &called, &format!("{name}/invocations")).await;
    }
    recorded.finish();
}

#[tokio::test]
pub(super) async fn a_topic_may_call_a_function_as_recorded() {
    let test = "TestJavaRuntimes::test_java_lambda_subscribe_sns_topic";
    let Some(mut recorded) = Recorded::of(RUNTIMES, test) else { return };
    let node = node_with(&["java21"]).await;
    let members =
        [("/Runtime", json!("java11")), ("/Handler", json!("cloud.localstack.sample.LambdaHandler"))];
    node.recorded_with("f", &members).await.ok(201);
    recorded.check("get-function", &node.get(&format!("{FUNCTIONS}/f")).await);
    let permission = json!({
        "StatementId": "topic",
        "Action": "lambda:InvokeFunction",
        "Principal": "sns.amazonaws.com",
        "SourceArn": "arn:aws:sns:us-east-1:000000000000:topic",
    });
    recorded.check("add-permission", &node.post(&format!("{FUNCTIONS}/f/policy"), &permission).await);
    recorded.finish();
}

impl Recorded {
    /// Makes the function of an answer, as that says that it was asked for.
    async fn made(&mut self, node: &Node, answer: &str, name: &str) {
        let recorded = &self.answers[answer];
        let function = recorded.get("CreateFunctionResponse").unwrap_or(recorded);
        let mut body = request(name);
        for member in ["Runtime", "Handler", "MemorySize", "Timeout", "Environment"] {
            if let Some(value) = function.get(member) {
                body[member] = value.clone();
            }
        }
        let got = node.create(&body).await;
        self.check(answer, &got);
        node.settled(name).await;
    }
}
