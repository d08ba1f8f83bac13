//! One stream between a guest port and a client's socket.
//!
//! ```text
//!  guest REQUEST ──broker takes it──► Open ◄──guest RESPONSE── Requested ◄── client asks
//!  Open: data both ways; either side ends its half:
//!     client's end of file  ─► SHUTDOWN(send) to the guest     guest SHUTDOWN(send)    ─► shutdown(WR) of the socket
//!     client hangs up       ─► SHUTDOWN(both) to the guest     guest SHUTDOWN(receive) ─► shutdown(RD) of the socket
//!  gone: RST from the guest; RST to the guest once it ended both halves and its last bytes reached the client;
//!        RST to the guest for whatever breaks the rules
//! ```
//!
//! Called by the muxer alone. The socket is watched edge-triggered: `readable` holds until a read says otherwise. Bytes
//! that did not fit wait in `outgoing`, and only then does epoll watch for room, so that a client's reads wake nobody.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};

use super::credit::Credit;
use super::packet::{Header, Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use crate::guest_io;
use crate::virtio::segments::Segments;

/// Largest payload of one packet to the guest: what Linux allows (VIRTIO_VSOCK_MAX_PKT_BUF_SIZE).
const PACKET_MAX: usize = 64 * 1024;

/// An empty buffer that grew past this is given back to the allocator.
const KEPT_CAPACITY: usize = 4 * 1024;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The client asked; the guest has not answered.
    Requested,
    Open,
}

/// Whether a connection lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Verdict {
    Alive,
    /// It ends and the guest is told.
    Reset,
    /// It ends and the guest knows.
    Gone,
}

/// What the guest gets next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Packet {
        op: Op,
        len: u32,
        flags: u32,
    },
    /// Nothing now.
    Idle,
    /// The socket failed.
    Broken,
}

#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    stage: Stage,
    credit: Credit,
    /// Bytes of the guest that the socket had no room for; at most BUF_ALLOC by credit.
    outgoing: VecDeque<u8>,
    /// The socket may have something to read.
    readable: bool,
    /// The client closed, or shut down both halves.
    hung_up: bool,
    /// REQUEST or RESPONSE has not been sent yet.
    handshake_owed: bool,
    credit_update_owed: bool,
    /// CREDIT_REQUEST: 0 not asked, since the guest had room.
    credit_request: Asked,
    /// SHUTDOWN flags that the guest has sent.
    guest_shutdown: u32,
    /// The socket's sending half has been shut down.
    write_ended: bool,
    /// SHUTDOWN flags for the guest, and which it has been told.
    host_shutdown: u32,
    host_shutdown_told: u32,
    /// epoll also reports when the socket has room again.
    pub(super) waits_for_room: bool,
    /// In the muxer's queue of connections with something for the guest.
    pub(super) queued: bool,
}

/// Whether the guest was asked for its credit since it had none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    No,
    Owed,
    Yes,
}

impl Connection {
    /// The guest asked and the broker took it; `header` is the guest's REQUEST.
    pub(super) fn accepted(socket: OwnedFd, header: &Header) -> Self {
        let mut connection = Self::new(socket, Stage::Open);
        connection.credit.learn(header.buf_alloc, header.fwd_cnt);
        connection
    }

    /// The client asks.
    pub(super) fn requested(socket: OwnedFd) -> Self {
        Self::new(socket, Stage::Requested)
    }

    fn new(socket: OwnedFd, stage: Stage) -> Self {
        Self {
            socket,
            stage,
            credit: Credit::default(),
            outgoing: VecDeque::new(),
            readable: false,
            hung_up: false,
            handshake_owed: true,
            credit_update_owed: false,
            credit_request: Asked::No,
            guest_shutdown: 0,
            write_ended: false,
            host_shutdown: 0,
            host_shutdown_told: 0,
            waits_for_room: false,
            queued: false,
        }
    }

