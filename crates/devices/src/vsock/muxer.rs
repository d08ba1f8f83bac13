//! Between the guest's packets and the clients' sockets: finds connections, makes them, ends them.
//!
//! It knows no virtqueue: the device hands it packets in segments and asks it for packets into segments. What the
//! guest or a client can make it keep is bounded: connections, bytes a connection (its credit), resets owed.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::broker::{Accepted, Broker};
use super::connection::{Connection, Next, Verdict};
use super::packet::{HEADER_LEN, HOST_CID, Header, Op, PORT_ANY, TYPE_STREAM};
use crate::virtio::segments::Segments;

/// Open connections: guest-init needs a handful. Bounds descriptors and, with BUF_ALLOC, buffered bytes.
const CONNECTIONS_MAX: usize = 64;
/// Resets that wait for a buffer of the guest; when full, the device stops taking packets from it.
const RESETS_MAX: usize = 64;
/// Socket events a wake-up.
const WAKE_EVENTS: usize = 64;
/// Connections taken from the broker a wake-up.
const WAKE_ACCEPTS: usize = 8;
/// Ports of the host's ends of connections that a client asks for; far from those that guests connect to.
const FIRST_HOST_PORT: u32 = 1 << 30;

/// Both ports of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    host_port: u32,
    guest_port: u32,
}

/// epoll's name for the broker; no connection has it, since port "any" makes none.
const BROKER_TOKEN: u64 = u64::MAX;

/// What is watched of a socket, edge-triggered; room to write only while bytes wait for it.
const INTEREST: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLRDHUP).union(EpollFlags::EPOLLET);

impl Key {
    fn token(self) -> u64 {
        u64::from(self.host_port) << 32 | u64::from(self.guest_port)
    }

    fn of_token(token: u64) -> Self {
        Self { host_port: (token >> 32) as u32, guest_port: (token & u64::from(u32::MAX)) as u32 }
    }
}

pub(crate) struct Muxer {
    // Glue.
    epoll: Epoll,
    broker: Box<dyn Broker>,
    // Fixed.
    guest_cid: u64,
    // What the driver's reset ends.
    connections: HashMap<Key, Connection>,
    /// Connections with something for the guest, each once, in turn.
    ready: VecDeque<Key>,
    /// RSTs for what is no connection (any more).
    resets: VecDeque<Header>,
    // Survives a reset, so that a late packet of an old connection finds no new one.
    next_host_port: u32,
}

impl Muxer {
    pub(crate) fn new(guest_cid: u64, broker: Box<dyn Broker>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(broker.readable(), EpollEvent::new(EpollFlags::EPOLLIN, BROKER_TOKEN))?;
        Ok(Self {
            epoll,
            broker,
            guest_cid,
            connections: HashMap::new(),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            next_host_port: FIRST_HOST_PORT,
        })
    }

    /// Readable when [`poll`](Self::poll) has something to do.
    pub(crate) fn readable(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    pub(crate) fn guest_cid(&self) -> u64 {
        self.guest_cid
    }

    pub(crate) fn next_host_port(&self) -> u32 {
        self.next_host_port
    }

    pub(crate) fn set_next_host_port(&mut self, port: u32) {
        self.next_host_port = port.max(FIRST_HOST_PORT);
    }

    /// Drops every connection; clients see their streams end.
    pub(crate) fn reset(&mut self) {
        let Self { epoll, broker: _, guest_cid: _, connections, ready, resets, next_host_port: _ } = self;
        for connection in connections.values() {
            let _ = epoll.delete(connection.socket());
        }
        connections.clear();
        ready.clear();
        resets.clear();
    }

    /// Whether a packet of the guest can be taken: its answer may be a reset, which needs a place.
    pub(crate) fn can_take(&self) -> bool {
        self.resets.len() < RESETS_MAX
    }

    /// Whether the guest should be given a packet.
    pub(crate) fn has_packets(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// Takes one packet of the guest.
    pub(crate) fn take_packet(&mut self, packet: Segments<'_>) {
        // Without a header there is no sender to answer.
        let Some((header, mut payload)) = Header::take(packet) else { return };
        // §5.10.6.1: addresses are the guest's own and ours; what claims otherwise is not answered.
        if header.src_cid != self.guest_cid || header.dst_cid != HOST_CID {
            return;
        }
        let key = Key { host_port: header.dst_port, guest_port: header.src_port };
        let whole = usize::try_from(header.len).is_ok_and(|len| payload.split_off(len).is_some());
        let op = Op::of(header.op).filter(|_| whole && header.kind == TYPE_STREAM);
        match op {
            Some(Op::Request) if !self.connections.contains_key(&key) => self.connect(key, &header),
            Some(op) => match self.connections.get_mut(&key) {
                Some(connection) => {
                    let verdict = connection.receive(op, &header, &payload);
                    self.settle(key, verdict);
                }
                None if op == Op::Reset => {}
                None => self.owe_reset(header.reset_reply()),
            },
            None => {
                self.drop_connection(key);
                self.owe_reset(header.reset_reply());
            }
        }
    }

    /// Puts the next packet for the guest into `buffer`; returns its length, or none when there is no packet.
    pub(crate) fn put_packet(&mut self, mut buffer: Segments<'_>) -> Option<u32> {
        let Some(payload) = buffer.split_off(HEADER_LEN) else {
            // Too small for anything: given back unused, the packet waits for a better one.
            return self.has_packets().then_some(0);
        };
        let header = self.next_packet(&payload)?;
        buffer.fill_from(&header.encode());
        u32::try_from(HEADER_LEN).ok()?.checked_add(header.len)
    }

    fn next_packet(&mut self, payload: &Segments<'_>) -> Option<Header> {
        if let Some(reset) = self.resets.pop_front() {
            return Some(reset);
        }
        while let Some(key) = self.ready.pop_front() {
            let Some(connection) = self.connections.get_mut(&key) else { continue };
            connection.queued = false;
            let next = connection.next(payload);
            let (buf_alloc, fwd_cnt) = match next {
                Next::Packet { .. } => connection.tell_credit(),
                _ => (0, 0),
            };
            match next {
                Next::Idle => {}
                Next::Broken => {
                    self.drop_connection(key);
                    return Some(self.header(key, Op::Reset));
                }
                Next::Packet { op, len, flags } => {
                    self.refresh(key);
                    return Some(Header { len, flags, buf_alloc, fwd_cnt, ..self.header(key, op) });
                }
            }
        }
        None
    }

    /// Takes what sockets and broker reported.
    pub(crate) fn poll(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); WAKE_EVENTS];
        let count = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
            Ok(count) => count,
            Err(nix::Error::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in events.iter().take(count) {
            if event.data() == BROKER_TOKEN {
                self.accept()?;
                continue;
            }
            let key = Key::of_token(event.data());
            let flags = event.events();
            let readable =
                flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLERR);
            let Some(connection) = self.connections.get_mut(&key) else { continue };
            let verdict = connection.wake(readable, flags.contains(EpollFlags::EPOLLHUP));
            self.settle(key, verdict);
        }
        Ok(())
    }

