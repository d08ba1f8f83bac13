//! A scripted guest with a socket device, and the client at the other end of its broker.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::packet::{HEADER_LEN, Header, Op, TYPE_STREAM};
use super::{SocketBroker, Vsock};
use crate::virtio::test_driver::{BUFFERS, Driver, readable, writable};

pub(super) const CID: u32 = 3;
pub(super) const PORT: u32 = 1024;
pub(super) const GUEST_PORT: u32 = 50_000;
pub(super) const RX_BUFFER: u32 = 4096;
/// What the guest says of its own buffers unless a test says otherwise.
pub(super) const GUEST_BUF: u32 = 64 * 1024;
pub(super) const TX_AT: u64 = BUFFERS;
pub(super) const RX_AT: u64 = BUFFERS + 0x10_0000;

/// The client's end of the broker.
pub(super) struct Client(pub(super) OwnedFd);

impl ScmSocket for Client {
    fn socket_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Client {
    /// The next connection of the guest.
    pub(super) fn accept(&self) -> Option<(String, UnixStream)> {
        let mut request = [0; 64];
        let (len, file) = self.recv_with_fd(&mut request).ok()?;
        let stream = UnixStream::from(OwnedFd::from(file?));
        stream.set_nonblocking(true).unwrap();
        Some((String::from_utf8_lossy(&request[..len]).into_owned(), stream))
    }

    pub(super) fn connect(&self, request: &str) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.send_with_fd(request.as_bytes(), theirs.as_raw_fd()).unwrap();
        ours.set_nonblocking(true).unwrap();
        ours
    }
}

pub(super) struct Guest {
    pub(super) driver: Driver<Vsock>,
    pub(super) client: Client,
    pub(super) rx_next: u64,
    pub(super) buf_alloc: u32,
    pub(super) fwd_cnt: u32,
}

impl Guest {
    pub(super) fn new() -> Self {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_NONBLOCK).unwrap();
        let vsock = Vsock::new(CID, Box::new(SocketBroker::new(ours).unwrap())).unwrap();
        let mut guest = Self {
            driver: Driver::started(vsock),
            client: Client(theirs),
            rx_next: 0,
            buf_alloc: GUEST_BUF,
            fwd_cnt: 0,
        };
        guest.give_buffers(64);
        guest
    }

    pub(super) fn give_buffers(&mut self, count: u64) {
        for _ in 0..count {
            let at = RX_AT + self.rx_next % 128 * u64::from(RX_BUFFER);
            self.rx_next += 1;
            self.driver.add(0, &[writable(at, RX_BUFFER)]);
        }
        self.driver.kick(0);
    }

    pub(super) fn header(&self, op: Op) -> Header {
        Header {
            src_cid: CID.into(),
            dst_cid: 2,
            src_port: GUEST_PORT,
            dst_port: PORT,
            kind: TYPE_STREAM,
            op: op as u16,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.fwd_cnt,
            ..Header::default()
        }
    }

    pub(super) fn send_raw(&mut self, header: Header, payload: &[u8]) {
        self.driver.put(TX_AT, &header.encode());
        self.driver.put(TX_AT + HEADER_LEN as u64, payload);
        let head = readable(TX_AT, HEADER_LEN as u32);
        let body = readable(TX_AT + HEADER_LEN as u64, payload.len() as u32);
        let chain = [head, body];
        self.driver.add(1, if payload.is_empty() { &chain[..1] } else { &chain });
        self.driver.kick(1);
    }

    pub(super) fn send(&mut self, op: Op) {
        self.send_raw(self.header(op), &[]);
    }

    pub(super) fn data(&mut self, payload: &[u8]) {
        let header = Header { len: payload.len() as u32, ..self.header(Op::Data) };
        self.send_raw(header, payload);
    }

    pub(super) fn shutdown(&mut self, flags: u32) {
        self.send_raw(Header { flags, ..self.header(Op::Shutdown) }, &[]);
    }

    /// What arrived since the last call; used buffers are given back.
    pub(super) fn received(&mut self) -> Vec<(Header, Vec<u8>)> {
        self.driver.run();
        let used = self.driver.used(0);
        let mut packets = Vec::new();
        for (head, len) in used {
            let desc: [u8; 16] = self.driver.get(Driver::<Vsock>::table(0) + 16 * u64::from(head));
            let at = u64::from_le_bytes(desc[..8].try_into().unwrap());
            let header = Header::decode(&self.driver.get(at));
            assert_eq!(len, HEADER_LEN as u32 + header.len);
            packets.push((header, self.driver.get_vec(at + HEADER_LEN as u64, header.len as usize)));
            self.give_buffers(1);
        }
        packets
    }

    pub(super) fn ops(&mut self) -> Vec<Op> {
        self.received().iter().map(|(header, _)| Op::of(header.op).unwrap()).collect()
    }

    /// A guest connection that a client took.
    pub(super) fn connected() -> (Self, UnixStream) {
        let mut guest = Self::new();
        guest.send(Op::Request);
        let (request, stream) = guest.client.accept().unwrap();
        assert_eq!(request, r#"{"port":1024}"#);
        assert_eq!(guest.ops(), [Op::Response]);
        (guest, stream)
    }
}

pub(super) fn read_all(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
        _ => bytes,
    }
}

/// Whether the other side closed.
pub(super) fn ended(stream: &mut UnixStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0))
}