    /// Takes a packet of the guest. `payload` has exactly the header's length.
    pub(super) fn receive(&mut self, op: Op, header: &Header, payload: &Segments<'_>) -> Verdict {
        self.credit.learn(header.buf_alloc, header.fwd_cnt);
        if self.credit.room_at_guest() > 0 {
            self.credit_request = Asked::No;
        }
        match (op, self.stage) {
            (Op::Reset, _) => Verdict::Gone,
            (Op::Response, Stage::Requested) if !self.handshake_owed => {
                self.stage = Stage::Open;
                Verdict::Alive
            }
            (Op::Data, Stage::Open) => self.receive_data(header.len, payload),
            (Op::Shutdown, Stage::Open) => self.receive_shutdown(header.flags),
            (Op::CreditUpdate, Stage::Open) => Verdict::Alive,
            (Op::CreditRequest, Stage::Open) => {
                self.credit_update_owed = true;
                Verdict::Alive
            }
            // A second REQUEST, a RESPONSE to nothing, or anything before RESPONSE.
            _ => Verdict::Reset,
        }
    }

    fn receive_data(&mut self, len: u32, payload: &Segments<'_>) -> Verdict {
        if self.guest_shutdown & SHUTDOWN_SEND != 0 || !self.credit.receive(len) {
            return Verdict::Reset;
        }
        let mut rest = payload.clone();
        while self.outgoing.is_empty() && !rest.is_empty() {
            match guest_io::send(self.socket.as_fd(), rest.pieces()) {
                Ok(sent) => {
                    self.forwarded(sent);
                    match rest.split_off(sent) {
                        Some(unsent) => rest = unsent,
                        None => return Verdict::Reset,
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.forwarded(rest.len());
                    self.client_stopped_reading();
                    return Verdict::Alive;
                }
            }
        }
        if self.host_shutdown & SHUTDOWN_RECEIVE != 0 {
            // Nobody reads any more, and the guest is being told.
            self.forwarded(rest.len());
        } else if !rest.is_empty() {
            let mut bytes = vec![0; rest.len()];
            if rest.take_into(&mut bytes).is_none() {
                return Verdict::Reset;
            }
            self.outgoing.extend(bytes);
        }
        Verdict::Alive
    }

    fn receive_shutdown(&mut self, flags: u32) -> Verdict {
        self.guest_shutdown |= flags & SHUTDOWN_BOTH;
        if self.guest_shutdown & SHUTDOWN_RECEIVE != 0 {
            self.shutdown(Shutdown::Read);
        }
        self.after_drain()
    }

    /// The socket reported something.
    pub(super) fn wake(&mut self, readable: bool, hung_up: bool) -> Verdict {
        self.readable |= readable || hung_up;
        // A socket also hangs up when each side has ended its own half, and then the guest knows all there is.
        self.hung_up |= hung_up && !self.write_ended;
        if self.hung_up && self.host_shutdown & SHUTDOWN_SEND != 0 {
            self.client_stopped_reading();
        }
        self.drain()
    }

    /// Gives the socket what waits for it.
    fn drain(&mut self) -> Verdict {
        while !self.outgoing.is_empty() {
            let (front, _) = self.outgoing.as_slices();
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.socket.as_raw_fd(), front, flags) {
                Ok(sent) => {
                    self.outgoing.drain(..sent);
                    self.forwarded(sent);
                }
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => return Verdict::Alive,
                Err(_) => self.client_stopped_reading(),
            }
        }
        if self.outgoing.capacity() > KEPT_CAPACITY {
            self.outgoing = VecDeque::new();
        }
        self.after_drain()
    }

    /// Acts on the guest's SHUTDOWN once its last bytes are with the client.
    fn after_drain(&mut self) -> Verdict {
        if !self.outgoing.is_empty() {
            return Verdict::Alive;
        }
        if self.guest_shutdown == SHUTDOWN_BOTH {
            return Verdict::Reset;
        }
        // Once: every shutdown is an event of the socket, which leads here again.
        if self.guest_shutdown & SHUTDOWN_SEND != 0 && !self.write_ended {
            self.write_ended = true;
            self.shutdown(Shutdown::Write);
        }
        Verdict::Alive
    }

