//! Which tests of booted machines run in which process, and in which order.

use std::collections::BTreeSet;

/// Modules of `tests/it` that use the test host and no other machine.
const ON_HOST: &[&str] = &[
    "appliance",
    "booted_host",
    "buckets",
    "events",
    "guest_root",
    "hostile_client",
    "hostile_vmm",
    "jail",
    "kills",
    "logs",
    "machine",
    "network",
    "registries",
    "snapshots",
    "uniqueness",
];

/// Modules that share a node, about as much work each; those that are named nowhere are a group of their own.
const ON_A_NODE: [&[&str]; 3] = [
    &["api", "auth", "chunks", "command_line", "conformance", "constraints", "containers", "cores", "deploy"],
    &["examples", "extensions", "faults", "guest_user", "image", "invoke"],
    &["restore_hooks", "runtimes", "sdks", "snapstart", "urls"],
];

/// Tests of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// libtest's.
    pub(super) arguments: Vec<String>,
    /// Those that run there, where that is known.
    pub(super) tests: BTreeSet<String>,
}

impl Process {
    /// Tests with one of these in their names.
    pub(super) fn named(words: &[String]) -> Self {
        Self { arguments: words.to_vec(), tests: BTreeSet::new() }
    }

    /// These tests, one after the other.
    pub(super) fn of(tests: BTreeSet<String>) -> Self {
        let options = ["--exact", "--test-threads=1"].map(str::to_owned);
        Self { arguments: tests.iter().cloned().chain(options).collect(), tests }
    }
}

/// Processes that run one after the other.
pub(super) type Group = Vec<Process>;

/// All tests, those first that were left out the last time.
pub(super) fn of(tests: &BTreeSet<String>, left_out: &BTreeSet<String>) -> Vec<Group> {
    let (urgent, others): (BTreeSet<_>, BTreeSet<_>) =
        tests.iter().cloned().partition(|test| left_out.contains(test));
    let (urgent_on_host, urgent_on_nodes) = urgent.into_iter().partition(|test| is_of(test, ON_HOST));
    let mut groups = vec![Vec::new(); 1 + ON_A_NODE.len() + 1];
    for test in others {
        let named = [ON_HOST].into_iter().chain(ON_A_NODE).position(|modules| is_of(&test, modules));
        let rest = groups.len() - 1;
        if let Some(group) = groups.get_mut(named.unwrap_or(rest)) {
            group.push(test);
        }
    }
    let mut groups = groups.into_iter().map(BTreeSet::from_iter);
    // There is one test host, and only one process may have it.
    let on_host = vec![urgent_on_host, groups.next().unwrap_or_default()];
    let groups = [on_host, vec![urgent_on_nodes]].into_iter().chain(groups.map(|tests| vec![tests]));
    let processes = |group: Vec<BTreeSet<String>>| -> Group {
        group.into_iter().filter(|tests| !tests.is_empty()).map(Process::of).collect()
    };
    groups.map(processes).filter(|group| !group.is_empty()).collect()
}

fn is_of(test: &str, modules: &[&str]) -> bool {
    test.split_once("::").is_some_and(|(module, _)| modules.contains(&module))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Context;

    fn set(tests: &[&str]) -> BTreeSet<String> {
        tests.iter().map(|test| (*test).to_owned()).collect()
    }

    #[test]
    fn modules_that_use_the_host_use_no_other_machine_and_have_their_own_process() {
        let folder = Context::new().unwrap().path("tests/it");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
            if has(&["use crate::host", "use crate::kills"]) && has(&["#[test]", "in_both_lives! {"]) {
                let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
                assert!(!has(&["Node::shared()", "Node::alone()", "Node::boot("]), "{name} uses nodes, too");
                found.push(name);
            }
        }
        found.sort();
        assert_eq!(found, ON_HOST);
        for name in ON_A_NODE.into_iter().flatten() {
            assert!(folder.join(format!("{name}.rs")).is_file(), "there is no {name}");
        }
    }

    #[test]
    fn every_test_runs_once_and_what_was_left_out_runs_first() {
        let on_host = ["kills::a", "kills::b", "snapshots::a"];
        let on_nodes = ["api::a", "invoke::restored::a", "snapstart::a", "java::a", "runtime_snapshots::a"];
        let tests = set(&[&on_host[..], &on_nodes[..]].concat());
        let run = |left_out: &[&str]| -> Vec<Vec<BTreeSet<String>>> {
            let groups = of(&tests, &set(left_out));
            let in_processes = |group: Group| group.into_iter().map(|process| process.tests).collect();
            groups.into_iter().map(in_processes).collect()
        };
        let one = |tests: &[&str]| vec![set(tests)];
        let rest = ["java::a", "runtime_snapshots::a"];
        assert_eq!(
            run(&[]),
            [
                one(&on_host),
                one(&["api::a"]),
                one(&["invoke::restored::a"]),
                one(&["snapstart::a"]),
                one(&rest)
            ]
        );
        let late = run(&["snapshots::a", "java::a", "snapstart::a", "gone::a"]);
        assert_eq!(late[0], [set(&["snapshots::a"]), set(&["kills::a", "kills::b"])]);
        assert_eq!(late[1], one(&["java::a", "snapstart::a"]));
        assert_eq!(
            late[2..],
            [one(&["api::a"]), one(&["invoke::restored::a"]), one(&["runtime_snapshots::a"])]
        );
        assert_eq!(of(&tests, &tests).len(), 2);
        let arguments = &of(&tests, &BTreeSet::new())[1][0].arguments;
        assert_eq!(*arguments, ["api::a", "--exact", "--test-threads=1"]);
    }
}
