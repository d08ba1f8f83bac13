//! The network that a guest sees: one link with two ends, the guest and its gateway, under the same addresses in every guest,
//! so that a snapshot of one is true of each clone of it. Constants alone, for who emulates the link (`vmm`), who is at its ends
//! (guest-init, launcher), and who says what goes through (host-agent).
//!
//! IPv4 alone. The addresses are of RFC 7335's block, which is set aside for ends of such links and is never routed: it cannot be
//! an address that a function wants to reach.

use std::net::Ipv4Addr;

/// The guest.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);

/// The other end of the link: the guest's way out, and its name server.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);

/// Length of the network's prefix: all of the block.
pub const PREFIX_LEN: u8 = 29;

/// Ethernet address of the guest: locally administered. Fixed like the others, so that neighbour entries stay true.
pub const GUEST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

/// Ethernet address of the gateway.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

/// Longest IP packet of the link, bytes.
pub const MTU: u16 = 1500;

/// Longest frame of the link, bytes: a packet behind an Ethernet header, without a VLAN tag and without checksum.
pub const MAX_FRAME_LEN: usize = MTU as usize + 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_are_in_one_network_and_apart() {
        let network = |address: Ipv4Addr| u32::from(address) >> (32 - PREFIX_LEN);
        assert_eq!(network(GUEST), network(GATEWAY));
        assert_ne!(GUEST, GATEWAY);
        for mac in [GUEST_MAC, GATEWAY_MAC] {
            assert_eq!(mac[0] & 0b11, 0b10, "one station's, locally administered");
        }
        assert_ne!(GUEST_MAC, GATEWAY_MAC);
    }
}
