//! SnapStart: the states of a version whose snapshot is made, and what answers meanwhile.

use super::*;

const VERSIONS: &str = "/2015-03-31/functions/f/versions";
const LIVE: &str = "/2015-03-31/functions/f/aliases/live";

impl Node {
    /// A function `f` whose published versions are snapshotted.
    async fn snap_start() -> Self {
        let node = Self::new().await;
        let setting = json!({ "ApplyOn": "PublishedVersions" });
        let created = node.create(&with(request("f"), &[("/SnapStart", setting)])).await.ok(201);
        assert_eq!(
            created["SnapStart"],
            json!({ "ApplyOn": "PublishedVersions", "OptimizationStatus": "Off" })
        );
        node.settled("f").await;
        node
    }

    async fn publish_next(&self) -> Value {
        let change = json!({ "Description": uuid::Uuid::new_v4().to_string() });
        self.put("/2015-03-31/functions/f/configuration", &change).await.ok(200);
        self.settled("f").await;
        self.call("POST", VERSIONS, "{}").await.ok(201)
    }

    /// Every snapshot of `f` ends so from now on.
    fn snapshots_end(&self, error: Option<&'static str>) {
        self.invoker.snapshots.send_modify(|made| made.extend([("f".into(), error)]));
    }

    fn snapshots_wait(&self) {
        self.invoker.snapshots.send_modify(BTreeMap::clear);
    }

