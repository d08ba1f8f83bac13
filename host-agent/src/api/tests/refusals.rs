//! What the API refuses, and in which words.

use super::*;

/// CreateFunction with some members changed is refused like this.
#[track_caller]
fn check(got: &Got, name: &str, message: &str) {
    got.is_error(400, name, message);
}

fn violated(member: &str, value: &str, constraint: &str) -> String {
    format!(
        "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: {constraint}"
    )
}

#[tokio::test]
async fn constraints_of_the_model_are_kept() {
    let node = Node::new().await;
    let name = r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?([a-zA-Z0-9-_]+)(:(\$LATEST|[a-zA-Z0-9-_]+))?";
    let pattern = format!("Member must satisfy regular expression pattern: {name}");
    for (pointer, value, member, shown, constraint) in [
        ("/Timeout", json!(0), "timeout", "0", "Member must have value greater than or equal to 1"),
        ("/Timeout", json!(901), "timeout", "901", "Member must have value less than or equal to 900"),
        (
            "/MemorySize",
            json!(127),
            "memorySize",
            "127",
            "Member must have value greater than or equal to 128",
        ),
        (
            "/PackageType",
            json!("Tar"),
            "packageType",
            "Tar",
            "Member must satisfy enum value set: [Zip, Image]",
        ),
        (
            "/EphemeralStorage",
            json!({ "Size": 1 }),
            "ephemeralStorage.size",
            "1",
            "Member must have value greater than or equal to 512",
        ),
        ("/FunctionName", json!("my-function!"), "functionName", "my-function!", pattern.as_str()),
        (
            "/Role",
            json!("me"),
            "role",
            "me",
            r"Member must satisfy regular expression pattern: arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+",
        ),
    ] {
        let got = node.create(&with(request("f"), &[(pointer, value)])).await;
        check(&got, "ValidationException", &violated(member, shown, constraint));
    }
    let long = "a".repeat(65);
    let got = node.create(&request(&long)).await;
    check(
        &got,
        "InvalidParameterValueException",
        &violated("functionName", &long, "Member must have length less than or equal to 64"),
    );
    let empty = node.call("POST", "/2015-03-31/functions", "").await;
    assert!(
        empty.json()["message"].as_str().unwrap().starts_with("3 validation errors detected: Value null at")
    );
    assert_eq!(node.get("/2015-03-31/functions").await.ok(200), json!({ "Functions": [] }));
}

#[tokio::test]
async fn what_the_service_refuses_is_refused_in_its_words() {
    let node = Node::new().await;
    let environment = |variables: Value| json!({ "Variables": variables });
    let big = "x".repeat(4096);
    let unable = "Lambda was unable to configure your environment variables because the environment variables you have provided";
    let zip = |content: &str| json!(BASE64_STANDARD.encode(content));
    for (pointer, value, message) in [
        ("/Runtime", json!("java8"), "The runtime parameter of java8 is no longer supported for creating or updating AWS Lambda functions. We recommend you use a supported runtime while creating or updating functions.".to_owned()),
        ("/Runtime", json!("cobol85"), "Value cobol85 at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: [nodejs20.x, provided.al2023, python3.13] or be a valid ARN".to_owned()),
        ("/Handler", Value::Null, "Runtime and Handler are mandatory parameters for functions created with deployment packages.".to_owned()),
        ("/Environment", environment(json!({ "AWS_REGION": "x", "_HANDLER_": "y", "OK": "z" })), String::new()),
        ("/Environment", environment(json!({ "AWS_REGION": "x", "OK": "z" })), format!("{unable} contains reserved keys that are currently not supported for modification. Reserved keys used in this request: AWS_REGION")),
        ("/Environment", environment(json!({ "BIG": big })), format!("{unable} exceeded the 4KB limit. String measured: {{\"BIG\":\"{big}\"}}")),
        ("/Code", json!({}), "Please provide a source for function code.".to_owned()),
        ("/Code", json!({ "ZipFile": zip("no zip") }), "Could not unzip uploaded file. Please check your file, then try to upload again.".to_owned()),
        ("/Code", json!({ "ZipFile": "UEsFBgAAAAAAAAAAAAAAAAAAAAAAAA==" }), "Uploaded file must be a non-empty zip".to_owned()),
        ("/Layers", json!(["arn:aws:lambda:us-east-1:000000000000:layer:l:1"]), "Layer version arn:aws:lambda:us-east-1:000000000000:layer:l:1 does not exist.".to_owned()),
        ("/VpcConfig", json!({ "SubnetIds": ["subnet-1"] }), "VpcConfig is not supported by this Tinderbox node.".to_owned()),
        ("/PackageType", json!("Image"), "Please don't provide Handler or Runtime or Layer when the intended function PackageType is Image.".to_owned()),
        ("/Architectures", json!(["arm64"]), "Architecture arm64 is not supported by this Tinderbox node.".to_owned()),
        ("/PublishTo", json!("LATEST_PUBLISHED"), "PublishTo is not supported by this Tinderbox node.".to_owned()),
    ] {
        let got = node.create(&with(request("f"), &[(pointer, value.clone())])).await;
        if message.is_empty() {
            assert_eq!(got.header("x-amzn-errortype"), Some("ValidationException"), "{value}");
        } else {
            check(&got, "InvalidParameterValueException", &message);
        }
    }
    node.function("f").await;
    node.create(&request("f")).await.is_error(409, "ResourceConflictException", "Function already exist: f");
}

