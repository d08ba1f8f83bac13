//! A core with two threads: they share its caches, so no two sandboxes are to run on it at the same time
//! (`docs/adr/0022-launcher.md`). The other nodes' processors have no threads, so these tests have a host of their own.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::client::Client;
use crate::functions::Function;
use crate::setting;

/// Names a host beside the usual one (`xtask dev`).
const NAME_VARIABLE: &str = "TINDERBOX_DEV_HOST";

const PROBE: &str = "/tmp/jail-probe";

const SANDBOXES: &str = "/sys/fs/cgroup/system.slice/tinderbox-launcher.service/sandboxes";

/// A host whose processor is one core with two threads. It ends with this value.
struct Host;

impl Host {
    fn up() -> Self {
        let host = Self;
        host.dev(&["up", "--two-threads"]);
        host.dev(&["push", setting("TINDERBOX_JAIL_PROBE").to_str().expect("a path in UTF-8"), PROBE]);
        host
    }

    fn dev(&self, arguments: &[&str]) -> String {
        let output = xtask_dev(arguments);
        assert!(output.status.success(), "xtask dev {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn sh(&self, script: &str) -> String {
        self.dev(&["exec", "--", "sh", "-c", script])
    }

    fn client(&self) -> Client {
        let status = self.dev(&["status"]);
        let endpoint = status.split_once("test host: ").and_then(|(_, rest)| rest.split_once(','));
        Client::new(endpoint.unwrap_or_else(|| panic!("no endpoint in {status:?}")).0)
    }

    /// The cookies of these processes' threads, a list for each process.
    fn cookies(&self, pids: &str) -> Vec<Vec<u64>> {
        let said = self.sh(&format!("{PROBE} --cookies {pids}"));
        let said: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        let of_process = |cookies: &Value| {
            cookies.as_array().into_iter().flatten().map(|one| one.as_u64().expect("a number")).collect()
        };
        said.as_object().expect("a map").values().map(of_process).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        xtask_dev(&["down"]);
    }
}

fn xtask_dev(arguments: &[&str]) -> Output {
    let name = std::env::var(NAME_VARIABLE).unwrap_or_default() + "threads";
    let mut xtask = Command::new(setting("TINDERBOX_XTASK"));
    xtask.env(NAME_VARIABLE, name).arg("dev").args(arguments);
    xtask.output().expect("start xtask dev")
}

#[test]
fn threads_of_a_core_are_never_two_sandboxes_at_the_same_time() {
    let host = Host::up();
    assert_eq!(host.sh("cat /sys/devices/system/cpu/smt/active").trim(), "1", "a core with two threads");
    let log = host.sh("journalctl --no-pager --output cat --unit tinderbox-launcher");
    assert!(log.contains("cores between sandboxes: Refused"), "{log}");
    let client = host.client();
    let functions = [(); 2].map(|()| Function::python("hello").deploy(&client));
    for function in &functions {
        assert_eq!(function.answer(json!({ "is": "well" }))["event"], json!({ "is": "well" }));
    }
    let sandboxes = host.cookies(&format!("$(cat {SANDBOXES}/*/cgroup.procs)"));
    assert!(sandboxes.len() >= 2, "{sandboxes:?}");
    for cookies in &sandboxes {
        // vCPU, I/O and main thread at least.
        assert!(cookies.len() > 2 && cookies.iter().all(|cookie| *cookie == cookies[0]), "{sandboxes:?}");
    }
    let different: BTreeSet<_> = sandboxes.iter().map(|cookies| cookies[0]).collect();
    assert!(different.len() == sandboxes.len() && !different.contains(&0), "{sandboxes:?}");
    let others =
        ["tinderbox-launcher", "tinderbox-agent"].map(|unit| format!("$(systemctl show -P MainPID {unit})"));
    let others = host.cookies(&others.join(" "));
    assert!(others.iter().flatten().all(|cookie| *cookie == 0), "{others:?}");
}
