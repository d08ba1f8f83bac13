//! Functions' URLs: requests by their hosts, and what the function and the client see.

use super::*;

const CONFIG: &str = "/2021-10-31/functions/f/url";

/// A node whose function `f` has a URL; its host.
async fn node(config: Value) -> (Node, String) {
    let node = Node::new().await;
    node.function("f").await;
    let host = host(&node, CONFIG, config).await;
    node.open("f", "").await;
    (node, host)
}

async fn host(node: &Node, path: &str, config: Value) -> String {
    let made = node.call("POST", path, config.to_string()).await.ok(201);
    let url: axum::http::Uri = made["FunctionUrl"].as_str().unwrap().parse().unwrap();
    url.authority().unwrap().to_string()
}

/// The statements that AWS asks for: that everybody may use the URL, and call the function by nothing else.
fn through_url() -> Value {
    let action = "lambda:InvokeFunctionUrl";
    json!({ "StatementId": "open", "Action": action, "Principal": "*", "FunctionUrlAuthType": "NONE" })
}

fn by_url() -> Value {
    let action = "lambda:InvokeFunction";
    json!({ "StatementId": "open-invoke", "Action": action, "Principal": "*", "InvokedViaFunctionUrl": true })
}

impl Node {
    /// Grants everybody what they need to call an open URL of a function, or of `?Qualifier=` what.
    pub(super) async fn open(&self, function: &str, of: &str) {
        let path = format!("/2015-03-31/functions/{function}/policy{of}");
        for permission in [through_url(), by_url()] {
            self.call("POST", &path, permission.to_string()).await.ok(201);
        }
    }

    async fn at_host(&self, method: &str, host: &str, path: &str, body: impl Into<Body>) -> Got {
        let request = Request::builder().method(method).uri(path).header("host", host);
        self.send(request.header("content-type", "application/json").body(body.into()).unwrap()).await
    }

    fn last_seen(&self) -> Invocation {
        self.invoker.seen.lock().unwrap().last().unwrap().clone()
    }
}

#[track_caller]
fn refused(got: &Got, status: u16, message: &str) {
    assert_eq!((got.status.as_u16(), got.json()), (status, json!({ "Message": message })));
    assert_eq!(got.header("x-amzn-requestid").map(str::len), Some(36));
    assert_eq!(got.header("x-amzn-errortype"), (status == 403).then_some("AccessDeniedException"));
}

#[tokio::test]
async fn a_request_is_an_event_and_an_answer() {
    let (node, host) = node(json!({ "AuthType": "NONE" })).await;
    let got = node.at_host("PUT", &host, "/some/path?a=b", "{}").await;
    // The invoker answers with the event, which has no status.
    let event = got.json();
    assert_eq!((got.status.as_u16(), got.header("content-type")), (200, Some("application/json")));
    assert_eq!(
        (&event["version"], &event["rawPath"], &event["body"]),
        (&json!("2.0"), &json!("/some/path"), &json!("{}"))
    );
    assert_eq!(event["requestContext"]["requestId"].as_str(), got.header("x-amzn-requestid"));
    assert_eq!(event["requestContext"]["accountId"], "anonymous");
    let seen = node.last_seen();
    assert_eq!(seen.invoked_arn, "arn:aws:lambda:us-east-1:000000000000:function:f");
    assert_eq!(Some(seen.request_id.as_str()), got.header("x-amzn-requestid"));
    assert!(seen.slot.is_some(), "it counts as every other call");
    let trace = event["headers"]["x-amzn-trace-id"].as_str().unwrap();
    assert!(trace.starts_with("Root=1-"), "{trace}");
    assert_eq!(seen.trace_id.as_deref(), Some(trace), "of the invocation");
    for (sent, is_kept) in [("Root=1-2-3".to_owned(), true), ("x".repeat(600), false)] {
        let request = Request::builder().uri("/").header("host", &host).header("x-amzn-trace-id", &sent);
        let event = node.send(request.body(Body::empty()).unwrap()).await.json();
        let trace = event["headers"]["x-amzn-trace-id"].as_str();
        assert_eq!((trace == Some(&sent), trace), (is_kept, node.last_seen().trace_id.as_deref()));
    }
}