    /// Waits until a version is no longer pending.
    async fn decided(&self, version: &str) -> Value {
        loop {
            let path = format!("/2015-03-31/functions/f/configuration?Qualifier={version}");
            let config = self.get(&path).await.ok(200);
            if config["State"] != "Pending" {
                return config;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn invoke_qualified(&self, qualifier: &str) -> Got {
        self.call("POST", &format!("/2015-03-31/functions/f:{qualifier}/invocations"), "{}").await
    }
}

#[tokio::test]
async fn a_version_is_pending_until_its_snapshot_is_made() {
    let node = Node::snap_start().await;
    let published = node.publish_next().await;
    assert_eq!((&published["State"], &published["StateReasonCode"]), (&json!("Pending"), &json!("Creating")));
    let message = "Lambda is initializing your function. It will be ready to invoke once your function state becomes ACTIVE.";
    node.invoke_qualified("1").await.is_error(409, "SnapStartNotReadyException", message);
    assert_eq!(
        node.call("POST", "/2015-03-31/functions/f/invocations", "{}").await.status,
        200,
        "$LATEST serves"
    );

    node.snapshots_end(None);
    let active = node.decided("1").await;
    assert_eq!((&active["State"], &active["LastUpdateStatus"]), (&json!("Active"), &json!("Successful")));
    assert_eq!(active["SnapStart"], json!({ "ApplyOn": "PublishedVersions", "OptimizationStatus": "On" }));
    assert_eq!(node.invoke_qualified("1").await.status, 200);
}

#[tokio::test]
async fn a_failed_init_says_why() {
    let node = Node::snap_start().await;
    node.snapshots_end(Some("Runtime.ImportModuleError"));
    node.publish_next().await;
    let failed = node.decided("1").await;
    let reason = "Runtime.ImportModuleError: no module";
    assert_eq!((&failed["State"], &failed["StateReason"]), (&json!("Failed"), &json!(reason)));
    assert_eq!(failed["StateReasonCode"], "FunctionError.RuntimeInitError");
    assert_eq!(failed["SnapStart"]["OptimizationStatus"], "Off");
    node.invoke_qualified("1").await.is_error(400, "SnapStartException", reason);
}

#[tokio::test]
async fn a_version_that_the_node_failed_is_published_again_and_one_that_its_function_failed_is_not() {
    let node = Node::snap_start().await;
    let again = async || node.call("POST", VERSIONS, "{}").await.ok(201)["Version"].clone();
    node.snapshots_end(Some(NODE_FAILED));
    node.publish_next().await;
    let failed = node.decided("1").await;
    assert_eq!((&failed["State"], &failed["StateReasonCode"]), (&json!("Failed"), &json!("InternalError")));

    node.snapshots_end(Some("Runtime.ImportModuleError"));
    assert_eq!(again().await, "2");
    assert_eq!(node.decided("2").await["State"], "Failed");
    assert_eq!(again().await, "2", "nothing has changed");

    node.snapshots_end(None);
    node.publish_next().await;
    assert_eq!(node.decided("3").await["State"], "Active");
    assert_eq!(again().await, "3", "nothing has changed");
    assert_eq!(node.decided("1").await["State"], "Failed", "it stays as it was");
}

#[tokio::test]
async fn an_alias_serves_the_old_version_until_the_new_one_is_ready() {
    let node = Node::snap_start().await;
    node.snapshots_end(None);
    node.publish_next().await;
    node.decided("1").await;
    node.call("POST", "/2015-03-31/functions/f/aliases", r#"{"Name":"live","FunctionVersion":"1"}"#)
        .await
        .ok(201);
    let executed =
        async || node.invoke_qualified("live").await.header("x-amz-executed-version").unwrap().to_owned();

    node.snapshots_wait();
    node.publish_next().await;
    let moved = node.put(LIVE, &json!({ "FunctionVersion": "2" })).await.ok(200);
    assert_eq!(moved["FunctionVersion"], "2");
    assert_eq!(executed().await, "1");
    let delete = node.call("DELETE", "/2015-03-31/functions/f?Qualifier=1", Body::empty()).await;
    assert_eq!(delete.status, 409, "it is what serves");
    node.snapshots_end(None);
    node.decided("2").await;
    assert_eq!(executed().await, "2");

    node.snapshots_wait();
    node.publish_next().await;
    node.put(LIVE, &json!({ "FunctionVersion": "3" })).await.ok(200);
    node.snapshots_end(Some("Runtime.ExitError"));
    assert_eq!(node.decided("3").await["State"], "Failed");
    assert_eq!(executed().await, "2", "a failed init leaves it there");
}

#[tokio::test]
async fn a_version_that_was_pending_at_a_restart_is_decided_after_it() {
    let node = Node::snap_start().await;
    node.publish_next().await;
    let node = node.restarted().await;
    assert_eq!(node.invoke_qualified("1").await.status, 409);
    node.snapshots_end(None);
    assert_eq!(node.decided("1").await["State"], "Active");
}

#[tokio::test]
async fn an_update_switches_it_on_and_off() {
    let node = Node::new().await;
    node.function("f").await;
    let path = "/2015-03-31/functions/f/configuration";
    for (setting, pending) in [("PublishedVersions", "Pending"), ("None", "Active")] {
        let updated = node.put(path, &json!({ "SnapStart": { "ApplyOn": setting } })).await.ok(200);
        assert_eq!(updated["SnapStart"], json!({ "ApplyOn": setting, "OptimizationStatus": "Off" }));
        node.settled("f").await;
        assert_eq!(node.call("POST", VERSIONS, "{}").await.ok(201)["State"], pending, "{setting}");
    }
    let wrong = node.put(path, &json!({ "SnapStart": { "ApplyOn": "Always" } })).await;
    let message = "1 validation error detected: Value 'Always' at 'snapStart.applyOn' failed to satisfy constraint: Member \
                   must satisfy enum value set: [PublishedVersions, None]";
    wrong.is_error(400, "ValidationException", message);
}

#[tokio::test]
async fn what_nothing_reseeds_is_not_snapshotted() {
    let node = Node::new().await;
    let runtime = ("/Runtime", json!("nodejs22.x"));
    let message = "nodejs22.x is not supported for SnapStart enabled functions.";
    let latest = json!({ "Variables": { "TINDERBOX_SNAPSTART": "latest" } });
    for (pointer, wish) in
        [("/SnapStart", json!({ "ApplyOn": "PublishedVersions" })), ("/Environment", latest)]
    {
        let refused = node.create(&with(request("f"), &[runtime.clone(), (pointer, wish)])).await;
        refused.is_error(400, "InvalidParameterValueException", message);
    }
    let created = node.create(&with(request("f"), &[runtime])).await.ok(201);
    assert_eq!(
        created["Runtime"], "nodejs22.x",
        "its image is another's, and that is not the client's to see"
    );
    node.settled("f").await;
    let path = "/2015-03-31/functions/f/configuration";
    let change = json!({ "SnapStart": { "ApplyOn": "PublishedVersions" } });
    let refused = node.call("PUT", path, change.to_string()).await;
    refused.is_error(400, "InvalidParameterValueException", message);
}
