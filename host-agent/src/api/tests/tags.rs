//! TagResource, UntagResource, ListTags, and the tag that has `$LATEST` snapshotted.

use super::*;
use crate::functions::model::StartKind;

const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:f";

/// The path of a resource's tags, as SDKs write it.
fn path(resource: &str) -> String {
    format!("/2017-03-31/tags/{}", resource.replace(':', "%3A").replace('$', "%24"))
}

impl Node {
    async fn tag(&self, tags: &Value) -> Got {
        self.call("POST", &path(ARN), json!({ "Tags": tags }).to_string()).await
    }

    async fn untag(&self, keys: &[&str]) -> Got {
        let keys: Vec<_> = keys.iter().map(|key| format!("tagKeys={key}")).collect();
        self.call("DELETE", &format!("{}?{}", path(ARN), keys.join("&")), Body::empty()).await
    }

    /// What ListTags answers, and GetFunction as well.
    async fn tags(&self) -> Value {
        let listed = self.get(&path(ARN)).await.ok(200);
        let function = self.get("/2015-03-31/functions/f").await.ok(200);
        let shown = function.get("Tags").cloned().unwrap_or_else(|| json!({}));
        assert_eq!(listed, json!({ "Tags": shown }));
        shown
    }

    /// What the sandboxes of the next invocation come from, and which deployment they are of.
    async fn deployed(&self) -> (StartKind, String) {
        self.call("POST", "/2015-03-31/functions/f/invocations", "{}").await.ok(200);
        let function = self.invoker.seen.lock().unwrap().pop().unwrap().function;
        (function.start_kind(), function.deployment_id.clone())
    }
}

#[tokio::test]
async fn tags_are_given_changed_taken_and_kept() {
    let node = Node::new().await;
    node.function("f").await;
    let before = node.settled("f").await;
    assert_eq!(node.tags().await, json!({}));
    assert_eq!(node.tag(&json!({ "a": "1", "b": "", "ü x": "@" })).await.ok(204), Value::Null);
    node.tag(&json!({ "a": "2", "c": "3" })).await.ok(204);
    assert_eq!(node.tags().await, json!({ "a": "2", "b": "", "c": "3", "ü x": "@" }));
    assert_eq!(node.untag(&["a", "nosuch", "%C3%BC%20x"]).await.ok(204), Value::Null);

    let node = node.restarted().await;
    assert_eq!(node.tags().await, json!({ "b": "", "c": "3" }));
    let after = node.settled("f").await;
    assert_ne!(after["RevisionId"], before["RevisionId"]);
    assert_eq!(with(after, &[("/RevisionId", before["RevisionId"].clone())]), before, "nothing else changes");
    node.untag(&["b", "c"]).await.ok(204);
    assert_eq!(node.tags().await, json!({}));
}

#[tokio::test]
async fn only_the_arn_of_a_function_has_tags() {
    let node = Node::new().await;
    node.function("f").await;
    let body = json!({ "Tags": { "a": "b" } }).to_string();
    let pattern = r"Member must satisfy regular expression pattern: arn:(aws[a-zA-Z-]*):lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:(function:[a-zA-Z0-9-_]+(:(\$LATEST|[a-zA-Z0-9-_]+))?|layer:([a-zA-Z0-9-_]+)|code-signing-config:csc-[a-z0-9]{17}|event-source-mapping:[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|capacity-provider:[a-zA-Z0-9-_]+)";
    let violated = |resource: &str| {
        format!(
            "1 validation error detected: Value '{resource}' at 'resource' failed to satisfy constraint: {pattern}"
        )
    };
    let qualified =
        "Tags on function aliases and versions are not supported. Please specify a function ARN.".to_owned();
    let mapping =
        "arn:aws:lambda:us-east-1:000000000000:event-source-mapping:01234567-89ab-cdef-0123-456789abcdef";
    let elsewhere = "Functions from 'eu-west-1' are not reachable in this region ('us-east-1')".to_owned();
    for (resource, status, name, message) in [
        ("arn:aws:something", 400, "ValidationException", violated("arn:aws:something")),
        ("f", 400, "ValidationException", violated("f")),
        (&format!("{ARN}:$LATEST"), 400, "InvalidParameterValueException", qualified.clone()),
        (&format!("{ARN}:nosuch"), 400, "InvalidParameterValueException", qualified),
        (&format!("{ARN}x"), 404, "ResourceNotFoundException", format!("Function not found: {ARN}x")),
        (&ARN.replace("us-east", "eu-west"), 404, "ResourceNotFoundException", elsewhere),
        (mapping, 404, "ResourceNotFoundException", format!("Event source mapping not found: {mapping}")),
    ] {
        let path = path(resource);
        node.call("POST", &path, body.clone()).await.is_error(status, name, &message);
        let untag = format!("{path}?tagKeys=a");
        node.call("DELETE", &untag, Body::empty()).await.is_error(status, name, &message);
        node.get(&path).await.is_error(status, name, &message);
    }
    assert_eq!(node.tags().await, json!({}));
}

