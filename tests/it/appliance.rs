//! How a booted node is closed: what root finds on a `devtools` one, which differs from the production form by a way in and a root
//! that can be written (`docs/adr/0024-system-that-does-not-change.md`). What the latter says of itself, `image` tests.

use serde_json::{Value, json};

use crate::chunks::tinderbox;
use crate::host;
use crate::node::Node;

/// Highest exposure that `systemd-analyze security` may find in a unit of ours, in tenths.
const MAX_EXPOSURE: &str = "20";

pub(crate) const UNITS: [&str; 7] = [
    "tinderbox-agent.service",
    "tinderbox-gateway.service",
    "tinderbox-launcher.service",
    "tinderbox-lockdown.service",
    "tinderbox-processors.service",
    "tinderbox-resident.service",
    "tinderbox-sealed.service",
];

/// What `tinderbox node` tells of a node.
pub(crate) fn told(node: &Node) -> Value {
    let output = tinderbox(node.client().endpoint(), "test", &["node", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// What it says of turns at its processor where they end in time.
pub(crate) const TURNS: &str = "timer, 400000 ns";

/// What every node has, however it was started.
pub(crate) fn assert_closed(told: &Value) {
    for (name, value) in [
        ("lockdown", json!("confidentiality")),
        ("modules_disabled", json!("1")),
        ("swaps", json!(0)),
        ("page_merging", json!("0")),
        ("huge_pages", json!("always")),
    ] {
        assert_eq!(told[name], value, "{name} of {told}");
    }
    let holes = told["vulnerabilities"].as_object().expect("a map");
    assert!(holes.contains_key("spectre_v2") && holes.contains_key("mds"), "{told}");
    // What a kernel can see to without the processor's help; other ones take firmware, which an emulated processor has none of.
    for name in ["l1tf", "meltdown", "spectre_v1", "spectre_v2"] {
        let state = holes[name].as_str().expect("a text");
        assert!(!state.starts_with("Vulnerable"), "{name}: {state}");
    }
    assert!(told["landlock"].as_u64() >= Some(6), "{told}");
}

fn root(script: &str) -> host::Finished {
    host::run(&["sh", "-c", script])
}

#[test]
fn our_units_are_exposed_as_little_as_they_are_to_be() {
    for unit in UNITS {
        let threshold = format!("--threshold={MAX_EXPOSURE}");
        let analysed = host::run(&["systemd-analyze", "security", "--no-pager", &threshold, unit]);
        assert_eq!(analysed.code, 0, "{unit}: {}", analysed.stdout);
    }
    let failed = host::run(&["systemctl", "--failed", "--plain", "--no-legend", "--no-pager"]);
    assert_eq!(failed.stdout.trim(), "", "units that failed");
}

#[test]
fn root_cannot_change_the_running_kernel() {
    // In the image, not loaded, and signed.
    let module = root("modprobe loop");
    assert!(module.code != 0 && module.stderr.contains("not permitted"), "{module:?}");
    let unseal = root("echo 0 > /proc/sys/kernel/modules_disabled");
    assert_ne!(unseal.code, 0, "{unseal:?}");
    let open = root("echo none > /sys/kernel/security/lockdown");
    assert_ne!(open.code, 0, "{open:?}");
    // Where turns at a processor are said; the way to it is open to root, what lies there is not.
    // In a view of its own, for others look at what is mounted meanwhile.
    let turns = root("unshare --mount sh -c 'mount -t debugfs none /mnt && head -c 1 /mnt/sched/features'");
    assert!(turns.code != 0 && turns.stderr.contains("not permitted"), "{turns:?}");
    for file in ["/dev/mem", "/dev/kmem", "/dev/port", "/proc/kcore", "/dev/cpu/0/msr"] {
        let read = root(&format!("head -c 1 {file}"));
        assert_ne!(read.code, 0, "{file}: {read:?}");
    }
}

#[test]
fn the_kernel_is_locked_down_before_anything_is_loaded_or_looked_for() {
    let time = |property: &str, unit: &str| -> u64 {
        let shown = host::run(&["systemctl", "show", "-P", property, unit]);
        shown.stdout.trim().parse().unwrap_or_else(|error| panic!("{property} of {unit}: {error}: {shown:?}"))
    };
    let locked = time("ExecMainExitTimestampMonotonic", "tinderbox-lockdown.service");
    assert_ne!(locked, 0);
    for unit in ["systemd-modules-load.service", "systemd-udevd.service", "tinderbox-launcher.service"] {
        assert!(locked <= time("ExecMainStartTimestampMonotonic", unit), "{unit}");
    }
    let mounted = root("grep ' debugfs ' /proc/mounts");
    assert_eq!(mounted.stdout, "", "what it was needed for is over");
}

#[test]
fn what_all_calls_go_through_comes_before_what_one_sandbox_does() {
    let weights = root(
        "cd /sys/fs/cgroup/system.slice && cat tinderbox-agent.service/cpu.weight tinderbox-launcher.service/cpu.weight",
    );
    assert_eq!(weights.stdout.split_whitespace().collect::<Vec<_>>(), ["200", "100"], "{weights:?}");
}

#[test]
fn every_sysctl_has_the_value_that_its_reason_is_for() {
    let different = root(
        "cat /usr/lib/sysctl.d/60-tinderbox.conf /etc/tinderbox/sealed.conf | while read name is value; do \
         case $name in ''|'#'*) continue;; esac; now=$(cat /proc/sys/$(echo $name | tr . /)); \
         [ \"$now\" = \"$value\" ] || echo $name: $now; done",
    );
    assert_eq!((different.code, different.stdout.as_str()), (0, ""), "{different:?}");
}

#[test]
fn nothing_comes_in_but_what_a_node_is_for() {
    let rules = host::run(&["nft", "list", "chain", "inet", "filter", "input"]);
    assert!(rules.stdout.contains("policy drop;"), "{rules:?}");
    let forward = host::run(&["nft", "list", "chain", "inet", "filter", "forward"]);
    assert!(forward.stdout.contains("policy drop;"), "{forward:?}");
    let opened = |line: &&str| line.contains("dport") && line.contains("accept");
    let ports: Vec<&str> = rules.stdout.lines().map(str::trim).filter(opened).collect();
    let ours = [
        "udp sport 67 udp dport 68 accept",
        "udp dport 546 accept",
        "tcp dport 9000 accept",
        "tcp dport 9080 accept",
    ];
    // The way in of the profile.
    assert_eq!(ports, [&ours[..], &["tcp dport 22 accept"]].concat());
}

#[test]
fn every_thread_of_the_agent_is_confined_and_has_no_right() {
    let threads = root("cat /proc/$(systemctl show -P MainPID tinderbox-agent.service)/task/*/status");
    let all = |name: &str, value: &str| {
        let lines: Vec<&str> = threads.stdout.lines().filter_map(|line| line.strip_prefix(name)).collect();
        assert!(!lines.is_empty() && lines.iter().all(|line| line.trim() == value), "{name} {lines:?}");
    };
    all("Seccomp:", "2");
    all("NoNewPrivs:", "1");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        all(set, "0000000000000000");
    }
}
