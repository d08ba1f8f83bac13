//! PutRuntimeManagementConfig, GetRuntimeManagementConfig, and what becomes of a function whose runtime the node no longer has.

use super::*;

const CONFIG: &str = "/2021-07-20/functions/f/runtime-management-config";
const FUNCTION: &str = "/2015-03-31/functions/f/configuration";
const INVOKE: &str = "/2015-03-31/functions/f/invocations";
const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:f";
const INVALID: &str = "InvalidParameterValueException";

fn mode(mode: &str) -> Value {
    json!({ "UpdateRuntimeOn": mode })
}

fn manual(arn: &Value) -> Value {
    json!({ "UpdateRuntimeOn": "Manual", "RuntimeVersionArn": arn })
}

fn answer(arn: &str, mode: &str, version: &Value) -> Value {
    json!({ "UpdateRuntimeOn": mode, "FunctionArn": arn, "RuntimeVersionArn": version })
}

impl Node {
    async fn runtime(&self, path: &str) -> Value {
        self.get(path).await.ok(200)["RuntimeVersionConfig"].clone()
    }

    /// The same node with other images of its runtimes.
    async fn with_another_image(self) -> Self {
        let node = self.restarted().await;
        *node.invoker.image.lock().unwrap() = "of the next release";
        node
    }

    #[track_caller]
    fn is_of_another_runtime(&self, got: &Got) {
        got.is_error(502, "InvalidRuntimeException", "The runtime could not be started: another version");
    }
}

#[tokio::test]
async fn a_function_has_the_nodes_runtime_until_something_else_is_said() {
    let node = Node::new().await;
    node.function("f").await;
    assert_eq!(node.get(CONFIG).await.ok(200), answer(ARN, "Auto", &Value::Null));
    for set in ["Auto", "FunctionUpdate", "Auto"] {
        assert_eq!(node.put(CONFIG, &mode(set)).await.ok(200), answer(ARN, set, &Value::Null));
        assert_eq!(node.get(CONFIG).await.ok(200), answer(ARN, set, &Value::Null));
    }
    let version = node.runtime(FUNCTION).await["RuntimeVersionArn"].clone();
    let before = node.get(FUNCTION).await.ok(200);
    assert_eq!(node.put(CONFIG, &manual(&version)).await.ok(200), answer(ARN, "Manual", &version));
    assert_eq!(node.get(FUNCTION).await.ok(200), before, "it is no update of the function");

    let node = node.restarted().await;
    assert_eq!(node.get(CONFIG).await.ok(200), answer(ARN, "Manual", &version));
    let qualified = format!("{CONFIG}?Qualifier=$LATEST");
    let arn = format!("{ARN}:$LATEST");
    assert_eq!(node.get(&qualified).await.ok(200), answer(&arn, "Manual", &version));
    assert_eq!(node.put(&qualified, &mode("Auto")).await.ok(200), answer(&arn, "Auto", &Value::Null));
}

#[tokio::test]
async fn each_version_is_managed_by_itself() {
    let node = Node::new().await;
    node.function("f").await;
    node.put(CONFIG, &mode("FunctionUpdate")).await.ok(200);
    node.call("POST", "/2015-03-31/functions/f/versions", "{}").await.ok(201);
    let (first, arn) = (format!("{CONFIG}?Qualifier=1"), format!("{ARN}:1"));
    assert_eq!(node.get(&first).await.ok(200), answer(&arn, "Auto", &Value::Null));
    let version = node.runtime(FUNCTION).await["RuntimeVersionArn"].clone();
    node.put(&first, &manual(&version)).await.ok(200);
    assert_eq!(node.get(&first).await.ok(200), answer(&arn, "Manual", &version));
    assert_eq!(node.get(CONFIG).await.ok(200)["UpdateRuntimeOn"], "FunctionUpdate");
}

#[tokio::test]
async fn what_a_node_cannot_keep_to_is_refused() {
    let node = Node::new().await;
    node.function("f").await;
    let here = node.runtime(FUNCTION).await["RuntimeVersionArn"].clone();
    let other = "arn:aws:lambda:us-east-1::runtime:0123456789abcdef";
    let said = format!(
        "The runtime version {other} is not available. The only version of python3.13 on this Tinderbox node is {}.",
        here.as_str().unwrap()
    );
    let required = "RuntimeVersionArn is required when UpdateRuntimeOn is Manual.";
    let unasked = "RuntimeVersionArn can only be given when UpdateRuntimeOn is Manual.";
    for (body, message) in [
        (manual(&other.into()), said.as_str()),
        (mode("Manual"), required),
        (with(mode("Auto"), &[("/RuntimeVersionArn", here.clone())]), unasked),
        (with(mode("FunctionUpdate"), &[("/RuntimeVersionArn", here.clone())]), unasked),
    ] {
        node.put(CONFIG, &body).await.is_error(400, INVALID, message);
    }
    for body in [json!({}), mode("auto"), manual(&"runtime".into()), manual(&"".into())] {
        let refused = node.put(CONFIG, &body).await;
        assert_eq!(refused.header("x-amzn-errortype"), Some("ValidationException"), "{body}");
    }
    let alias = json!({ "Name": "live", "FunctionVersion": "$LATEST" });
    node.call("POST", "/2015-03-31/functions/f/aliases", alias.to_string()).await.ok(201);
    let live = format!("{CONFIG}?Qualifier=live");
    for refused in [node.get(&live).await, node.put(&live, &mode("Auto")).await] {
        assert_eq!((refused.status.as_u16(), refused.header("x-amzn-errortype")), (400, Some(INVALID)));
    }
    let none = "arn:aws:lambda:us-east-1:000000000000:function:none";
    for (path, arn) in [
        (CONFIG.replace("/f/", "/none/"), none.to_owned()),
        (format!("{CONFIG}?Qualifier=7"), format!("{ARN}:7")),
    ] {
        for missing in [node.get(&path).await, node.put(&path, &mode("Auto")).await] {
            missing.is_error(404, "ResourceNotFoundException", &format!("Function not found: {arn}"));
        }
    }
    assert_eq!(node.get(CONFIG).await.ok(200)["UpdateRuntimeOn"], "Auto");
}

