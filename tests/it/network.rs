//! The guests' network on a booted node. What goes through it is tested beside the gateway (`gateway/tests/it/`), whose tests have
//! guests, servers and networks of their own.

use serde_json::{Value, json};

use crate::chunks::tinderbox;
use crate::functions::{Deployed, Function, Invocation};
use crate::host;
use crate::kills::Agent;

/// Somebody beyond the node at a public address (RFC 5737: nobody has it) and at a private one, who says `SSH-2.0` to who connects.
const PUBLIC: (&str, u16) = ("203.0.113.1", 22);
const PRIVATE: (&str, u16) = ("10.77.0.1", 22);
const WORDS: &str = "SSH-2.0";

/// The node's own address on the link to them, its API's port and a developer's.
const NODE: &str = "203.0.113.254";

/// A cloud's metadata would be there.
const METADATA: (&str, u16) = ("169.254.169.254", 80);

/// Emulated guests take a while to connect; who is not answered waits that long.
const PATIENCE_S: u32 = 20;

/// A network namespace of the host that is what is beyond the node, until it is dropped.
struct Beyond;

impl Beyond {
    fn there() -> Self {
        let public = PUBLIC.0;
        let private = PRIVATE.0;
        said(&format!(
            "set -e; ip netns add beyond; ip link add beyond type veth peer name node netns beyond; \
             ip address add {NODE}/24 dev beyond; ip link set beyond up; echo 1 > /proc/sys/net/ipv4/conf/beyond/forwarding; \
             ip -n beyond link set lo up; ip -n beyond address add {private}/32 dev lo; \
             ip -n beyond address add {public}/24 dev node; ip -n beyond link set node up; ip route add {private}/32 via {public}; \
             ip netns exec beyond /usr/sbin/sshd -h /run/sshd/host_key -o PidFile=none -o UsePAM=no > /dev/null 2>&1"
        ));
        Self
    }
}

impl Drop for Beyond {
    fn drop(&mut self) {
        host::run(&[
            "sh",
            "-c",
            "kill $(ip netns pids beyond); ip link delete beyond; ip netns delete beyond",
        ]);
    }
}

/// How each attempt of the function to connect went.
fn dials(function: &Deployed, to: &[(&str, u16)]) -> Value {
    function.answer(json!({ "to": to, "seconds": PATIENCE_S }))
}

#[track_caller]
fn let_out(agent: &Agent, function: &Deployed, egress: &[&str]) {
    let arguments = [&["egress", "set", function.name.as_str()], egress].concat();
    let output = tinderbox(agent.client().endpoint(), "test", &arguments);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_function_goes_where_it_may_and_nowhere_else() {
    let agent = Agent::alone();
    let _beyond = Beyond::there();
    let function = Function::python("dials").deploy(agent.client());
    let targets = [PUBLIC, PRIVATE, METADATA, (NODE, 9000), (NODE, 22), ("192.0.0.1", 9000)];
    let (refused, silence) = ("ECONNREFUSED", "silence");
    assert_eq!(
        dials(&function, &targets),
        json!(vec!["ENETUNREACH"; targets.len()]),
        "nobody has said that it may"
    );
    let_out(&agent, &function, &["internet"]);
    assert_eq!(dials(&function, &targets), json!([WORDS, refused, refused, silence, silence, refused]));
    let_out(&agent, &function, &["10.77.0.0/16", NODE]);
    assert_eq!(dials(&function, &targets), json!([refused, WORDS, refused, silence, silence, refused]));
}

#[test]
fn two_clones_with_one_address_go_out_at_once() {
    let agent = Agent::alone();
    let _beyond = Beyond::there();
    let function = Function::python("dials").deploy(agent.client());
    let_out(&agent, &function, &["internet"]);
    let version = function.publish_active();
    let event = json!({ "to": [PUBLIC, PUBLIC, PRIVATE, (NODE, 9000)], "seconds": PATIENCE_S });
    let calls = [function.begin_as(&version, &event), function.begin_as(&version, &event)];
    for call in calls {
        let answer = call.end().unwrap_or_else(|error| panic!("a clone's call: {error:?}"));
        assert_eq!(Invocation::parse(&answer).json(), json!([WORDS, WORDS, "ECONNREFUSED", "silence"]));
    }
}

/// What a program on the host says; it does well.
#[track_caller]
fn said(command: &str) -> String {
    let finished = host::run(&["sh", "-c", command]);
    assert_eq!(finished.code, 0, "{command}: {finished:?}");
    finished.stdout.trim().to_owned()
}

#[test]
fn a_node_has_a_network_for_guests_and_no_part_in_it() {
    // Whoever connects has the gateway started; it says so when it serves.
    assert_eq!(
        said("systemctl is-active tinderbox-gateway.service || journalctl -u tinderbox-gateway"),
        "active"
    );
    let gateway = said("systemctl show --property MainPID --value tinderbox-gateway.service");
    let status = said(&format!("cat /proc/{gateway}/status"));
    assert!(status.contains("CapEff:\t0000000000001000") && status.contains("Seccomp:\t2"), "{status}");
    assert_eq!(said(&format!("ls -A /proc/{gateway}/root | wc -l")), "0");
    let networks = said(&format!("readlink /proc/{gateway}/ns/net /proc/1/ns/net"));
    let [theirs, ours] = networks.lines().collect::<Vec<_>>()[..] else { panic!("{networks}") };
    assert_ne!(theirs, ours);
    // The node passes packets on between its uplink and that network, and nowhere else.
    let forwarding = "cd /proc/sys/net/ipv4/conf; for link in *; do echo $link $(cat $link/forwarding); done";
    let forwarding = said(forwarding);
    let forwards: Vec<_> = forwarding.lines().filter_map(|line| line.strip_suffix(" 1")).collect();
    assert!(forwards.len() == 2 && forwards.contains(&"guests"), "{forwarding}");
    let rules = said("nft list ruleset");
    for rule in [r#"iifname "guests" drop"#, r#"iifname "guests" oifname != "guests""#, "masquerade"] {
        assert!(rules.contains(rule), "no {rule} in {rules}");
    }
}
