//! What is left of a slot, of an agent, of a gateway: nothing.

use gateway_api::Egress;

use crate::guest::Outcome;
use crate::node::{METADATA, Node, PORT, PUBLIC, run};

/// The connections that a network remembers, if any is a guest's.
fn remembers(of: &str) -> bool {
    of.lines().any(|line| line.contains("100.64.1."))
}

fn taps(node: &Node) -> usize {
    node.inside("ip", &["-brief", "link"]).lines().filter(|line| line.starts_with('s')).count()
}

/// Elements that are some slot's.
fn elements(node: &Node) -> usize {
    let text = ["outer", "egress", "listed", "sent", "received"].map(|set| {
        let kind = if ["outer", "egress"].contains(&set) { "map" } else { "set" };
        node.inside("nft", &["list", kind, "ip", "guests", set])
    });
    text.iter().filter(|text| text.contains("elements")).count()
}

const CONNECTIONS: &str = "/proc/net/nf_conntrack";

#[test]
fn nothing_is_left_of_a_slot_that_is_removed() {
    let node = Node::start();
    let agent = node.connect();
    let list = Egress::only(vec!["198.51.100.0/24".parse().unwrap()]).unwrap();
    let (slot, mut guest) = agent.guest(list.clone());
    let (other, mut neighbour) = agent.guest(list);
    assert_eq!(guest.tries(PUBLIC, PORT), Outcome::Connected);
    let (connection, _) = neighbour.connect(PUBLIC, PORT);
    agent.remove(slot).unwrap();
    assert_eq!(taps(&node), 1);
    assert_eq!(guest.tries(PUBLIC, PORT), Outcome::Silence, "its tap leads nowhere");
    assert_eq!(neighbour.says(connection, "still here"), "still here");
    drop(neighbour);
    agent.remove(other).unwrap();
    assert_eq!((taps(&node), elements(&node)), (0, 0));
    for memory in [node.inside("cat", &[CONNECTIONS]), run("cat", &[CONNECTIONS])] {
        assert!(!remembers(&memory), "{memory}");
    }
    // Numbers are not used again soon.
    assert!(agent.make().number > other);
}

#[test]
fn a_connection_is_remembered_as_long_as_its_slot_is_there() {
    let node = Node::start();
    let agent = node.connect();
    let (_, mut guest) = agent.guest(Egress::Internet);
    guest.connect(PUBLIC, PORT);
    assert!(remembers(&node.inside("cat", &[CONNECTIONS])) && remembers(&run("cat", &[CONNECTIONS])));
}

#[test]
fn nothing_outlives_the_agent() {
    let node = Node::start();
    let agent = node.connect();
    let slots: Vec<_> = (0..20).map(|_| agent.guest(Egress::Internet)).collect();
    drop(agent);
    let next = node.connect();
    // It is answered when all that was the last one's is gone, whoever still has a tap.
    next.resolve(PUBLIC);
    assert_eq!((taps(&node), elements(&node)), (0, 0));
    assert_eq!(next.guest(Egress::Internet).1.tries(PUBLIC, PORT), Outcome::Connected);
    drop(slots);
}

#[test]
fn a_gateway_that_comes_after_one_that_was_killed_finds_nothing_in_its_way() {
    let mut node = Node::start();
    let agent = node.connect();
    let (_, mut old) = agent.guest(Egress::Internet);
    old.connect(PUBLIC, PORT);
    // The old tap keeps the old network: it is connected with nothing.
    node.restart();
    let agent = node.connect();
    let (_, mut guest) = agent.guest(Egress::Internet);
    // From another port than the old one's, whose connection the server still believes in.
    assert_eq!(guest.tries(METADATA, PORT), Outcome::Refused);
    assert_eq!(guest.tries(PUBLIC, PORT), Outcome::Connected);
    assert_eq!(old.tries(PUBLIC, PORT), Outcome::Silence);
}
