//! What else a guest can send than a TCP/IP stack would: frames of protocols that it does not have, and pieces of packets.

use std::iter;
use std::net::{Ipv4Addr, Ipv6Addr};

use gateway_api::Egress;
use inner_network::{GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC};

use crate::guest::Outcome::{Connected, Refused};
use crate::node::{Node, PORT, PUBLIC, RESOLVER};

type Mac = [u8; 6];

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// Protocols behind an IP header.
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// What the gateway's end would have made itself of its Ethernet address, and the groups it would be in (RFC 4291 §2.7.1).
const GATEWAY_LINK: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1);
const SOLICITED: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// The guest's, and one of somebody's beyond the node.
const GUEST_LINK: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 2);
const GLOBAL: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Whatever a guest is permitted, none of these has an effect, and it is served as ever.
#[track_caller]
fn nothing_comes_of(frames: &[Vec<u8>]) {
    let node = Node::start();
    let agent = node.connect();
    let everything = Egress::only(vec!["0.0.0.0/0".parse().expect("a network")]).expect("a list");
    let mut guests = Vec::new();
    for (egress, outcome) in
        [(Egress::Nowhere, Refused), (Egress::Internet, Connected), (everything, Connected)]
    {
        let (_, mut guest) = agent.guest(egress);
        let remembered = || node.inside("ip", &["neigh", "show", "nud", "all"]);
        let before = (node.sent(), remembered());
        frames.iter().for_each(|frame| guest.sends(frame));
        assert_eq!(guest.hears(), Vec::<Vec<u8>>::new());
        assert_eq!((node.sent(), remembered()), before);
        guests.push((guest, outcome));
    }
    // What connections leave behind is on its way for a while.
    for (mut guest, outcome) in guests {
        assert_eq!(guest.tries(PUBLIC, PORT), outcome);
    }
}

#[test]
fn ipv6_of_any_kind_comes_to_nothing() {
    let own = |kind: u8, option: u8| {
        // A target, and the sender's Ethernet address.
        let target = if kind == 136 { GUEST_LINK } else { GATEWAY_LINK };
        [&[kind, 0, 0, 0, 0x60, 0, 0, 0][..], &target.octets(), &[option, 1], &GUEST_MAC].concat()
    };
    let solicitation = own(135, 1);
    let routers = [&[133, 0, 0, 0, 0, 0, 0, 0, 1, 1][..], &GUEST_MAC].concat();
    let echo = [128, 0, 0, 0, 0, 7, 0, 1, b'?', b'?', b'?', b'?'].to_vec();
    let unicast = |to, protocol, rest: Vec<u8>| ipv6(GATEWAY_MAC, to, protocol, rest);
    let multicast = |to: Ipv6Addr, protocol, rest: Vec<u8>| {
        let [.., a, b, c, d] = to.octets();
        ipv6([0x33, 0x33, a, b, c, d], to, protocol, rest)
    };
    nothing_comes_of(&[
        multicast(SOLICITED, ICMPV6, solicitation.clone()),
        unicast(GATEWAY_LINK, ICMPV6, solicitation),
        multicast(ALL_NODES, ICMPV6, own(136, 2)),
        multicast(ALL_ROUTERS, ICMPV6, routers),
        multicast(ALL_NODES, ICMPV6, echo.clone()),
        unicast(GATEWAY_LINK, ICMPV6, echo.clone()),
        unicast(GLOBAL, ICMPV6, echo),
        unicast(GATEWAY_LINK, UDP, udp(53, b"a name")),
        multicast(ALL_NODES, UDP, udp(53, b"a name")),
        unicast(GLOBAL, UDP, udp(53, b"a name")),
        unicast(GATEWAY_LINK, TCP, tcp()),
        unicast(GLOBAL, TCP, tcp()),
    ]);
}

