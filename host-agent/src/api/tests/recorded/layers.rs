//! As `scripts`, of layers.

use super::*;

const API: &str = "test_lambda_api.snapshot.json";
const FUNCTIONS: &str = "/2015-03-31/functions";
const LAYERS: &str = "/2018-10-31/layers";
const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:layer";

/// A layer's version as the recordings' first is published.
fn python(more: &Value) -> Value {
    let mut body = json!({
        "Content": { "ZipFile": zip_base64("layer") },
        "CompatibleRuntimes": ["python3.12"],
        "CompatibleArchitectures": ["x86_64"],
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
pub(super) async fn layers_live_as_recorded() {
    let Some(mut recorded) = Recorded::of(API, "TestLambdaLayer::test_layer_lifecycle") else { return };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    let (function, settings) = (format!("{FUNCTIONS}/f"), format!("{FUNCTIONS}/f/configuration"));
    recorded.check("get_fn_result", &node.get(&function).await);
    recorded.check("get_fn_config_result", &node.get(&settings).await);
    let versions = format!("{LAYERS}/l/versions");
    let body = python(&json!({ "Description": "a layer", "LicenseInfo": "MIT" }));
    recorded.check("publish_result", &node.post(&versions, &body).await);
    recorded.check("publish_result_2", &node.post(&versions, &body).await);
    let layers = json!({ "Layers": [format!("{ARN}:l:1")] });
    recorded.check("update_fn_config", &node.put(&settings, &layers).await);
    node.settled("f").await;
    recorded.check("get_fn_config", &node.get(&settings).await);
    recorded.check("get_layer_ver_result", &node.get(&format!("{versions}/1")).await);
    let by_arn = format!("{LAYERS}?find=LayerVersion&Arn={ARN}:l:1");
    recorded.check("get_layer_by_arn_version", &node.get(&by_arn).await);
    recorded.check("list_layer_versions_predelete", &node.get(&versions).await);
    recorded.check("delete_layer_1", &node.delete(&format!("{versions}/1")).await);
    recorded.check("get_fn_config_postdelete", &node.get(&settings).await);
    recorded.check("delete_layer_2", &node.delete(&format!("{versions}/2")).await);
    recorded.check("list_layer_versions_postdelete", &node.get(&versions).await);
    recorded.check("publish_result_3", &node.post(&versions, &body).await);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn layers_are_refused_as_recorded() {
    let Some(mut recorded) = Recorded::of(API, "TestLambdaLayer::test_layer_exceptions") else { return };
    let node = node().await;
    let versions = format!("{LAYERS}/l/versions");
    recorded.check("publish_result", &node.post(&versions, &python(&json!({}))).await);
    for (answer, path) in [
        (
            "list_layers_exc_compatibleruntime_invalid",
            format!("{LAYERS}?CompatibleRuntime=runtimedoesnotexist"),
        ),
        (
            "list_layers_exc_compatiblearchitecture_invalid",
            format!("{LAYERS}?CompatibleArchitecture=archdoesnotexist"),
        ),
        ("list_nonexistent_layer", format!("{LAYERS}/nonexistent/versions")),
        ("get_layer_version_exc_layer_doesnotexist", format!("{LAYERS}/nonexistent/versions/1")),
        ("get_layer_version_exc_layer_version_doesnotexist_negative", format!("{versions}/-1")),
        ("get_layer_version_exc_layer_version_doesnotexist_zero", format!("{versions}/0")),
        ("get_layer_version_exc_layer_version_doesnotexist_2", format!("{versions}/2")),
        ("get_layer_version_by_arn_exc_invalidarn", format!("{LAYERS}?find=LayerVersion&Arn={ARN}:l")),
        (
            "get_layer_version_by_arn_exc_nonexistentversion",
            format!("{LAYERS}?find=LayerVersion&Arn={ARN}:l:2"),
        ),
    ] {
        recorded.check(answer, &node.get(&path).await);
    }
    for (answer, path) in [
        ("delete_nonexistent_response", format!("{LAYERS}/nonexistent/versions/1")),
        ("delete_nonexistent_version_response", format!("{versions}/2")),
        ("delete_layer_response", format!("{versions}/1")),
        ("delete_layer_again_response", format!("{versions}/1")),
        ("delete_layer_version_exc_layerversion_invalid_version", format!("{versions}/0")),
    ] {
        recorded.check(answer, &node.delete(&path).await);
    }
    let empty = json!({ "Content": { "ZipFile": zip_base64("layer") } });
    recorded.check("publish_empty_result", &node.post(&format!("{LAYERS}/other/versions"), &empty).await);
    for (answer, runtimes, architectures) in [
        ("publish_layer_version_exc_invalid_runtime_arch", json!(["invalidruntime"]), json!(["invalidarch"])),
        (
            "publish_layer_version_exc_partially_invalid_values",
            json!(["invalidruntime", "invalidruntime2", "nodejs20.x"]),
            json!(["invalidarch", "x86_64"]),
        ),
    ] {
        let compatible = json!({ "CompatibleRuntimes": runtimes, "CompatibleArchitectures": architectures });
        recorded.check(answer, &node.post(&versions, &python(&compatible)).await);
    }
    recorded.finish();
}

#[tokio::test]
pub(super) async fn layers_of_a_function_are_refused_as_recorded() {
    let test = "TestLambdaLayer::test_layer_function_exceptions";
    let Some(mut recorded) = Recorded::of(API, test) else { return };
    let node = node().await;
    let versions = format!("{LAYERS}/l/versions");
    for answer in ["publish_result", "publish_result_2", "publish_result_3"] {
        recorded.check(answer, &node.post(&versions, &python(&json!({ "CompatibleRuntimes": [] }))).await);
    }
    node.recorded_function("f").await.ok(201);
    recorded.check("get_fn_result", &node.get(&format!("{FUNCTIONS}/f")).await);
    let settings = format!("{FUNCTIONS}/f/configuration");
    for (answer, layers) in [
        ("two_layer_versions_single_function_exc", &["l:1", "l:2"][..]),
        ("three_layer_versions_single_function_exc", &["l:1", "l:2", "l:3"]),
        ("two_identical_layer_versions_single_function_exc", &["l:1", "l:1"]),
        ("add_nonexistent_layer_exc", &["doesnotexist:1"]),
        ("add_nonexistent_layer_version_exc", &["l:9"]),
        ("add_layer_arn_without_version_exc", &["l"]),
    ] {
        let arns: Vec<_> = layers.iter().map(|layer| format!("{ARN}:{layer}")).collect();
        recorded.check(answer, &node.put(&settings, &json!({ "Layers": arns })).await);
    }
    let elsewhere = format!("{ARN}:l:1").replace("us-east-1", "eu-west-1");
    let created = node.create(&with(request("g"), &[("/Layers", json!([elsewhere]))])).await;
    recorded.check("create_function_with_layer_in_different_region", &created);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn a_sixth_layer_is_refused_as_recorded() {
    let test = "TestLambdaLayer::test_layer_function_quota_exception";
    let Some(mut recorded) = Recorded::of(API, test) else { return };
    let node = node().await;
    let arns: Vec<_> = (1..=6).map(|number| format!("{ARN}:l{number}:1")).collect();
    let created = node.create(&with(request("f"), &[("/Layers", json!(arns))])).await;
    recorded.check("create_function_with_six_layers", &created);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn retired_runtimes_may_be_named_as_recorded() {
    let test = "TestLambdaLayer::test_layer_compatibilities[runtimes2]";
    let Some(mut recorded) = Recorded::of(API, test) else { return };
    let node = node().await;
    let compatible = json!({
        "CompatibleRuntimes": ["provided.al2023", "provided.al2", "provided"],
        "CompatibleArchitectures": ["arm64", "x86_64"],
    });
    let published = node.post(&format!("{LAYERS}/l/versions"), &python(&compatible)).await;
    recorded.check("publish_result", &published);
    recorded.finish();
}
