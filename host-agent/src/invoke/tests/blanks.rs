//! Blank machines whose processes end while they wait.

use super::{
    harness::{Node, is_reaped, version},
    *,
};

/// Kills a process that waits, and waits until it is gone.
async fn end(pid: u32) {
    let pid = i32::try_from(pid).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let ended = async {
        while !is_reaped(pid) {
            tokio::task::yield_now().await;
        }
    };
    within(ended).await;
}

/// A node with a snapshot, and so many machines that wait.
async fn node_with_blanks(count: usize) -> Node {
    let node = node("");
    node.prepare(version("f")).await.unwrap();
    // The snapshot is one reason to expect a clone.
    for _ in 1..count {
        node.invoker.shared.host.blanks().expect(machine::shape(MEMORY_MIB));
    }
    node.blanks(count).await;
    node
}

#[tokio::test]
async fn one_that_has_ended_is_passed_over_and_replaced() {
    let node = node_with_blanks(2).await;
    let blanks = node.invoker.shared.host.blanks();
    let first = blanks.pids()[0];
    end(blanks.pids()[1]).await;
    // A process that starts now would fail: the clone is made of the one that still waits.
    node.behave("die in load");
    let answer = node.invoke_version(version("f"), "\"pid\"").await.unwrap();
    assert_eq!((answer.timing.way, u32::try_from(number(&answer)).unwrap()), (Some("snapshot"), first));
    // However long this took: two are asked for now.
    (0..2).for_each(|_| blanks.expect(machine::shape(MEMORY_MIB)));
    let mut count = blanks.count();
    within(count.wait_for(|count| *count >= 2)).await.unwrap();
}

#[tokio::test]
async fn when_all_have_ended_no_clone_is_lost_with_them() {
    let node = node_with_blanks(1).await;
    end(node.invoker.shared.host.blanks().pids()[0]).await;
    // Two losses are a boot: one would be that of the process that had ended.
    node.behave("once: die in load");
    assert_eq!(node.how(version("f")).await, "cloned");
}
