//! The network device as a driver sees it. At the link's other end is a socket that keeps packets apart, as a tap does.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::*;
use crate::virtio::test_driver::{BUFFERS, Desc, Driver, pending, readable, writable};
use crate::{BusDevice, Event, MmioTransport, TransportResources};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Room for any frame and its header.
const ROOM: u32 = (HEADER_LEN + MAX_FRAME_LEN) as u32;

const UNLIMITED: RateLimit = RateLimit { bytes_per_second: u64::MAX, burst_bytes: u64::MAX };
/// Eleven frames, and then one in half a minute.
const SCANT: RateLimit = RateLimit { bytes_per_second: 50, burst_bytes: 11 * MAX_FRAME_LEN as u64 };

fn linked(receive: RateLimit, transmit: RateLimit) -> (Net, File) {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs): (OwnedFd, OwnedFd) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    let uplink = Uplink { link: Box::new(File::from(ours)), receive, transmit };
    (Net::new(MAC, Some(uplink)).unwrap(), File::from(theirs))
}

fn started() -> (Driver<Net>, File) {
    let (net, far) = linked(UNLIMITED, UNLIMITED);
    (Driver::started(net), far)
}

/// A frame of that length from the guest, every byte of whose content is `fill`.
fn frame(len: usize, fill: u8) -> Vec<u8> {
    let mut frame = vec![fill; len];
    frame[6..12].copy_from_slice(&MAC);
    frame
}

/// Puts a frame behind a header of garbage into the guest's memory, cut at each of `cuts`.
fn put_frame(driver: &mut Driver<Net>, at: u64, frame: &[u8], cuts: &[u32]) {
    driver.put(at, &[&[0xff; HEADER_LEN], frame].concat());
    let end = (HEADER_LEN + frame.len()) as u32;
    let mut from = 0;
    let mut chain: Vec<Desc> = Vec::new();
    for &cut in cuts.iter().chain([&end]) {
        chain.push(readable(at + u64::from(from), cut - from));
        from = cut;
    }
    driver.add(TRANSMIT, &chain);
}

fn sent(far: &mut File) -> Option<Vec<u8>> {
    let mut bytes = [0; 2048];
    far.read(&mut bytes).ok().map(|len| bytes[..len].to_vec())
}