#[test]
fn frames_of_no_protocol_of_a_guests_come_to_nothing() {
    let connects = ipv4(GATEWAY_MAC, PUBLIC, TCP, (7, 0, false), tcp());
    let asks = {
        let fixed = [0, 1, 8, 0, 6, 4, 0, 1];
        let own = [&GUEST_MAC[..], &GUEST.octets()].concat();
        frame([0xff; 6], ARP, [&fixed[..], &own, &[0; 6], &GATEWAY.octets()].concat())
    };
    // A tag is of four bytes in front of what kind of frame it is.
    let tagged = |frame: &[u8], tag: u16| {
        let (addresses, rest) = frame.split_at(12);
        [addresses, &tag.to_be_bytes(), &[0, 1], rest].concat()
    };
    let to = |mac: Mac, frame: &[u8]| [&mac[..], &frame[6..]].concat();
    nothing_comes_of(&[
        tagged(&connects, 0x8100),
        tagged(&connects, 0x88a8),
        tagged(&tagged(&connects, 0x8100), 0x88a8),
        tagged(&asks, 0x8100),
        // To another station, and to all of them, which is not how a packet is sent to one address.
        to([0x02, 0, 0, 0, 0, 0x77], &connects),
        to([0xff; 6], &connects),
        // An experiment's, a neighbour's description, a tunnel's discovery, a bridge's, and one that has a length in place of a kind.
        frame(GATEWAY_MAC, 0x88b5, vec![0x55; 100]),
        frame([0x01, 0x80, 0xc2, 0, 0, 0x0e], 0x88cc, vec![2, 7, 4, 2, 0, 0, 0, 0, 2, 0, 0]),
        frame([0xff; 6], 0x8863, vec![0x11, 9, 0, 0, 0, 4, 1, 1, 0, 0]),
        frame([0x01, 0x80, 0xc2, 0, 0, 0], 38, [&[0x42, 0x42, 3][..], &[0; 35]].concat()),
        frame(GATEWAY_MAC, 4, vec![0xaa, 0xaa, 3, 0]),
        // Nothing but a header, and one that says there is more than there is.
        frame(GATEWAY_MAC, IPV4, vec![]),
        frame(GATEWAY_MAC, IPV4, connects[14..30].to_vec()),
    ]);
}

/// Every guest has the same address, so what tells the pieces of one guest's packet from another's has to be done before they are put together.
#[test]
fn pieces_of_two_guests_are_never_one_packet() {
    const NUMBER: u16 = 7;
    let node = Node::start();
    let agent = node.connect();
    agent.resolve(RESOLVER);
    let guests = [(); 2].map(|()| agent.guest(Egress::Internet).1);
    let [mut one, mut other] = guests;
    let before = node.sent();
    let packet = |words: &str| udp(53, words.as_bytes());
    let (own, others) = (packet("a question in two parts."), packet("what somebody else says."));
    let part = |packet: &[u8], is_last: bool| {
        let (begin, end) = packet.split_at(16);
        let rest = if is_last { end } else { begin };
        ipv4(GATEWAY_MAC, GATEWAY, UDP, (NUMBER, u16::from(is_last) * 2, !is_last), rest.to_vec())
    };
    one.sends(&part(&own, false));
    other.sends(&part(&others, true));
    assert_eq!((one.hears().len(), other.hears().len(), node.sent()), (0, 0, before));
    one.sends(&part(&own, true));
    let [answer] = &one.hears()[..] else { panic!("no answer") };
    assert!(answer.ends_with(b"a question in two parts."), "{answer:02x?}");
    assert_eq!(other.hears(), Vec::<Vec<u8>>::new());
}

