//! Who may call: signatures are checked, and a node that knows no key does not listen to the network; and whom clients call: a node
//! with a certificate.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

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

/// An agent on this machine, without a node around it: it answers what takes no sandbox. Ended when dropped.
struct Agent {
    endpoint: String,
    process: Child,
}

impl Agent {
    fn start(dir: &Path, more: &str) -> Self {
        let config = dir.join("agent.toml");
        let key = "[[keys]]\naccess_key_id = \"test\"\nsecret_access_key = \"test\"\n";
        let text = format!(
            "listen = \"127.0.0.1:0\"\nstate_dir = {:?}\nlib_dir = {dir:?}\n{more}\n{key}",
            dir.join("state")
        );
        std::fs::write(&config, text).expect("write the configuration");
        let process = Command::new(setting("TINDERBOX_PAYLOAD").join("host-agent"))
            .args(["serve", "--config"])
            .arg(&config)
            .env_remove("CREDENTIALS_DIRECTORY")
            .stderr(Stdio::piped())
            .spawn()
            .expect("start host-agent");
        let mut agent = Self { endpoint: String::new(), process };
        let mut said = String::new();
        for line in BufReader::new(agent.process.stderr.take().expect("standard error is piped")).lines() {
            let line = line.expect("the log is text");
            if let Some((_, address)) = line.split_once("serving on ") {
                agent.endpoint = format!("https://{}", address.trim());
                return agent;
            }
            said += &line;
        }
        panic!("the agent did not come up: {said}");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_node_is_known_by_its_certificate() {
    let (dir, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let agent = Agent::start(dir.path(), "[tls]");
    let client = Client::new(&agent.endpoint);
    let own = dir.path().join("state/tls/own.pem");
    let listed = client.clone().trusting(&own).call("list_functions", json!({})).expect("it is trusted");
    assert_eq!(listed["Functions"], json!([]));
    let _stranger = Agent::start(other.path(), "[tls]");
    let strangers = other.path().join("state/tls/own.pem");
    let refused =
        client.trusting(&strangers).call("list_functions", json!({})).expect_err("nobody vouches for it");
    assert_eq!((refused.code.as_str(), refused.status), ("SSLError", 0), "{}", refused.message);
    let plain = Client::new(&agent.endpoint.replace("https", "http")).call("list_functions", json!({}));
    assert_eq!(plain.expect_err("this is no HTTP").status, 400);
}
