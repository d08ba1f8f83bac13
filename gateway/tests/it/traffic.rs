//! Where guests get and where not, and who gets to them.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use gateway_api::{Egress, Rate};
use inner_network::GATEWAY;

use crate::guest::{
    Guest,
    Outcome::{self, Connected, Refused, Silence},
};
use crate::node::{
    FIRST_OUTER, FLOOD, FLOOD_LEN, FLOOD_PACKETS, METADATA, NODE, NODE_PRIVATE, Node, PORT, PRIVATE, PUBLIC,
    RESOLVER,
};

/// Whatever a guest is permitted, it does not get there.
const CLOSED: [(Ipv4Addr, Outcome); 7] = [
    (METADATA, Refused),
    (GATEWAY, Refused),
    // The node's ends of the pair, and the gateway's.
    (Ipv4Addr::new(100, 64, 0, 1), Refused),
    (Ipv4Addr::new(100, 64, 0, 2), Refused),
    (Ipv4Addr::LOCALHOST, Silence),
    // The node's own say nothing.
    (NODE, Silence),
    (FIRST_OUTER, Refused),
];

fn only(networks: &[&str]) -> Egress {
    Egress::only(networks.iter().map(|text| text.parse().expect("a network")).collect()).expect("a list")
}

#[track_caller]
fn check(egress: Egress, expected: &[(Ipv4Addr, Outcome)]) {
    let node = Node::start();
    let agent = node.connect();
    agent.resolve(RESOLVER);
    let (_, mut neighbour) = agent.guest(Egress::Internet);
    let (_, mut guest) = agent.guest(egress);
    for &(address, outcome) in expected {
        assert_eq!(guest.tries(address, PORT), outcome, "{address}");
    }
    assert_eq!(neighbour.tries(PUBLIC, PORT), Connected);
}

#[test]
fn the_internet_is_what_is_public() {
    let rest = [(PUBLIC, Connected), (PRIVATE, Refused), (NODE_PRIVATE, Refused), (RESOLVER, Refused)];
    check(Egress::Internet, &[&CLOSED[..], &rest].concat());
}

#[test]
fn nowhere_is_nowhere() {
    let refused = CLOSED.map(|(address, _)| (address, Refused)).into_iter();
    let refused = refused.filter(|(address, _)| !address.is_loopback());
    check(Egress::Nowhere, &refused.chain([(PUBLIC, Refused), (PRIVATE, Refused)]).collect::<Vec<_>>());
}

#[test]
fn a_list_opens_what_it_says() {
    let list = only(&["10.20.0.0/28", "192.0.2.0/24"]);
    check(list, &[(PRIVATE, Connected), (NODE_PRIVATE, Silence), (RESOLVER, Refused), (PUBLIC, Refused)]);
}

#[test]
fn a_list_of_everything_does_not_open_what_is_closed() {
    let rest = [(PUBLIC, Connected), (PRIVATE, Connected), (NODE_PRIVATE, Silence)];
    check(only(&["0.0.0.0/0"]), &[&CLOSED[..], &rest].concat());
}

#[test]
fn servers_see_the_node() {
    let node = Node::start();
    let agent = node.connect();
    let (_, mut guest) = agent.guest(Egress::Internet);
    assert_eq!(guest.connect(PUBLIC, PORT).1, NODE.to_string());
}

#[test]
fn guests_with_one_address_talk_beside_each_other() {
    let node = Node::start();
    let agent = node.connect();
    let mut guests: Vec<_> = (0..5).map(|_| agent.guest(Egress::Internet).1).collect();
    // The same port of each, too.
    let connections: Vec<_> = guests.iter_mut().map(|guest| guest.connect(PUBLIC, PORT).0).collect();
    for round in 0..3 {
        for (number, (guest, connection)) in guests.iter_mut().zip(&connections).enumerate() {
            let words = format!("{round} {number}");
            assert_eq!(guest.says(*connection, &words), words);
        }
    }
}

