//! Create-, Get-, Update-, Delete- and ListFunctionUrlConfigs.

use super::*;

const PATH: &str = "/2021-10-31/functions/f/url";
const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:f";
const NONE: &str = "The resource you requested does not exist.";

/// A configuration without its times, which are there.
fn timeless(mut config: Value) -> Value {
    let members = config.as_object_mut().unwrap();
    assert!(members.remove("CreationTime").unwrap().as_str().unwrap().ends_with('Z'));
    members.remove("LastModifiedTime");
    config
}

async fn create(node: &Node, path: &str, body: &Value) -> Got {
    node.call("POST", path, body.to_string()).await
}

#[tokio::test]
async fn a_url_is_made_changed_kept_and_deleted() {
    let node = Node::new().await;
    node.function("f").await;
    let cors = json!({ "AllowOrigins": ["https://a.example"], "AllowMethods": ["*"], "MaxAge": 60 });
    let made =
        create(&node, PATH, &json!({ "AuthType": "NONE", "Cors": cors, "InvokeMode": "BUFFERED" })).await;
    let made = timeless(made.ok(201));
    let url = made["FunctionUrl"].as_str().unwrap().to_owned();
    let pattern =
        regex::Regex::new(r"^http://[a-z2-7]{32}\.lambda-url\.us-east-1\.localhost:9000/$").unwrap();
    assert!(pattern.is_match(&url), "{url}");
    let expected = json!({
        "FunctionUrl": url, "FunctionArn": ARN, "AuthType": "NONE", "Cors": cors, "InvokeMode": "BUFFERED",
    });
    assert_eq!(made, expected);
    let message = format!(
        "Failed to create function url config for [functionArn = {ARN}]. Error message:  FunctionUrlConfig exists for \
         this Lambda function"
    );
    create(&node, PATH, &json!({ "AuthType": "NONE" })).await.is_error(
        409,
        "ResourceConflictException",
        &message,
    );

    let node = node.restarted().await;
    assert_eq!(timeless(node.get(PATH).await.ok(200)), expected, "it outlives the agent");
    let updated = timeless(node.put(PATH, &json!({ "AuthType": "AWS_IAM" })).await.ok(200));
    assert_eq!(
        updated,
        json!({ "FunctionUrl": url, "FunctionArn": ARN, "AuthType": "AWS_IAM", "Cors": cors })
    );
    node.put(PATH, &json!({ "Cors": {} })).await.ok(200);
    let got = node.get(PATH).await.ok(200);
    assert!(got.get("Cors").is_none(), "no members are no configuration");
    assert!(got["LastModifiedTime"].as_str() > got["CreationTime"].as_str());

    node.call("DELETE", PATH, Body::empty()).await.ok(204);
    for method in ["GET", "DELETE"] {
        node.call(method, PATH, Body::empty()).await.is_error(404, "ResourceNotFoundException", NONE);
    }
    let again = create(&node, PATH, &json!({ "AuthType": "NONE" })).await.ok(201);
    assert_ne!(again["FunctionUrl"], url, "a name is not used twice");
}

