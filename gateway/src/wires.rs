//! Links, and what of addresses and routes goes with each: the pair that connects the guests' network with the node's, and a
//! slot's tap.
//!
//! ```text
//!  guest 192.0.0.2 ── tap sN 192.0.0.1 ┐
//!  guest 192.0.0.2 ── tap sM 192.0.0.1 ┤ guests' network: uplink ══ guests : node's network ── its own uplink
//! ```
//!
//! No link is bridged with another: what goes from one to another is routed, and filtered on the way.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use gateway_api::{NUMBERS, Prefix};
use inner_network::{GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, MTU};
use nix::errno::Errno;

use crate::netlink::{Message, Netlink};

/// Ends of the pair, by name: the one in the guests' network, and the node's. Filters know them by these.
const UPLINK: &str = "uplink";
const NODE_END: &str = "guests";

/// Their numbers, far from those that the kernel gives by itself.
const UPLINK_INDEX: u32 = 10;
const NODE_END_INDEX: u32 = 1 << 20;

/// The tap of slot 0; the others follow.
const FIRST_TAP_INDEX: u32 = 1 << 10;

/// First addresses of the pool that are not slots'; the pair has two of them.
const RESERVED: u32 = 256;

/// Bits of an address that the network between the pair's ends leaves to these.
const PAIR_PREFIX_LEN: u8 = 30;

/// Longest prefix of a pool that has an address for each slot.
pub(crate) const MAX_POOL_LEN: u8 = 16;

const _: () = assert!(RESERVED + NUMBERS <= 1 << (32 - MAX_POOL_LEN));

/// Frames that wait for a guest to take them: a burst; more of them would only be late.
const TAP_QUEUE_LEN: u32 = 256;

/// All taps, so that they can be removed at once.
const TAP_GROUP: u32 = 1;

const EXCLUSIVE: libc::c_int = libc::NLM_F_CREATE | libc::NLM_F_EXCL;

/// `linux/veth.h`, `linux/if_link.h`, `linux/ip.h`.
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET_CONF: u16 = 1;
const IPV4_DEVCONF_FORWARDING: u16 = 1;

/// Addresses of the private network that slots are known by on the node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool(pub(crate) Prefix);

impl Pool {
    /// The address of a slot.
    pub(crate) fn outer(self, slot: u32) -> Ipv4Addr {
        self.nth(RESERVED + slot)
    }

    fn node_end(self) -> Ipv4Addr {
        self.nth(1)
    }

    fn uplink(self) -> Ipv4Addr {
        self.nth(2)
    }

    fn nth(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.0.address()) + number)
    }
}

/// The number of a slot's tap.
pub(crate) fn tap_index(slot: u32) -> u32 {
    FIRST_TAP_INDEX + slot
}

