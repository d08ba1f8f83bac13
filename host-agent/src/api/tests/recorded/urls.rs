//! The requests on functions' URLs that recorded answers belong to.

use super::*;

const API: &str = "test_lambda_api.snapshot.json";
const INVOKED: &str = "test_lambda.snapshot.json";
const FUNCTIONS: &str = "/2021-10-31/functions";

#[tokio::test]
async fn urls_live_as_recorded() {
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
async fn urls_are_refused_as_recorded() {
    let Some(mut recorded) = Recorded::of(API, "TestLambdaUrl::test_url_config_exceptions") else { return };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    node.post("/2015-03-31/functions/f/versions", &json!({})).await.ok(201);
    let alias = json!({ "Name": "urlalias", "FunctionVersion": "1" });
    node.post("/2015-03-31/functions/f/aliases", &alias).await.ok(201);
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

/// What AWS answered at a URL, by what the function returned.
#[tokio::test]
async fn answers_are_as_recorded() {
    for (case, returned) in [
        ("dict", json!({ "hello": "world" })),
        ("http-response", json!({ "statusCode": 200, "body": "body123" })),
        ("string", json!("hello")),
        ("integer", json!(3)),
        ("float", json!(3.1)),
        ("boolean", json!(true)),
    ] {
        let test = format!("TestLambdaURL::test_lambda_url_invocation[{case}]");
        let Some(recorded) = Recorded::of(INVOKED, &test) else { return };
        let expected = &recorded.answers["lambda_url_invocation"];
        let answer = crate::api::urls::answer::of(&serde_json::to_vec(&returned).unwrap()).unwrap();
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        assert_eq!(u64::from(head.status.as_u16()), expected["statuscode"], "{case}");
        assert_eq!(body.len().to_string(), expected["headers"]["Content-Length"], "{case}");
        assert_eq!(
            head.headers["content-type"].to_str().unwrap(),
            expected["headers"]["Content-Type"],
            "{case}"
        );
        let content = match &expected["content"] {
            Value::String(text) => text.clone(),
            document => document.to_string(),
        };
        assert_eq!(body, content, "{case}");
    }
}
