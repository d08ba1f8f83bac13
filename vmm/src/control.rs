//! The VMM's end of the control socket: packets in, answers out. It knows no machine; `supervisor` does.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{SockType, getsockopt, sockopt};
use vmm_api::{MAX_PACKET_LEN, Refusal, Request, Response};

/// A control socket that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Not what `vmm-api` asks for.
    #[error("use descriptor {0} as control socket: it is no SOCK_SEQPACKET socket")]
    NotSeqpacket(RawFd),
    /// The socket failed.
    #[error("receive from the control socket")]
    Receive(#[source] Errno),
    /// The client does not take its answers, or is gone.
    #[error("send to the control socket")]
    Send(#[source] Errno),
    /// No second descriptor.
    #[error("duplicate the control socket")]
    Clone(#[source] std::io::Error),
    /// An answer that does not fit in a packet.
    #[error("encode an answer")]
    Encode(#[source] vmm_api::EncodeError),
}

/// What came in.
pub(crate) enum Incoming {
    /// A request with its descriptors.
    Request(Box<Request>, Vec<OwnedFd>),
    /// Bytes that are none.
    Malformed(Refusal),
    /// The client is gone.
    Closed,
}

/// The connected socket.
pub struct Control {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Control {
    /// # Errors
    /// `socket` is no `SOCK_SEQPACKET` socket.
    pub fn new(socket: OwnedFd) -> Result<Self, ControlError> {
        match getsockopt(&socket, sockopt::SockType) {
            Ok(SockType::SeqPacket) => Ok(Self { socket, buffer: vec![0; MAX_PACKET_LEN] }),
            _ => Err(ControlError::NotSeqpacket(socket.as_raw_fd())),
        }
    }

    /// Another end for sending.
    pub(crate) fn try_clone(&self) -> Result<Self, ControlError> {
        let socket = self.socket.try_clone().map_err(ControlError::Clone)?;
        Ok(Self { socket, buffer: Vec::new() })
    }

    pub(crate) fn receive(&mut self) -> Result<Incoming, ControlError> {
        let (len, fds) = match vmm_api::receive(self.socket.as_fd(), &mut self.buffer) {
            Ok(received) => received,
            Err(Errno::EMSGSIZE) => {
                let message = format!(
                    "a request has at most {MAX_PACKET_LEN} bytes and {} descriptors",
                    vmm_api::MAX_FDS
                );
                return Ok(Incoming::Malformed(Refusal { field: None, message }));
            }
            // The peer closed with bytes of ours unread.
            Err(Errno::ECONNRESET) => return Ok(Incoming::Closed),
            Err(error) => return Err(ControlError::Receive(error)),
        };
        if len == 0 {
            return Ok(Incoming::Closed);
        }
        Ok(match vmm_api::decode(&self.buffer[..len]) {
            Ok(request) => Incoming::Request(Box::new(request), fds),
            Err(error) => {
                // Clients know the configuration's fields, not that it is wrapped in a request.
                let field = error.field.map(|path| path.trim_start_matches("configure.").to_owned());
                Incoming::Malformed(Refusal { field, message: error.message })
            }
        })
    }

    pub(crate) fn send(&self, response: &Response) -> Result<(), ControlError> {
        let packet = vmm_api::encode(response).map_err(ControlError::Encode)?;
        vmm_api::send(self.socket.as_fd(), &packet, &[]).map_err(ControlError::Send)
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
