//! As `scripts`, of functions that are container images.

use super::{
    super::images::{image, of_image},
    *,
};

const API: &str = "test_lambda_api.snapshot.json";
const FUNCTIONS: &str = "/2015-03-31/functions";

/// A node with two images.
async fn node_with_images() -> Node {
    let node = node().await;
    for name in ["first", "second"] {
        node.push(&format!("{name}:latest"), &image(name).archive()).await.ok(201);
    }
    node
}

/// The recordings' function.
fn function() -> Value {
    let variables = json!({ "Variables": { "CUSTOM_ENV": "test" } });
    with(of_image("f", "first:latest"), &[("/Environment", variables)])
}

/// What is read of it after each step.
async fn read(node: &Node, recorded: &mut Recorded, [function, settings]: [&str; 2]) {
    node.settled("f").await;
    recorded.check(function, &node.get(&format!("{FUNCTIONS}/f")).await);
    recorded.check(settings, &node.get(&format!("{FUNCTIONS}/f/configuration")).await);
}

#[tokio::test]
pub(super) async fn functions_of_images_live_as_recorded() {
    let Some(mut recorded) = Recorded::of(API, "TestLambdaImages::test_lambda_image_crud") else { return };
    let node = node_with_images().await;
    recorded.check("create-image-response", &node.create(&function()).await);
    read(&node, &mut recorded, ["get-function-code-response", "get-function-config-response"]).await;
    let code = format!("{FUNCTIONS}/f/code");
    let zip = json!({ "ZipFile": zip_base64("x = 1") });
    recorded.check("image-to-zipfile-error", &node.put(&code, &zip).await);
    let second = json!({ "ImageUri": "second:latest" });
    recorded.check("update-function-code-response", &node.put(&code, &second).await);
    let after = ["get-function-code-response-after-update", "get-function-config-response-after-update"];
    read(&node, &mut recorded, after).await;
    recorded.finish();
}

#[tokio::test]
pub(super) async fn how_images_are_run_is_said_as_recorded() {
    let test = "TestLambdaImages::test_lambda_image_and_image_config_crud";
    let Some(mut recorded) = Recorded::of(API, test) else { return };
    let node = node_with_images().await;
    let said = json!({ "EntryPoint": ["sh"], "Command": ["-c", "echo test"], "WorkingDirectory": "/app1" });
    let created = node.create(&with(function(), &[("/ImageConfig", said)])).await;
    recorded.check("create-image-with-config-response", &created);
    let first = ["get-function-code-with-config-response", "get-function-config-with-config-response"];
    read(&node, &mut recorded, first).await;
    let settings = format!("{FUNCTIONS}/f/configuration");
    let said = json!({ "ImageConfig": { "Command": ["-c", "echo test1"], "WorkingDirectory": "/app1" } });
    recorded.check("update-function-code-response", &node.put(&settings, &said).await);
    let after = ["get-function-code-response-after-update", "get-function-config-response-after-update"];
    read(&node, &mut recorded, after).await;
    let nothing = json!({ "ImageConfig": {} });
    recorded.check("update-function-code-delete-imageconfig-response", &node.put(&settings, &nothing).await);
    let deleted = [
        "get-function-code-response-after-delete-imageconfig",
        "get-function-config-response-after-delete-imageconfig",
    ];
    read(&node, &mut recorded, deleted).await;
    recorded.finish();
}

#[tokio::test]
pub(super) async fn a_zip_does_not_become_an_image_as_recorded() {
    let test = "TestLambdaImages::test_lambda_zip_file_to_image";
    let Some(mut recorded) = Recorded::of(API, test) else { return };
    let node = node_with_images().await;
    let members = [("/Runtime", json!("python3.12")), ("/Handler", json!("handler.handler"))];
    recorded.check("create-image-response", &node.create(&with(request("f"), &members)).await);
    node.settled("f").await;
    for after in ["", "-after-update"] {
        let (function, configuration) = (format!("{FUNCTIONS}/f"), format!("{FUNCTIONS}/f/configuration"));
        recorded.check(&format!("get-function-code-response{after}"), &node.get(&function).await);
        recorded.check(&format!("get-function-config-response{after}"), &node.get(&configuration).await);
        if after.is_empty() {
            let code = json!({ "ImageUri": "first:latest" });
            recorded.check("zipfile-to-image-error", &node.put(&format!("{function}/code"), &code).await);
        }
    }
    recorded.finish();
}

#[tokio::test]
pub(super) async fn versions_of_images_are_published_as_recorded() {
    let test = "TestLambdaImages::test_lambda_image_versions";
    let Some(mut recorded) = Recorded::of(API, test) else { return };
    let node = node_with_images().await;
    let created = node.create(&with(function(), &[("/Publish", json!(true))])).await;
    recorded.check("create_image_response", &created);
    for name in ["f", "f:1"] {
        node.settled(name).await;
    }
    recorded.check("get_function_result", &node.get(&format!("{FUNCTIONS}/f")).await);
    let versions = format!("{FUNCTIONS}/f/versions");
    recorded.check("list_versions_result", &node.get(&versions).await);
    let settings = format!("{FUNCTIONS}/f/configuration");
    for (turn, name) in [("first", "Second"), ("second", "Third")] {
        let said = json!({ "Description": format!("{name} version :)") });
        recorded.check(&format!("{turn}_update_response"), &node.put(&settings, &said).await);
        node.settled("f").await;
        recorded.check(&format!("{turn}_update_get_function"), &node.get(&format!("{FUNCTIONS}/f")).await);
        if turn == "first" {
            let wrong = json!({ "CodeSha256": "a".repeat(64) });
            recorded.check("invalid_sha_publish", &node.post(&versions, &wrong).await);
        }
        let said = json!({ "Description": format!("{name} version description :)") });
        recorded.check(&format!("{turn}_publish_response"), &node.post(&versions, &said).await);
    }
    recorded.finish();
}
