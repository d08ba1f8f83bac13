//! The requests on functions' URLs that recorded answers belong to.

use super::*;

const API: &str = "test_lambda_api.snapshot.json";
const INVOKED: &str = "test_lambda.snapshot.json";
const FUNCTIONS: &str = "/2021-10-31/functions";

#[tokio::test]
pub(super) async fn urls_live_as_recorded() {
    let Some(mut recorded) = Recorded::of(API, "TestLambdaUrl::test_url_config_lifecycle") else { return };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    let path = format!("{FUNCTIONS}/f/url");
    // Every run has another one.
    let check = |recorded: &mut Recorded, name: &str, got: &Got| {
        let mut got = Got { status: got.status, headers: got.headers.clone(), body: got.body.clone() };
        let mut members = got.json();
        if members.get("FunctionUrl").is_some() {
            members["FunctionUrl"] = json!("lambda-url");
            got.body = members.to_string().into();
        }
        recorded.check(name, &got);
    };
    let open = json!({ "AuthType": "NONE" });
    check(&mut recorded, "url_creation", &node.post(&path, &open).await);
    check(&mut recorded, "failed_duplication", &node.post(&path, &open).await);
    check(&mut recorded, "get_url_config", &node.get(&path).await);
    check(&mut recorded, "updated_url_config", &node.put(&path, &json!({ "AuthType": "AWS_IAM" })).await);
    node.delete(&path).await.ok(204);
    check(&mut recorded, "failed_getter", &node.get(&path).await);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn urls_are_refused_as_recorded() {
    let Some(mut recorded) = Recorded::of(API, "TestLambdaUrl::test_url_config_exceptions") else { return };
    let node = node().await;
    let members = [("/Runtime", json!("nodejs20.x")), ("/Handler", json!("lambda_handler.handler"))];
    node.recorded_with("f", &members).await.ok(201);
    let version = node.post("/2015-03-31/functions/f/versions", &json!({})).await;
    recorded.check("fn_version_result", &version);
    let alias = json!({ "Name": "urlalias", "FunctionVersion": "1" });
    recorded.check("create_alias_result", &node.post("/2015-03-31/functions/f/aliases", &alias).await);
    let open = json!({ "AuthType": "NONE" });
    for operation in ["create", "get", "delete", "update"] {
        for (what, name, qualifier) in [
            ("name_doesnotexist", "doesnotexist", None),
            ("arn_doesnotexist", "arn:aws:lambda:us-east-1:000000000000:function:doesnotexist", None),
            ("name_doesnotexist_qualifier", "doesnotexist", Some("1")),
            ("qualifier_version", "f", Some("1")),
            ("qualifier_version_doesnotexist", "f", Some("2")),
            ("qualifier_alias_doesnotexist", "f", Some("doesnotexist")),
            ("qualifier_alias_doesnotmatch_arn", "f:urlalias", Some("urlalias-doesnotexist")),
            ("qualifier_latest", "f", Some("$LATEST")),
            ("config_doesnotexist", "f", None),
        ] {
            let answer = format!("{operation}_function_url_config_{what}");
            // AWS failed at one, and makes what is not there.
            if recorded.answers.get(&answer).is_none_or(|answer| answer.is_string()) {
                continue;
            }
            let query = qualifier.map(|qualifier| format!("?Qualifier={qualifier}")).unwrap_or_default();
            let path = format!("{FUNCTIONS}/{name}/url{query}");
            let got = match operation {
                "create" => node.post(&path, &open).await,
                "get" => node.get(&path).await,
                "delete" => node.delete(&path).await,
                _ => node.put(&path, &open).await,
            };
            recorded.check(&answer, &got);
        }
    }
    recorded.finish();
}

/// What AWS answered when a URL was made for everybody, and at that URL, by what the function returned.
#[tokio::test]
pub(super) async fn answers_are_as_recorded() {
    for (case, returned) in [
        ("dict", json!({ "hello": "world" })),
        ("http-response", json!({ "statusCode": 200, "body": "body123" })),
        ("string", json!("hello")),
        ("integer", json!(3)),
        ("float", json!(3.1)),
        ("boolean", json!(true)),
    ] {
        let test = format!("TestLambdaURL::test_lambda_url_invocation[{case}]");
        let Some(mut recorded) = Recorded::of(INVOKED, &test) else { return };
        let node = node().await;
        node.recorded_function("f").await.ok(201);
        recorded.open_url(&node, &json!({ "AuthType": "NONE" })).await;
        let answer = crate::api::urls::answer::of(&serde_json::to_vec(&returned).unwrap()).unwrap();
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let content = String::from_utf8(body.to_vec()).unwrap();
        let as_text = recorded.answers["lambda_url_invocation"]["content"].is_string();
        let shown = json!({
            "statuscode": head.status.as_u16(),
            "headers": {
                "Content-Length": body.len().to_string(),
                "Content-Type": head.headers["content-type"].to_str().unwrap(),
            },
            "content": if as_text { json!(content) } else { serde_json::from_str(&content).unwrap() },
        });
        recorded.check_shown("lambda_url_invocation", &shown);
        recorded.finish();
    }
}

#[tokio::test]
pub(super) async fn urls_for_everybody_are_as_recorded() {
    let streamed = json!({ "AuthType": "NONE", "InvokeMode": "RESPONSE_STREAM" });
    let buffered = json!({ "AuthType": "NONE" });
    for (test, config) in [
        ("TestLambdaURL::test_lambda_url_echo_invoke[RESPONSE_STREAM]", &streamed),
        ("TestLambdaURL::test_lambda_url_echo_invoke[None]", &buffered),
        ("TestLambdaURL::test_lambda_url_invocation_exception", &buffered),
        ("TestRequestIdHandling::test_request_id_invoke_url", &buffered),
    ] {
        let Some(mut recorded) = Recorded::of(INVOKED, test) else { return };
        let node = node().await;
        node.recorded_function("f").await.ok(201);
        if recorded.answers.get("get_fn_result").is_some() {
            recorded.check("get_fn_result", &node.get("/2015-03-31/functions/f").await);
        }
        recorded.open_url(&node, config).await;
        recorded.finish();
    }
}

#[tokio::test]
pub(super) async fn a_url_that_is_called_in_no_known_way_is_refused_as_recorded() {
    let test = "TestLambdaURL::test_lambda_url_invalid_invoke_mode";
    let Some(mut recorded) = Recorded::of(INVOKED, test) else { return };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    let config = json!({ "AuthType": "NONE", "InvokeMode": "UNKNOWN" });
    let refused = node.post(&format!("{FUNCTIONS}/f/url"), &config).await;
    recorded.check("invoke_function_invalid_invoke_type", &refused);
    recorded.finish();
}

impl Recorded {
    /// Makes a URL of the function `f` for everybody.
    async fn open_url(&mut self, node: &Node, config: &Value) {
        let mut created = as_boto_reads(&node.post(&format!("{FUNCTIONS}/f/url"), config).await);
        // Every run has another one.
        created["FunctionUrl"] = self.answers["create_lambda_url_config"]["FunctionUrl"].clone();
        self.check_shown("create_lambda_url_config", &created);
        let permission = json!({
            "StatementId": "urlPermission",
            "Action": "lambda:InvokeFunctionUrl",
            "Principal": "*",
            "FunctionUrlAuthType": "NONE",
        });
        self.check("add_permission", &node.post("/2015-03-31/functions/f/policy", &permission).await);
    }
}
