//! Access keys with policies, as clients find them.

use super::{
    url_auth::{GOOD, Signer},
    *,
};

const KEYS: &str = "/tinderbox/keys";
const HOST: &str = "node:9000";
const F: &str = "arn:aws:lambda:us-east-1:000000000000:function:f";
const INVOKE_F: &str = "/2015-03-31/functions/f/invocations";
const UNKNOWN: &str = "The security token included in the request is invalid.";

/// Half of a key each.
pub(super) struct Held {
    id: String,
    secret: String,
}

impl Held {
    pub(super) async fn make(node: &Node, statements: Value) -> Self {
        let body = json!({ "Name": "ann", "Policy": policy(statements) });
        let made = node.call("POST", KEYS, body.to_string()).await.ok(201);
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        Self { id: text("AccessKeyId"), secret: text("SecretAccessKey") }
    }

    pub(super) async fn call(&self, node: &Node, method: &str, path: &str, body: &str) -> Got {
        let signer = Signer { key: &self.id, secret: &self.secret, ..GOOD };
        let request = signer.request_by(method, HOST, path, body);
        node.send(request.body(body.to_owned().into()).unwrap()).await
    }

    /// Status and error of an operation on logs.
    async fn asks_logs(&self, node: &Node, operation: &str, body: &str) -> (u16, Option<String>) {
        let signer = Signer { key: &self.id, secret: &self.secret, service: "logs", ..GOOD };
        let target = format!("Logs_20140328.{operation}");
        let request = signer.request_with("POST", (HOST, "/"), body, &[("x-amz-target", &target)]);
        let got = node.send(request.body(body.to_owned().into()).unwrap()).await;
        (got.status.as_u16(), got.json()["__type"].as_str().map(str::to_owned))
    }
}

fn policy(statements: Value) -> Value {
    json!({ "Version": "2012-10-17", "Statement": statements })
}

pub(super) fn allow(action: &str, resource: &str) -> Value {
    json!({ "Effect": "Allow", "Action": action, "Resource": resource })
}

fn denied(action: &str, resource: &str) -> String {
    format!(
        "User: arn:aws:iam::000000000000:user/ann is not authorized to perform: {action} on resource: {resource} \
         because no identity-based policy allows the {action} action"
    )
}

#[track_caller]
pub(super) fn is_denied(got: &Got, action: &str, resource: &str) {
    got.is_error(403, "AccessDeniedException", &denied(action, resource));
}

#[tokio::test]
async fn a_key_that_may_invoke_one_function_may_do_nothing_else() {
    let node = Node::new().await;
    node.function("f").await;
    node.function("g").await;
    let key = Held::make(&node, allow("lambda:InvokeFunction", "f")).await;
    key.call(&node, "POST", INVOKE_F, "{}").await.ok(200);
    let g = F.replace("n:f", "n:g");
    for (method, path, body, action, resource) in [
        ("POST", "/2015-03-31/functions/g/invocations", "{}", "lambda:InvokeFunction", g.as_str()),
        ("POST", "/2021-11-15/functions/g/response-streaming-invocations", "{}", "lambda:InvokeFunction", &g),
        ("POST", "/2014-11-13/functions/f/invoke-async", "{}", "lambda:InvokeAsync", F),
        ("GET", "/2015-03-31/functions/f", "", "lambda:GetFunction", F),
        ("HEAD", "/2015-03-31/functions/f", "", "", ""),
        ("GET", "/2015-03-31/functions", "", "lambda:ListFunctions", "*"),
        ("GET", "/2015-03-31/functions/", "", "lambda:ListFunctions", "*"),
        ("DELETE", "/2015-03-31/functions/f", "", "lambda:DeleteFunction", F),
        (
            "POST",
            "/2015-03-31/functions",
            "{\"FunctionName\": \"new\"}",
            "lambda:CreateFunction",
            &F.replace("n:f", "n:new"),
        ),
        ("POST", "/2015-03-31/functions/f/policy", "{}", "lambda:AddPermission", F),
        ("GET", "/2018-10-31/layers", "", "lambda:ListLayers", "*"),
        (
            "GET",
            "/2018-10-31/layers/l/versions/01",
            "",
            "lambda:GetLayerVersion",
            "arn:aws:lambda:us-east-1:000000000000:layer:l:1",
        ),
        ("GET", "/tinderbox/keys", "", "tinderbox:GetKeys", "*"),
        ("POST", "/tinderbox/keys", "{}", "tinderbox:PostKeys", "*"),
        ("PUT", "/tinderbox/keys/x/policy", "{}", "tinderbox:PutKeysPolicy", "*"),
        ("GET", "/tinderbox/node", "", "tinderbox:GetNode", "*"),
        ("PUT", "/tinderbox/egress/f", "{}", "tinderbox:PutEgress", F),
        ("DELETE", "/tinderbox/queues/q", "", "tinderbox:DeleteQueues", "*"),
        ("POST", "/tinderbox/chunks/gc", "", "tinderbox:PostChunksGc", "*"),
    ] {
        let got = key.call(&node, method, path, body).await;
        if method == "HEAD" {
            assert_eq!(got.status.as_u16(), 403, "{path}");
        } else {
            is_denied(&got, action, resource);
        }
    }
    assert_eq!(node.invoker.seen.lock().unwrap().len(), 1);
    // What is none of the node's is told so, to whoever signs.
    key.call(&node, "GET", "/nothing", "").await.is_error(
        404,
        "UnknownOperationException",
        "The requested operation is not recognized by the service.",
    );
}

