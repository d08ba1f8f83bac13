//! A `vmm` that was taken over: one that is built for it (its feature `hostile`) takes the real one's place on a test host, and tries
//! everything when its guest says so.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::functions::{Deployed, Function, Life};
use crate::guest_root::InPlaceOf;
use crate::host;
use crate::kills::Agent;
use crate::setting;

/// What comes of an attempt.
type Expected = fn(&str) -> &'static str;

/// What the hostile one is asked by.
const REQUEST: &[u8] = b"@hostile ";

/// Descriptors, threads and pairs of sockets that a sandbox can have, at most.
const MAX_DESCRIPTORS: u32 = 1024;
const MAX_TASKS: u32 = 16;

/// What comes of an attempt that is made before the process has confined itself: by the launcher's jail alone.
fn in_a_bare_room(attempt: &str) -> &'static str {
    match attempt {
        "open a file of the host" | "open /dev/kvm by its path" | "open /proc" | "open control groups" => {
            "ENOENT"
        }
        "open /dev/kvm anew by its descriptor" | "open /dev/userfaultfd anew by its descriptor" => "EACCES",
        "create a file" => "EROFS",
        "create a file in its process's directory" | "see other processes" => "ENOENT",
        "see the kernel's files beside processes" | "change a sysctl" => "ENOENT",
        "write to its program" => "EACCES",
        "take no_new_privs back" => "EINVAL",
        "raise a limit" => "EPERM",
        "send to a socket of the host by its path" => "ENOENT",
        "send to a socket of the host by its name" => "ECONNREFUSED",
        "wake another process" => "ESRCH",
        // It has been handed no drive yet, and sockets have no end.
        "write to what it was handed to read" => "done 0",
        "write past the end of its disk" => "ESPIPE",
        "create a file without a name" => "EROFS",
        // Which one it does not say.
        "become another program" => "EFAULT",
        // It is there to make one, and userfaultfds, of whatever memory.
        "make another machine" => "done by 4",
        "make another userfaultfd" => "done by 5",
        "make a tap of another name" => "ENOTTY",
        "take memory" => "SIGKILL",
        "clone3" => "ENOSYS",
        _ => "SIGSYS",
    }
}

/// The same in a thread that runs a guest.
fn in_a_vcpu_thread(attempt: &str) -> &'static str {
    if attempt == "take memory" { "SIGKILL" } else { "SIGSYS" }
}

/// The same in the thread that serves devices.
fn in_the_io_thread(attempt: &str) -> &'static str {
    match attempt {
        "send to a socket of the host by its path" => "ENOENT",
        "send to a socket of the host by its name" => "ECONNREFUSED",
        "wake another process" => "ESRCH",
        // The disk that is its own.
        "write to what it was handed to read" => "done 1",
        "write past the end of its disk" => "EFBIG",
        other => in_a_vcpu_thread(other),
    }
}

/// Whether that came of it, or something that is bounded as well.
fn is_expected(attempt: &str, outcome: &str, expected: Expected) -> bool {
    let most = match attempt {
        "take descriptors" | "take pairs of sockets" => MAX_DESCRIPTORS,
        "take processes" => MAX_TASKS,
        _ => 0,
    };
    let taken = outcome.strip_prefix("done ").and_then(|count| count.parse().ok());
    taken.is_some_and(|count: u32| count < most) || outcome == expected(attempt)
}

fn works(function: &Deployed) {
    assert_eq!(function.answer(json!({ "is": "well" }))["event"], json!({ "is": "well" }));
}

#[test]
fn a_vmm_that_turns_hostile_gets_nothing_and_the_node_goes_on() {
    let agent = Agent::alone();
    let function = Function::python("hello").deploy(agent.client());
    works(&function);
    let probe = host::run(&[&host::jail_probe(), "/usr/lib/tinderbox/launcher", &host::hostile_vmm()]);
    assert_eq!(probe.code, 0, "{probe:?}");
    let report: Value = serde_json::from_str(&probe.stdout).expect("JSON");
    assert_eq!(report["launcher"], "exit status: 0", "{report}");
    let expectations: [(&str, Expected); 6] = [
        ("room", in_a_bare_room),
        ("vcpu", in_a_vcpu_thread),
        ("io", in_the_io_thread),
        ("restored vcpu", in_a_vcpu_thread),
        ("restored io", in_the_io_thread),
        ("restored pager", in_a_vcpu_thread),
    ];
    let mut surprises = BTreeMap::new();
    for (place, expected) in expectations {
        let outcomes = report["outcomes"][place].as_object().expect("a map");
        assert!(outcomes.len() > 100, "{report}");
        for (attempt, outcome) in outcomes {
            let outcome = outcome.as_str().expect("a word");
            if !is_expected(attempt, outcome, expected) {
                surprises.insert((place, attempt), outcome);
            }
        }
    }
    assert!(surprises.is_empty(), "{surprises:#?}");
    works(&function);
}

