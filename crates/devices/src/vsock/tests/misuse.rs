//! Guests that break the rules, ask for too much or stop listening.

use super::*;

#[test]
fn misuse_is_answered_with_a_reset() {
    type Make = fn(&Guest) -> Header;
    let cases: [(&str, Make); 6] = [
        ("second request", |guest| guest.header(Op::Request)),
        ("response to nothing", |guest| guest.header(Op::Response)),
        ("unknown operation", |guest| Header { op: 99, ..guest.header(Op::Data) }),
        ("operation 0", |guest| Header { op: 0, ..guest.header(Op::Data) }),
        ("unknown type", |guest| Header { kind: 2, ..guest.header(Op::Data) }),
        ("length beyond the chain", |guest| Header { len: 100, ..guest.header(Op::Data) }),
    ];
    for (what, make) in cases {
        let (mut guest, mut stream) = Guest::connected();
        guest.send_raw(make(&guest), b"");
        assert_eq!(guest.ops(), [Op::Reset], "{what}");
        assert!(ended(&mut stream), "{what}");
        guest.data(b"");
        assert_eq!(guest.ops(), [Op::Reset], "{what}: the connection is gone");
    }
    let (mut guest, _stream) = Guest::connected();
    guest.shutdown(SHUTDOWN_SEND);
    guest.data(b"after the end");
    assert_eq!(guest.ops(), [Op::Reset]);
}

#[test]
fn foreign_addresses_are_not_answered() {
    let mut guest = Guest::new();
    for (src_cid, dst_cid) in [(4, 2), (3, 1), (3, 3), (u64::MAX, 2)] {
        guest.send_raw(Header { src_cid, dst_cid, ..guest.header(Op::Request) }, &[]);
    }
    assert_eq!(guest.ops(), []);
    assert!(guest.client.accept().is_none());
}

#[test]
fn a_packet_cut_short_is_dropped() {
    let mut guest = Guest::new();
    guest.driver.put(TX_AT, &guest.header(Op::Request).encode());
    guest.driver.add(1, &[readable(TX_AT, HEADER_LEN as u32 - 1)]);
    guest.driver.kick(1);
    assert_eq!(guest.ops(), []);
    assert!(!guest.driver.needs_reset());
}

#[test]
fn connections_are_counted() {
    let mut guest = Guest::new();
    let mut streams = Vec::new();
    let mut answers = Vec::new();
    for port in 0..70 {
        guest.send_raw(Header { src_port: port, ..guest.header(Op::Request) }, &[]);
        streams.extend(guest.client.accept());
        answers.extend(guest.ops());
    }
    assert_eq!(streams.len(), 64);
    assert_eq!(answers.iter().filter(|&&op| op == Op::Response).count(), 64);
    assert_eq!(answers.iter().filter(|&&op| op == Op::Reset).count(), 6);
    let mut refused = guest.client.connect(r#"{"port":7}"#);
    guest.driver.run();
    assert!(ended(&mut refused));
    drop(streams.pop());
    guest.send_raw(Header { src_port: 63, ..guest.header(Op::Reset) }, &[]);
    guest.send_raw(Header { src_port: 99, ..guest.header(Op::Request) }, &[]);
    assert!(guest.ops().contains(&Op::Response), "a place that is free again is given again");
}

#[test]
fn a_guest_that_takes_no_resets_is_not_listened_to() {
    let (mut guest, _stream) = Guest::connected();
    guest.driver.start();
    for _ in 0..100 {
        guest.driver.put(TX_AT, &guest.header(Op::Data).encode());
        guest.driver.add(1, &[readable(TX_AT, HEADER_LEN as u32)]);
    }
    guest.driver.kick(1);
    assert_eq!(guest.driver.used(1).len(), 64);
    guest.rx_next = 0;
    guest.give_buffers(128);
    assert_eq!(guest.driver.used(1).len(), 36, "it goes on when there is room");
    assert_eq!(guest.ops().len(), 100);
}

#[test]
fn a_reset_of_the_device_ends_every_stream() {
    let (mut guest, mut stream) = Guest::connected();
    guest.driver.write(crate::virtio::registers::Register::Status, 0);
    assert!(ended(&mut stream));
    stream.write_all(b"late").unwrap_err();
    guest.driver.run();
    guest.driver.start();
    guest.rx_next = 0;
    guest.give_buffers(8);
    guest.send(Op::Request);
    assert_eq!(guest.ops(), [Op::Response]);
}

#[test]
fn a_bad_chain_asks_for_a_reset_and_ends_every_stream() {
    let (mut guest, mut stream) = Guest::connected();
    guest.driver.add(1, &[readable(u64::MAX - 100, 50)]);
    guest.driver.kick(1);
    assert!(guest.driver.needs_reset());
    assert!(ended(&mut stream));
}
