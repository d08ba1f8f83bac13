//! Clients that go away before their answer, wherever the node is then.

use std::task::Poll;

use super::{
    super::gate::{BODY_BUDGET_KIB, URL_BUDGET_KIB},
    *,
};

impl Node {
    /// Sends a request and goes away when the answer has been waited for so often; whether it came before.
    async fn leave(&self, request: Request<Body>, waits: usize) -> bool {
        let mut answer = Box::pin(self.router.clone().oneshot(request));
        let mut waited = 0;
        let answered = std::future::poll_fn(|context| match answer.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if waited == waits => Poll::Ready(false),
            Poll::Pending => {
                waited += 1;
                Poll::Pending
            }
        });
        answered.await
    }
}

#[tokio::test]
async fn what_a_client_does_not_wait_for_is_done_or_not_but_never_half() {
    let mut node = Node::new().await;
    let policy = json!({
        "Version": "2012-10-17",
        "Statement": { "Effect": "Allow", "Action": "*", "Resource": "*" },
    });
    let create = json!({ "Policy": policy }).to_string();
    let made = node.call("POST", "/tinderbox/keys", create.clone()).await.ok(201);
    let path = format!("/tinderbox/keys/{}/state", made["AccessKeyId"].as_str().unwrap());
    for waits in 0.. {
        let state = if waits % 2 == 0 { "Inactive" } else { "Active" };
        let request = Request::builder().method("PUT").uri(&path).header("host", "node:9000");
        let body = json!({ "State": state }).to_string();
        let answered = node.leave(request.body(body.into()).unwrap(), waits).await;
        // Changes have their turns: this one is behind it.
        node.call("POST", "/tinderbox/keys", create.clone()).await.ok(201);
        let before = node.get("/tinderbox/keys").await.ok(200);
        node = node.restarted().await;
        assert_eq!(node.get("/tinderbox/keys").await.ok(200), before, "after {waits} waits");
        if answered {
            break;
        }
    }
}

#[tokio::test]
async fn an_event_takes_its_memory_until_its_function_is_done_with_it() {
    let node = Node::new().await;
    node.function("f").await;
    let made = node.call("POST", "/2021-10-31/functions/f/url", json!({ "AuthType": "NONE" }).to_string());
    let url: axum::http::Uri = made.await.ok(201)["FunctionUrl"].as_str().unwrap().parse().unwrap();
    node.open("f", "").await;
    let host = url.authority().unwrap().as_str();
    for (path, host, budget, all) in [
        ("/2015-03-31/functions/f/invocations", "node:9000", &node.body_budget, BODY_BUDGET_KIB),
        ("/", host, &node.url_budget, URL_BUDGET_KIB),
    ] {
        *node.invoker.told.lock().unwrap() = Some("hold");
        let seen = node.invoker.seen.lock().unwrap().len();
        let request = Request::builder().method("POST").uri(path).header("host", host);
        let body = format!("\"{}\"", "x".repeat(1_000_000));
        let call = tokio::spawn(node.router.clone().oneshot(request.body(Body::from(body)).unwrap()));
        while node.invoker.seen.lock().unwrap().len() == seen {
            tokio::task::yield_now().await;
        }
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        assert!(budget.available_permits() < all - 900, "{path}");
        node.invoker.released.send_replace(true);
        while budget.available_permits() < all {
            tokio::task::yield_now().await;
        }
        node.invoker.released.send_replace(false);
    }
}

#[tokio::test]
async fn one_whose_answer_has_begun_takes_none_however_slowly_that_is_read() {
    let node = Node::new().await;
    node.function("f").await;
    let config = json!({ "AuthType": "NONE", "InvokeMode": "RESPONSE_STREAM" });
    let made = node.call("POST", "/2021-10-31/functions/f/url", config.to_string());
    let url: axum::http::Uri = made.await.ok(201)["FunctionUrl"].as_str().unwrap().parse().unwrap();
    node.open("f", "").await;
    let host = url.authority().unwrap().as_str();
    let path = "/2021-11-15/functions/f/response-streaming-invocations";
    for (path, host, budget, all) in [
        (path, "node:9000", &node.body_budget, BODY_BUDGET_KIB),
        ("/", host, &node.url_budget, URL_BUDGET_KIB),
    ] {
        *node.invoker.told.lock().unwrap() = Some("stream a lot");
        let request = Request::builder().method("POST").uri(path).header("host", host);
        let body = format!("\"{}\"", "x".repeat(1_000_000));
        let unread = node.router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        while budget.available_permits() < all {
            tokio::task::yield_now().await;
        }
        drop(unread);
    }
}
