//! How connections cross to the host: whole sockets handed over a `SOCK_SEQPACKET` pair, no path, no listener.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::{Deserialize, Serialize};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Longest request; `{"port":4294967295}` is 19 bytes. A longer one is cut and then is no JSON.
const REQUEST_MAX: usize = 64;

/// The other side of the vsock device: whoever wants connections to and from the guest.
pub trait Broker: Send {
    /// Readable when [`accept`](Self::accept) has something.
    fn readable(&self) -> BorrowedFd<'_>;

    /// The guest connects to a port of the host: returns the guest's end of a stream.
    ///
    /// # Errors
    /// When nobody takes it now; the guest sees its connection refused.
    fn connect(&mut self, port: u32) -> io::Result<OwnedFd>;

    /// Takes the next connection that the client asks for. Never waits.
    fn accept(&mut self) -> Accepted;
}

/// What [`Broker::accept`] found.
#[derive(Debug)]
pub enum Accepted {
    /// A stream to be connected to a port of the guest.
    Connection {
        /// Port in the guest.
        port: u32,
        /// The guest's end.
        stream: OwnedFd,
    },
    /// A request that makes no sense; it has been dropped.
    Malformed,
    /// Nothing now.
    Nothing,
    /// Nothing ever again.
    Closed,
}

/// The broker over a socket. Each packet is `{"port":N}` with one stream socket beside it: `N` is a port of the host
/// when the device sends, of the guest when the client does.
#[derive(Debug)]
pub struct SocketBroker {
    socket: Socket,
}

#[derive(Debug)]
struct Socket(OwnedFd);

impl ScmSocket for Socket {
    fn socket_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Connect {
    port: u32,
}

impl SocketBroker {
    /// Over one end of a `SOCK_SEQPACKET` pair, which becomes non-blocking.
    ///
    /// # Errors
    /// When the descriptor is unfit.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&socket, FcntlArg::F_GETFL)?);
        fcntl(&socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self { socket: Socket(socket) })
    }
}

impl Broker for SocketBroker {
    fn readable(&self) -> BorrowedFd<'_> {
        self.socket.0.as_fd()
    }

    fn connect(&mut self, port: u32) -> io::Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        let request = serde_json::to_vec(&Connect { port })?;
        self.socket
            .send_with_fd(request.as_slice(), theirs.as_raw_fd())
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        Ok(ours.into())
    }

    fn accept(&mut self) -> Accepted {
        let mut request = [0; REQUEST_MAX];
        match self.socket.recv_with_fd(&mut request) {
            Ok((0, None)) => Accepted::Closed,
            Ok((len, Some(stream))) => {
                let request = request.get(..len).unwrap_or_default();
                match serde_json::from_slice::<Connect>(request) {
                    Ok(Connect { port }) => Accepted::Connection { port, stream: stream.into() },
                    Err(_) => Accepted::Malformed,
                }
            }
            Ok((_, None)) => Accepted::Malformed,
            Err(error) => match error.errno() {
                libc::EAGAIN | libc::EINTR => Accepted::Nothing,
                // More than one descriptor beside the request.
                libc::ENOBUFS => Accepted::Malformed,
                _ => Accepted::Closed,
            },
        }
    }
}