#[test]
fn names_are_asked_of_the_gateway_by_who_may_go_somewhere() {
    let node = Node::start();
    let agent = node.connect();
    let (_, mut guest) = agent.guest(Egress::Internet);
    assert_eq!(guest.asks(GATEWAY, "before there is a server"), None);
    agent.resolve(PUBLIC);
    agent.resolve(RESOLVER);
    assert_eq!(guest.asks(GATEWAY, "a name").as_deref(), Some("a name"));
    assert_eq!(guest.asks(RESOLVER, "a name"), None, "it is private");
    let (_, mut listed) = agent.guest(only(&["192.0.2.0/24"]));
    assert_eq!(listed.asks(GATEWAY, "a name").as_deref(), Some("a name"));
    let (_, mut nowhere) = agent.guest(Egress::Nowhere);
    assert_eq!(nowhere.asks(GATEWAY, "a name"), None);
}

#[test]
fn nobody_connects_to_a_guest() {
    let node = Node::start();
    let agent = node.connect();
    let (slot, mut guest) = agent.guest(Egress::Internet);
    assert_eq!((slot, guest.tries(PUBLIC, PORT)), (0, Connected));
    let address = SocketAddr::from((FIRST_OUTER, 22));
    let refused = TcpStream::connect_timeout(&address, Duration::from_millis(300)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn a_guest_speaks_for_nobody_else() {
    let node = Node::start();
    let agent = node.connect();
    let (_, guest) = agent.guest(Egress::Internet);
    let (_, mut other) = agent.guest(Egress::Internet);
    assert_eq!(guest.claims(Ipv4Addr::new(192, 0, 0, 3)).tries(PUBLIC, PORT), Silence);
    let (_, guest) = agent.guest(Egress::Internet);
    assert_eq!(guest.claims(Ipv4Addr::new(100, 64, 1, 1)).tries(PUBLIC, PORT), Silence);
    assert_eq!(other.tries(PUBLIC, PORT), Connected);
    let neighbours = node.inside("ip", &["neigh", "show", "nud", "all"]);
    assert!(
        !neighbours.contains("192.0.0.3") && !neighbours.contains("lladdr 02:00:00:00:00:02 STALE"),
        "{neighbours}"
    );
}

#[test]
fn a_slot_is_as_fast_as_it_may_be_whatever_its_vmm_does() {
    const SLOW: Rate = Rate { bytes_per_second: 10_000, burst_bytes: 100_000 };
    /// What passes in the seconds that this takes, and no more.
    const MOST: u64 = 200_000;
    let node = Node::start();
    let agent = node.connect();
    agent.resolve(RESOLVER);
    let slow = agent.make_at(SLOW);
    agent.permit(slow.number, Egress::Internet).expect("permit");
    let (mut slow, (_, mut fast)) = (Guest::new(slow.tap), agent.guest(Egress::Internet));
    let all = (FLOOD_PACKETS * FLOOD_LEN) as u64;

    let sent = |guest: &mut Guest| {
        let before = node.sent();
        guest.floods(PUBLIC, FLOOD_PACKETS, FLOOD_LEN);
        node.sent() - before
    };
    let (by_slow, by_fast) = (sent(&mut slow), sent(&mut fast));
    assert!((50_000..MOST).contains(&by_slow), "{by_slow} bytes passed");
    assert!(by_fast >= all, "{by_fast} bytes passed of one that may be fast");

    // The tap of one that reads slowly drops some, too.
    let (to_slow, to_fast) = (slow.is_flooded(GATEWAY, FLOOD), fast.is_flooded(GATEWAY, FLOOD));
    assert!(to_slow as u64 <= MOST, "{to_slow} bytes came");
    assert!(to_fast as u64 > MOST, "{to_fast} bytes came to one that may be fast");
}

#[test]
fn a_connection_from_before_a_clone_is_reset() {
    let node = Node::start();
    let agent = node.connect();
    let (_, mut guest) = agent.guest(Egress::Internet);
    let (connection, _) = guest.connect(PUBLIC, PORT);
    assert_eq!(guest.says(connection, "before"), "before");
    let clone = agent.make();
    agent.permit(clone.number, Egress::Internet).unwrap();
    guest.moves(clone.tap);
    assert!(guest.is_reset(connection));
    assert_eq!(guest.tries(PUBLIC, PORT), Connected);
}
