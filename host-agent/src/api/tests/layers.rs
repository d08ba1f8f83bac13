//! Layers: what is published, found, listed, shown to others, deleted; and functions that have some.

use super::*;

const LAYERS: &str = "/2018-10-31/layers";
const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:layer";

fn layer(content: &str) -> Value {
    json!({ "Content": { "ZipFile": BASE64_STANDARD.encode(zip_of("python/l.py", content)) } })
}

impl Node {
    async fn publish_layer(&self, name: &str, body: &Value) -> Got {
        self.call("POST", &format!("{LAYERS}/{name}/versions"), body.to_string()).await
    }

    /// Publishes a version and tells its ARN.
    async fn layer(&self, name: &str, content: &str) -> String {
        let published = self.publish_layer(name, &layer(content)).await.ok(201);
        published["LayerVersionArn"].as_str().unwrap().to_owned()
    }
}

/// Names of the files in the node's stores.
fn stored(node: &Node, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(node.dir.path().join(folder)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_version_is_found_by_every_name_and_can_be_fetched() {
    let node = Node::new().await;
    let published = node.publish_layer("l", &layer("1")).await.ok(201);
    let encoded = format!("{ARN}:l").replace(':', "%3A");
    let ways = [
        format!("{LAYERS}/l/versions/1"),
        format!("{LAYERS}/{encoded}/versions/1"),
        format!("{LAYERS}?find=LayerVersion&Arn={encoded}%3A1"),
    ];
    for way in ways {
        let mut got = node.get(&way).await.ok(200);
        let location = got["Content"]["Location"].take();
        let mut expected = published.clone();
        expected["Content"]["Location"].take();
        assert_eq!(got, expected, "{way}");
        let path = location.as_str().unwrap().strip_prefix("http://node:9000").unwrap().to_owned();
        assert_eq!(node.get(&path).await.body, zip_of("python/l.py", "1"));
    }
    let zip = zip_of("python/l.py", "1");
    assert_eq!(published["Content"]["CodeSize"], zip.len());
    assert_eq!(published["Version"], 1);
    // By its ARN a next version is published, too.
    let next = node.publish_layer(&encoded, &layer("2")).await.ok(201);
    assert_eq!((&next["LayerArn"], &next["Version"]), (&json!(format!("{ARN}:l")), &json!(2)));
}

#[tokio::test]
async fn what_is_no_layer_is_refused_and_leaves_nothing() {
    let node = Node::new().await;
    let zip = |bytes: &[u8]| json!({ "Content": { "ZipFile": BASE64_STANDARD.encode(bytes) } });
    for (body, message) in [
        (zip(b"no zip"), "Could not unzip uploaded file. Please check your file, then try to upload again."),
        (zip(&[b"PK\x05\x06", &[0; 18][..]].concat()), "Uploaded file must be a non-empty zip"),
        (json!({ "Content": {} }), "Please provide a source for function code."),
        (
            json!({ "Content": { "S3Bucket": "bucket", "S3Key": "k" } }),
            "Error occurred while GetObject. S3 Error Code: NoSuchBucket. S3 Error Message: The specified bucket does not exist",
        ),
    ] {
        let refused = node.publish_layer("l", &body).await;
        refused.is_error(400, "InvalidParameterValueException", message);
    }
    for (body, violation) in [
        (json!({}), "Value null at 'content'"),
        (with(layer("1"), &[("/Description", json!("x".repeat(257)))]), "at 'description'"),
        (with(layer("1"), &[("/LicenseInfo", json!("x".repeat(513)))]), "at 'licenseInfo'"),
        (with(layer("1"), &[("/CompatibleRuntimes", json!(vec!["java17"; 16]))]), "at 'compatibleRuntimes'"),
    ] {
        let refused = node.publish_layer("l", &body).await;
        assert_eq!(refused.header("x-amzn-errortype"), Some("ValidationException"), "{body}");
        assert!(refused.json()["message"].as_str().unwrap().contains(violation), "{refused:?}");
    }
    let named = node.publish_layer("l!", &layer("1")).await;
    assert!(named.json()["message"].as_str().unwrap().contains("Value 'l!' at 'layerName'"));
    assert_eq!(node.get(LAYERS).await.ok(200), json!({ "Layers": [] }));
    assert_eq!(stored(&node, "code"), Vec::<String>::new());
}

#[tokio::test]
async fn layers_are_listed_in_pages_with_their_newest_version_that_fits() {
    let node = Node::new().await;
    for name in ["c", "a", "b"] {
        let python = with(layer(name), &[("/CompatibleRuntimes", json!(["python3.13"]))]);
        node.publish_layer(name, &python).await.ok(201);
    }
    let arm = [("/CompatibleArchitectures", json!(["arm64"])), ("/CompatibleRuntimes", json!(["java21"]))];
    node.publish_layer("b", &with(layer("2"), &arm)).await.ok(201);
    let shown = |body: &Value| -> Vec<String> {
        let arn =
            |item: &Value| item["LatestMatchingVersion"]["LayerVersionArn"].as_str().unwrap().to_owned();
        body["Layers"].as_array().unwrap().iter().map(arn).collect()
    };
    let list = |query: &str| format!("{LAYERS}{query}");
    let first = node.get(&list("?MaxItems=2")).await.ok(200);
    assert_eq!(shown(&first), [format!("{ARN}:a:1"), format!("{ARN}:b:2")]);
    let marker = first["NextMarker"].as_str().unwrap().replace('=', "%3D");
    let rest = node.get(&list(&format!("?Marker={marker}"))).await.ok(200);
    assert_eq!((shown(&rest), rest.get("NextMarker")), (vec![format!("{ARN}:c:1")], None));
    for (query, expected) in [
        ("?CompatibleRuntime=python3.13", &["a:1", "b:1", "c:1"][..]),
        ("?CompatibleRuntime=java21", &["b:2"]),
        ("?CompatibleArchitecture=arm64", &["b:2"]),
        ("?CompatibleArchitecture=x86_64", &[]),
    ] {
        let expected: Vec<_> = expected.iter().map(|version| format!("{ARN}:{version}")).collect();
        assert_eq!(shown(&node.get(&list(query)).await.ok(200)), expected, "{query}");
    }
    assert_eq!(node.get(&list("?MaxItems=51")).await.status, 400);

    let versions = node.get(&format!("{LAYERS}/b/versions?MaxItems=1")).await.ok(200);
    assert_eq!(versions["LayerVersions"][0]["Version"], 2);
    let marker = versions["NextMarker"].as_str().unwrap().replace('=', "%3D");
    let rest = node.get(&format!("{LAYERS}/b/versions?Marker={marker}")).await.ok(200);
    assert_eq!(rest["LayerVersions"][0]["Version"], 1);
    let java = node.get(&format!("{LAYERS}/b/versions?CompatibleRuntime=java21")).await.ok(200);
    assert_eq!(java["LayerVersions"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn numbers_are_given_once_and_all_of_it_outlives_a_restart() {
    let node = Node::new().await;
    node.layer("l", "1").await;
    let second = node.layer("l", "2").await;
    node.delete(&format!("{LAYERS}/l/versions/2")).await.ok(204);
    let statement = json!({ "StatementId": "s", "Action": "lambda:GetLayerVersion", "Principal": "*" });
    let policy = format!("{LAYERS}/l/versions/1/policy");
    node.call("POST", &policy, statement.to_string()).await.ok(201);
    let before = (node.get(&format!("{LAYERS}/l/versions")).await.ok(200), node.get(&policy).await.ok(200));
    let node = node.restarted().await;
    let after = (node.get(&format!("{LAYERS}/l/versions")).await.ok(200), node.get(&policy).await.ok(200));
    assert_eq!(after, before);
    assert_eq!(stored(&node, "code").len(), 1, "the zip of the version that is left");
    let third = node.layer("l", "3").await;
    assert_ne!(third, second);
    assert_eq!(third, format!("{ARN}:l:3"));
}

#[tokio::test]
async fn a_function_keeps_a_layer_that_is_deleted_and_a_new_one_cannot_have_it() {
    let node = Node::new().await;
    let arn = node.layer("l", "1").await;
    let layered = |name: &str| with(request(name), &[("/Layers", json!([arn.clone()]))]);
    let created = node.create(&layered("f")).await.ok(201);
    let shown = json!([{ "Arn": arn, "CodeSize": zip_of("python/l.py", "1").len() }]);
    assert_eq!(created["Layers"], shown);
    node.settled("f").await;
    let version = node.call("POST", "/2015-03-31/functions/f/versions", "{}").await.ok(201);
    assert_eq!(version["Layers"], shown);
    let again = node.call("POST", "/2015-03-31/functions/f/versions", "{}").await.ok(201);
    assert_eq!(again["Version"], "1", "nothing has changed");
    node.delete(&format!("{LAYERS}/l/versions/1")).await.ok(204);

    let refused = node.create(&layered("g")).await;
    let missing = format!("Layer version {arn} does not exist.");
    refused.is_error(400, "InvalidParameterValueException", &missing);
    let none = node.put("/2015-03-31/functions/f/configuration", &json!({ "Layers": [] })).await.ok(200);
    assert_eq!(none.get("Layers"), None);
    node.settled("f").await;
    let second = node.call("POST", "/2015-03-31/functions/f/versions", "{}").await.ok(201);
    assert_eq!((&second["Version"], second.get("Layers")), (&json!("2"), None));

    let node = node.restarted().await;
    let kept = node.get("/2015-03-31/functions/f/configuration?Qualifier=1").await.ok(200);
    assert_eq!(kept["Layers"], shown);
    assert_eq!(stored(&node, "code").len(), 2, "code and layer");
    assert_eq!(stored(&node, "chunks/origin/roots").len(), 2, "with the layer and without");
    let listed = node.get("/2015-03-31/functions?FunctionVersion=ALL").await.ok(200);
    assert_eq!((listed["Functions"][0].get("Layers"), &listed["Functions"][1]["Layers"]), (None, &shown));
}

#[tokio::test]
async fn an_update_of_layers_or_of_code_below_them_is_a_new_deployment_with_its_own_image() {
    let node = Node::new().await;
    let (one, two) = (node.layer("one", "1").await, node.layer("two", "2").await);
    node.function("f").await;
    let layers = |arns: &[&String]| json!({ "Layers": arns });
    let mut images = HashSet::new();
    for change in [layers(&[&one, &two]), layers(&[&two, &one]), layers(&[&one]), layers(&[])] {
        node.put("/2015-03-31/functions/f/configuration", &change).await.ok(200);
        node.settled("f").await;
        images.insert(node.image_of_f().await);
    }
    assert_eq!(images.len(), 4);
    assert_eq!(node.invoker.retired.lock().unwrap().len(), 4);
    node.put("/2015-03-31/functions/f/configuration", &layers(&[&one])).await.ok(200);
    let updated = node.put("/2015-03-31/functions/f/code", &json!({ "ZipFile": zip_base64("x = 2") })).await;
    assert_eq!(updated.ok(200)["Layers"][0]["Arn"], one);
    node.settled("f").await;
    assert!(images.insert(node.image_of_f().await));
    let same = node.put("/2015-03-31/functions/f/configuration", &json!({ "Timeout": 9 })).await.ok(200);
    assert_eq!(same["Layers"][0]["Arn"], one, "what is not named stays");
}

impl Node {
    /// What an invocation of `f` is given as its code.
    async fn image_of_f(&self) -> String {
        self.call("POST", "/2015-03-31/functions/f/invocations", "{}").await.ok(200);
        self.invoker.seen.lock().unwrap().last().unwrap().code.label.to_string()
    }
}

#[tokio::test]
async fn code_and_layers_together_are_bounded() {
    let node = Node::new().await;
    let long = |declared: u32| {
        let mut zip = zip_of("a", &"x".repeat(1000)).to_vec();
        let central = zip.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
        zip[central + 24..central + 28].copy_from_slice(&declared.to_le_bytes());
        json!(BASE64_STANDARD.encode(zip))
    };
    let arn = node.layer("l", "1").await;
    let too_long = with(request("f"), &[("/Layers", json!([arn])), ("/Code/ZipFile", long(262_144_000))]);
    node.create(&too_long).await.is_error(
        400,
        "InvalidParameterValueException",
        "Function code combined with layers exceeds the maximum allowed size of 262144000 bytes. The actual size is \
         262144001 bytes.",
    );
}

#[tokio::test]
async fn a_version_is_shown_to_others_by_its_policy() {
    let node = Node::new().await;
    node.layer("l", "1").await;
    let path = format!("{LAYERS}/l/versions/1/policy");
    let statement = |sid: &str, principal: &str| json!({ "StatementId": sid, "Action": "lambda:GetLayerVersion", "Principal": principal });
    let none = "No policy is associated with the given resource.";
    node.get(&path).await.is_error(404, "ResourceNotFoundException", none);
    let add = |body: Value| node.call("POST", &path, body.to_string());
    let organisation = [("/OrganizationId", json!("o-0123456789"))];
    let added = add(with(statement("all", "*"), &organisation)).await.ok(201);
    let expected = json!({
        "Sid": "all",
        "Effect": "Allow",
        "Principal": "*",
        "Action": "lambda:GetLayerVersion",
        "Resource": format!("{ARN}:l:1"),
        "Condition": { "StringEquals": { "aws:PrincipalOrgID": "o-0123456789" } },
    });
    let document = |text: &Value| serde_json::from_str::<Value>(text.as_str().unwrap()).unwrap();
    assert_eq!(document(&added["Statement"]), expected);
    let got = node.get(&path).await.ok(200);
    assert_eq!(got["RevisionId"], added["RevisionId"]);
    let policy = document(&got["Policy"]);
    let whole = json!({ "Version": "2012-10-17", "Id": "default", "Statement": [expected] });
    assert_eq!(policy, whole);

    let taken = "The statement id (all) provided already exists. Please provide a new statement id, or remove the \
                 existing statement.";
    add(statement("all", "*")).await.is_error(409, "ResourceConflictException", taken);
    let stale = "The Revision Id provided does not match the latest Revision Id. Call the GetLayerPolicy API to retrieve \
                 the latest Revision Id";
    let other = node.call("POST", &format!("{path}?RevisionId=x"), statement("b", "*").to_string()).await;
    other.is_error(412, "PreconditionFailedException", stale);
    node.delete(&format!("{path}/all?RevisionId=x")).await.is_error(
        412,
        "PreconditionFailedException",
        stale,
    );
    let unknown = "Statement b is not found in resource policy.";
    node.delete(&format!("{path}/b")).await.is_error(404, "ResourceNotFoundException", unknown);
    for (pointer, wrong) in [("/Action", "lambda:*"), ("/Principal", "somebody"), ("/StatementId", "a.b")] {
        let refused = add(with(statement("b", "123456789012"), &[(pointer, json!(wrong))])).await;
        assert_eq!(refused.header("x-amzn-errortype"), Some("ValidationException"), "{wrong}");
    }
    add(statement("b", "123456789012")).await.ok(201);
    for sid in ["all", "b"] {
        node.delete(&format!("{path}/{sid}")).await.ok(204);
    }
    node.get(&path).await.is_error(404, "ResourceNotFoundException", none);
    let absent = format!("Layer version {ARN}:l:2 does not exist.");
    let path = format!("{LAYERS}/l/versions/2/policy");
    for got in [
        node.get(&path).await,
        node.call("POST", &path, statement("b", "*").to_string()).await,
        node.delete(&format!("{path}/b")).await,
    ] {
        got.is_error(404, "ResourceNotFoundException", &absent);
    }
}
