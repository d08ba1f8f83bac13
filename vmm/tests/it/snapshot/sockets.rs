//! The socket device of a clone: another broker than its original's, and no connection of that.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use vmm_api::{LoadConfig, MachineConfig, Request, Response, VsockConfig};

use super::{CONSOLE, COUNTER, RECORD_LEN, Snapshot, assert_counts, load_config, prepared, read_more};
use crate::guest::Guest;
use crate::process::{Vmm, machine};
use crate::sockets::{self, CID};

#[test]
fn a_clone_goes_on_with_sockets_of_its_own_and_its_originals_streams_end() {
    let guest = sockets::connect(Guest::new()).count_for_ever(COUNTER);
    let (theirs, broker) = sockets::broker();
    let vsock = Some(VsockConfig { guest_cid: CID, broker_fd: 2 });
    let (vmm, mut console) = Vmm::run(MachineConfig { vsock, ..machine() }, &guest, &[theirs.as_fd()]);
    let mut stream = broker.accept();
    let mut printed = vec![0; 10 * RECORD_LEN];
    console.read_exact(&mut printed).unwrap();
    assert_eq!(vmm.call(&Request::Pause), Response::Ok);
    let snapshot = Snapshot::take(&vmm);
    assert_eq!(vmm.call(&Request::Stop), Response::Ok);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    console.read_to_end(&mut printed).unwrap();

    let vmm = prepared();
    let (mut console, writer) = std::io::pipe().unwrap();
    let writer: OwnedFd = writer.into();
    let (theirs, _broker) = sockets::broker();
    let vsock = Some(VsockConfig { guest_cid: CID, broker_fd: CONSOLE + 1 });
    let config = LoadConfig { vsock, ..load_config() };
    let loaded = snapshot.load(&vmm, config, &[writer.as_fd(), theirs.as_fd()]);
    assert!(matches!(loaded, Response::Loaded(_)), "{loaded:?}");
    read_more(&mut printed, &mut console);
    assert_counts(&printed);
    assert_eq!(vmm.call(&Request::Stop), Response::Ok);
}