#[tokio::test]
async fn function_and_alias_have_their_own_and_it_goes_with_them() {
    let node = Node::new().await;
    node.function("f").await;
    node.call("POST", "/2015-03-31/functions/f/versions", "{}").await.ok(201);
    let alias = json!({ "Name": "live", "FunctionVersion": "1" }).to_string();
    node.call("POST", "/2015-03-31/functions/f/aliases", alias.clone()).await.ok(201);
    let of_alias = format!("{PATH}?Qualifier=live");
    let open = json!({ "AuthType": "NONE" });
    let whole = create(&node, PATH, &open).await.ok(201);
    let live = create(&node, &of_alias, &open).await.ok(201);
    assert_eq!(live["FunctionArn"], format!("{ARN}:live"));
    assert_ne!(whole["FunctionUrl"], live["FunctionUrl"]);
    let list = |query: &str| format!("/2021-10-31/functions/f/urls{query}");
    let first = node.get(&list("?MaxItems=1")).await.ok(200);
    assert_eq!(first["FunctionUrlConfigs"][0]["FunctionArn"], ARN);
    let marker = percent_encoding::utf8_percent_encode(
        first["NextMarker"].as_str().unwrap(),
        percent_encoding::NON_ALPHANUMERIC,
    );
    let second = node.get(&list(&format!("?MaxItems=1&Marker={marker}"))).await.ok(200);
    assert_eq!(second["FunctionUrlConfigs"][0]["FunctionUrl"], live["FunctionUrl"]);
    assert_eq!(second["FunctionUrlConfigs"][0]["InvokeMode"], "BUFFERED");
    assert!(second.get("NextMarker").is_none_or(Value::is_null));

    node.call("DELETE", "/2015-03-31/functions/f/aliases/live", Body::empty()).await.ok(204);
    node.call("POST", "/2015-03-31/functions/f/aliases", alias).await.ok(201);
    node.get(&of_alias).await.is_error(404, "ResourceNotFoundException", NONE);
    node.call("DELETE", "/2015-03-31/functions/f", Body::empty()).await.ok(204);
    node.function("f").await;
    node.get(PATH).await.is_error(404, "ResourceNotFoundException", NONE);
    assert_eq!(node.get(&list("")).await.ok(200), json!({ "FunctionUrlConfigs": [] }));
}

#[tokio::test]
async fn what_no_url_can_be_is_refused() {
    let node = Node::new().await;
    node.function("f").await;
    let with_cors = |cors: Value| json!({ "AuthType": "NONE", "Cors": cors });
    let many = vec!["x"; 101];
    let violation = |value: &str, member: &str, constraint: &str| {
        format!(
            "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: {constraint}"
        )
    };
    for (body, message) in [
        (json!({}), "1 validation error detected: Value null at 'authType' failed to satisfy constraint: Member must not be null".to_owned()),
        (json!({ "AuthType": "SOME" }), violation("SOME", "authType", "Member must satisfy enum value set: [NONE, AWS_IAM]")),
        (
            json!({ "AuthType": "NONE", "InvokeMode": "UNKNOWN" }),
            violation("UNKNOWN", "invokeMode", "Member must satisfy enum value set: [RESPONSE_STREAM, BUFFERED]"),
        ),
        (with_cors(json!({ "MaxAge": 86_401 })), violation("86401", "cors.maxAge", "Member must have value less than or equal to 86400")),
        (
            with_cors(json!({ "AllowMethods": ["OPTIONS"] })),
            violation("[OPTIONS]", "cors.allowMethods", "Member must satisfy constraint: [Member must have length less than or equal to 6, Member must have length greater than or equal to 0]"),
        ),
        (
            with_cors(json!({ "AllowOrigins": [""] })),
            violation("[]", "cors.allowOrigins", "Member must satisfy constraint: [Member must have length less than or equal to 253, Member must have length greater than or equal to 1]"),
        ),
        (
            with_cors(json!({ "ExposeHeaders": many })),
            violation(&format!("[{}]", many.join(", ")), "cors.exposeHeaders", "Member must have length less than or equal to 100"),
        ),
    ] {
        create(&node, PATH, &body).await.is_error(400, "ValidationException", &message);
    }
    create(&node, PATH, &with_cors(json!({ "AllowHeaders": ["a\r\nb"] }))).await.is_error(
        400,
        "InvalidParameterValueException",
        "Cors: \"a\\r\\nb\" cannot be in a header.",
    );
    for wrong in [json!({ "AuthType": 1 }), with_cors(json!("x")), with_cors(json!({ "MaxAge": "x" }))] {
        assert_eq!(
            create(&node, PATH, &wrong).await.header("x-amzn-errortype"),
            Some("SerializationException"),
            "{wrong}"
        );
    }
    node.get(PATH).await.is_error(404, "ResourceNotFoundException", NONE);
}