#[test]
fn the_vmm_of_a_node_listens_to_no_such_request() {
    let has = |path: PathBuf| {
        let program = std::fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        program.windows(REQUEST.len()).any(|bytes| bytes == REQUEST)
    };
    assert!(has(setting("TINDERBOX_HOSTILE_VMM")), "what it listens to has another name");
    assert!(!has(setting("TINDERBOX_PAYLOAD").join("vmm")));
}

/// Where the launcher finds what it makes sandboxes of.
const VMM: &str = "/usr/lib/tinderbox/vmm";

/// The hostile one as what the node's own launcher makes its sandboxes of, until this is dropped.
struct Hostile(Option<InPlaceOf>);

impl Hostile {
    fn mount(agent: &Agent) -> Self {
        let mounted = InPlaceOf::mount(&host::hostile_vmm(), VMM);
        start_launcher_anew();
        agent.kill();
        Self(Some(mounted))
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        drop(self.0.take());
        start_launcher_anew();
    }
}

/// It has the `vmm` open that it found when it started.
fn start_launcher_anew() {
    let restarted = host::run(&["systemctl", "restart", "tinderbox-launcher.service"]);
    assert_eq!(restarted.code, 0, "{restarted:?}");
}

/// What the host's agent has logged.
fn log() -> String {
    host::run(&["journalctl", "--unit", "tinderbox-agent", "--boot", "--output", "cat"]).stdout
}

/// How many sandboxes it has lost whose `vmm` had tried this, and was ended for it.
fn ended_for(attempt: &str) -> usize {
    let log = log();
    let tries = format!("stderr=\"hostile: trying {attempt}\\n\"");
    let lost = log.lines().filter(|line| line.starts_with("a sandbox was lost") && line.contains(&tries));
    lost.filter(|line| line.contains("(SIGSYS)")).count()
}

#[test]
fn whoever_takes_the_vmm_of_a_booted_function_over_loses_it_and_its_neighbours_do_not_notice() {
    let agent = Agent::alone();
    let rooted = InPlaceOf::rooted_initrd();
    let hostile = Hostile::mount(&agent);
    let neighbour = Function::python("hello").deploy(agent.client());
    let sandbox = || neighbour.answer(json!({}))["sandbox"].clone();
    let its = sandbox();
    let functions = [
        (Function::python("root").deploy_in(Life::Booted, agent.client()), vec!["vcpu", "io"]),
        (Function::python("root").deploy_in(Life::Restored, agent.client()), vec!["vcpu", "io", "pager"]),
    ];
    for (function, threads) in &functions {
        for thread in threads {
            // One is enough here: the test before has tried all.
            let attempt = "ptrace";
            let before = ended_for(attempt);
            let ended = function.invoke(json!({ "say": format!("@hostile {thread} {attempt}") }));
            assert!(ended.function_error.is_some(), "{thread}: {ended:?}");
            assert_eq!(ended_for(attempt), before + 1, "{thread}");
            assert_eq!(sandbox(), its, "{thread}: it was felt next door");
        }
        // A file that becomes no longer is not the end of it.
        let past = || log().matches("hostile: EFBIG").count();
        let before = past();
        function.answer(json!({ "say": "@hostile io write past the end of its disk" }));
        assert!(past() > before, "the I/O thread could write past the end of its disk");
        let answer = function.answer(json!({ "say": "good night" }));
        assert!(answer["sum"].as_u64().is_some_and(|sum| sum > 0), "the next sandbox serves: {answer}");
    }
    drop((functions, neighbour, hostile, rooted));
    agent.kill();
    Agent::look();
}
