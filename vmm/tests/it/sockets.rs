//! A guest that connects to the host and sends more than its client reads at once, then ends its half; and one that resets the
//! device with a connection open.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use vmm_api::{MachineConfig, VsockConfig};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::driver::{Driver, NEXT, STATUS};
use crate::guest::Guest;
use crate::process::{Vmm, machine};

/// The guest's address.
pub(crate) const CID: u32 = 3;
const PORT: u32 = 1024;
/// Where packets are built, and zeros to send.
const PACKET: u32 = 0x40_0000;
const ZEROS: u32 = 0x50_0000;
/// Four of these are a connection's credit, and more than a socket takes whose other end does not read.
const DATA_LEN: u32 = 64 << 10;
const DATA_PACKETS: u32 = 4;

/// virtio 1.3 §5.10.6.
const REQUEST: u32 = 1;
const SHUTDOWN: u32 = 4;
const DATA: u32 = 5;
const ENDS_SENDING: u32 = 2;

const DRIVER: Driver = Driver { page: 0, queues: 3, queue: 1 };

/// The client's end of the broker.
pub(crate) struct Broker(OwnedFd);

impl ScmSocket for Broker {
    fn socket_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Broker {
    /// The next connection of the guest.
    pub(crate) fn accept(&self) -> UnixStream {
        let mut request = [0; 64];
        let (len, stream) = self.recv_with_fd(&mut request).unwrap();
        assert_eq!(&request[..len], format!("{{\"port\":{PORT}}}").as_bytes());
        OwnedFd::from(stream.expect("a stream beside the request")).into()
    }
}

/// Sends a packet from this port of the guest.
fn send(guest: Guest, port: u32, operation: u32, len: u32, flags: u32) -> Guest {
    let fields =
        [(0, CID), (8, 2), (16, port), (20, PORT), (24, len), (28, 1 | operation << 16), (32, flags)];
    let guest = fields.into_iter().fold(guest, |guest, (offset, value)| guest.store(PACKET + offset, value));
    let header = if len == 0 { (PACKET, 44, 0) } else { (PACKET, 44, NEXT | 1 << 16) };
    DRIVER.submit(DRIVER.describe(guest, &[header, (ZEROS, len, 0)]))
}

/// Sets the device up and connects to the host.
pub(crate) fn connect(guest: Guest) -> Guest {
    send(DRIVER.set_up(guest), 7, REQUEST, 0, 0)
}

/// The VMM's end of a broker, and the client's.
pub(crate) fn broker() -> (OwnedFd, Broker) {
    let (theirs, ours) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    (theirs, Broker(ours))
}

fn run(guest: &Guest) -> (Vmm, std::io::PipeReader, Broker) {
    let (theirs, broker) = broker();
    let vsock = Some(VsockConfig { guest_cid: CID, broker_fd: 2 });
    let (vmm, console) = Vmm::run(MachineConfig { vsock, ..machine() }, guest, &[theirs.as_fd()]);
    (vmm, console, broker)
}

fn end(vmm: Vmm) {
    assert_eq!(vmm.stop(), "");
}

#[test]
fn a_client_that_reads_late_gets_all_that_a_guest_sent_and_its_end() {
    let guest = connect(Guest::new());
    let guest = (0..DATA_PACKETS).fold(guest, |guest, _| send(guest, 7, DATA, DATA_LEN, 0));
    let guest = send(guest, 7, SHUTDOWN, 0, ENDS_SENDING).print("\n").spin();
    let (vmm, mut console, broker) = run(&guest);
    let mut stream = broker.accept();
    // Read when all is sent: what the socket had no room for waits in the VMM.
    console.read_exact(&mut [0]).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u32, DATA_PACKETS * DATA_LEN);
    end(vmm);
}

#[test]
fn a_reset_of_the_device_is_the_end_of_its_connections() {
    let guest = connect(Guest::new());
    let guest = guest.store(DRIVER.register(STATUS), 0).print("\n");
    let (vmm, mut console, broker) = run(&send(DRIVER.set_up(guest), 8, REQUEST, 0, 0).spin());
    let mut stream = broker.accept();
    console.read_exact(&mut [0]).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    drop(broker.accept());
    end(vmm);
}