#[tokio::test]
async fn logs_are_for_who_may_read_that_group() {
    let node = Node::new().await;
    let group = |name: &str| format!("arn:aws:logs:us-east-1:000000000000:log-group:/aws/lambda/{name}:*");
    let key = Held::make(&node, allow("logs:Filter*", &group("f"))).await;
    let asks = async |operation: &str, body: &str| key.asks_logs(&node, operation, body).await;
    // In that protocol a refusal is a 400.
    let denied = (400, Some("AccessDeniedException".to_owned()));
    let of = |name: &str| json!({ "logGroupName": format!("/aws/lambda/{name}") }).to_string();
    // It may look, and there is none yet.
    assert_eq!(asks("FilterLogEvents", &of("f")).await, (400, Some("ResourceNotFoundException".to_owned())));
    assert_eq!(asks("FilterLogEvents", &of("g")).await, denied);
    let other = json!({ "logGroupIdentifier": group("g").trim_end_matches(":*") }).to_string();
    assert_eq!(asks("FilterLogEvents", &other).await, denied);
    assert_eq!(asks("DescribeLogGroups", "{}").await, denied);
    assert_eq!(asks("DeleteLogGroup", &of("f")).await, denied);
    // Nor what it may with members that the operation does not read.
    let key = Held::make(&node, allow("logs:*", &group("f"))).await;
    assert_eq!(key.asks_logs(&node, "DescribeLogGroups", &of("f")).await, denied);
}

#[tokio::test]
async fn a_denial_wins_however_a_version_is_written() {
    let node = Node::new().await;
    node.function("f").await;
    node.call("POST", "/2015-03-31/functions/f/versions", "{}").await.ok(201);
    let deny = json!({ "Effect": "Deny", "Action": "lambda:Invoke*", "Resource": format!("{F}:1") });
    let key = Held::make(&node, json!([allow("*", "*"), deny])).await;
    key.call(&node, "POST", INVOKE_F, "{}").await.ok(200);
    let message = format!(
        "User: arn:aws:iam::000000000000:user/ann is not authorized to perform: lambda:InvokeFunction on resource: {F}:1 \
         with an explicit deny in an identity-based policy"
    );
    for path in [
        format!("{INVOKE_F}?Qualifier=1"),
        format!("{INVOKE_F}?Qualifier=001"),
        format!("{INVOKE_F}?Qualifier=2&Qualifier=%31"),
        "/2015-03-31/functions/f%3A1/invocations".into(),
        "/2015-03-31/functions/f:01/invocations".into(),
        format!("/2015-03-31/functions/{F}:1/invocations"),
        "/2015-03-31/functions/%66:1/invocations/".into(),
    ] {
        key.call(&node, "POST", &path, "{}").await.is_error(403, "AccessDeniedException", &message);
    }
}

