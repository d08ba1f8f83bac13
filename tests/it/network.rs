//! The guests' network on a booted node. What goes through it is tested beside the gateway (`gateway/tests/it/`), whose tests have
//! guests, servers and networks of their own.

use crate::host;

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