/// What waits for its rest is bounded, and is not waited for for long.
#[test]
fn pieces_without_a_rest_take_no_more_than_there_is_for_them() {
    const FLOOD: u16 = 5000;
    const LEN: usize = 1400;
    /// The kernel's, of all pieces in the guests' network, and the one that it has in hand.
    const MOST: u64 = (4 << 20) + 4096;
    let node = Node::start();
    let agent = node.connect();
    let (_, mut guest) = agent.guest(Egress::Internet);
    let (_, mut neighbour) = agent.guest(Egress::Internet);
    let before = node.sent();
    for number in 0..FLOOD {
        guest.sends(&ipv4(GATEWAY_MAC, PUBLIC, UDP, (number, 0, true), udp(9, &[0; LEN])));
    }
    let said = node.inside("cat", &["/proc/net/sockstat"]);
    let memory = said.lines().find_map(|line| line.strip_prefix("FRAG: inuse ")?.split_once(" memory "));
    let memory: u64 = memory.expect("a line of pieces").1.parse().expect("a number");
    assert!((LEN as u64..MOST).contains(&memory), "{memory} bytes");
    assert_eq!(node.sent(), before);
    assert_eq!(neighbour.tries(PUBLIC, PORT), Connected);
    let given_up = node.inside("cat", &["/proc/sys/net/ipv4/ipfrag_time"]);
    assert!((1..=3).contains(&given_up.trim().parse::<u32>().expect("seconds")), "{given_up}");
}

/// Of the guest's.
fn frame(to: Mac, kind: u16, rest: Vec<u8>) -> Vec<u8> {
    [&to[..], &GUEST_MAC, &kind.to_be_bytes(), &rest].concat()
}

fn ipv6(to_mac: Mac, to: Ipv6Addr, protocol: u8, mut rest: Vec<u8>) -> Vec<u8> {
    let len = rest.len() as u16;
    let addresses = [GUEST_LINK.octets(), to.octets()].concat();
    let pseudo = [&addresses[..], &u32::from(len).to_be_bytes(), &[0, 0, 0, protocol]].concat();
    check(&pseudo, protocol, &mut rest);
    // A neighbour's messages have gone over no router.
    let head = [&[0x60, 0, 0, 0][..], &len.to_be_bytes(), &[protocol, 255], &addresses].concat();
    frame(to_mac, IPV6, [head, rest].concat())
}

/// A packet of that number, or a piece of it from so many times eight bytes on, with more to come or not.
fn ipv4(
    to_mac: Mac,
    to: Ipv4Addr,
    protocol: u8,
    (number, offset, has_more): (u16, u16, bool),
    mut rest: Vec<u8>,
) -> Vec<u8> {
    let addresses = [GUEST.octets(), to.octets()].concat();
    if protocol == TCP {
        let pseudo = [&addresses[..], &[0, protocol], &(rest.len() as u16).to_be_bytes()].concat();
        check(&pseudo, protocol, &mut rest);
    }
    let place = offset | u16::from(has_more) << 13;
    let mut head = [&[0x45, 0][..], &(20 + rest.len() as u16).to_be_bytes(), &number.to_be_bytes()].concat();
    head.extend([&place.to_be_bytes()[..], &[64, protocol, 0, 0], &addresses].concat());
    let sum = checksum(&head);
    head[10..12].copy_from_slice(&sum.to_be_bytes());
    frame(to_mac, IPV4, [head, rest].concat())
}

/// Without a checksum, which IPv4 lets it have.
fn udp(port: u16, words: &[u8]) -> Vec<u8> {
    let len = 8 + words.len() as u16;
    [&40_000_u16.to_be_bytes()[..], &port.to_be_bytes(), &len.to_be_bytes(), &[0, 0], words].concat()
}

/// The beginning of a connection.
fn tcp() -> Vec<u8> {
    let ports = [40_000_u16.to_be_bytes(), PORT.to_be_bytes()].concat();
    [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0x10, 0, 0, 0, 0, 0]].concat()
}

/// Writes a packet's checksum where its protocol has it.
fn check(pseudo: &[u8], protocol: u8, rest: &mut [u8]) {
    let place = match protocol {
        TCP => 16,
        UDP => 6,
        _ => 2,
    };
    let sum = checksum(&[pseudo, rest].concat());
    rest[place..place + 2].copy_from_slice(&sum.to_be_bytes());
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let halves = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = halves.sum();
    let fold = |sum: u32| (sum & 0xffff) + (sum >> 16);
    !(iter::successors(Some(sum), |sum| Some(fold(*sum))).nth(2).unwrap_or(sum) as u16)
}
