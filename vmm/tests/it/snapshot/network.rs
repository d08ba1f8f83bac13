//! The network of a clone: another uplink than its original's, or none, and the guest is told which.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use vmm_api::{LoadConfig, MachineConfig, NetConfig, Request, Response, SerialConfig};

use super::{CONSOLE, COUNTER, Snapshot, load_config, prepared};
use crate::guest::{Guest, VIRTIO};
use crate::network::{self, CONFIG, FRAME_LEN, LINK_DOWN, LINK_UP};
use crate::process::{Vmm, machine};

/// Link, interrupt status, number, a newline.
const RECORD_LEN: usize = 13;
const INTERRUPT_STATUS: u32 = VIRTIO + 0x60;
const CONFIG_CHANGED: u32 = 2;

/// Sends a frame and tells of its link, again and again.
fn guest() -> Guest {
    let body = network::send(Guest::new(), 9);
    let body = body.load(CONFIG).print_eax().load(INTERRUPT_STATUS).print_eax();
    network::set_up(Guest::new()).count_for_ever_with(COUNTER, &body)
}

/// What the guest says next: its link, and whether it is told of a change.
fn told(console: &mut impl Read) -> (u32, u32) {
    let mut record = [0; RECORD_LEN];
    console.read_exact(&mut record).unwrap();
    let word = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().unwrap());
    (word(0), word(4) & CONFIG_CHANGED)
}

/// A snapshot of the guest where there is a link, or none.
fn snapshot(net: Option<NetConfig>) -> Snapshot {
    let (tap, _far) = network::link();
    let more = net.map(|_| tap.as_fd());
    let config = MachineConfig { net, ..machine() };
    let (vmm, mut console) = Vmm::run(config, &guest(), more.as_slice());
    told(&mut console);
    assert_eq!(vmm.call(&Request::Pause), Response::Ok);
    let snapshot = Snapshot::take(&vmm);
    assert_eq!(vmm.call(&Request::Stop), Response::Ok);
    snapshot
}

/// A clone of it with a link, or none: its console, from the first record that is wholly its own, and the far end.
fn clone(snapshot: &Snapshot, vmm: &Vmm, net: Option<NetConfig>) -> (impl Read, File) {
    let (console, writer) = std::io::pipe().unwrap();
    let writer: OwnedFd = writer.into();
    let (tap, far) = network::link();
    let fds = [writer.as_fd(), tap.as_fd()];
    let config = LoadConfig { net, ..load_config() };
    let given = if net.is_some() { &fds[..] } else { &fds[..1] };
    let loaded = snapshot.load(vmm, config, given);
    assert!(matches!(loaded, Response::Loaded(_)), "{loaded:?}");
    let mut console = console;
    let mut byte = [0];
    while byte != *b"\n" {
        console.read_exact(&mut byte).unwrap();
    }
    (console, far)
}

#[test]
fn a_clone_is_told_of_a_link_that_its_original_did_not_have() {
    let snapshot = snapshot(None);
    let vmm = prepared();
    let (mut console, mut far) = clone(&snapshot, &vmm, Some(network::config(CONSOLE + 1)));
    assert_eq!(told(&mut console), (LINK_UP, CONFIG_CHANGED));
    assert_eq!(network::next(&mut far).len(), FRAME_LEN as usize);
    assert_eq!(vmm.call(&Request::Stop), Response::Ok);
    let vmm = prepared();
    assert_eq!(told(&mut clone(&snapshot, &vmm, None).0), (LINK_DOWN, 0));
    assert_eq!(vmm.call(&Request::Stop), Response::Ok);
}

#[test]
fn a_clone_goes_on_with_an_uplink_of_its_own_or_with_none() {
    let snapshot = snapshot(Some(network::config(2)));
    let vmm = prepared();
    let (mut console, mut far) = clone(&snapshot, &vmm, Some(network::config(CONSOLE + 1)));
    assert_eq!(told(&mut console), (LINK_UP, 0));
    assert_eq!(network::next(&mut far).len(), FRAME_LEN as usize);
    assert_eq!(vmm.call(&Request::Stop), Response::Ok);
    let vmm = prepared();
    assert_eq!(told(&mut clone(&snapshot, &vmm, None).0), (LINK_DOWN, CONFIG_CHANGED));
    assert_eq!(vmm.call(&Request::Stop), Response::Ok);
}

#[test]
fn an_uplink_that_blocks_is_refused_and_a_better_one_taken() {
    let snapshot = snapshot(None);
    let vmm = prepared();
    let (blocking, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let net = Some(network::config(CONSOLE));
    let config = LoadConfig { net, serial: SerialConfig::Null, ..load_config() };
    let refusal = snapshot.refusal_with(&vmm, config, &[blocking.as_fd()]);
    assert_eq!(refusal.field.as_deref(), Some("net.tap_fd"));
    clone(&snapshot, &vmm, Some(network::config(CONSOLE + 1)));
    assert_eq!(vmm.call(&Request::Stop), Response::Ok);
}