/// Its name may have a version, and it reads no parameter.
#[tokio::test]
async fn the_older_way_to_invoke_is_decided_on_what_it_runs() {
    let node = Node::new().await;
    node.function("f").await;
    node.call("POST", "/2015-03-31/functions/f/versions", "{}").await.ok(201);
    let invoke = |name: &str| format!("/2014-11-13/functions/{name}/invoke-async");
    let key = Held::make(&node, allow("lambda:InvokeAsync", F)).await;
    key.call(&node, "POST", &invoke("f"), "{}").await.ok(202);
    let first = format!("{F}:1");
    is_denied(&key.call(&node, "POST", &invoke("f:1"), "{}").await, "lambda:InvokeAsync", &first);
    let key = Held::make(&node, allow("lambda:InvokeAsync", &first)).await;
    key.call(&node, "POST", &invoke("f:1"), "{}").await.ok(202);
    let by_parameter = format!("{}?Qualifier=1", invoke("f"));
    is_denied(&key.call(&node, "POST", &by_parameter, "{}").await, "lambda:InvokeAsync", F);
}

/// Two operations have one path and one handler: what decides is what the handler reads, however it is spelled.
#[tokio::test]
async fn a_parameter_makes_no_operation_another() {
    let node = Node::new().await;
    let key = Held::make(&node, allow("lambda:ListLayers", "*")).await;
    key.call(&node, "GET", "/2018-10-31/layers", "").await.ok(200);
    let layer = "arn:aws:lambda:us-east-1:000000000000:layer:l:1";
    for find in ["find=LayerVersion", "find=%4CayerVersion", "find=x&find=LayerVersion"] {
        let got = key.call(&node, "GET", &format!("/2018-10-31/layers?{find}&Arn={layer}"), "").await;
        is_denied(&got, "lambda:GetLayerVersion", layer);
    }
}

#[tokio::test]
async fn who_may_not_do_a_thing_may_not_have_it_done() {
    let node = Node::new().await;
    node.function("f").await;
    node.function("g").await;
    let key = Held::make(&node, allow("lambda:*", "f*")).await;
    let (g, layer) = (F.replace("n:f", "n:g"), "arn:aws:lambda:us-east-1:000000000000:layer:l:1");
    let to_g = json!({ "DestinationConfig": { "OnSuccess": { "Destination": g } } }).to_string();
    let config = "/2019-09-25/functions/f/event-invoke-config";
    for method in ["PUT", "POST"] {
        is_denied(&key.call(&node, method, config, &to_g).await, "lambda:InvokeFunction", &g);
    }
    let queue = "arn:aws:sqs:us-east-1:000000000000:q";
    let to_queue = json!({ "DeadLetterConfig": { "TargetArn": queue } }).to_string();
    let path = "/2015-03-31/functions/f/configuration";
    is_denied(&key.call(&node, "PUT", path, &to_queue).await, "sqs:SendMessage", queue);
    let group =
        |name: &str| json!({ "LoggingConfig": { "LogGroup": format!("/aws/lambda/{name}") } }).to_string();
    let of_g = "arn:aws:logs:us-east-1:000000000000:log-group:/aws/lambda/g:*";
    is_denied(&key.call(&node, "PUT", path, &group("g")).await, "logs:PutLogEvents", of_g);
    for (arn, action, resource) in [
        ("arn:aws:sns:us-east-1:000000000000:t", "sns:Publish", "arn:aws:sns:us-east-1:000000000000:t"),
        ("arn:aws:s3:::bucket", "s3:PutObject", "arn:aws:s3:::bucket/*"),
    ] {
        let told = json!({ "DestinationConfig": { "OnFailure": { "Destination": arn } } }).to_string();
        is_denied(&key.call(&node, "PUT", config, &told).await, action, resource);
    }
    let layered = json!({ "Layers": [layer.replace(":1", ":01")] }).to_string();
    is_denied(&key.call(&node, "PUT", path, &layered).await, "lambda:GetLayerVersion", layer);
    let mut new = request("f2");
    new["Layers"] = json!([layer]);
    let got = key.call(&node, "POST", "/2015-03-31/functions", &new.to_string()).await;
    is_denied(&got, "lambda:GetLayerVersion", layer);
    key.call(&node, "POST", "/2015-03-31/functions", &request("f2").to_string()).await.ok(201);
    key.call(&node, "PUT", path, &group("f")).await.ok(200);
}