/// The paths of the API are the function's at its host, and its URL's at the node's are nothing.
#[tokio::test]
async fn neither_host_reaches_what_is_the_others() {
    let (node, host) = node(json!({ "AuthType": "NONE" })).await;
    for path in [
        "/2015-03-31/functions",
        "/2015-03-31/functions/f/invocations",
        "/tinderbox/health",
        "/tinderbox/node",
        "/tinderbox/code/x.zip?expires=1&token=x",
        "//2015-03-31/functions",
    ] {
        let got = node.at_host("GET", &host, path, "").await;
        assert_eq!(got.json()["requestContext"]["http"]["method"], "GET", "{path}");
    }
    let got = node.at_host("DELETE", &host, "/2015-03-31/functions/f", "").await;
    assert_eq!(got.json()["rawPath"], "/2015-03-31/functions/f");
    assert_eq!(node.get("/2015-03-31/functions/f").await.status.as_u16(), 200, "it is still there");
    assert_eq!(node.get("/tinderbox/health").await.ok(200)["status"], "ok");
    let twice = Request::builder().uri("/tinderbox/health").header("host", "node:9000").header("host", &host);
    refused(&node.send(twice.body(Body::empty()).unwrap()).await, 403, "Forbidden");
    let absolute =
        Request::builder().uri(format!("http://{host}/2015-03-31/functions")).header("host", "node:9000");
    refused(&node.send(absolute.body(Body::empty()).unwrap()).await, 403, "Forbidden");
    let (seen, unknown) = (node.invoker.seen.lock().unwrap().len(), host.replace(&host[..4], "aaaa"));
    for nobody in
        [unknown, host.replace("us-east-1", "us-east-2"), host.replace(&host[..32], "x"), format!("x.{host}")]
    {
        refused(&node.at_host("GET", &nobody, "/", "").await, 403, "Forbidden");
    }
    assert_eq!(node.invoker.seen.lock().unwrap().len(), seen);
}

#[tokio::test]
async fn an_alias_is_served_by_its_version_and_a_url_goes_with_what_it_belongs_to() {
    let (node, whole) = node(json!({ "AuthType": "NONE" })).await;
    node.call("POST", "/2015-03-31/functions/f/versions", "{}").await.ok(201);
    let alias = json!({ "Name": "live", "FunctionVersion": "1" }).to_string();
    node.call("POST", "/2015-03-31/functions/f/aliases", alias).await.ok(201);
    let live = host(&node, &format!("{CONFIG}?Qualifier=live"), json!({ "AuthType": "NONE" })).await;
    refused(&node.at_host("GET", &live, "/", "").await, 403, "Forbidden");
    node.open("f", "?Qualifier=live").await;
    assert_eq!(node.at_host("GET", &live, "/", "").await.status.as_u16(), 200);
    let seen = node.last_seen();
    assert_eq!((seen.function.version.as_str(), seen.invoked_arn.rsplit(':').next()), ("1", Some("live")));
    node.call("DELETE", "/2015-03-31/functions/f/aliases/live", Body::empty()).await.ok(204);
    refused(&node.at_host("GET", &live, "/", "").await, 403, "Forbidden");
    let node = node.restarted().await;
    assert_eq!(node.at_host("GET", &whole, "/", "").await.status.as_u16(), 200);
    node.call("DELETE", "/2015-03-31/functions/f", Body::empty()).await.ok(204);
    refused(&node.at_host("GET", &whole, "/", "").await, 403, "Forbidden");
}

