//! PublishVersion, ListVersionsByFunction, and what a qualifier names.

use super::*;

const VERSIONS: &str = "/2015-03-31/functions/f/versions";
const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:f";

impl Node {
    async fn publish(&self, body: &Value) -> Got {
        self.call("POST", VERSIONS, body.to_string()).await
    }

    async fn change(&self, description: &str) {
        self.put("/2015-03-31/functions/f/configuration", &json!({ "Description": description }))
            .await
            .ok(200);
        self.settled("f").await;
    }

    /// The versions that a list shows, by number.
    async fn versions(&self) -> Vec<String> {
        let list = self.get(VERSIONS).await.ok(200);
        let numbers =
            list["Versions"].as_array().unwrap().iter().map(|version| version["Version"].as_str().unwrap());
        numbers.map(String::from).collect()
    }
}

#[tokio::test]
async fn a_version_is_a_copy_that_no_update_changes() {
    let node = Node::new().await;
    node.function("f").await;
    node.change("First version :)").await;
    let latest = node.settled("f").await;
    let published = node.publish(&json!({ "Description": "First version description :)" })).await.ok(201);
    let expected = with(
        latest.clone(),
        &[
            ("/Description", "First version description :)".into()),
            ("/FunctionArn", format!("{ARN}:1").into()),
            ("/Version", "1".into()),
            ("/RevisionId", published["RevisionId"].clone()),
            ("/LastModified", published["LastModified"].clone()),
        ],
    );
    assert_eq!(published, expected);
    assert_ne!(published["RevisionId"], latest["RevisionId"]);

    node.change("Second version :))").await;
    let code = json!({ "ZipFile": zip_base64("y = 2") });
    node.put("/2015-03-31/functions/f/code", &code).await.ok(200);
    node.settled("f").await;
    for path in ["/2015-03-31/functions/f?Qualifier=1", "/2015-03-31/functions/f:1"] {
        let got = node.get(path).await.ok(200);
        assert_eq!(got["Configuration"], published, "{path}");
        let location = got["Code"]["Location"].as_str().unwrap().strip_prefix("http://node:9000").unwrap();
        assert_eq!(node.get(location).await.body, zip_of("index.py", "x = 1"), "its code is kept");
    }
    assert_eq!(node.get("/2015-03-31/functions/f/configuration?Qualifier=1").await.ok(200), published);
    let second = node.publish(&json!({})).await.ok(201);
    assert_eq!((&second["Version"], &second["Description"]), (&json!("2"), &json!("Second version :))")));
    assert_eq!(node.publish(&json!({})).await.ok(201), second, "nothing has changed since");
    assert_eq!(node.versions().await, ["$LATEST", "1", "2"]);
}

#[tokio::test]
async fn equal_code_is_not_published_again() {
    let node = Node::new().await;
    node.function("f").await;
    let same = json!({ "ZipFile": zip_base64("x = 1"), "Publish": true });
    for _ in 0..2 {
        assert_eq!(node.put("/2015-03-31/functions/f/code", &same).await.ok(200)["Version"], "1");
        node.settled("f").await;
    }
    let other = json!({ "ZipFile": zip_base64("x = 2"), "Publish": true });
    let published = node.put("/2015-03-31/functions/f/code", &other).await.ok(200);
    let state = (&published["State"], &published["StateReasonCode"], published.get("LastUpdateStatus"));
    assert_eq!(state, (&json!("Pending"), &json!("Creating"), None));
    assert_eq!((&published["Version"], &published["FunctionArn"]), (&json!("2"), &json!(format!("{ARN}:2"))));
}

#[tokio::test]
async fn a_function_can_come_with_its_first_version() {
    let node = Node::new().await;
    let created = node.create(&with(request("f"), &[("/Publish", json!(true))])).await.ok(201);
    assert_eq!(
        (&created["Version"], &created["State"], &created["FunctionArn"]),
        (&json!("1"), &json!("Pending"), &json!(ARN))
    );
    node.settled("f").await;
    assert_eq!(node.versions().await, ["$LATEST", "1"]);
    let version = node.settled("f:1").await;
    assert_eq!((&version["Version"], version.get("StateReason")), (&json!("1"), None));
}

#[tokio::test]
async fn a_listed_version_shows_nothing_that_changes_by_itself() {
    let node = Node::new().await;
    node.function("f").await;
    let published = node.publish(&json!({})).await.ok(201);
    let list = node.get(VERSIONS).await.ok(200);
    let mut expected = published;
    for member in ["State", "LastUpdateStatus", "RuntimeVersionConfig"] {
        expected.as_object_mut().unwrap().remove(member);
    }
    assert_eq!(list["Versions"][1], expected);
    assert_eq!(list["Versions"][0]["FunctionArn"], format!("{ARN}:$LATEST"));
    assert_eq!(list.get("NextMarker"), None);
    let gone = node.get("/2015-03-31/functions/g/versions").await;
    gone.is_error(
        404,
        "ResourceNotFoundException",
        &format!("Function not found: {}", ARN.replace(":f", ":g").replace(":gunction", ":function")),
    );
}

