//! A core with two threads: they share its caches, so no two sandboxes are to run on it at the same time
//! (`docs/adr/0024-system-that-does-not-change.md`). The other nodes' processors have no threads, so this has a host of its own.

use std::process::{Command, Output};

use serde_json::json;

use crate::client::Client;
use crate::functions::Function;
use crate::setting;

/// Names a host beside the usual one (`xtask dev`).
const NAME_VARIABLE: &str = "TINDERBOX_DEV_HOST";

const CPU: &str = "/sys/devices/system/cpu";

/// A host whose processor is one core with two threads. It ends with this value.
struct Host;

impl Host {
    fn up() -> Self {
        let host = Self;
        host.dev(&["up", "--two-threads"]);
        host
    }

    fn dev(&self, arguments: &[&str]) -> String {
        let output = xtask_dev(arguments).expect("start xtask dev");
        assert!(output.status.success(), "xtask dev {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn sh(&self, script: &str) -> String {
        self.dev(&["exec", "--", "sh", "-c", script])
    }

    fn client(&self) -> Client {
        let status = self.dev(&["status"]);
        let endpoint = status.split_once("test host: ").and_then(|(_, rest)| rest.split_once(','));
        Client::new(endpoint.unwrap_or_else(|| panic!("no endpoint in {status:?}")).0)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A test that has failed already would take all others along by a second panic.
        if let Err(error) = xtask_dev(&["down"]) {
            eprintln!("the host was not taken down: {error}");
        }
    }
}

fn xtask_dev(arguments: &[&str]) -> std::io::Result<Output> {
    let name = std::env::var(NAME_VARIABLE).unwrap_or_default() + "threads";
    let mut xtask = Command::new(setting("TINDERBOX_XTASK"));
    xtask.env(NAME_VARIABLE, name).arg("dev").args(arguments);
    xtask.output()
}

#[test]
fn one_thread_of_a_core_is_on_and_stays_alone() {
    let host = Host::up();
    // Where the kernel has seen one thread alone, this shows nothing.
    assert_eq!(host.sh(&format!("cat {CPU}/present {CPU}/online {CPU}/smt/control")), "0-1\n0\nforceoff");
    for write in ["on > $0/smt/control", "1 > $0/cpu1/online"] {
        let tried = host.dev(&["exec", "--", "sh", "-c", &format!("echo {write} || echo refused"), CPU]);
        assert_eq!(tried, "refused", "{write}");
    }
    assert_eq!(host.sh(&format!("cat {CPU}/online")), "0");
    let log = host.sh("journalctl --no-pager --output cat --unit tinderbox-launcher");
    assert!(log.contains("cores between sandboxes: Moot"), "{log}");
    let function = Function::python("hello").deploy(&host.client());
    assert_eq!(function.answer(json!({ "is": "well" }))["event"], json!({ "is": "well" }));
}