#[tokio::test]
async fn an_open_url_is_open_while_the_functions_policy_says_so() {
    let (node, host) = node(json!({ "AuthType": "NONE" })).await;
    node.at_host("GET", &host, "/", "").await.ok(200);
    let policy = "/2015-03-31/functions/f/policy";
    for (kept, statement) in [("open-invoke", through_url()), ("open", by_url())] {
        let sid = statement["StatementId"].as_str().unwrap();
        node.call("DELETE", &format!("{policy}/{sid}"), Body::empty()).await.ok(204);
        refused(&node.at_host("GET", &host, "/", "").await, 403, "Forbidden");
        for (member, value) in [
            ("/Principal", json!("000000000000")),
            ("/Action", json!("lambda:GetFunction")),
            ("/FunctionUrlAuthType", json!("AWS_IAM")),
            ("/InvokedViaFunctionUrl", json!(false)),
        ] {
            let other = with(statement.clone(), &[(member, value)]);
            node.call("POST", policy, other.to_string()).await.ok(201);
            refused(&node.at_host("GET", &host, "/", "").await, 403, "Forbidden");
            node.call("DELETE", &format!("{policy}/{sid}"), Body::empty()).await.ok(204);
        }
        node.call("POST", policy, statement.to_string()).await.ok(201);
        assert!(node.get(policy).await.ok(200)["Policy"].as_str().unwrap().contains(kept));
        node.at_host("GET", &host, "/", "").await.ok(200);
    }
    // What is granted by a URL is granted by nothing else.
    assert_eq!(node.invoker.seen.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn what_fails_is_told_in_a_word() {
    let (node, host) = node(json!({ "AuthType": "NONE" })).await;
    for (told, status, message) in [
        ("throttle", 429, "Rate Exceeded."),
        ("lose", 502, "Internal Server Error"),
        ("no runtime", 502, "Internal Server Error"),
        ("fail", 502, "Internal Server Error"),
        ("malformed", 502, "Internal Server Error"),
    ] {
        node.invoker.told.lock().unwrap().replace(told);
        let got = node.at_host("GET", &host, "/", "").await;
        refused(&got, status, message);
        assert_eq!(got.header("retry-after"), (status == 429).then_some("1"));
    }
    node.invoker.told.lock().unwrap().take();
    let message = "Request must be smaller than 6291456 bytes for the InvokeFunction operation";
    refused(&node.at_host("POST", &host, "/", vec![b'a'; gate::MAX_EVENT_LEN + 1]).await, 413, message);
    refused(&node.at_host("POST", &host, "/", vec![b'a'; gate::MAX_EVENT_LEN]).await, 413, message);
    let concurrency = "/2017-10-31/functions/f/concurrency";
    node.put(concurrency, &json!({ "ReservedConcurrentExecutions": 0 })).await.ok(200);
    refused(&node.at_host("GET", &host, "/", "").await, 429, "Rate Exceeded.");
}

#[tokio::test]
async fn pages_of_other_origins_are_told_what_is_configured() {
    let cors =
        json!({ "AllowOrigins": ["https://a.example"], "AllowMethods": ["PUT"], "ExposeHeaders": ["x-c"] });
    let (node, host) = node(json!({ "AuthType": "AWS_IAM", "Cors": cors })).await;
    let asked = |method: &str| {
        let request = Request::builder().method(method).uri("/").header("host", &host);
        request.header("origin", "https://a.example").header("access-control-request-method", "PUT")
    };
    let preflight = node.send(asked("OPTIONS").body(Body::empty()).unwrap()).await;
    assert_eq!((preflight.status.as_u16(), preflight.body.len()), (200, 0));
    assert_eq!(preflight.header("access-control-allow-methods"), Some("PUT"));
    assert!(node.invoker.seen.lock().unwrap().is_empty(), "the function is not asked");
    let got = node.send(asked("PUT").body(Body::empty()).unwrap()).await;
    refused(&got, 403, "Forbidden");
    assert_eq!(got.header("access-control-allow-origin"), Some("https://a.example"));
    assert_eq!(got.header("access-control-expose-headers"), Some("x-c"));
}
