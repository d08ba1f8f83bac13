//! A hostile guest user: a function tries what it must not get of its own guest, and of guest-init.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::functions::{Function, Life, in_both_lives};
use crate::node::Node;

in_both_lives! {
    a_function_that_tries_everything_gets_nothing,
}

/// What comes of an attempt; all others are refused for want of a right.
fn expected(attempt: &str) -> &'static [&'static str] {
    match attempt {
        // They are nowhere in its view.
        "open /dev/kmsg"
        | "open /dev/mem"
        | "open /dev/port"
        | "open /dev/vsock"
        | "open a disk"
        | "open the console"
        | "open /proc/kcore"
        | "ask for a reset"
        | "see what guest-init came from"
        | "write to a control group" => &["ENOENT", "EACCES"],
        // The kernel has no such call.
        "load a module"
        | "load a module from a file"
        | "load a kernel"
        | "load a BPF program"
        | "make a ring"
        | "handle page faults"
        | "get ports"
        | "get some ports"
        | "swap"
        | "read memory of process 1" => &["ENOSYS", "EPERM"],
        // Nor such a socket.
        "make a vsock socket" | "make a packet socket" | "make a crypto socket" => &["EAFNOSUPPORT"],
        "make a raw socket" => &["EPERM", "EPROTONOSUPPORT"],
        "make a user namespace" => &["EINVAL", "EPERM"],
        "write to the system" => &["EROFS", "EACCES"],
        "trace guest-init" => &["EPERM", "ESRCH"],
        _ => &["EPERM", "EACCES"],
    }
}

fn a_function_that_tries_everything_gets_nothing(life: Life) {
    let shared = Node::shared();
    let function = Function::python("tries").deploy_in(life, &shared.node.client());
    let seen = function.answer(json!({}));
    let outcomes: BTreeMap<String, String> =
        serde_json::from_value(seen["outcomes"].clone()).expect("outcomes by name");
    assert!(outcomes.len() > 40, "{seen}");
    let surprises: BTreeMap<_, _> =
        outcomes.iter().filter(|(name, outcome)| !expected(name).contains(&outcome.as_str())).collect();
    assert!(surprises.is_empty(), "{surprises:#?}");
    assert_eq!(seen["set_id_files"], json!([]), "something runs as another");
    assert_eq!(seen["cgroup"], "0::/function", "the name of its control group is all that it sees of them");
    let mounts = seen["mounts"].as_object().expect("mounts by place");
    let has = |place: &str, option: &str| {
        mounts[place]["options"].as_array().is_some_and(|options| options.contains(&Value::from(option)))
    };
    for place in ["/", "/var/task"] {
        assert!(has(place, "ro") && has(place, "nosuid"), "{place} of {mounts:?}");
    }
    // A disk of its configured size (`limits`).
    assert!(mounts["/tmp"]["kind"] == "ext4" && has("/tmp", "nosuid") && has("/tmp", "nodev"), "{mounts:?}");
    assert_eq!(function.answer(json!({}))["outcomes"], seen["outcomes"], "the sandbox serves on");
}
