//! Who may call: signatures are checked, and a node that knows no key does not listen to the network.

use std::process::Command;

use serde_json::json;

use crate::client::Client;
use crate::node::Node;
use crate::setting;

/// More than the five minutes that AWS allows a client's clock to be off.
const SKEW_S: i64 = 20 * 60;

#[track_caller]
fn refused(client: &Client) -> (String, u64) {
    let error = client.call("list_functions", json!({})).expect_err("this caller must be refused");
    (error.code, error.status)
}

#[test]
fn a_wrong_secret_is_refused() {
    let shared = Node::shared();
    let (code, status) = refused(&shared.node.client().with_key("test", "guess"));
    assert_eq!(status, 403);
    assert!(["InvalidSignatureException", "SignatureDoesNotMatch"].contains(&code.as_str()), "{code}");
}

#[test]
fn an_unknown_key_is_refused() {
    let shared = Node::shared();
    let (code, status) = refused(&shared.node.client().with_key("stranger", "test"));
    assert_eq!(status, 403);
    let expected = ["UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId"];
    assert!(expected.contains(&code.as_str()), "{code}");
}

#[test]
fn an_unsigned_request_is_refused() {
    let shared = Node::shared();
    let (code, status) = refused(&shared.node.client().unsigned());
    assert_eq!(status, 403);
    let expected =
        ["MissingAuthenticationTokenException", "MissingAuthenticationToken", "AccessDeniedException"];
    assert!(expected.contains(&code.as_str()), "{code}");
}

#[test]
fn a_clock_that_is_off_is_refused() {
    let shared = Node::shared();
    for skew in [SKEW_S, -SKEW_S] {
        let (code, status) = refused(&shared.node.client().with_clock_off_by(skew));
        assert_eq!(status, 403, "{code}");
        let expected = ["InvalidSignatureException", "RequestExpired", "SignatureDoesNotMatch"];
        assert!(expected.contains(&code.as_str()), "{code}");
    }
}

#[test]
fn a_region_is_whatever_the_request_was_signed_for() {
    let shared = Node::shared();
    let client = shared.node.client().in_region("eu-central-1");
    let error =
        client.call("get_function", json!({ "FunctionName": "nobody" })).expect_err("nobody is there");
    assert_eq!(error.message, "Function not found: arn:aws:lambda:eu-central-1:000000000000:function:nobody");
}

#[test]
fn a_node_without_keys_does_not_listen_beyond_loopback() {
    let agent = setting("TINDERBOX_PAYLOAD").join("host-agent");
    let state = tempfile::tempdir().expect("a folder");
    let config = state.path().join("agent.toml");
    let text = format!("listen = \"0.0.0.0:0\"\nstate_dir = {:?}\n", state.path().join("state"));
    std::fs::write(&config, text).expect("write the configuration");
    let output = Command::new(agent)
        .args(["serve", "--config"])
        .arg(&config)
        .env_remove("CREDENTIALS_DIRECTORY")
        .output()
        .expect("start host-agent");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{message}");
    assert!(message.contains("key") && message.contains("0.0.0.0"), "{message}");
}