/// Connects this network with the node's, which `node` speaks to and `namespace` is. What an earlier gateway has left is
/// removed.
pub(crate) fn connect(
    pool: Pool,
    (node, namespace): (&mut Netlink, BorrowedFd<'_>),
    guests: &mut Netlink,
) -> Result<(), Errno> {
    let old =
        Message::new(libc::RTM_DELLINK, 0, &link(0, LinkState::AsIs)).with_name(libc::IFLA_IFNAME, NODE_END);
    match node.ask(old) {
        Ok(()) | Err(Errno::ENODEV) => {}
        Err(error) => return Err(error),
    }
    guests.ask(pair(namespace))?;
    guests.ask(set_up(UPLINK_INDEX))?;
    guests.ask(address(UPLINK_INDEX, pool.uplink(), PAIR_PREFIX_LEN))?;
    guests.ask(route(UPLINK_INDEX, ANYWHERE, Via::Router(pool.node_end())))?;
    // Only what comes from there is passed on by the node, which otherwise is no router; its own uplink's configuration
    // says the same of answers.
    let passes_on = |inner: Message| inner.with(IPV4_DEVCONF_FORWARDING, &1_u32.to_ne_bytes());
    let settings = set_up(NODE_END_INDEX).with_nested(libc::IFLA_AF_SPEC, |families| {
        families.with_nested(libc::AF_INET as u16, |family| family.with_nested(IFLA_INET_CONF, passes_on))
    });
    node.ask(settings)?;
    node.ask(address(NODE_END_INDEX, pool.node_end(), PAIR_PREFIX_LEN))?;
    node.ask(route(NODE_END_INDEX, (pool.0.address(), pool.0.len()), Via::Router(pool.uplink())))
}

/// Makes a slot's tap what its guest believes it to be.
pub(crate) fn attach(guests: &mut Netlink, pool: Pool, slot: u32) -> Result<(), Errno> {
    let (index, outer) = (tap_index(slot), pool.outer(slot));
    let settings = set_up(index)
        .with(libc::IFLA_ADDRESS, &GATEWAY_MAC)
        .with(libc::IFLA_MTU, &u32::from(MTU).to_ne_bytes())
        .with(libc::IFLA_TXQLEN, &TAP_QUEUE_LEN.to_ne_bytes())
        .with(libc::IFLA_GROUP, &TAP_GROUP.to_ne_bytes());
    guests.ask(settings)?;
    guests.ask(address(index, GATEWAY, 32))?;
    // Both names of the guest are known for good: it is asked for neither, and takes no room among the neighbours that the whole
    // node has.
    guests.ask(neighbour(index, outer))?;
    guests.ask(neighbour(index, GUEST))?;
    guests.ask(route(index, (outer, 32), Via::Link))
}

/// Removes a slot's tap, if it has not gone with its last descriptor.
pub(crate) fn detach(guests: &mut Netlink, slot: u32) -> Result<(), Errno> {
    gone(guests.ask(Message::new(libc::RTM_DELLINK, 0, &link(tap_index(slot), LinkState::AsIs))))
}

/// Removes all of them: at once takes as long as one.
pub(crate) fn detach_all(guests: &mut Netlink) -> Result<(), Errno> {
    let all = Message::new(libc::RTM_DELLINK, 0, &link(0, LinkState::AsIs));
    gone(guests.ask(all.with(libc::IFLA_GROUP, &TAP_GROUP.to_ne_bytes())))
}

fn gone(result: Result<(), Errno>) -> Result<(), Errno> {
    if result == Err(Errno::ENODEV) { Ok(()) } else { result }
}

/// The pair, one end of which begins in the node's network.
fn pair(namespace: BorrowedFd<'_>) -> Message {
    let message = Message::new(libc::RTM_NEWLINK, EXCLUSIVE, &link(UPLINK_INDEX, LinkState::AsIs));
    message.with_name(libc::IFLA_IFNAME, UPLINK).with_nested(libc::IFLA_LINKINFO, |info| {
        info.with_name(libc::IFLA_INFO_KIND, "veth").with_nested(libc::IFLA_INFO_DATA, |data| {
            data.with_nested(VETH_INFO_PEER, |peer| {
                peer.with_fields(&link(NODE_END_INDEX, LinkState::AsIs))
                    .with_name(libc::IFLA_IFNAME, NODE_END)
                    .with(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes())
            })
        })
    })
}

fn set_up(index: u32) -> Message {
    Message::new(libc::RTM_NEWLINK, 0, &link(index, LinkState::Up))
}

/// What a message does to whether a link is up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LinkState {
    AsIs,
    Up,
}

/// `struct ifinfomsg`: family, type, number, flags, and which of them are meant.
fn link(index: u32, state: LinkState) -> [u8; 16] {
    let up = if state == LinkState::Up { libc::IFF_UP as u32 } else { 0 };
    fields([0, index, up, up])
}

/// `struct ifaddrmsg`: family, prefix, flags, scope, link.
fn address(index: u32, address: Ipv4Addr, prefix_len: u8) -> Message {
    let head = [libc::AF_INET as u8, prefix_len, 0, libc::RT_SCOPE_UNIVERSE];
    let message = Message::new(libc::RTM_NEWADDR, EXCLUSIVE, &[head, index.to_ne_bytes()].concat());
    message.with(libc::IFA_LOCAL, &address.octets()).with(libc::IFA_ADDRESS, &address.octets())
}

/// Every address.
const ANYWHERE: (Ipv4Addr, u8) = (Ipv4Addr::UNSPECIFIED, 0);

/// Who is next on a route.
enum Via {
    /// Whoever it leads to.
    Link,
    Router(Ipv4Addr),
}

/// `struct rtmsg`: family, prefixes of destination and source, service, table, who made it, scope, type, flags.
fn route(index: u32, (destination, len): (Ipv4Addr, u8), via: Via) -> Message {
    let scope = if matches!(via, Via::Link) { libc::RT_SCOPE_LINK } else { libc::RT_SCOPE_UNIVERSE };
    let head = [libc::AF_INET as u8, len, 0, 0];
    let table = [libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, scope, libc::RTN_UNICAST];
    let message = Message::new(libc::RTM_NEWROUTE, EXCLUSIVE, &[head, table, [0; 4]].concat())
        .with(libc::RTA_DST, &destination.octets())
        .with(libc::RTA_OIF, &index.to_ne_bytes());
    match via {
        Via::Link => message,
        Via::Router(router) => message.with(libc::RTA_GATEWAY, &router.octets()),
    }
}

/// `struct ndmsg`: family, link, state, flags, type. The guest, by one of its addresses.
fn neighbour(index: u32, address: Ipv4Addr) -> Message {
    let head = fields::<3, 12>([libc::AF_INET as u32, index, libc::NUD_PERMANENT.into()]);
    Message::new(libc::RTM_NEWNEIGH, EXCLUSIVE, &head)
        .with(libc::NDA_DST, &address.octets())
        .with(libc::NDA_LLADDR, &GUEST_MAC)
}

/// Words one after the other.
fn fields<const WORDS: usize, const LEN: usize>(words: [u32; WORDS]) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}
