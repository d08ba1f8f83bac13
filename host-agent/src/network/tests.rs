//! The network against a gateway that is a thread: it makes "taps", remembers what it is asked, and can end.

#![expect(unsafe_code, reason = "accept hands over a descriptor as an integer")]

use std::{
    io::IoSlice,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
    sync::{Arc, mpsc},
    thread,
};

use gateway_api::{Answer, MAX_REQUEST_LEN, Rate, Request};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept, bind, listen,
    recv, sendmsg, socket,
};

use super::*;

/// For the rate of [`network`], and some.
const MAKE: Request = Request::Make { rate: Rate { bytes_per_second: 1_310_720, burst_bytes: 2 << 20 } };

/// A network in which functions may go nowhere.
pub(crate) fn nowhere() -> Arc<Network> {
    Arc::new(network(Path::new("/nowhere"), Egress::Nowhere, 0))
}

fn network(path: &Path, egress: Egress, ready_slots: usize) -> Network {
    let rate = RateLimit { bytes_per_second: 1 << 20, burst_bytes: 1 << 20 };
    Network::start(&config::Network { egress, resolver: None, rate, ready_slots }, path.to_owned())
}

/// Serves one connection after the other, and ends each after so many answers.
fn gateway(path: &Path, answers: &'static [usize]) -> mpsc::Receiver<Request> {
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    let (seen, requests) = mpsc::channel();
    thread::spawn(move || {
        for answers in answers {
            // SAFETY: accept has just made the descriptor; nobody else owns it.
            let connection = unsafe { OwnedFd::from_raw_fd(accept(listener.as_raw_fd()).unwrap()) };
            let mut slots = 0;
            for _ in 0..*answers {
                let mut buffer = [0; MAX_REQUEST_LEN];
                let len = recv(connection.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
                let Ok(request) = Request::from_packet(&buffer[..len]) else { return };
                let tap = tempfile::tempfile().unwrap();
                let fds = [tap.as_raw_fd()];
                let (answer, rights) = match request {
                    Request::Make { .. } => {
                        (Answer::Made { slot: slots }, vec![ControlMessage::ScmRights(&fds)])
                    }
                    _ => (Answer::Done, vec![]),
                };
                slots += u32::from(matches!(request, Request::Make { .. }));
                seen.send(request).unwrap();
                let packet = answer.to_packet();
                let parts = [IoSlice::new(&packet)];
                sendmsg::<()>(connection.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None).unwrap();
            }
        }
    });
    requests
}

fn id(name: &str) -> FunctionId {
    FunctionId { region: "us-east-1".into(), name: name.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_is_permitted_handed_over_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let requests = gateway(&path, &[3]);
    let network = network(&path, Egress::Nowhere, 0);
    assert!(network.connect(&id("f")).await.unwrap().is_none(), "it may go nowhere");
    network.say(id("f"), Some(Egress::Internet));
    let mut slot = network.connect(&id("f")).await.unwrap().unwrap();
    let mut fds = vec![tempfile::tempfile().unwrap().into()];
    let config = slot.hand(&mut fds).unwrap();
    assert_eq!((config.tap_fd, fds.len(), config.receive), (1, 2, network.rate));
    drop(slot);
    let expected = [MAKE, Request::Permit { slot: 0, egress: Egress::Internet }, Request::Remove { slot: 0 }];
    assert_eq!(requests.iter().take(3).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn slots_are_ready_before_somebody_comes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let requests = gateway(&path, &[4]);
    let network = network(&path, Egress::Nowhere, 2);
    network.say(id("f"), Some(Egress::Internet));
    let blocking = tokio::task::spawn_blocking(move || {
        let first = [requests.recv().unwrap(), requests.recv().unwrap()];
        (first, requests)
    });
    let (first, requests) = blocking.await.unwrap();
    assert_eq!(first, [MAKE, MAKE]);
    let _slot = network.connect(&id("f")).await.unwrap().unwrap();
    assert_eq!(requests.recv(), Ok(Request::Permit { slot: 0, egress: Egress::Internet }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_was_started_anew_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let requests = gateway(&path, &[2, 3]);
    let network = network(&path, Egress::Nowhere, 0);
    network.say(id("f"), Some(Egress::Internet));
    let first = network.connect(&id("f")).await.unwrap().unwrap();
    let second = network.connect(&id("f")).await.unwrap().unwrap();
    // The first one is of a gateway that is gone, and its number somebody else's.
    drop(first);
    drop(second);
    let permit = Request::Permit { slot: 0, egress: Egress::Internet };
    let expected = [MAKE, permit.clone(), MAKE, permit, Request::Remove { slot: 0 }];
    assert_eq!(requests.iter().take(5).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn without_a_gateway_there_is_no_slot() {
    let network = network(Path::new("/nowhere"), Egress::Internet, 0);
    let refused = network.connect(&id("f")).await;
    assert!(matches!(refused, Err(NetworkError::Connect { .. })), "{refused:?}");
}