#[test]
fn the_configuration_is_an_address_and_a_link() {
    let (mut driver, _far) = started();
    assert_eq!(driver.config::<8>(0), [2, 0, 0, 0, 0, 2, 1, 0]);
    let mut driver = Driver::started(Net::new(MAC, None).unwrap());
    assert_eq!(driver.config::<10>(0), [2, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
    assert_eq!(driver.offered(), 1 << 5 | 1 << 16 | 1 << 28 | 1 << 29 | 1 << 32);
}

#[test]
fn frames_go_out_whole_however_they_are_cut() {
    let (mut driver, mut far) = started();
    for (fill, len, cuts) in [(1, 14, &[][..]), (2, 60, &[12]), (3, 1514, &[1, 12, 13, 700]), (4, 100, &[50])]
    {
        put_frame(&mut driver, BUFFERS, &frame(len, fill), cuts);
        driver.kick(TRANSMIT);
        assert_eq!(sent(&mut far), Some(frame(len, fill)));
        assert_eq!(driver.used(TRANSMIT).len(), 1);
        assert!(driver.interrupted());
    }
}

#[test]
fn what_is_no_frame_of_the_guests_is_dropped() {
    let (mut driver, mut far) = started();
    let mut forged = frame(60, 5);
    forged[11] ^= 1;
    let mut broadcast = frame(60, 5);
    broadcast[6..12].copy_from_slice(&[0xff; 6]);
    for bad in [frame(13, 5), frame(1515, 5), frame(4000, 5), forged, broadcast] {
        put_frame(&mut driver, BUFFERS, &bad, &[]);
        driver.kick(TRANSMIT);
        assert_eq!(sent(&mut far), None);
        assert_eq!(driver.used(TRANSMIT).len(), 1, "its buffer comes back");
    }
    driver.add(TRANSMIT, &[readable(BUFFERS, 5)]);
    driver.kick(TRANSMIT);
    assert_eq!((sent(&mut far), driver.used(TRANSMIT).len()), (None, 1));
    put_frame(&mut driver, BUFFERS, &frame(60, 6), &[]);
    driver.kick(TRANSMIT);
    assert_eq!(sent(&mut far), Some(frame(60, 6)));
}

#[test]
fn frames_come_in_behind_a_header_in_one_buffer() {
    let (mut driver, mut far) = started();
    for (index, len) in [14, 60, MAX_FRAME_LEN].into_iter().enumerate() {
        driver.add(RECEIVE, &[writable(BUFFERS, 10), writable(BUFFERS + 10, ROOM - 10)]);
        far.write_all(&vec![index as u8; len]).unwrap();
        driver.kick(RECEIVE);
        assert_eq!(driver.used(RECEIVE).iter().map(|used| used.1).collect::<Vec<_>>(), [12 + len as u32]);
        assert_eq!(driver.get::<12>(BUFFERS), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(driver.get_vec(BUFFERS + 12, len), vec![index as u8; len]);
        assert!(driver.interrupted());
    }
}

#[test]
fn frames_wait_for_buffers_without_waking_anybody() {
    let (mut driver, mut far) = started();
    for fill in 0..3 {
        far.write_all(&[fill; 60]).unwrap();
    }
    driver.run();
    assert_eq!(pending(&*driver.device()), [], "frames that nobody can take are no event");
    for _ in 0..2 {
        driver.add(RECEIVE, &[writable(BUFFERS, ROOM)]);
    }
    driver.kick(RECEIVE);
    assert_eq!(driver.used(RECEIVE).len(), 2);
    driver.add(RECEIVE, &[writable(BUFFERS, ROOM)]);
    driver.kick(RECEIVE);
    assert_eq!(driver.get::<1>(BUFFERS + 12), [2]);
    far.write_all(&[3; 60]).unwrap();
    driver.add(RECEIVE, &[writable(BUFFERS, ROOM)]);
    driver.run();
    assert_eq!(driver.get::<1>(BUFFERS + 12), [3], "a frame alone is an event");
}

#[test]
fn buffers_and_frames_that_do_not_fit_come_to_nothing() {
    let (mut driver, mut far) = started();
    far.write_all(&[1; 60]).unwrap();
    driver.add(RECEIVE, &[writable(BUFFERS, ROOM - 1)]);
    driver.kick(RECEIVE);
    assert_eq!(driver.used(RECEIVE), [(0, 0)], "too small for what may come");
    far.write_all(&[2; MAX_FRAME_LEN + 1]).unwrap();
    far.write_all(&[3; 13]).unwrap();
    far.write_all(&[4; 60]).unwrap();
    for _ in 0..4 {
        driver.add(RECEIVE, &[writable(BUFFERS, ROOM)]);
    }
    driver.kick(RECEIVE);
    let lens: Vec<_> = driver.used(RECEIVE).into_iter().map(|(_, len)| len).collect();
    assert_eq!(lens, [72, 0, 0, 72], "too long and too short ones");
}

#[test]
fn without_a_link_what_is_sent_is_dropped() {
    let mut driver = Driver::started(Net::new(MAC, None).unwrap());
    driver.add(RECEIVE, &[writable(BUFFERS, ROOM)]);
    for _ in 0..64 {
        put_frame(&mut driver, BUFFERS, &frame(60, 1), &[]);
    }
    driver.kick(RECEIVE);
    driver.kick(TRANSMIT);
    assert_eq!((driver.used(TRANSMIT).len(), driver.used(RECEIVE).len()), (64, 0));
}

#[test]
fn a_link_that_fails_is_down_from_then_on() {
    let (mut driver, far) = started();
    driver.add(RECEIVE, &[writable(BUFFERS, ROOM)]);
    drop(far);
    driver.run();
    assert_eq!(driver.config::<2>(6), [0, 0]);
    assert!(driver.interrupted());
    assert_eq!(driver.read(crate::virtio::registers::Register::InterruptStatus), 2, "its configuration");
    assert!(!driver.needs_reset());
    put_frame(&mut driver, BUFFERS, &frame(60, 1), &[]);
    driver.kick(TRANSMIT);
    assert_eq!(driver.used(TRANSMIT).len(), 1);
}

#[test]
fn a_burst_passes_and_the_rest_waits_for_the_clock() {
    let (net, mut far) = linked(SCANT, SCANT);
    let mut driver = Driver::started(net);
    let long = frame(MAX_FRAME_LEN, 1);
    for _ in 0..16 {
        put_frame(&mut driver, BUFFERS, &long, &[]);
        driver.add(RECEIVE, &[writable(BUFFERS + 0x1000, ROOM)]);
        far.write_all(&long).unwrap();
    }
    driver.kick(TRANSMIT);
    driver.kick(RECEIVE);
    assert_eq!((driver.used(TRANSMIT).len(), driver.used(RECEIVE).len()), (11, 11));
    assert_eq!(pending(&*driver.device()), [], "who has no tokens is no event");
}

#[test]
fn who_waited_for_tokens_is_served_when_they_come_in() {
    // A burst of eleven frames, and one each ten milliseconds.
    let rate = RateLimit { bytes_per_second: 151_400, ..SCANT };
    let (net, mut far) = linked(rate, rate);
    let mut driver = Driver::started(net);
    let long = frame(MAX_FRAME_LEN, 1);
    for _ in 0..13 {
        put_frame(&mut driver, BUFFERS, &long, &[]);
        driver.add(RECEIVE, &[writable(BUFFERS + 0x1000, ROOM)]);
        far.write_all(&long).unwrap();
    }
    driver.kick(TRANSMIT);
    let (mut sent, mut received) = (0, 0);
    while (sent, received) != (13, 13) {
        // What the I/O thread waits in.
        let backend = driver.device().backend().unwrap().try_clone_to_owned().unwrap();
        let mut watched = [nix::poll::PollFd::new(backend.as_fd(), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut watched, 10_000u16).unwrap();
        assert!(watched[0].any().unwrap(), "no alarm: {sent} sent, {received} received");
        driver.run();
        sent += driver.used(TRANSMIT).len();
        received += driver.used(RECEIVE).len();
    }
}

#[test]
fn a_wake_up_moves_as_many_frames_as_it_may() {
    let (net, mut far) = linked(UNLIMITED, UNLIMITED);
    let mut driver = Driver::started(net);
    let flags = driver.queue_size(TRANSMIT);
    for _ in 0..flags {
        put_frame(&mut driver, BUFFERS, &frame(60, 1), &[]);
    }
    let _ = driver.device().handle(Event::Kick(TRANSMIT));
    assert_eq!(driver.used(TRANSMIT).len(), WAKE_FRAMES);
    assert!(pending(&*driver.device()).contains(&Event::Kick(TRANSMIT)), "it looks again");
    while sent(&mut far).is_some() {}
}

/// The device as it goes on with another uplink, or none.
fn resumed(driver: &mut Driver<Net>, uplink: Option<Uplink>) {
    let (transport, state) = (driver.transport.save(), driver.device().save());
    let net = Arc::new(Mutex::new(Net::restore((MAC, uplink), &state).unwrap()));
    let resources = TransportResources {
        device: net.clone(),
        memory: driver.memory.clone(),
        interrupt: Box::new(EventFd::new(libc::EFD_NONBLOCK).unwrap()),
    };
    driver.transport = MmioTransport::restore(resources, &transport).unwrap();
    driver.device = net;
}

#[test]
fn a_resumed_device_goes_on_with_another_link() {
    let (mut driver, mut far) = started();
    driver.add(RECEIVE, &[writable(BUFFERS, ROOM)]);
    driver.run();
    resumed(&mut driver, None);
    assert_eq!(driver.config::<2>(6), [0, 0]);
    put_frame(&mut driver, BUFFERS, &frame(60, 1), &[]);
    driver.kick(TRANSMIT);
    assert_eq!((driver.used(TRANSMIT).len(), sent(&mut far)), (1, Some(Vec::new())), "the old end is closed");
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    let mut far = File::from(theirs);
    far.write_all(&[7; 60]).unwrap();
    let link = Box::new(File::from(ours));
    resumed(&mut driver, Some(Uplink { link, receive: UNLIMITED, transmit: UNLIMITED }));
    driver.run();
    assert_eq!((driver.config::<2>(6), driver.used(RECEIVE)), ([1, 0], vec![(0, 72)]));
    put_frame(&mut driver, BUFFERS, &frame(60, 8), &[]);
    driver.kick(TRANSMIT);
    assert_eq!(sent(&mut far), Some(frame(60, 8)));
}

#[test]
fn another_address_is_refused() {
    let state = NetState { mac: [2, 0, 0, 0, 0, 3], link_up: true };
    assert!(matches!(Net::restore((MAC, None), &state), Err(NetRestoreError::Mac(_))));
}

#[test]
fn a_driver_cannot_write_the_configuration() {
    let (mut driver, _far) = started();
    driver.transport.write(0x100, &[9; 8]);
    assert_eq!(driver.config::<8>(0), [2, 0, 0, 0, 0, 2, 1, 0]);
}
