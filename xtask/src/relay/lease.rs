//! The machine's address: a DHCP server (RFC 2131) for one client that always gets the same answer. No route and no
//! name server: there is nobody to be reached.

use super::{MACHINE_ADDRESS, OUR_ADDRESS, PREFIX_LEN};
use anyhow::{Context as _, Result};
use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, Socket, UdpMetadata};
use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr, IpAddress, IpEndpoint, Ipv4Address, Ipv4Cidr};

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// A client asks once and waits: four questions are three too many already.
const PACKETS: usize = 4;
/// The largest packet without jumbo frames.
const PACKET_MAX: usize = 1500;
/// Longer than any machine lives that is booted for a test; it asks again at half of it.
const LEASE_S: u32 = 7 * 24 * 3600;

/// The socket that questions come to.
pub(super) fn socket() -> Result<Socket<'static>> {
    let buffer = || PacketBuffer::new(vec![PacketMetadata::EMPTY; PACKETS], vec![0; PACKETS * PACKET_MAX]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.bind(SERVER_PORT).context("open the DHCP server's socket")?;
    Ok(socket)
}

/// Answers what has come.
pub(super) fn serve(socket: &mut Socket<'_>) {
    while let Ok((question, _)) = socket.recv() {
        let Some(answer) = answer(question) else { continue };
        // Broadcast: the client has no address yet to be reached at.
        let mut to = UdpMetadata::from(IpEndpoint::new(IpAddress::Ipv4(Ipv4Address::BROADCAST), CLIENT_PORT));
        to.local_address = Some(IpAddress::Ipv4(OUR_ADDRESS));
        // Without room the client asks again.
        let _ = socket.send_slice(&answer, to);
    }
}

/// The answer to a question, when it is one that has an answer.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let packet = DhcpPacket::new_checked(question).ok()?;
    let question = DhcpRepr::parse(&packet).ok()?;
    let message_type = match question.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Request => DhcpMessageType::Ack,
        _ => return None,
    };
    let repr = DhcpRepr {
        message_type,
        your_ip: MACHINE_ADDRESS,
        server_ip: OUR_ADDRESS,
        server_identifier: Some(OUR_ADDRESS),
        subnet_mask: Some(Ipv4Cidr::new(OUR_ADDRESS, PREFIX_LEN).netmask()),
        lease_duration: Some(LEASE_S),
        client_ip: Ipv4Address::UNSPECIFIED,
        requested_ip: None,
        client_identifier: None,
        parameter_request_list: None,
        max_size: None,
        ..question
    };
    let mut answer = vec![0; repr.buffer_len()];
    repr.emit(&mut DhcpPacket::new_unchecked(&mut answer)).ok()?;
    Some(answer)
}