#[tokio::test]
async fn a_change_counts_at_once_and_after_a_restart() {
    let mut node = Node::new().await;
    node.function("f").await;
    let key = Held::make(&node, allow("lambda:InvokeFunction", "*")).await;
    let (own, state) = (format!("{KEYS}/{}", key.id), json!({ "State": "Inactive" }));
    for restarts in [false, true] {
        if restarts {
            node = node.restarted().await;
        }
        key.call(&node, "POST", INVOKE_F, "{}").await.ok(200);
    }
    let read_only = policy(json!([{ "Effect": "Allow", "Action": ["lambda:Get*"], "Resource": ["f"] }]));
    let shown = node.put(&format!("{own}/policy"), &read_only).await.ok(200);
    assert_eq!((&shown["Policy"], shown.get("SecretAccessKey")), (&read_only, None));
    is_denied(&key.call(&node, "POST", INVOKE_F, "{}").await, "lambda:InvokeFunction", F);
    key.call(&node, "GET", "/2015-03-31/functions/f", "").await.ok(200);
    node.put(&format!("{own}/state"), &state).await.ok(200);
    let get = "/2015-03-31/functions/f";
    key.call(&node, "GET", get, "").await.is_error(403, "UnrecognizedClientException", UNKNOWN);
    let node = node.restarted().await;
    key.call(&node, "GET", get, "").await.is_error(403, "UnrecognizedClientException", UNKNOWN);
    let listed = node.get(KEYS).await.ok(200);
    let only = &listed["Keys"][0];
    assert_eq!(
        (&only["AccessKeyId"], &only["Name"], &only["State"]),
        (&json!(key.id), &json!("ann"), &json!("Inactive"))
    );
    assert!(!listed.to_string().contains(&key.secret));
    node.put(&format!("{own}/state"), &json!({ "State": "Active" })).await.ok(200);
    key.call(&node, "GET", get, "").await.ok(200);
    node.call("DELETE", &own, Body::empty()).await.ok(204);
    // This node takes strangers, of whom the key is one now.
    assert_eq!(node.get(KEYS).await.ok(200), json!({ "Keys": [] }));
    node.call("DELETE", &own, Body::empty()).await.is_error(
        404,
        "ResourceNotFoundException",
        &format!("there is no access key {}", key.id),
    );
}

#[tokio::test]
async fn what_makes_no_key_is_refused() {
    let node = Node::new().await;
    for (body, said) in [
        (json!({}), "missing field `Policy`"),
        (json!({ "Policy": policy(json!([])) }), "no Statement"),
        (json!({ "Policy": policy(allow("*", "*")), "Name": "a/b" }), "`a/b` is no name"),
        (json!({ "Policy": policy(allow("*", "*")), "Admin": true }), "unknown field `Admin`"),
        (
            json!({ "Policy": policy(allow("lambda:InvokeFuncton", "*")) }),
            "`lambda:invokefuncton` is no action of Lambda's.",
        ),
        (
            json!({ "Policy": policy(json!({ "Effect": "Deny", "Action": "*", "Resource": "*", "Condition": {} })) }),
            "Condition is not supported by this Tinderbox node",
        ),
    ] {
        let got = node.call("POST", KEYS, body.to_string()).await;
        assert_eq!(
            (got.status.as_u16(), got.header("x-amzn-errortype")),
            (400, Some("InvalidRequestContentException"))
        );
        assert!(got.json()["message"].as_str().unwrap().contains(said), "{body}: {:?}", got.body);
    }
    assert_eq!(node.get(KEYS).await.ok(200), json!({ "Keys": [] }));
}

