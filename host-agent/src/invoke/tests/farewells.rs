//! How sandboxes with extensions end.

use super::{
    fake::FAREWELL,
    harness::{is_alive, node},
};

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
