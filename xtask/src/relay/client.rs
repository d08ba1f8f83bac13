//! One connection: a client of the host on one side, the stack's socket to the machine on the other, and bytes carried
//! both ways until both ways are closed. Ends are passed on as what they are: an end of data as one, a break as one.

use anyhow::{Context as _, Result};
use rustix::event::epoll::EventFlags;
use rustix::net::sockopt::set_socket_linger;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// A client's half and how it stands.
pub(super) struct Client {
    stream: TcpStream,
    handle: SocketHandle,
    readable: bool,
    writable: bool,
    /// The client has said all it will.
    said_all: bool,
    /// The machine has, and the client knows.
    heard_all: bool,
    /// The connection broke on the client's side.
    broken: bool,
}

/// What [`Client::carry`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// Nothing to do before something happens.
    Idle,
    /// Bytes moved, or an end did: the stack has something to send.
    Moved,
    /// Both halves are done with.
    Over,
}

impl Client {
    pub(super) fn new(stream: TcpStream, handle: SocketHandle) -> Result<Client> {
        stream.set_nonblocking(true).context("set up a client's connection")?;
        // The connection may have broken already, which the first read tells.
        let _ = stream.set_nodelay(true);
        let (said_all, heard_all, broken) = (false, false, false);
        Ok(Client { stream, handle, readable: true, writable: true, said_all, heard_all, broken })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Names the other half.
    pub(super) fn handle(&self) -> SocketHandle {
        self.handle
    }

    pub(super) fn note(&mut self, flags: EventFlags) {
        self.readable |= flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR);
        self.writable |= flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
    }

    /// Moves what can be moved.
    pub(super) fn carry(&mut self, socket: &mut Socket<'_>) -> Fate {
        let moved = self.take_to_machine(socket) | self.take_to_client(socket);
        if self.broken && socket.is_open() {
            socket.abort();
            return Fate::Moved;
        }
        match socket.state() {
            // The machine's end came after ours, or ours after its: nothing is left to be said on either side.
            State::TimeWait | State::Closed if self.heard_all || self.broken => Fate::Over,
            State::Closed if !socket.can_recv() => {
                // Refused or reset: the client shall see that, not an end of data. Dropping the stream says so.
                let _ = set_socket_linger(&self.stream, Some(Duration::ZERO));
                Fate::Over
            }
            _ if moved => Fate::Moved,
            _ => Fate::Idle,
        }
    }

    fn take_to_machine(&mut self, socket: &mut Socket<'_>) -> bool {
        let mut moved = false;
        while self.readable && !self.said_all && !self.broken && socket.can_send() {
            let stream = &mut self.stream;
            let read = socket.send(|room| match stream.read(room) {
                Ok(len) => (len, Ok(len)),
                Err(error) => (0, Err(error)),
            });
            match read {
                Ok(Ok(0)) => {
                    self.said_all = true;
                    socket.close();
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    break;
                }
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => continue,
                Ok(Err(_)) => self.broken = true,
                // The socket's state changed: asked first, it cannot.
                Err(_) => break,
            }
            moved = true;
        }
        moved
    }

    fn take_to_client(&mut self, socket: &mut Socket<'_>) -> bool {
        let mut moved = false;
        while self.writable && !self.broken && socket.can_recv() {
            let stream = &mut self.stream;
            let written = socket.recv(|bytes| match stream.write(bytes) {
                Ok(len) => (len, Ok(())),
                Err(error) => (0, Err(error)),
            });
            match written {
                Ok(Ok(())) => moved = true,
                Ok(Err(error)) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Err(_)) => {
                    self.broken = true;
                    moved = true;
                }
                Err(_) => break,
            }
        }
        // The machine's end of data, once everything before it has been handed over.
        let ended =
            matches!(socket.state(), State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
        if ended && !socket.can_recv() && !self.heard_all {
            self.heard_all = true;
            moved = true;
            // A client that is gone has heard enough.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        moved
    }
}