#[tokio::test]
async fn pages_hold_every_version_once() {
    let node = Node::new().await;
    for name in ["f", "g"] {
        node.function(name).await;
    }
    for number in 1..=11 {
        node.change(&number.to_string()).await;
        node.publish(&json!({})).await.ok(201);
    }
    let numbers: Vec<_> =
        std::iter::once("$LATEST".to_owned()).chain((1..=11).map(|number| number.to_string())).collect();
    let all: Vec<_> =
        numbers.iter().map(|number| format!("f {number}")).chain(["g $LATEST".into()]).collect();
    for (path, member, expected) in [
        (format!("{VERSIONS}?"), "Versions", &all[..12]),
        ("/2015-03-31/functions?FunctionVersion=ALL&".to_owned(), "Functions", &all[..]),
    ] {
        for size in [1, 5, 50] {
            let (mut seen, mut marker) = (Vec::new(), String::new());
            loop {
                let page = node.get(&format!("{path}MaxItems={size}&Marker={marker}")).await.ok(200);
                let text = |item: &Value, member: &str| item[member].as_str().unwrap().to_owned();
                let items = page[member].as_array().unwrap();
                seen.extend(
                    items
                        .iter()
                        .map(|item| format!("{} {}", text(item, "FunctionName"), text(item, "Version"))),
                );
                match page["NextMarker"].as_str() {
                    Some(next) => marker = next.replace('=', "%3D").replace('+', "%2B"),
                    None => break,
                }
            }
            assert_eq!(seen, expected, "{path} by {size}");
        }
    }
}

#[tokio::test]
async fn preconditions_of_a_publication_are_checked() {
    let node = Node::new().await;
    node.function("f").await;
    let latest = node.settled("f").await;
    let sha256 = latest["CodeSha256"].as_str().unwrap();
    for wrong in ["AAAA", "no base64!"] {
        let message = format!(
            "CodeSHA256 ({wrong}) is different from current CodeSHA256 in $LATEST ({sha256}). Please try again with the \
             CodeSHA256 in $LATEST."
        );
        node.publish(&json!({ "CodeSha256": wrong })).await.is_error(
            400,
            "InvalidParameterValueException",
            &message,
        );
    }
    let message = "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API \
                   to retrieve the latest Revision Id";
    node.publish(&json!({ "RevisionId": "stale" })).await.is_error(
        412,
        "PreconditionFailedException",
        message,
    );
    let long = node.publish(&json!({ "Description": "x".repeat(257) })).await;
    assert_eq!(long.header("x-amzn-errortype"), Some("ValidationException"));
    let good = json!({ "CodeSha256": sha256, "RevisionId": latest["RevisionId"] });
    assert_eq!(node.publish(&good).await.ok(201)["Version"], "1");
    let missing = node.call("POST", "/2015-03-31/functions/nope/versions", "{}").await;
    missing.is_error(
        404,
        "ResourceNotFoundException",
        &format!("Function not found: {}nope", &ARN[..ARN.len() - 1]),
    );
}

#[tokio::test]
async fn numbers_are_never_given_again() {
    let node = Node::new().await;
    node.function("f").await;
    node.publish(&json!({})).await.ok(201);
    let path = "/2015-03-31/functions/f?Qualifier=1";
    node.call("DELETE", path, Body::empty()).await.ok(204);
    assert_eq!(node.invoker.retired.lock().unwrap().last().unwrap().1, "version 1");
    let gone = node.get(path).await;
    gone.is_error(404, "ResourceNotFoundException", &format!("Function not found: {ARN}:1"));
    assert_eq!(node.publish(&json!({})).await.ok(201)["Version"], "2", "what was deleted is not the answer");
    assert_eq!(node.versions().await, ["$LATEST", "2"]);
}

#[tokio::test]
async fn an_invocation_runs_the_version_that_it_names() {
    let node = Node::new().await;
    node.function("f").await;
    node.publish(&json!({})).await.ok(201);
    for path in ["/2015-03-31/functions/f/invocations?Qualifier=1", "/2015-03-31/functions/f:1/invocations"] {
        let got = node.call("POST", path, "{}").await;
        assert_eq!((got.status.as_u16(), got.header("x-amz-executed-version")), (200, Some("1")));
        let seen = node.invoker.seen.lock().unwrap().pop().unwrap();
        assert_eq!(seen.invoked_arn, format!("{ARN}:1"));
    }
    let got = node.call("POST", "/2015-03-31/functions/f:7/invocations", "{}").await;
    got.is_error(404, "ResourceNotFoundException", &format!("Function not found: {ARN}:7"));
}

#[tokio::test]
async fn versions_survive_a_restart_and_end_with_their_function() {
    let node = Node::new().await;
    node.function("f").await;
    for number in 1..=200 {
        node.change(&number.to_string()).await;
        node.publish(&json!({})).await.ok(201);
    }
    let node = node.restarted().await;
    assert_eq!(node.versions().await.len(), 50);
    assert_eq!(node.get("/2015-03-31/functions/f:200").await.status, 200);
    node.call("DELETE", "/2015-03-31/functions/f", Body::empty()).await.ok(204);
    assert_eq!(node.get("/2015-03-31/functions/f:200").await.status, 404);
    node.function("f").await;
    assert_eq!(node.versions().await, ["$LATEST"]);
    assert_eq!(node.publish(&json!({})).await.ok(201)["Version"], "1");
    let node = node.restarted().await;
    assert_eq!(node.versions().await, ["$LATEST", "1"]);
}
