//! Responses that are streamed: they arrive while the guest makes them, and whatever comes of them ends well.

use guest_protocol::MAX_CHUNK_LEN;

use super::{
    fake::STREAMED,
    harness::{Node, function, node, within},
    *,
};

/// An event whose response is streamed to where the channel ends, which has room for one part.
fn begin(
    node: &Arc<Node>,
    event: &'static str,
) -> (mpsc::Receiver<Part>, JoinSet<Result<Answer, InvokeError>>) {
    let (sink, parts) = mpsc::channel(1);
    let invocation = Invocation { sink: Some(sink), ..node.invocation(function("f"), event) };
    let (node, mut call) = (Arc::clone(node), JoinSet::new());
    call.spawn(async move { within(node.invoker.invoke(invocation)).await });
    (parts, call)
}

/// Takes what the guest says before it waits for the gate.
async fn first(parts: &mut mpsc::Receiver<Part>) {
    assert_eq!(within(parts.recv()).await, Some(Part::Head("application/json".into())));
    assert_eq!(within(parts.recv()).await, Some(Part::Piece("first".into())));
}

async fn end(mut call: JoinSet<Result<Answer, InvokeError>>) -> Answer {
    within(call.join_next()).await.unwrap().unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_arrives_while_the_guest_makes_it_however_long_it_is() {
    let node = Arc::new(node(""));
    let (mut parts, call) = begin(&node, "\"stream\"");
    first(&mut parts).await;
    let _gate = node.open_gate();
    for _ in 0..STREAMED {
        let part = within(parts.recv()).await;
        assert!(matches!(part, Some(Part::Piece(piece)) if piece.len() == MAX_CHUNK_LEN));
    }
    let answer = end(call).await;
    assert!(answer.payload.is_empty() && answer.function_error.is_none());
    assert!(node.answer("\"pid\"").await.timing.boot.is_none(), "it takes the next event");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_client_has_gone_runs_to_its_end() {
    let node = Arc::new(node(""));
    let (mut parts, call) = begin(&node, "\"stream\"");
    first(&mut parts).await;
    drop(parts);
    let _gate = node.open_gate();
    assert_eq!(end(call).await.function_error, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_midway_comes_behind_all_that_was_sent() {
    for (event, error) in [("\"stream and fail\"", "ValueError"), ("\"stream and die\"", "Runtime.ExitError")]
    {
        let node = Arc::new(node(""));
        let (mut parts, call) = begin(&node, event);
        first(&mut parts).await;
        let _gate = node.open_gate();
        for _ in 0..STREAMED {
            assert!(matches!(within(parts.recv()).await, Some(Part::Piece(_))), "{event}");
        }
        let answer = end(call).await;
        assert_eq!(answer.function_error, Some("Unhandled"));
        assert!(String::from_utf8_lossy(&answer.payload).contains(error), "{event}: {answer:?}");
    }
}

#[tokio::test]
async fn a_response_that_nobody_wants_streamed_is_a_breach() {
    let node = node("");
    let answer = node.answer("\"stream unasked\"").await;
    assert!(String::from_utf8_lossy(&answer.payload).contains("Runtime.ExitError"), "{answer:?}");
}
