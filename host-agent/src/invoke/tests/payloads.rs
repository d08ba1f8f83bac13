//! Events and answers in memory: an event until its answer begins, answers as far as there is memory for them.

use std::time::Instant;

use guest_protocol::MAX_RESPONSE_LEN;

use super::{
    harness::{Node, function, node, within},
    *,
};

/// Of an event that comes in two pieces and is answered in as many: which may become the longest answer.
const LEN: usize = 200 * 1024;

/// A node with memory for the longest answer, beside one of these.
fn small_node() -> (Node, String) {
    let answers = memory::Answers::new(MAX_RESPONSE_LEN / 1024 + 1 + LEN / 1024 + 1);
    let mut node = node("");
    node.answers = answers;
    (node, format!("\"{}\"", "x".repeat(LEN - 2)))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_memory_is_refused_and_its_sandbox_goes_on() {
    let (node, event) = small_node();
    let held = [node.answer(&event).await, node.answer(&event).await];
    let began = Instant::now();
    let error = node.invoke(&event).await.unwrap_err();
    assert!(matches!(error, InvokeError::NoAnswerMemory), "{error}");
    assert!(began.elapsed() >= Duration::from_secs(1), "it is waited for");
    let small = node.answer("\"pid\"").await;
    assert_eq!(small.timing.boot, None, "the sandbox is none the worse");
    assert!(held.iter().all(|answer| answer.payload == event.as_bytes()));
    drop(held);
    assert!(node.answer(&event).await.payload == event.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_many_at_once_take_no_more_than_there_is() {
    let (node, event) = small_node();
    let (node, event) = (Arc::new(node), Arc::new(event));
    let mut calls = JoinSet::new();
    for _ in 0..6 {
        let (node, event) = (Arc::clone(&node), Arc::clone(&event));
        // Whoever has its answer lets it go, and another one has its memory.
        calls.spawn(async move { node.invoke(&event).await.map(|answer| answer.payload.len()) });
    }
    while let Some(ended) = within(calls.join_next()).await {
        match ended.unwrap() {
            Ok(len) => assert_eq!(len, event.len()),
            Err(error) => assert!(matches!(error, InvokeError::NoAnswerMemory), "{error}"),
        }
    }
    assert!(node.answer(&event).await.payload == event.as_bytes(), "all of it is there again");
}

/// An event that is known to be somebody's.
struct Known {
    _by: Arc<()>,
}

impl AsRef<[u8]> for Known {
    fn as_ref(&self) -> &[u8] {
        b"\"stream\""
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_takes_no_memory_when_its_answer_has_begun() {
    let node: Node = node("");
    let known = Arc::new(());
    let (sink, mut parts) = mpsc::channel(1);
    let payload = Bytes::from_owner(Known { _by: Arc::clone(&known) });
    let invocation = Invocation { payload, sink: Some(sink), ..node.invocation(function("f"), "") };
    let call = node.invoker.invoke(invocation);
    assert_eq!(within(parts.recv()).await, Some(Part::Head("application/json".into())));
    // The guest has not ended its answer: it waits for the gate.
    within(async {
        while Arc::strong_count(&known) > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(parts);
    let _gate = node.open_gate();
    within(call).await.unwrap();
}
