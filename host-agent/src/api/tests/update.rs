//! UpdateFunctionConfiguration, UpdateFunctionCode, DeleteFunction.

use super::*;

const CONFIGURATION: &str = "/2015-03-31/functions/f/configuration";
const CODE: &str = "/2015-03-31/functions/f/code";

#[tokio::test]
async fn an_update_changes_what_it_names_and_nothing_else() {
    let node = Node::new().await;
    node.function("f").await;
    let before = node.settled("f").await;
    let updated = node.put(CONFIGURATION, &json!({ "Timeout": 7 })).await.ok(200);
    assert_eq!(updated["State"], "Active");
    assert_eq!(updated["LastUpdateStatus"], "InProgress");
    assert_eq!(updated["LastUpdateStatusReason"], "The function is being created.");
    assert_eq!(updated.get("LastUpdateStatusReasonCode"), None, "the service model lists no code for it");
    let after = node.settled("f").await;
    let same = with(
        before,
        &[
            ("/Timeout", json!(7)),
            ("/RevisionId", after["RevisionId"].clone()),
            ("/LastModified", after["LastModified"].clone()),
        ],
    );
    assert_eq!(after, same);
    for empty in [json!({}), json!({ "Variables": {} })] {
        let emptied = node.put(CONFIGURATION, &json!({ "Environment": empty })).await.ok(200);
        assert_eq!(emptied.get("Environment"), None, "{emptied}");
    }
}

#[tokio::test]
async fn every_update_is_a_new_revision_and_retires_sandboxes() {
    let node = Node::new().await;
    node.function("f").await;
    let first = node.put(CONFIGURATION, &json!({ "Timeout": 7 })).await.ok(200);
    let second = node.put(CONFIGURATION, &json!({ "Timeout": 7 })).await.ok(200);
    assert_ne!(first["RevisionId"], second["RevisionId"]);
    let retired = node.invoker.retired.lock().unwrap().clone();
    assert_eq!(retired.len(), 2);
    assert_ne!(retired[0].1, retired[1].1);
}

#[tokio::test]
async fn a_stale_revision_is_a_failed_precondition() {
    let node = Node::new().await;
    node.function("f").await;
    let current = node.settled("f").await["RevisionId"].clone();
    let stale = json!({ "RevisionId": "stale", "ZipFile": zip_base64("y"), "Timeout": 5 });
    let message = "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API \
                   to retrieve the latest Revision Id";
    for path in [CONFIGURATION, CODE] {
        node.put(path, &stale).await.is_error(412, "PreconditionFailedException", message);
    }
    node.put(CONFIGURATION, &json!({ "RevisionId": current, "Timeout": 5 })).await.ok(200);
}

#[tokio::test]
async fn concurrent_updates_are_all_made() {
    let node = Node::new().await;
    node.function("f").await;
    let timeouts = [("Timeout", 11), ("MemorySize", 256), ("Timeout", 12), ("MemorySize", 512)];
    let updates = timeouts.map(|(member, value)| {
        let body = json!({ member: value });
        let node = &node;
        async move { node.put(CONFIGURATION, &body).await.ok(200) }
    });
    let [a, b, c, d] = updates;
    tokio::join!(a, b, c, d);
    let after = node.settled("f").await;
    assert!([11, 12].contains(&after["Timeout"].as_i64().unwrap()));
    assert!([256, 512].contains(&after["MemorySize"].as_i64().unwrap()));
}

#[tokio::test]
async fn new_code_replaces_the_old_which_is_deleted() {
    let node = Node::new().await;
    let before = node.function("f").await;
    let stored = || std::fs::read_dir(node.dir.path().join("code")).unwrap().count();
    let dry = node.put(CODE, &json!({ "ZipFile": zip_base64("y = 2"), "DryRun": true })).await.ok(200);
    assert_ne!(dry["CodeSha256"], before["CodeSha256"]);
    assert_eq!(node.settled("f").await["CodeSha256"], before["CodeSha256"]);
    let updated = node.put(CODE, &json!({ "ZipFile": zip_base64("y = 2") })).await.ok(200);
    assert_eq!(updated["CodeSha256"], dry["CodeSha256"]);
    while stored() != 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_deleted_function_is_gone_and_its_name_is_free() {
    let node = Node::new().await;
    node.function("f").await;
    assert_eq!(node.call("DELETE", "/2015-03-31/functions/f", Body::empty()).await.ok(204), Value::Null);
    assert_eq!(node.invoker.retired.lock().unwrap().last().unwrap(), &("f".to_owned(), "all".to_owned()));
    let gone = "Function not found: arn:aws:lambda:us-east-1:000000000000:function:f";
    for method in ["GET", "DELETE"] {
        let again = node.call(method, "/2015-03-31/functions/f", Body::empty()).await;
        again.is_error(404, "ResourceNotFoundException", gone);
    }
    while std::fs::read_dir(node.dir.path().join("chunks/origin/roots")).unwrap().count() != 0 {
        tokio::task::yield_now().await;
    }
    node.function("f").await;
}

#[tokio::test]
async fn what_cannot_be_deleted_says_so() {
    let node = Node::new().await;
    node.function("f").await;
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:f";
    for (qualifier, status, name, message) in [
        (
            "$LATEST",
            400,
            "InvalidParameterValueException",
            "$LATEST version cannot be deleted without deleting the function.".to_owned(),
        ),
        (
            "alias",
            400,
            "InvalidParameterValueException",
            "Deletion of aliases is not currently supported.".to_owned(),
        ),
        ("7", 404, "ResourceNotFoundException", format!("Function not found: {arn}:7")),
    ] {
        let path = format!("/2015-03-31/functions/f?Qualifier={qualifier}");
        node.call("DELETE", &path, Body::empty()).await.is_error(status, name, &message);
    }
    node.settled("f").await;
}