#[tokio::test]
async fn a_declared_bomb_is_refused_by_its_size() {
    let node = Node::new().await;
    let mut zip = zip_of("index.py", "x").to_vec();
    let central = zip.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    zip[central + 24..central + 28].copy_from_slice(&262_144_001u32.to_le_bytes());
    let bomb = with(request("f"), &[("/Code/ZipFile", json!(BASE64_STANDARD.encode(zip)))]);
    check(
        &node.create(&bomb).await,
        "InvalidParameterValueException",
        "Unzipped size must be smaller than 262144000 bytes",
    );
}

#[tokio::test]
async fn bodies_that_are_no_requests_are_serialization_errors() {
    let node = Node::new().await;
    node.function("f").await;
    for (method, path) in [
        ("POST", "/2015-03-31/functions"),
        ("PUT", "/2015-03-31/functions/f/code"),
        ("PUT", "/2015-03-31/functions/f/configuration"),
    ] {
        for body in ["{not json", "[]", "\"x\"", "1", r#"{"RevisionId":1,"FunctionName":1}"#] {
            let got = node.call(method, path, body.to_owned()).await;
            assert_eq!(
                (got.status.as_u16(), got.header("x-amzn-errortype")),
                (400, Some("SerializationException")),
                "{path} {body}"
            );
        }
    }
}

/// Its members have names; nobody says in what order they stand.
#[tokio::test]
async fn an_array_is_no_structure() {
    let node = Node::new().await;
    node.function("f").await;
    let is_refused = |got: &Got, what: &str| {
        let error = got.header("x-amzn-errortype");
        assert_eq!((got.status.as_u16(), error), (400, Some("SerializationException")), "{what}");
    };
    let zip = zip_base64("x = 2");
    let created = node.create(&with(request("g"), &[("/Code", json!([zip]))])).await;
    is_refused(&created, "Code");
    for (member, array) in [
        ("Environment", json!([{ "NAME": "value" }])),
        ("EphemeralStorage", json!([1024])),
        ("TracingConfig", json!(["Active"])),
        ("SnapStart", json!(["PublishedVersions"])),
        ("LoggingConfig", json!(["JSON"])),
        ("VpcConfig", json!([[], []])),
        ("DeadLetterConfig", json!(["arn:aws:sqs:us-east-1:000000000000:q"])),
        ("ImageConfig", json!([["program"]])),
    ] {
        is_refused(
            &node.create(&with(request("g"), &[(&format!("/{member}"), array.clone())])).await,
            member,
        );
        let update = json!({ member: array });
        is_refused(&node.put("/2015-03-31/functions/f/configuration", &update).await, member);
    }
    let queue = json!({ "Destination": "arn:aws:sqs:us-east-1:000000000000:q" });
    for (method, path, body) in [
        (
            "POST",
            "/2015-03-31/functions/f/aliases",
            json!({ "Name": "a", "FunctionVersion": "$LATEST", "RoutingConfig": [{}] }),
        ),
        ("PUT", "/2019-09-25/functions/f/event-invoke-config", json!({ "DestinationConfig": [queue] })),
        (
            "PUT",
            "/2019-09-25/functions/f/event-invoke-config",
            json!({ "DestinationConfig": { "OnFailure": ["arn:aws:sqs:us-east-1:000000000000:q"] } }),
        ),
        ("POST", "/2021-10-31/functions/f/url", json!({ "AuthType": "NONE", "Cors": [true] })),
        ("POST", "/2018-10-31/layers/l/versions", json!({ "Content": [zip] })),
    ] {
        is_refused(&node.call(method, path, body.to_string()).await, path);
    }
    let listed = node.get("/2015-03-31/functions").await.ok(200);
    assert_eq!(listed["Functions"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_not_served_is_told_apart() {
    let node = Node::new().await;
    let missing = node.call("GET", "/2025-11-30/capacity-providers", "{}").await;
    let message = "ListCapacityProviders is not supported on this node.";
    missing.is_error(501, "NotImplementedException", message);
    for (method, path) in
        [("GET", "/2015-03-31/nosuchthing"), ("PATCH", "/2015-03-31/functions/"), ("GET", "/")]
    {
        let got = node.call(method, path, Body::empty()).await;
        got.is_error(
            404,
            "UnknownOperationException",
            "The requested operation is not recognized by the service.",
        );
    }
    for path in
        ["/2015-03-31/functions/%FF", "/2015-03-31/functions/a%2Fb", "/2015-03-31/functions/f?Qualifier=%FF"]
    {
        let got = node.get(path).await;
        assert!(got.status.is_client_error() && got.header("x-amzn-errortype").is_some(), "{path}: {got:?}");
    }
}

#[tokio::test]
async fn health_needs_no_signature() {
    let node = Node::new().await;
    assert_eq!(node.get("/tinderbox/health").await.ok(200)["status"], "ok");
}