#[tokio::test]
async fn a_functions_policy_grants_beside_the_keys_own_and_not_against_it() {
    let node = Node::new().await;
    node.function("f").await;
    let nobody = allow("lambda:ListFunctions", "*");
    let key = Held::make(&node, nobody.clone()).await;
    is_denied(&key.call(&node, "POST", INVOKE_F, "{}").await, "lambda:InvokeFunction", F);
    let grant = json!({
        "StatementId": "s",
        "Action": "lambda:InvokeFunction",
        "Principal": "arn:aws:iam::000000000000:user/ann",
    });
    node.call("POST", "/2015-03-31/functions/f/policy", grant.to_string()).await.ok(201);
    key.call(&node, "POST", INVOKE_F, "{}").await.ok(200);
    let latest = format!("{INVOKE_F}?Qualifier=$LATEST");
    is_denied(
        &key.call(&node, "POST", &latest, "{}").await,
        "lambda:InvokeFunction",
        &format!("{F}:$LATEST"),
    );
    // All actions are all of Lambda's.
    let all = json!({ "StatementId": "all", "Action": "*", "Principal": "*" });
    node.call("POST", "/2015-03-31/functions/f/policy", all.to_string()).await.ok(201);
    key.call(&node, "GET", "/2015-03-31/functions/f", "").await.ok(200);
    is_denied(&key.call(&node, "PUT", "/tinderbox/egress/f", "{}").await, "tinderbox:PutEgress", F);
    let deny = json!({ "Effect": "Deny", "Action": "lambda:InvokeFunction", "Resource": "f" });
    node.put(&format!("{KEYS}/{}/policy", key.id), &policy(json!([deny]))).await.ok(200);
    let got = key.call(&node, "POST", INVOKE_F, "{}").await;
    assert_eq!(got.header("x-amzn-errortype"), Some("AccessDeniedException"));
}

#[tokio::test]
async fn a_url_for_who_signs_is_for_those_who_may() {
    let node = Node::new().await;
    node.function("f").await;
    let made = node.call("POST", "/2021-10-31/functions/f/url", json!({ "AuthType": "AWS_IAM" }).to_string());
    let url: axum::http::Uri = made.await.ok(201)["FunctionUrl"].as_str().unwrap().parse().unwrap();
    let host = url.authority().unwrap().to_string();
    let key = Held::make(&node, allow("lambda:InvokeFunction", "f")).await;
    let call = async || {
        let signer = Signer { key: &key.id, secret: &key.secret, ..GOOD };
        let request = signer.request_by("POST", &host, "/", "{}");
        node.send(request.body(Body::from("{}")).unwrap()).await
    };
    let got = call().await;
    assert_eq!((got.status.as_u16(), got.json()), (403, json!({ "Message": "Forbidden" })));
    node.open("f", "").await;
    assert_eq!(call().await.status.as_u16(), 403, "an open URL's permission is for open URLs");
    let may = async |actions: &[&str]| {
        let statements: Vec<_> = actions.iter().map(|action| allow(action, "f")).collect();
        node.put(&format!("{KEYS}/{}/policy", key.id), &policy(json!(statements))).await.ok(200);
    };
    may(&["lambda:InvokeFunctionUrl"]).await;
    let by_url = call().await.status.as_u16();
    assert_eq!(by_url, 200, "the other half is granted to everybody who comes by the URL");
    node.call("DELETE", "/2015-03-31/functions/f/policy/open-invoke", Body::empty()).await.ok(204);
    assert_eq!(call().await.status.as_u16(), 403);
    may(&["lambda:InvokeFunctionUrl", "lambda:InvokeFunction"]).await;
    let event = call().await.ok(200);
    let said = &event["requestContext"]["authorizer"]["iam"]["userArn"];
    assert_eq!(said, "arn:aws:iam::000000000000:user/ann");
}