#[tokio::test]
async fn what_no_tag_can_be_is_refused_in_aws_words() {
    let node = Node::new().await;
    node.function("f").await;
    let null = |member: &str| {
        format!(
            "1 validation error detected: Value null at '{member}' failed to satisfy constraint: Member must not be null"
        )
    };
    let (validation, parameter) = ("ValidationException", "InvalidParameterValueException");
    node.call("POST", &path(ARN), "{}").await.is_error(400, validation, &null("tags"));
    node.call("DELETE", &path(ARN), Body::empty()).await.is_error(400, validation, &null("tagKeys"));
    let nothing = "An error occurred and the request cannot be processed.";
    node.tag(&json!({})).await.is_error(400, parameter, nothing);
    let reserved = "Tag keys starting with 'aws:' are reserved for system use.";
    node.tag(&json!({ "AWS:x": "y" })).await.is_error(400, parameter, reserved);
    assert_eq!(node.tag(&json!("x")).await.header("x-amzn-errortype"), Some("SerializationException"));
    for (key, value) in [("", ""), (&*"k".repeat(129), ""), ("k", &*"v".repeat(257)), ("k!", ""), ("k", "v!")]
    {
        let refused = node.tag(&json!({ key: value })).await;
        assert_eq!(refused.header("x-amzn-errortype"), Some(validation), "{key}={value}");
    }
    let refused = node.untag(&[""]).await;
    assert_eq!(refused.header("x-amzn-errortype"), Some(validation));
    assert_eq!(node.tags().await, json!({}));

    let numbered = |numbers: std::ops::Range<u32>| -> Value {
        numbers
            .map(|number| (format!("{number}_key"), json!("v".repeat(256))))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let limit = "Number of tags exceeds resource tag limit.";
    node.tag(&numbered(0..51)).await.is_error(400, parameter, limit);
    node.tag(&numbered(0..50)).await.ok(204);
    node.tag(&json!({ "k": "one more" })).await.is_error(400, parameter, limit);
    node.tag(&json!({ "0_key": "another value" })).await.ok(204);
    assert_eq!(node.tags().await, with(numbered(0..50), &[("/0_key", json!("another value"))]));
}

#[tokio::test]
async fn a_tag_has_latest_snapshotted_for_as_long_as_it_is_there() {
    let node = Node::new().await;
    node.function("f").await;
    let (start, plain) = node.deployed().await;
    assert_eq!(start, StartKind::Boot);
    for tags in [json!({ "a": "b" }), json!({ "TINDERBOX_SNAPSTART": "no" })] {
        node.tag(&tags).await.ok(204);
        assert_eq!(node.deployed().await, (StartKind::Boot, plain.clone()), "{tags}");
    }
    assert_eq!(*node.invoker.retired.lock().unwrap(), [], "sandboxes go on");

    let setting = json!({ "TINDERBOX_SNAPSTART": "latest" });
    node.tag(&setting).await.ok(204);
    let (start, snapshotted) = node.deployed().await;
    assert_eq!(start, StartKind::SnapshotWhenReady);
    assert_ne!(snapshotted, plain);
    assert_eq!(node.invoker.retired.lock().unwrap().pop(), Some(("f".into(), plain)));
    let mut asked = node.invoker.prepared.subscribe();
    asked.wait_for(|asked| asked.contains(&snapshotted)).await.unwrap();
    let settled = node.settled("f").await;
    assert_eq!((&settled["State"], &settled["LastUpdateStatus"]), (&json!("Active"), &json!("Successful")));

    node.tag(&setting).await.ok(204);
    node.untag(&["a"]).await.ok(204);
    assert_eq!(node.deployed().await, (StartKind::SnapshotWhenReady, snapshotted.clone()));
    let node = node.restarted().await;
    let mut asked = node.invoker.prepared.subscribe();
    asked.wait_for(|asked| asked.contains(&snapshotted)).await.unwrap();

    node.untag(&["TINDERBOX_SNAPSTART"]).await.ok(204);
    assert_eq!(node.deployed().await.0, StartKind::Boot);
    assert_eq!(node.invoker.retired.lock().unwrap().pop(), Some(("f".into(), snapshotted)));
}

#[tokio::test]
async fn a_function_that_is_tagged_while_it_is_made_becomes_active() {
    let node = Node::new().await;
    for setting in ["latest", "no"] {
        node.create(&request("f")).await.ok(201);
        node.tag(&json!({ "TINDERBOX_SNAPSTART": setting })).await.ok(204);
        node.settled("f").await;
        assert_eq!(node.tags().await, json!({ "TINDERBOX_SNAPSTART": setting }));
        node.call("DELETE", "/2015-03-31/functions/f", Body::empty()).await.ok(204);
    }
}
