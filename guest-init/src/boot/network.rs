//! Sets up the guest's end of the network that every guest sees (`crates/inner-network`): an address, a way out, and the
//! gateway's Ethernet address, which nobody has to be asked for. Whether the link is up is the host's to say; it may be down for
//! ever, and it may change when the guest is resumed.

use std::fs;
use std::io;
use std::path::Path;

use inner_network::{GATEWAY, GATEWAY_MAC, GUEST, PREFIX_LEN};
use nix::sys::socket::SockProtocol;

use crate::netlink::{CREATE, Message, Netlink};

/// The only interface beside the loopback.
const INTERFACE: &str = "eth0";

/// Settings of the interface below `/proc/sys/net`, before it is up.
const SETTINGS: &[(&str, &str)] = &[
    // No address of its own making, no router asked for: the host hands on IPv4 alone.
    ("ipv6/conf/eth0/disable_ipv6", "1"),
    // Where the link is down there is no way out: a function is told so at once, and does not wait for what cannot come.
    ("ipv4/conf/eth0/ignore_routes_with_linkdown", "1"),
];

/// rtnetlink(7).
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const NEW_NEIGHBOUR: u16 = 28;
const IPV4: u8 = libc::AF_INET as u8;

/// Starts the interface.
///
/// # Errors
/// When there is none, or the kernel refuses.
pub fn start() -> io::Result<()> {
    for (name, value) in SETTINGS {
        fs::write(Path::new("/proc/sys/net").join(name), value)?;
    }
    let index = fs::read_to_string(Path::new("/sys/class/net").join(INTERFACE).join("ifindex"))?;
    let index: u32 = index.trim().parse().map_err(io::Error::other)?;
    let kernel = Netlink::open(SockProtocol::NetlinkRoute)?;
    messages(index).into_iter().try_for_each(|message| kernel.change(message))
}

/// What the kernel is told, in order.
fn messages(index: u32) -> [Message; 4] {
    const UP: [u8; 4] = [1, 0, 0, 0];
    const PERMANENT_NEIGHBOUR: u8 = 0x80;
    const MAIN_TABLE: u8 = 254;
    const AT_BOOT: u8 = 3;
    const UNICAST: u8 = 1;
    let address = address(index);
    let index = index.to_le_bytes();
    // ifinfomsg: family, type, interface, flags, which of them to change.
    let link = [&[0; 4][..], &index, &UP, &UP].concat();
    // ndmsg: family, interface, state, flags, type.
    let neighbour = [&[IPV4, 0, 0, 0][..], &index, &[PERMANENT_NEIGHBOUR, 0, 0, 0]].concat();
    // rtmsg: family, both prefixes, type of service, table, who made it, scope, type, flags.
    let route = [IPV4, 0, 0, 0, MAIN_TABLE, AT_BOOT, 0, UNICAST, 0, 0, 0, 0];
    const DESTINATION: u16 = 1;
    const LINK_ADDRESS: u16 = 2;
    const VIA: u16 = 5;
    const OUT: u16 = 4;
    [
        address,
        Message::new(NEW_LINK, 0, &link),
        Message::new(NEW_NEIGHBOUR, CREATE, &neighbour)
            .attribute(DESTINATION, &GATEWAY.octets())
            .attribute(LINK_ADDRESS, &GATEWAY_MAC),
        Message::new(NEW_ROUTE, CREATE, &route).attribute(VIA, &GATEWAY.octets()).attribute(OUT, &index),
    ]
}

/// Gives an interface the guest's address.
pub(crate) fn address(index: u32) -> Message {
    const PERMANENT: u8 = 0x80;
    const LOCAL: u16 = 2;
    // ifaddrmsg: family, prefix, flags, scope, interface.
    let body = [&[IPV4, PREFIX_LEN, PERMANENT, 0][..], &index.to_le_bytes()].concat();
    Message::new(NEW_ADDRESS, CREATE, &body).attribute(LOCAL, &GUEST.octets())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every runtime's functions are told to ask for names.
    const RESOLVER: &str = include_str!("../../../image/runtimes/common/rootfs/etc/resolv.conf");

    #[test]
    fn names_are_asked_of_the_gateway() {
        let servers: Vec<_> = RESOLVER.lines().filter_map(|line| line.strip_prefix("nameserver ")).collect();
        assert_eq!(servers, [GATEWAY.to_string()]);
    }
}