    /// The guest asks for a port of the host.
    fn connect(&mut self, key: Key, header: &Header) {
        let refused = header.reset_reply();
        if self.connections.len() >= CONNECTIONS_MAX || key.guest_port == PORT_ANY {
            return self.owe_reset(refused);
        }
        match self.broker.connect(key.host_port) {
            Ok(socket) => {
                if !self.insert(key, socket, |socket| Connection::accepted(socket, header)) {
                    self.owe_reset(refused);
                }
            }
            Err(_) => self.owe_reset(refused),
        }
    }

    /// Clients ask for ports of the guest. One that cannot be served sees its stream end.
    fn accept(&mut self) -> io::Result<()> {
        for _ in 0..WAKE_ACCEPTS {
            match self.broker.accept() {
                Accepted::Connection { port, stream } => {
                    if self.connections.len() < CONNECTIONS_MAX && port != PORT_ANY {
                        let key = Key { host_port: self.free_host_port(port), guest_port: port };
                        self.insert(key, stream, Connection::requested);
                    }
                }
                Accepted::Malformed => {}
                Accepted::Nothing => return Ok(()),
                Accepted::Closed => {
                    self.epoll.delete(self.broker.readable())?;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// False when the descriptor is none that can be waited for.
    fn insert(&mut self, key: Key, socket: OwnedFd, make: impl FnOnce(OwnedFd) -> Connection) -> bool {
        let interest =
            EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        if self.epoll.add(&socket, EpollEvent::new(interest, key.token())).is_err() {
            return false;
        }
        self.connections.insert(key, make(socket));
        self.refresh(key);
        true
    }

    /// A port that no connection to this guest port has; there are 2^30 and at most CONNECTIONS_MAX are taken.
    fn free_host_port(&mut self, guest_port: u32) -> u32 {
        loop {
            let host_port = self.next_host_port;
            self.next_host_port = match host_port.checked_add(1) {
                None | Some(PORT_ANY) => FIRST_HOST_PORT,
                Some(next) => next,
            };
            if !self.connections.contains_key(&Key { host_port, guest_port }) {
                return host_port;
            }
        }
    }

    fn settle(&mut self, key: Key, verdict: Verdict) {
        match verdict {
            Verdict::Alive => self.refresh(key),
            Verdict::Gone => self.drop_connection(key),
            Verdict::Reset => {
                self.drop_connection(key);
                self.owe_reset(self.header(key, Op::Reset));
            }
        }
    }

    /// Brings a connection's place in the queue and its epoll interest up to date with its state.
    fn refresh(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if connection.waits_for_room != connection.is_backed_up() {
            connection.waits_for_room = connection.is_backed_up();
            let extra = if connection.waits_for_room { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
            let mut interest = EpollEvent::new(INTEREST | extra, key.token());
            // The socket was added and is open, so that this cannot fail.
            let _ = self.epoll.modify(connection.socket(), &mut interest);
        }
        if !connection.queued && connection.has_something() {
            connection.queued = true;
            self.ready.push_back(key);
        }
    }

    /// Taken out of epoll by name: the client may hold the same open socket.
    fn drop_connection(&mut self, key: Key) {
        if let Some(connection) = self.connections.remove(&key) {
            let _ = self.epoll.delete(connection.socket());
            self.ready.retain(|&other| other != key);
        }
    }

    /// One reset a connection or packet. [`can_take`](Self::can_take) keeps a place for packets of the guest;
    /// sockets that break owe at most one for each of CONNECTIONS_MAX.
    fn owe_reset(&mut self, reset: Header) {
        if self.resets.len() < RESETS_MAX + CONNECTIONS_MAX {
            self.resets.push_back(reset);
        }
    }

    fn header(&self, key: Key, op: Op) -> Header {
        Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: key.host_port,
            dst_port: key.guest_port,
            kind: TYPE_STREAM,
            op: op as u16,
            ..Header::default()
        }
    }
}
