//! Ends the TCP connections that a clone has from before its snapshot: every other clone has them, too, and whoever is at their
//! other end is gone, or would take each clone for the one that it knows. A process that uses one is told at once that it is over
//! (`ECONNABORTED`). What is within the guest stays: the runtime's own calls, a function's own servers.
//!
//! They are looked for before the snapshot, when the function stands still and nobody waits: it makes no others until the gate is passed.
//! A clone that has none, as nearly all, asks its kernel for nothing.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use inner_network::GUEST;
use nix::sys::socket::SockProtocol;

use crate::netlink::{Message, Netlink, field};

/// sock_diag(7).
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
const TCP: u8 = libc::IPPROTO_TCP as u8;
const IPV4: u8 = libc::AF_INET as u8;
/// A socket that can speak both has mapped addresses, and is listed there.
const IPV6: u8 = libc::AF_INET6 as u8;
/// Every state of a connection, as bits: not closed (7), not listening (10).
const CONNECTED: u32 = 0b1_1011_0111_1110;

/// Length of a socket's names, `inet_diag_sockid`, and where they are in an answer: behind family, state, timer, retries.
const NAMES_LEN: usize = 48;
const NAMES_AT: usize = 4;
/// Where the socket's own address is in its names: behind both ports.
const OWN_ADDRESS_AT: usize = 4;

/// Connections over the network: each one's family and names.
#[derive(Debug, Default)]
pub(crate) struct Connections(Vec<(u8, [u8; NAMES_LEN])>);

impl Connections {
    /// Those that there are.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn outside() -> io::Result<Self> {
        let kernel = Netlink::open(SockProtocol::NetlinkSockDiag)?;
        let mut outside = Vec::new();
        for family in [IPV4, IPV6] {
            let all = request(BY_FAMILY, family, &[0; NAMES_LEN]);
            kernel.list(all, |socket| outside.extend(names(socket).map(|names| (family, names))))?;
        }
        Ok(Self(outside))
    }

    /// Ends them. A kernel that cannot is an error: a clone must not go on with them.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn reset(&self) -> io::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let kernel = Netlink::open(SockProtocol::NetlinkSockDiag)?;
        for (family, names) in &self.0 {
            match kernel.change(request(DESTROY, *family, names)) {
                // It has ended by itself meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        Ok(())
    }
}

/// `inet_diag_req_v2`: family, protocol, extensions, padding, states, names.
fn request(kind: u16, family: u8, names: &[u8; NAMES_LEN]) -> Message {
    Message::new(kind, 0, &[&[family, TCP, 0, 0][..], &CONNECTED.to_le_bytes(), names].concat())
}

/// The names of a socket whose own address is the interface's; none of another one.
fn names(socket: &[u8]) -> Option<[u8; NAMES_LEN]> {
    let names: [u8; NAMES_LEN] = field(socket, NAMES_AT)?;
    let address = match *socket.first()? {
        IPV4 => IpAddr::from(field::<4>(&names, OWN_ADDRESS_AT)?),
        IPV6 => Ipv6Addr::from(field::<16>(&names, OWN_ADDRESS_AT)?).to_canonical(),
        _ => return None,
    };
    (address == GUEST).then_some(names)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use nix::errno::Errno;
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::boot::{loopback, network};

    /// Both ends of a connection to this address.
    fn connected(address: Ipv4Addr) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    /// In a network of this thread's own, whose loopback has the interface's address, too.
    fn end_connections() {
        loopback::start().unwrap();
        let kernel = Netlink::open(SockProtocol::NetlinkRoute).unwrap();
        kernel.change(network::address(1)).unwrap();
        let (mut outside, _other) = connected(GUEST);
        let (mut inside, mut other) = connected(Ipv4Addr::LOCALHOST);
        let listening = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let found = Connections::outside().unwrap();
        assert_eq!(found.0.len(), 2, "both ends are here");
        found.reset().unwrap();
        // Its other end is in the same network here, and may be the first to end: that resets this one.
        let ended = outside.read(&mut [0]).unwrap_err();
        let expected = [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset];
        assert!(expected.contains(&ended.kind()), "{ended}");
        other.write_all(b"x").unwrap();
        assert_eq!(inside.read(&mut [0]).unwrap(), 1, "what is within the guest goes on");
        let port = listening.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        found.reset().unwrap();
    }

    #[test]
    fn connections_end_at_once_and_those_within_the_guest_do_not() {
        let tested = std::thread::spawn(|| match unshare(CloneFlags::CLONE_NEWNET) {
            Err(Errno::EPERM) => eprintln!("not tested: a network of its own is for root to make"),
            result => {
                result.unwrap();
                end_connections();
            }
        });
        tested.join().unwrap();
    }

    fn socket(family: u8, address: &[u8]) -> Vec<u8> {
        let mut socket = vec![0; 72];
        socket[0] = family;
        socket[8..8 + address.len()].copy_from_slice(address);
        socket
    }

    #[test]
    fn only_what_goes_over_the_interface_is_ended() {
        let mapped = |address: Ipv4Addr| address.to_ipv6_mapped().octets();
        assert!(names(&socket(IPV4, &GUEST.octets())).is_some());
        assert!(names(&socket(IPV6, &mapped(GUEST))).is_some());
        assert_eq!(names(&socket(IPV4, &[127, 0, 0, 1])), None);
        assert_eq!(names(&socket(IPV4, &[0; 4])), None, "bound to nothing yet");
        assert_eq!(names(&socket(IPV6, &mapped(Ipv4Addr::LOCALHOST))), None);
        assert_eq!(names(&socket(IPV6, &Ipv6Addr::LOCALHOST.octets())), None);
        assert_eq!(names(&socket(9, &GUEST.octets())), None);
        assert_eq!(names(&socket(IPV4, &GUEST.octets())[..51]), None, "cut off");
    }
}