#[tokio::test]
async fn what_is_pinned_never_runs_on_another_version() {
    let node = Node::new().await;
    node.function("f").await;
    let pinned = node.runtime(FUNCTION).await["RuntimeVersionArn"].clone();
    node.put(CONFIG, &manual(&pinned)).await.ok(200);
    node.call("POST", INVOKE, "{}").await.ok(200);
    assert!(node.invoker.retired.lock().unwrap().contains(&("f".into(), "sandboxes".into())));

    let node = node.with_another_image().await;
    node.is_of_another_runtime(&node.call("POST", INVOKE, "{}").await);
    let runtime = node.runtime(FUNCTION).await;
    assert_eq!(runtime["RuntimeVersionArn"], pinned);
    assert_eq!(runtime["Error"]["ErrorCode"], "InvalidRuntimeException");
    assert_eq!(node.get(CONFIG).await.ok(200), answer(ARN, "Manual", &pinned));
    assert_eq!(node.put(CONFIG, &manual(&pinned)).await.header("x-amzn-errortype"), Some(INVALID));

    node.put(CONFIG, &mode("Auto")).await.ok(200);
    node.call("POST", INVOKE, "{}").await.ok(200);
    let runtime = node.runtime(FUNCTION).await;
    assert!(runtime["RuntimeVersionArn"] != pinned && runtime["Error"].is_null(), "{runtime}");
}

#[tokio::test]
async fn an_update_of_the_function_brings_the_nodes_version() {
    let node = Node::new().await;
    node.function("f").await;
    node.put(CONFIG, &mode("FunctionUpdate")).await.ok(200);
    let node = node.with_another_image().await;
    node.is_of_another_runtime(&node.call("POST", INVOKE, "{}").await);
    // It is that already: no update.
    node.put(CONFIG, &mode("FunctionUpdate")).await.ok(200);
    node.is_of_another_runtime(&node.call("POST", INVOKE, "{}").await);
    assert!(node.runtime(FUNCTION).await["Error"].is_object());

    node.put(FUNCTION, &json!({ "Description": "new" })).await.ok(200);
    node.settled("f").await;
    node.call("POST", INVOKE, "{}").await.ok(200);
    assert!(node.runtime(FUNCTION).await["Error"].is_null());
    assert_eq!(node.get(CONFIG).await.ok(200), answer(ARN, "FunctionUpdate", &Value::Null));

    let node = node.restarted().await;
    node.is_of_another_runtime(&node.call("POST", INVOKE, "{}").await);
    let code = json!({ "ZipFile": zip_base64("x = 2") });
    node.put("/2015-03-31/functions/f/code", &code).await.ok(200);
    node.settled("f").await;
    node.call("POST", INVOKE, "{}").await.ok(200);
}

#[tokio::test]
async fn a_pinned_function_is_given_no_other_runtime() {
    let node = Node::new().await;
    node.function("f").await;
    let pinned = node.runtime(FUNCTION).await["RuntimeVersionArn"].clone();
    node.put(CONFIG, &manual(&pinned)).await.ok(200);
    let other = json!({ "Runtime": "nodejs20.x" });
    assert_eq!(node.put(FUNCTION, &other).await.header("x-amzn-errortype"), Some(INVALID));
    node.put(FUNCTION, &json!({ "Timeout": 5 })).await.ok(200);
    node.settled("f").await;
    node.put(CONFIG, &mode("Auto")).await.ok(200);
    node.put(FUNCTION, &other).await.ok(200);
}

#[tokio::test]
async fn the_runtimes_are_listed_with_their_versions_and_whom_they_stand_in_for() {
    let node = Node::new().await;
    node.function("f").await;
    let listed = node.get("/tinderbox/runtimes").await.ok(200)["Runtimes"].take();
    let named: Vec<_> = listed.as_array().unwrap().iter().map(|one| &one["Runtime"]).collect();
    assert_eq!(named, ["nodejs20.x", "provided.al2023", "python3.13"]);
    assert_eq!(listed[0]["StandsInFor"], json!(["nodejs18.x", "nodejs22.x", "nodejs24.x"]));
    assert_eq!(listed[1]["StandsInFor"], json!(["provided.al2"]));
    let arn = node.runtime(FUNCTION).await["RuntimeVersionArn"].clone();
    assert_eq!(listed[2]["RuntimeVersionArn"], arn);
    node.put(CONFIG, &manual(&listed[2]["RuntimeVersionArn"])).await.ok(200);
}
