//! CreateFunction and what reads its result.

use super::*;

#[tokio::test]
async fn a_new_function_has_aws_members_and_defaults() {
    let node = Node::new().await;
    let created = node.create(&request("f")).await.ok(201);
    let zip = zip_of("index.py", "x = 1");
    let sha256 = BASE64_STANDARD.encode(<sha2::Sha256 as sha2::Digest>::digest(&zip));
    let expected = json!({
        "Architectures": ["x86_64"],
        "CodeSha256": sha256,
        "CodeSize": zip.len(),
        "Description": "",
        "EphemeralStorage": { "Size": 512 },
        "FunctionArn": "arn:aws:lambda:us-east-1:000000000000:function:f",
        "FunctionName": "f",
        "Handler": "index.handler",
        "LastModified": created["LastModified"],
        "LoggingConfig": { "LogFormat": "Text", "LogGroup": "/aws/lambda/f" },
        "MemorySize": 128,
        "PackageType": "Zip",
        "RevisionId": created["RevisionId"],
        "Role": "arn:aws:iam::000000000000:role/r",
        "Runtime": "python3.13",
        "RuntimeVersionConfig": created["RuntimeVersionConfig"],
        "SnapStart": { "ApplyOn": "None", "OptimizationStatus": "Off" },
        "State": "Pending",
        "StateReason": "The function is being created.",
        "StateReasonCode": "Creating",
        "Timeout": 3,
        "TracingConfig": { "Mode": "PassThrough" },
        "Version": "$LATEST",
    });
    assert_eq!(created, expected);

    let settled = node.settled("f").await;
    assert_ne!(settled["RevisionId"], created["RevisionId"]);
    let mut expected = expected;
    let members = expected.as_object_mut().unwrap();
    members.remove("StateReason");
    members.remove("StateReasonCode");
    let changed = [
        ("/State", "Active".into()),
        ("/LastUpdateStatus", "Successful".into()),
        ("/RevisionId", settled["RevisionId"].clone()),
    ];
    assert_eq!(settled, with(expected, &changed));
}

#[tokio::test]
async fn settings_are_read_back_as_they_were_given() {
    let node = Node::new().await;
    let given = [
        ("/Description", json!("d")),
        ("/Timeout", json!(900)),
        ("/MemorySize", json!(10_240)),
        ("/Environment", json!({ "Variables": { "A_1": "ü", "B": "" } })),
        ("/EphemeralStorage", json!({ "Size": 10_240 })),
        ("/TracingConfig", json!({ "Mode": "Active" })),
        ("/Architectures", json!(["x86_64"])),
        ("/PackageType", json!("Zip")),
    ];
    let created = node.create(&with(request("f"), &given)).await.ok(201);
    for (pointer, value) in &given {
        assert_eq!(created.pointer(pointer), Some(value));
    }
    let logging = json!({ "LogFormat": "JSON", "ApplicationLogLevel": "DEBUG", "LogGroup": "/g" });
    let created = node.create(&with(request("g"), &[("/LoggingConfig", logging)])).await.ok(201);
    let expected = json!({ "LogFormat": "JSON", "ApplicationLogLevel": "DEBUG", "SystemLogLevel": "INFO", "LogGroup": "/g" });
    assert_eq!(created["LoggingConfig"], expected);
}

#[tokio::test]
async fn get_function_has_code_and_tags_and_the_code_can_be_fetched() {
    let node = Node::new().await;
    node.create(&with(request("f"), &[("/Tags", json!({ "a": "b" }))])).await.ok(201);
    let got = node.get("/2015-03-31/functions/f").await.ok(200);
    assert_eq!(got["Tags"], json!({ "a": "b" }));
    assert_eq!(got["Code"]["RepositoryType"], "S3");
    let location = got["Code"]["Location"].as_str().unwrap().strip_prefix("http://node:9000").unwrap();
    let fetched = node.get(location).await;
    assert_eq!((fetched.status.as_u16(), fetched.body), (200, zip_of("index.py", "x = 1")));
    let guessed = location.replace("token=", "token=0");
    assert_eq!(node.get(&guessed).await.status, 404);
    let untagged = node.function("g").await;
    assert_eq!(untagged.get("Tags"), None);
}

