//! Where an operator says that functions may go.

use super::*;

const EGRESS: &str = "/tinderbox/egress/f";

#[tokio::test]
async fn what_is_said_is_kept_and_retires_sandboxes() {
    let node = Node::new().await;
    assert_eq!(node.get(EGRESS).await.ok(200), json!({ "Egress": "none", "From": "node" }));
    let networks = json!({ "Egress": ["192.0.2.0/24", "10.0.0.0/8", "10.1.0.0/16"] });
    let said = json!({ "Egress": ["10.0.0.0/8", "192.0.2.0/24"], "From": "function" });
    assert_eq!(node.put(EGRESS, &networks).await.ok(200), said);
    assert_eq!(*node.invoker.retired.lock().unwrap(), [("f".into(), "sandboxes".into())]);
    let node = node.restarted().await;
    assert_eq!(node.get(EGRESS).await.ok(200), said);
    assert_eq!(node.get("/tinderbox/egress/g").await.ok(200)["From"], "node");
    assert_eq!(node.put(EGRESS, &json!({ "Egress": "internet" })).await.ok(200)["Egress"], "internet");
    let unsaid = json!({ "Egress": "none", "From": "node" });
    assert_eq!(node.call("DELETE", EGRESS, Body::empty()).await.ok(200), unsaid);
    assert_eq!(node.restarted().await.get(EGRESS).await.ok(200), unsaid);
}

#[tokio::test]
async fn what_says_nothing_is_refused() {
    let node = Node::new().await;
    for wrong in [
        json!({}),
        json!({ "Egress": "all" }),
        json!({ "Egress": [] }),
        json!({ "Egress": ["10.0.0.1/8"] }),
        json!({ "Egress": vec!["10.0.0.0/8"; 33] }),
        json!({ "Egress": "internet", "Ingress": "internet" }),
    ] {
        let refused = node.put(EGRESS, &wrong).await;
        assert_eq!(refused.status, 400, "{wrong}");
    }
    assert_eq!(node.get(EGRESS).await.ok(200)["From"], "node");
    assert_eq!(node.get("/tinderbox/egress/not%20a%20name").await.status, 400);
}
