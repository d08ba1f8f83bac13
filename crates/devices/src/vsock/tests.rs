//! The socket device between a scripted guest and clients with real sockets.

mod misuse;

use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use super::credit::BUF_ALLOC;
use super::packet::{HEADER_LEN, Header, Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::test_guest::{Client, GUEST_PORT, Guest, PORT, TX_AT, ended, read_all};
use super::*;
use crate::virtio::test_driver::{BUFFERS, Driver, readable, writable};

#[test]
fn configuration_is_the_address() {
    let mut guest = Guest::new();
    assert_eq!(u64::from_le_bytes(guest.driver.config(0)), 3);
    assert_eq!(guest.driver.config::<4>(8), [0; 4]);
}

#[test]
fn a_guest_connects_and_talks_both_ways() {
    let (mut guest, mut stream) = Guest::connected();
    guest.data(b"question");
    assert_eq!(read_all(&mut stream), b"question");
    stream.write_all(b"answer").unwrap();
    let packets = guest.received();
    let (header, payload) = &packets[0];
    assert_eq!(packets.len(), 1);
    assert_eq!((header.op, payload.as_slice()), (Op::Data as u16, &b"answer"[..]));
    assert_eq!((header.src_cid, header.dst_cid), (2, 3));
    assert_eq!((header.src_port, header.dst_port), (PORT, GUEST_PORT));
    assert_eq!((header.buf_alloc, header.fwd_cnt), (BUF_ALLOC, 8));
}

#[test]
fn a_payload_may_lie_in_any_pieces() {
    let (mut guest, mut stream) = Guest::connected();
    let header = Header { len: 10, ..guest.header(Op::Data) };
    let mut bytes = header.encode().to_vec();
    bytes.extend(b"0123456789 beyond the length");
    guest.driver.put(TX_AT, &bytes);
    let chain =
        [readable(TX_AT, 7), readable(TX_AT + 7, 40), readable(TX_AT + 47, 3), readable(TX_AT + 50, 20)];
    guest.driver.add(1, &chain);
    guest.driver.kick(1);
    assert_eq!(read_all(&mut stream), b"0123456789");
}

#[test]
fn nobody_at_the_port_is_a_refused_connection() {
    let mut guest = Guest::new();
    drop(std::mem::replace(&mut guest.client, Client(tempfile::tempfile().unwrap().into())));
    guest.send(Op::Request);
    let packets = guest.received();
    assert_eq!(packets.len(), 1);
    assert_eq!(packets[0].0.op, Op::Reset as u16);
    assert_eq!((packets[0].0.src_port, packets[0].0.dst_port), (PORT, GUEST_PORT));
}

#[test]
fn a_client_connects_to_a_port_of_the_guest() {
    let mut guest = Guest::new();
    let mut stream = guest.client.connect(r#"{"port":7}"#);
    stream.write_all(b"early").unwrap();
    let packets = guest.received();
    assert_eq!(packets.len(), 1);
    let request = packets[0].0;
    assert_eq!((request.op, request.dst_port), (Op::Request as u16, 7));
    let reply = |guest: &Guest, op| Header { src_port: 7, dst_port: request.src_port, ..guest.header(op) };
    guest.send_raw(reply(&guest, Op::Response), &[]);
    let packets = guest.received();
    assert_eq!(packets[0].1, b"early");
    let data = Header { len: 2, ..reply(&guest, Op::Data) };
    guest.send_raw(data, b"ok");
    assert_eq!(read_all(&mut stream), b"ok");
}

#[test]
fn a_guest_may_refuse_a_client() {
    let mut guest = Guest::new();
    let mut stream = guest.client.connect(r#"{"port":7}"#);
    let request = guest.received()[0].0;
    let reset = Header { src_port: 7, dst_port: request.src_port, ..guest.header(Op::Reset) };
    guest.send_raw(reset, &[]);
    assert!(ended(&mut stream));
    assert_eq!(guest.ops(), []);
}

#[test]
fn requests_that_make_no_sense_end_their_stream_and_nothing_else() {
    let mut guest = Guest::new();
    for request in
        ["", "{", r#"{"port":-1}"#, r#"{"port":4294967296}"#, r#"{"port":1,"x":2}"#, r#"{"port":4294967295}"#]
    {
        let mut stream = guest.client.connect(request);
        guest.driver.run();
        assert!(ended(&mut stream), "{request}");
    }
    let padded = format!("{}{}", r#"{"port":7}"#, " ".repeat(100));
    let mut stream = guest.client.connect(&padded);
    guest.driver.run();
    assert!(ended(&mut stream) || guest.ops() == [Op::Request]);
    send(guest.client.0.as_raw_fd(), br#"{"port":7}"#, MsgFlags::empty()).unwrap();
    guest.driver.run();
    let _stream = guest.client.connect(r#"{"port":8}"#);
    assert!(guest.ops().contains(&Op::Request));
}

#[test]
fn a_broker_that_is_gone_leaves_connections_alone() {
    let (mut guest, mut stream) = Guest::connected();
    drop(std::mem::replace(&mut guest.client, Client(tempfile::tempfile().unwrap().into())));
    guest.driver.run();
    guest.data(b"still here");
    assert_eq!(read_all(&mut stream), b"still here");
}

#[test]
fn six_megabytes_arrive_whole_in_both_directions() {
    let (mut guest, mut stream) = Guest::connected();
    guest.buf_alloc = 256 * 1024;
    let payload: Vec<u8> =
        (0..6_000_000u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();

    // Up: 60 KiB packets as credit allows, with a client that reads when it likes.
    let (mut sent, mut known, mut up) = (0usize, 0u32, Vec::new());
    while up.len() < payload.len() {
        let credit = BUF_ALLOC - (sent as u32 - known);
        let len = (60 * 1024).min(credit as usize).min(payload.len() - sent);
        if len > 0 {
            guest.data(&payload[sent..sent + len]);
            sent += len;
        } else {
            up.extend(read_all(&mut stream));
        }
        for (header, _) in guest.received() {
            known = header.fwd_cnt;
        }
        if sent == payload.len() {
            up.extend(read_all(&mut stream));
        }
    }
    assert!(up == payload);

    // Down: the client writes as its socket allows; the guest confirms all it gets.
    let (mut written, mut down) = (0, Vec::new());
    while down.len() < payload.len() {
        match stream.write(&payload[written..]) {
            Ok(len) => written += len,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        for (_, bytes) in guest.received() {
            guest.fwd_cnt += bytes.len() as u32;
            down.extend(bytes);
        }
        guest.send(Op::CreditUpdate);
    }
    assert!(down == payload);
}

#[test]
fn a_client_that_does_not_read_costs_the_guest_its_credit_and_no_more() {
    let (mut guest, mut stream) = Guest::connected();
    let piece = [7; 32 * 1024];
    for _ in 0..BUF_ALLOC as usize / piece.len() {
        guest.data(&piece);
    }
    // The socket took some of it, so there is credit again; all of it is known from updates.
    let mut room = 0;
    for (header, _) in guest.received() {
        assert_eq!(header.op, Op::CreditUpdate as u16);
        room = header.fwd_cnt;
    }
    for _ in 0..room as usize / piece.len() {
        guest.data(&piece);
    }
    assert!(!guest.ops().contains(&Op::Reset));
    guest.send(Op::CreditRequest);
    let told = guest.received();
    let total = BUF_ALLOC + room / piece.len() as u32 * piece.len() as u32;
    let room = BUF_ALLOC - (total - told[0].0.fwd_cnt);
    guest.data(&vec![7; room as usize + 1]);
    assert_eq!(guest.ops(), [Op::Reset], "one byte beyond the credit");
    let got = read_all(&mut stream);
    assert!(!got.is_empty() && got.iter().all(|&byte| byte == 7));
}

#[test]
fn a_guest_without_room_is_sent_nothing_until_it_has_some() {
    let (mut guest, mut stream) = Guest::connected();
    guest.buf_alloc = 10;
    guest.send(Op::CreditUpdate);
    stream.write_all(b"0123456789abcdef").unwrap();
    let packets = guest.received();
    assert_eq!(packets[0].1, b"0123456789");
    assert_eq!(packets[1].0.op, Op::CreditRequest as u16);
    assert_eq!(packets.len(), 2);
    guest.fwd_cnt = 4;
    guest.send(Op::CreditUpdate);
    let packets = guest.received();
    assert_eq!(packets[0].1, b"abcd");
    guest.fwd_cnt = 14;
    guest.send(Op::CreditUpdate);
    assert_eq!(guest.received()[0].1, b"ef");
}

#[test]
fn a_guest_that_is_slow_to_give_buffers_loses_nothing() {
    let (mut guest, mut stream) = Guest::connected();
    let mut sent = Vec::new();
    for index in 0..200u8 {
        let piece = [index; 1000];
        if stream.write_all(&piece).is_err() {
            break;
        }
        sent.extend(piece);
    }
    guest.buf_alloc = 1 << 20;
    guest.send(Op::CreditUpdate);
    let mut got = Vec::new();
    for _ in 0..200 {
        got.extend(guest.received().into_iter().flat_map(|(_, bytes)| bytes));
    }
    assert!(got == sent, "{} of {}", got.len(), sent.len());
}

#[test]
fn each_side_may_end_its_half() {
    let (mut guest, mut stream) = Guest::connected();
    stream.write_all(b"last words").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let packets = guest.received();
    assert_eq!(packets[0].1, b"last words");
    assert_eq!((packets[1].0.op, packets[1].0.flags), (Op::Shutdown as u16, SHUTDOWN_SEND));
    guest.data(b"a long answer");
    guest.shutdown(SHUTDOWN_SEND);
    assert_eq!(read_all(&mut stream), b"a long answer");
    assert!(ended(&mut stream));
    guest.shutdown(SHUTDOWN_RECEIVE);
    assert_eq!(guest.ops(), [Op::Reset]);
}

#[test]
fn a_client_that_closes_is_told_as_such() {
    let (mut guest, mut stream) = Guest::connected();
    stream.write_all(b"bye").unwrap();
    drop(stream);
    let packets = guest.received();
    assert_eq!(packets[0].1, b"bye");
    assert_eq!((packets[1].0.op, packets[1].0.flags), (Op::Shutdown as u16, SHUTDOWN_BOTH));
    guest.data(b"to nobody");
    guest.send(Op::Reset);
    assert_eq!(guest.ops(), []);
    guest.data(b"to what is gone");
    assert_eq!(guest.ops(), [Op::Reset]);
}

#[test]
fn half_closed_then_closed() {
    let (mut guest, stream) = Guest::connected();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.received()[0].0.flags, SHUTDOWN_SEND);
    drop(stream);
    assert_eq!(guest.received()[0].0.flags, SHUTDOWN_BOTH);
}

#[test]
fn the_last_bytes_reach_a_slow_client_after_the_guest_closed() {
    let (mut guest, mut stream) = Guest::connected();
    let mut sent = 0;
    for _ in 0..8 {
        guest.data(&[9; 32 * 1024]);
        sent += 32 * 1024;
    }
    guest.shutdown(SHUTDOWN_BOTH);
    let before = guest.ops();
    let mut got = 0;
    loop {
        let piece = read_all(&mut stream);
        guest.driver.run();
        got += piece.len();
        if piece.is_empty() {
            break;
        }
    }
    assert_eq!(got, sent);
    assert!(ended(&mut stream));
    assert_eq!([before, guest.ops()].concat().last(), Some(&Op::Reset));
}

#[test]
fn a_restored_guest_is_told_that_its_connections_are_gone() {
    let state = Guest::new().driver.device().save();
    let (ours, _theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty()).unwrap();
    let broker = || Box::new(SocketBroker::new(ours.try_clone().unwrap()).unwrap());
    let mut driver = Driver::started(Vsock::restore(broker(), &state).unwrap());
    // Setting it up reset the device; a restored one is not set up again.
    driver.device().transport_reset_owed = true;
    driver.put(BUFFERS, &[0xff; 4]);
    driver.add(2, &[writable(BUFFERS, 4)]);
    driver.kick(2);
    assert_eq!(driver.used(2), [(0, 4)]);
    assert_eq!(driver.get(BUFFERS), [0, 0, 0, 0]);
    for guest_cid in [0, 2, u64::from(u32::MAX), u64::MAX] {
        assert!(Vsock::restore(broker(), &VsockState { guest_cid, ..state.clone() }).is_err());
    }
}

#[test]
fn the_request_to_the_client_is_one_packet_with_one_descriptor() {
    let mut guest = Guest::new();
    guest.send(Op::Request);
    let mut bytes = [0; 64];
    let len = recv(guest.client.0.as_raw_fd(), &mut bytes, MsgFlags::MSG_PEEK).unwrap();
    assert_eq!(&bytes[..len], br#"{"port":1024}"#);
    assert!(guest.client.accept().is_some());
    assert!(guest.client.accept().is_none());
}