/// Who takes it may be slow, and many.
#[tokio::test]
async fn code_is_sent_in_pieces_and_nothing_of_it_if_it_is_damaged() {
    let node = Node::new().await;
    let mut noise = 1_u32;
    let content: String = std::iter::repeat_with(|| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'a' + (noise >> 24) as u8 % 26)
    })
    .take(1_000_000)
    .collect();
    let zip = zip_of("index.py", &content);
    node.create(&with(request("f"), &[("/Code/ZipFile", json!(BASE64_STANDARD.encode(&zip)))])).await.ok(201);
    let location = node.get("/2015-03-31/functions/f").await.ok(200)["Code"]["Location"].clone();
    let path = location.as_str().unwrap().strip_prefix("http://node:9000").unwrap();
    let fetch = || node.router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap());
    let mut fetched = fetch().await.unwrap();
    assert_eq!(fetched.headers()["content-length"], zip.len().to_string());
    let mut pieces = Vec::new();
    while let Some(frame) = fetched.body_mut().frame().await {
        pieces.push(frame.unwrap().into_data().unwrap());
    }
    assert!(pieces.len() > 1 && pieces.concat() == zip, "{} pieces", pieces.len());
    let stored = std::fs::read_dir(node.dir.path().join("code")).unwrap().next().unwrap().unwrap().path();
    let mut damaged = std::fs::read(&stored).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&stored, damaged).unwrap();
    assert_eq!(fetch().await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_function_is_found_by_every_name_of_it() {
    let node = Node::new().await;
    node.function("f").await;
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:f";
    for name in ["f", "function:f", "000000000000:function:f", arn, &arn.replace(':', "%3A")] {
        let got = node.get(&format!("/2015-03-31/functions/{name}")).await.ok(200);
        assert_eq!(got["Configuration"]["FunctionArn"], arn, "{name}");
    }
    let got = node.get("/2015-03-31/functions/f/configuration?Qualifier=$LATEST").await.ok(200);
    assert_eq!(got["FunctionArn"], format!("{arn}:$LATEST"));
    let by_arn = with(request("x"), &[("/FunctionName", json!(arn.replace("function:f", "function:g")))]);
    assert_eq!(node.create(&by_arn).await.ok(201)["FunctionName"], "g");
}

#[tokio::test]
async fn functions_and_code_survive_a_restart() {
    let node = Node::new().await;
    let created = node.function("f").await;
    node.create(&request("g")).await.ok(201);
    let node = node.restarted().await;
    let mut now = node.settled("f").await;
    for member in ["RevisionId", "State", "LastUpdateStatus"] {
        now[member] = created[member].clone();
    }
    assert_eq!(now["CodeSha256"], created["CodeSha256"]);
    assert_eq!(now["LastModified"], created["LastModified"]);
    // The one that was still pending has been finished.
    assert_eq!(node.settled("g").await["State"], "Active");
    let location = node.get("/2015-03-31/functions/g").await.ok(200)["Code"]["Location"].clone();
    let path = location.as_str().unwrap().strip_prefix("http://node:9000").unwrap().to_owned();
    assert_eq!(node.get(&path).await.body, zip_of("index.py", "x = 1"));
}

#[tokio::test]
async fn a_region_is_a_world_of_its_own() {
    let node = Node::new().await;
    node.function("f").await;
    let elsewhere = "AWS4-HMAC-SHA256 Credential=k/20261123/eu-west-1/lambda/aws4_request, SignedHeaders=host, Signature=00";
    let ask = |path: &str| {
        let request = Request::builder()
            .uri(path)
            .header("authorization", elsewhere)
            .header("x-amz-date", "20261123T000000Z");
        node.send(request.body(Body::empty()).unwrap())
    };
    let arn = "arn:aws:lambda:eu-west-1:000000000000:function:f";
    let missing = ask("/2015-03-31/functions/f").await;
    missing.is_error(404, "ResourceNotFoundException", &format!("Function not found: {arn}"));
    let other = ask("/2015-03-31/functions/arn:aws:lambda:us-east-1:000000000000:function:f").await;
    let message = "Functions from 'us-east-1' are not reachable in this region ('eu-west-1')";
    other.is_error(404, "ResourceNotFoundException", message);
    assert_eq!(ask("/2015-03-31/functions").await.ok(200), json!({ "Functions": [] }));
}
