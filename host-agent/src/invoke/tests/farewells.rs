//! Sandboxes with extensions: when they answer, and how they end.

use super::{
    fake::FAREWELL,
    harness::{function, is_alive, node, within},
    *,
};
use crate::{config, functions::Claim};

/// The reason that a guest that behaves so was told when its node went down.
async fn farewell(mode: &str) -> Option<String> {
    let node = node(mode);
    let pid = node.pid().await;
    node.stop().await;
    assert!(!is_alive(pid), "whatever the guest said");
    std::fs::read_to_string(node.dir.path().join(FAREWELL)).ok()
}

#[tokio::test]
async fn a_guest_with_extensions_is_told_of_its_end() {
    assert_eq!(farewell("extended").await.as_deref(), Some("Spindown"));
}

#[tokio::test]
async fn one_without_is_not() {
    assert_eq!(farewell("").await, None);
}

#[tokio::test]
async fn one_that_never_says_that_it_is_over_holds_nothing_up() {
    assert_eq!(farewell("extended, deaf").await.as_deref(), Some("Spindown"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_does_not_wait_for_extensions_and_the_sandbox_does() {
    let node = node("extended");
    let counts = Arc::new(concurrency::Concurrency::new(&config::Concurrency::default()));
    let share = concurrency::Share::new("$LATEST", Claim::default(), 1);
    let slot = Arc::new(counts.enter(&function("f").id, share).unwrap());
    let call = |event| {
        let slot = Some(Arc::clone(&slot));
        let invocation = Invocation { slot, log_tail: false, ..node.invocation(function("f"), event) };
        within(node.invoker.invoke(invocation))
    };
    assert_eq!(call("\"answer, then work\"").await.unwrap().payload, "\"early\"");
    assert!(Arc::strong_count(&slot) > 1, "it is in flight as long as its extensions are");
    let other = call("\"pid\"").await.unwrap();
    assert!(other.timing.boot.is_some(), "the sandbox is not free");
    let _gate = node.open_gate();
}

#[tokio::test]
async fn extensions_that_are_late_are_told_so_and_the_answer_stands() {
    let node = node("extended");
    assert_eq!(node.answer("\"answer, then be late\"").await.payload, "\"early\"");
    node.stop().await;
    let told = std::fs::read_to_string(node.dir.path().join(FAREWELL)).unwrap();
    assert_eq!(told, "Timeout");
}