    /// Drops what waits for a client that will not read it, and has the guest told.
    fn client_stopped_reading(&mut self) {
        self.forwarded(self.outgoing.len());
        self.outgoing = VecDeque::new();
        self.host_shutdown |= SHUTDOWN_RECEIVE;
    }

    fn forwarded(&mut self, len: usize) {
        // Never more than was received, which is counted in 32 bits.
        self.credit.forward(len as u32);
        self.credit_update_owed |= self.credit.update_due();
    }

    fn shutdown(&self, how: Shutdown) {
        // Fails only when the client is gone, which the socket's own events report.
        let _ = shutdown(self.socket.as_raw_fd(), how);
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether bytes wait for the socket to have room.
    pub(super) fn is_backed_up(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether [`next`](Self::next) is worth calling.
    pub(super) fn has_something(&self) -> bool {
        self.handshake_owed
            || self.stage == Stage::Open
                && (self.credit_update_owed
                    || self.credit_request == Asked::Owed
                    || self.host_shutdown != self.host_shutdown_told
                    || self.may_read()
                        && (self.credit.room_at_guest() > 0 || self.credit_request == Asked::No))
    }

    fn may_read(&self) -> bool {
        self.readable
            && self.host_shutdown & SHUTDOWN_SEND == 0
            && self.guest_shutdown & SHUTDOWN_RECEIVE == 0
    }

    /// The next packet for the guest; its payload goes into `buffer`.
    pub(super) fn next(&mut self, buffer: &Segments<'_>) -> Next {
        let plain = |op| Next::Packet { op, len: 0, flags: 0 };
        if std::mem::take(&mut self.handshake_owed) {
            return plain(if self.stage == Stage::Open { Op::Response } else { Op::Request });
        }
        if self.stage != Stage::Open {
            return Next::Idle;
        }
        if self.may_read() {
            let room = usize::try_from(self.credit.room_at_guest()).unwrap_or(usize::MAX).min(PACKET_MAX);
            if room == 0 && self.credit_request == Asked::No {
                self.credit_request = Asked::Owed;
            }
            match self.read(buffer, room) {
                Ok(0) => {}
                Ok(len) => {
                    self.credit.send(len);
                    return Next::Packet { op: Op::Data, len, flags: 0 };
                }
                Err(_) => return Next::Broken,
            }
        }
        if self.host_shutdown != self.host_shutdown_told {
            self.host_shutdown_told = self.host_shutdown;
            return Next::Packet { op: Op::Shutdown, len: 0, flags: self.host_shutdown };
        }
        if self.credit_request == Asked::Owed {
            self.credit_request = Asked::Yes;
            return plain(Op::CreditRequest);
        }
        if std::mem::take(&mut self.credit_update_owed) {
            return plain(Op::CreditUpdate);
        }
        Next::Idle
    }

    /// Reads up to `room` bytes of the client; 0 when nothing is there or it ended its half.
    fn read(&mut self, buffer: &Segments<'_>, room: usize) -> io::Result<u32> {
        let mut window = buffer.clone();
        if window.len() > room {
            let _ = window.split_off(room);
        }
        if window.is_empty() {
            return Ok(0);
        }
        match guest_io::receive(self.socket.as_fd(), window.pieces()) {
            Ok(0) => {
                self.host_shutdown |= SHUTDOWN_SEND;
                if self.hung_up {
                    self.client_stopped_reading();
                }
                Ok(0)
            }
            Ok(len) => u32::try_from(len).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    /// `buf_alloc` and `fwd_cnt` for a packet about to be sent; every packet is a credit update.
    pub(super) fn tell_credit(&mut self) -> (u32, u32) {
        self.credit_update_owed = false;
        self.credit.tell()
    }
}
