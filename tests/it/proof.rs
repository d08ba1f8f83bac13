//! Where a function runs: in a microVM with our guest kernel and one static PID 1, not on the appliance, with nothing
//! but its own processes and disks in sight and no rights.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::functions::{Deployed, Function, Life, MEMORY_MIB, in_both_lives};
use crate::node::Node;
use crate::setting;

/// EPERM, EACCES, EROFS and ENOENT: the ways in which something is not allowed or not there.
const REFUSALS: [u64; 4] = [1, 13, 30, 2];

/// The user and group that functions run as.
const FUNCTION_UID: u64 = 993;
const FUNCTION_GID: u64 = 990;

fn inspect(function: &Deployed) -> Value {
    function.answer(json!({}))
}

/// The release in our guest kernel's own banner.
fn guest_kernel_release() -> String {
    let kernel =
        std::fs::read(setting("TINDERBOX_PAYLOAD").join("guest/vmlinux")).expect("the payload has a kernel");
    let marker = b"Linux version ";
    let start =
        kernel.windows(marker.len()).position(|window| window == marker).expect("a kernel has a banner");
    let banner = &kernel[start + marker.len()..];
    let release: Vec<u8> = banner.iter().copied().take_while(|byte| *byte != b' ').collect();
    String::from_utf8(release).expect("a release is text")
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

in_both_lives! {
    a_function_runs_on_our_guest_kernel_and_not_on_the_appliances,
    the_machine_below_a_function_is_a_virtual_one,
    a_function_sees_its_own_processes_under_our_pid_1_and_nothing_else,
    a_function_has_three_disks_a_loopback_and_no_shell,
    a_function_has_no_rights_beyond_its_own_files,
    a_function_is_told_what_lambda_tells_and_no_secret_of_the_node,
}

fn a_function_runs_on_our_guest_kernel_and_not_on_the_appliances(life: Life) {
    let shared = Node::shared();
    let seen = inspect(&shared.keeps(Function::python("inspect"), life));
    let release = guest_kernel_release();
    assert_eq!(text(&seen["uname"], "release"), release);
    // The appliance's kernel is Debian's, and it is another one.
    let appliance = shared.node.serial_output();
    assert!(!text(&seen["uname"], "version").contains("Debian"), "{}", seen["uname"]);
    assert!(
        !appliance.contains(&format!("Linux version {release} ")),
        "the appliance runs the guest's kernel"
    );
    // ENOENT: a kernel that cannot load modules does not list them.
    assert_eq!(text(&seen, "modules"), "errno 2", "the guest kernel has modules");
}

fn the_machine_below_a_function_is_a_virtual_one(life: Life) {
    let shared = Node::shared();
    let seen = inspect(&shared.keeps(Function::python("inspect"), life));
    let flags =
        text(&seen, "cpuinfo").lines().find(|line| line.starts_with("flags")).expect("cpuinfo has flags");
    assert!(flags.split_whitespace().any(|flag| flag == "hypervisor"), "{flags}");
    assert!(
        !flags.split_whitespace().any(|flag| flag == "svm" || flag == "vmx"),
        "a guest may not nest: {flags}"
    );
    assert_eq!(seen["cpus"], 1);
    let total_kib: u64 = text(&seen, "meminfo")
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok())
        .expect("meminfo has a total");
    // Its own memory and what the platform adds, not the appliance's four gigabytes.
    assert!(total_kib / 1024 >= u64::from(MEMORY_MIB) / 2, "{total_kib} KiB");
    assert!(total_kib / 1024 <= u64::from(MEMORY_MIB) + 128, "{total_kib} KiB");
}

fn a_function_sees_its_own_processes_under_our_pid_1_and_nothing_else(life: Life) {
    let shared = Node::shared();
    let seen = inspect(&shared.keeps(Function::python("inspect"), life));
    let processes: BTreeMap<String, String> =
        serde_json::from_value(seen["processes"].clone()).expect("processes by number");
    for name in processes.values() {
        for foreign in ["systemd", "vmm", "host-agent", "journald", "udev", "sshd", "agetty", "bash"] {
            assert!(!name.contains(foreign), "{name} is visible: {processes:?}");
        }
    }
    // PID 1 may be hidden from the function; if it is seen, it is ours (or the runtime, in a PID namespace of its own).
    let pid_1 = text(&seen, "pid_1");
    let expected = ["init", "guest-init", "bootstrap", "python3.13"];
    assert!(expected.contains(&pid_1) || pid_1.starts_with("errno"), "PID 1 is {pid_1}");
}

fn a_function_has_three_disks_a_loopback_and_no_shell(life: Life) {
    let shared = Node::shared();
    let seen = inspect(&shared.keeps(Function::python("inspect"), life));
    let mut disks: BTreeMap<String, String> = BTreeMap::new();
    for disk in seen["disks"].as_object().expect("disks by name").values() {
        disks.insert(text(disk, "serial").to_owned(), text(disk, "ro").to_owned());
    }
    // A function may be kept from /sys; what it sees there must be these and no others.
    if !disks.is_empty() {
        let expected = [("code", "1"), ("runtime", "1"), ("scratch", "0")];
        assert_eq!(disks, expected.map(|(name, ro)| (name.to_owned(), ro.to_owned())).into());
    }
    let network: Vec<&str> =
        seen["network"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert!(network.iter().all(|name| *name == "lo"), "{network:?}");
    assert_eq!(seen["shells"], json!([]));
}

fn a_function_has_no_rights_beyond_its_own_files(life: Life) {
    let shared = Node::shared();
    let seen = inspect(&shared.keeps(Function::python("inspect"), life));
    assert_eq!((&seen["uid"], &seen["gid"]), (&FUNCTION_UID.into(), &FUNCTION_GID.into()));
    let status = text(&seen, "status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set).trim_start_matches('0'), "", "{set}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    for attempt in ["write_task", "write_root", "open_memory", "open_kmsg", "become_root"] {
        let errno = seen[attempt].as_u64().unwrap_or_default();
        assert!(REFUSALS.contains(&errno), "{attempt} answered {errno}");
    }
    assert_eq!(seen["write_tmp"], 0);
    assert_eq!(text(&seen, "cwd"), "/var/task");
}

fn a_function_is_told_what_lambda_tells_and_no_secret_of_the_node(life: Life) {
    let shared = Node::shared();
    let function = shared.keeps(Function::python("inspect"), life);
    let seen = inspect(&function);
    let environment = &seen["environment"];
    let initialization = match life {
        Life::Booted => "on-demand",
        Life::Restored => "snap-start",
    };
    let expected = [
        ("_HANDLER", "app.handler"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_LAMBDA_FUNCTION_NAME", function.name.as_str()),
        ("AWS_LAMBDA_FUNCTION_VERSION", function.called_version()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "192"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", initialization),
        ("LAMBDA_TASK_ROOT", "/var/task"),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime"),
    ];
    for (name, value) in expected {
        assert_eq!(environment[name], value, "{name}");
    }
    let all = environment.to_string();
    for secret in ["TINDERBOX_", "CREDENTIALS_DIRECTORY", "tinderbox.agent"] {
        assert!(!all.contains(secret), "{all}");
    }
    assert!(!text(&seen, "cmdline").contains("secret"), "{}", seen["cmdline"]);
}
