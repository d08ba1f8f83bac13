//! A guest that sends frames and gets some. At the other end is a socket that keeps packets apart, as a tap does.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use vmm_api::{MachineConfig, NetConfig, RateLimit};

use crate::driver::{Driver, WRITE};
use crate::guest::{Guest, VIRTIO};
use crate::process::{Vmm, machine};

/// The only device of [`machine`].
const RECEIVE: Driver = Driver { page: 0, queues: 2, queue: 0 };
const TRANSMIT: Driver = Driver { page: 0, queues: 2, queue: 1 };

/// Where frames are built and where they come in, behind a header of twelve bytes.
const FRAME: u32 = 0x40_0000;
const BUFFER: u32 = 0x50_0000;
const HEADER_LEN: u32 = 12;
pub(crate) const FRAME_LEN: u32 = 1514;

/// Half of the configuration: the end of the address, and the link's status.
pub(crate) const CONFIG: u32 = VIRTIO + 0x104;
pub(crate) const LINK_DOWN: u32 = 0x0000_0200;
pub(crate) const LINK_UP: u32 = 0x0001_0200;

/// More than any test moves.
const AMPLE: RateLimit = RateLimit { bytes_per_second: 100_000_000, burst_bytes: 1 << 20 };
/// Ten frames at once, and then one each ten milliseconds.
const SCANT: RateLimit = RateLimit { bytes_per_second: 151_400, burst_bytes: 16 << 10 };

/// The VMM's end of a link, and the far one.
pub(crate) fn link() -> (OwnedFd, File) {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, far) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    (ours, far.into())
}

pub(crate) fn config(tap_fd: usize) -> NetConfig {
    NetConfig { tap_fd, receive: AMPLE, transmit: AMPLE }
}

/// The next frame, waited for.
pub(crate) fn next(far: &mut File) -> Vec<u8> {
    let mut watched = [PollFd::new(far.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut watched, 30_000u16), Ok(1), "no frame came");
    let mut frame = [0; 2048];
    let len = far.read(&mut frame).unwrap();
    frame[..len].to_vec()
}

/// Sets the device up and puts a frame of zeros from the guest's address into memory.
pub(crate) fn set_up(guest: Guest) -> Guest {
    // The second half of the destination, then the source.
    TRANSMIT.set_up(guest).store(FRAME + 16, 0x0002_0000).store(FRAME + 20, 0x0200_0000)
}

/// Sends it, with `number` behind its addresses.
pub(crate) fn send(guest: Guest, number: u32) -> Guest {
    let guest = guest.store(FRAME + HEADER_LEN + 12, number);
    TRANSMIT.submit(TRANSMIT.describe(guest, &[(FRAME, HEADER_LEN + FRAME_LEN, 0)]))
}

/// Waits for a frame and prints its first four bytes.
fn print_received(guest: Guest) -> Guest {
    let guest = RECEIVE.describe(guest, &[(BUFFER, HEADER_LEN + FRAME_LEN, WRITE)]);
    RECEIVE.submit(guest).load(BUFFER + HEADER_LEN).print_eax()
}

fn number(frame: &[u8]) -> u32 {
    assert_eq!(frame.len(), FRAME_LEN as usize);
    assert_eq!(frame[..12], [0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2]);
    u32::from_le_bytes(frame[12..16].try_into().unwrap())
}

fn run(net: NetConfig, guest: &Guest) -> (Vmm, std::io::PipeReader, File) {
    let (tap, far) = link();
    let (vmm, console) = Vmm::run(MachineConfig { net: Some(net), ..machine() }, guest, &[tap.as_fd()]);
    (vmm, console, far)
}

#[test]
fn frames_go_out_and_come_in() {
    let guest = print_received(send(set_up(Guest::new()), 7)).load(CONFIG).print_eax().print("\n");
    let (vmm, mut console, mut far) = run(config(2), &send(guest, 8).spin());
    assert_eq!(number(&next(&mut far)), 7);
    far.write_all(&[0x33; 60]).unwrap();
    let mut printed = [0; 8];
    console.read_exact(&mut printed).unwrap();
    assert_eq!(printed[..4], [0x33; 4]);
    assert_eq!(printed[4..], LINK_UP.to_le_bytes());
    assert_eq!(number(&next(&mut far)), 8);
    assert_eq!(vmm.stop(), "");
}

#[test]
fn what_is_over_the_rate_comes_later_and_none_is_lost() {
    let guest = (0..14).fold(set_up(Guest::new()), send).spin();
    let (vmm, _console, mut far) = run(NetConfig { transmit: SCANT, ..config(2) }, &guest);
    for expected in 0..14 {
        assert_eq!(number(&next(&mut far)), expected);
    }
    assert_eq!(vmm.stop(), "");
}

#[test]
fn without_a_tap_the_link_is_down_and_frames_are_taken_all_the_same() {
    let guest = send(set_up(Guest::new()), 1).load(CONFIG).print_eax().print("\n").spin();
    let (vmm, mut console) = Vmm::run(machine(), &guest, &[]);
    let mut printed = [0; 4];
    console.read_exact(&mut printed).unwrap();
    assert_eq!(printed, LINK_DOWN.to_le_bytes());
    assert_eq!(vmm.stop(), "");
}

#[test]
fn a_link_that_ends_is_down_and_the_machine_goes_on() {
    let await_down = Guest::new().await_bits(RECEIVE.register(0x60), 2).load(CONFIG).print_eax().print("\n");
    let guest = send(set_up(Guest::new()), 1);
    let guest = RECEIVE.describe(guest, &[(BUFFER, HEADER_LEN + FRAME_LEN, WRITE)]);
    // A buffer is there, so that the device looks; nothing is waited for but its word.
    let guest = guest.increment_half(RECEIVE.ring(crate::reading::AVAILABLE) + 2).print("\n");
    let (vmm, mut console, mut far) = run(config(2), &guest.append(&await_down).spin());
    assert_eq!(number(&next(&mut far)), 1);
    console.read_exact(&mut [0]).unwrap();
    drop(far);
    let mut printed = [0; 4];
    console.read_exact(&mut printed).unwrap();
    assert_eq!(printed, LINK_DOWN.to_le_bytes());
    assert_eq!(vmm.stop(), "");
}
