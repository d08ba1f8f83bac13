//! Bodies that do not come, or of which too many come: an error to who sends them, and nothing to anybody else.

use std::{
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::HttpBody;
use hyper::body::Frame;
use tokio::time::{Instant, Interval, interval};

use super::{super::gate::BODY_BUDGET_KIB, *};

/// A byte a second, for ever.
struct Trickle(Interval);

impl Trickle {
    fn body() -> Body {
        Body::new(Self(interval(Duration::from_secs(1))))
    }
}

impl HttpBody for Trickle {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        ready!(self.0.poll_tick(cx));
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b" ")))))
    }
}

const INVOKE: &str = "/2015-03-31/functions/f/invocations";

#[tokio::test]
async fn a_body_that_trickles_in_is_given_up_by_what_its_length_allows() {
    let node = Node::new().await;
    tokio::time::pause();
    for (method, path, seconds) in [
        ("POST", INVOKE, 54),
        ("POST", "/2015-03-31/functions", 296),
        ("PUT", "/2015-03-31/functions/f/configuration", 34),
    ] {
        let began = Instant::now();
        let got = node.call(method, path, Trickle::body()).await;
        got.is_error(408, "RequestTimeoutException", "The request body did not arrive in time.");
        assert_eq!(began.elapsed().as_secs(), seconds, "{path}");
    }
}

#[tokio::test]
async fn uploads_that_do_not_come_keep_nobody_from_memory() {
    let node = Node::new().await;
    node.function("f").await;
    let uploads: Vec<_> = (0..500)
        .map(|_| {
            let request = Request::builder().method("POST").uri("/2015-03-31/functions").header("host", "n");
            let request = request.body(Trickle::body()).unwrap();
            tokio::spawn(node.router.clone().oneshot(request))
        })
        .collect();
    // Each has what it has before the first byte.
    let first = 17;
    while node.body_budget.available_permits() > BODY_BUDGET_KIB - uploads.len() * first {
        tokio::task::yield_now().await;
    }
    let event = format!("\"{}\"", "x".repeat(5_000_000));
    assert_eq!(node.call("POST", INVOKE, event.clone()).await.ok(200).as_str(), Some(&event[1..5_000_001]));
    assert_eq!(node.body_budget.available_permits(), BODY_BUDGET_KIB - uploads.len() * first);
    uploads.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn memory_that_is_all_taken_is_an_error_after_a_while_and_comes_back() {
    let node = Node::new().await;
    node.function("f").await;
    let all = u32::try_from(BODY_BUDGET_KIB).unwrap();
    let taken = Arc::clone(&node.body_budget).acquire_many_owned(all - 100).await.unwrap();
    let long = format!("\"{}\"", "x".repeat(1_000_000));
    tokio::time::pause();
    let began = Instant::now();
    let refused = node.call("POST", INVOKE, long.clone()).await;
    refused.is_error(
        503,
        "ServiceUnavailableException",
        "This Tinderbox node has no memory for the request body now.",
    );
    assert_eq!(began.elapsed().as_secs(), 10);
    assert_eq!(node.call("POST", INVOKE, "1").await.ok(200), 1);
    drop(taken);
    node.call("POST", INVOKE, long).await.ok(200);
    assert_eq!(node.body_budget.available_permits(), BODY_BUDGET_KIB, "all of it is back");
}
