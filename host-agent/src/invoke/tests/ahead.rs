//! Sandboxes that are made before anybody asks.

use super::{
    fake::FAREWELL,
    harness::{Node, version},
    messages,
    node::Grant,
    *,
};
use crate::sandbox::policy::Limits;

/// Version 1 of a function, without SnapStart.
fn plain(name: &str) -> FunctionConfig {
    FunctionConfig { snap_start: "None".into(), ..version(name) }
}

impl Node {
    fn keep_ready(&self, function: &FunctionConfig, count: u32) {
        let code = self.invocation(function.clone(), "").code;
        let provision = Provision { function: Arc::new(function.clone()), code, count };
        self.invoker.provide(&function.id, vec![provision]);
    }

    /// Waits until it stands so.
    async fn stands(&self, function: &FunctionConfig, ready: u32, lack: Option<Lack>) {
        let expected = Provided { ready, lack };
        within(async {
            while self.invoker.provided(function) != expected {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    async fn ask(&self, function: &FunctionConfig, event: &str) -> Answer {
        self.invoke_version(function.clone(), event).await.unwrap()
    }
}

fn text(answer: &Answer) -> String {
    serde_json::from_slice(&answer.payload).unwrap()
}

#[tokio::test]
async fn the_first_call_is_warm_and_its_function_knows_why() {
    let (node, f) = (node(""), plain("f"));
    node.keep_ready(&f, 2);
    node.stands(&f, 2, None).await;
    node.population(2).await;
    let first = node.ask(&f, "\"why\"").await;
    assert_eq!(text(&first), "Provisioned");
    let Timing { way, boot, init, .. } = first.timing;
    assert_eq!((way, boot, init), (None, None, None));
    assert!(!String::from_utf8_lossy(first.log_tail.as_deref().unwrap()).contains("initialised"));

    // Beyond them it is served as ever.
    for _ in 0..2 {
        let (grant, _) = node.invoker.shared.place(messages::demand(&f)).await.unwrap();
        assert!(matches!(grant, Grant::Warm(_)));
    }
    let spilled = node.ask(&f, "\"why\"").await;
    assert_eq!((text(&spilled).as_str(), spilled.timing.way), ("OnDemand", Some("boot")));
    assert_eq!(node.invoker.provided(&f), Provided { ready: 2, lack: None });
}

#[tokio::test]
async fn one_that_ends_is_replaced() {
    let (node, f) = (node(""), plain("f"));
    node.keep_ready(&f, 1);
    node.stands(&f, 1, None).await;
    let pid = number(&node.ask(&f, "\"pid\"").await);
    assert_eq!(node.ask(&f, "\"exit\"").await.function_error, Some("Unhandled"));
    node.stands(&f, 0, None).await;
    node.stands(&f, 1, None).await;
    let next = node.ask(&f, "\"pid\"").await;
    assert!(next.timing.boot.is_none() && number(&next) != pid);
}

#[tokio::test]
async fn what_is_kept_goes_for_nobody_and_after_no_time() {
    let f = plain("f");
    let node = node_with("", |settings| {
        let Limits { memory_mib, idle_timeout, .. } = &mut settings.limits;
        (*memory_mib, *idle_timeout) = (2 * machine::charge_mib(MEMORY_MIB), Duration::from_millis(1));
    });
    node.keep_ready(&f, 1);
    node.stands(&f, 1, None).await;
    // Each of these is given the rest of the node, and gone a moment later.
    for name in ["g", "h"] {
        node.ask(&function(name), "1").await;
        node.population(1).await;
    }
    node.invoker.shared.ease_disk(1);
    assert!(node.ask(&f, "1").await.timing.boot.is_none());
    node.keep_ready(&f, 3);
    node.stands(&f, 2, Some(Lack::LargerThanNode)).await;
    let refused = node.invoke_version(function("g"), "1").await.unwrap_err();
    assert!(matches!(refused, InvokeError::Throttled(Throttle::Concurrency)), "{refused}");
    node.invoker.provide(&f.id, Vec::new());
    node.population(0).await;
}

#[tokio::test]
async fn a_function_that_cannot_be_initialised_says_so_and_is_tried_again() {
    for (mode, failed) in
        [("fail init", Failed::Function), ("late init", Failed::Function), ("refuse", Failed::Node)]
    {
        let (node, f) = (node(mode), plain("f"));
        node.keep_ready(&f, 1);
        node.stands(&f, 0, Some(Lack::Failed(failed))).await;
        node.behave("");
        node.stands(&f, 1, None).await;
        assert!(node.ask(&f, "1").await.timing.boot.is_none(), "{mode}");
    }
}

#[tokio::test]
async fn extensions_of_one_that_cannot_be_initialised_have_their_time() {
    let (node, f) = (node("extended, fail init"), plain("f"));
    node.keep_ready(&f, 1);
    node.stands(&f, 0, Some(Lack::Failed(Failed::Function))).await;
    assert_eq!(std::fs::read_to_string(node.dir.path().join(FAREWELL)).unwrap(), "Failure");
}

#[tokio::test]
async fn it_may_be_a_clone_of_its_runtime() {
    let (node, f) = (harness::node_with_runtimes(""), plain("f"));
    node.ask(&function("g"), "1").await;
    node.snapshots_become(1).await;
    node.keep_ready(&f, 1);
    node.stands(&f, 1, None).await;
    assert_eq!(node.how(f.clone()).await, "runtime");
    assert_eq!(text(&node.ask(&f, "\"why\"").await), "Provisioned");
}

#[tokio::test]
async fn one_that_is_on_its_way_goes_with_its_version_and_with_the_node() {
    let (node, f) = (node("hang in init"), plain("f"));
    node.keep_ready(&f, 1);
    node.population(1).await;
    node.invoker.retire(&f.id, Retired::Version("1"));
    node.population(0).await;
    node.keep_ready(&f, 2);
    node.population(1).await;
    node.stop().await;
    node.keep_ready(&f, 2);
    node.population(0).await;
}
