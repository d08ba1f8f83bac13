//! Packets of the agent's connection, and who is at its other end.

#![expect(unsafe_code, reason = "accept hands over a descriptor as an integer")]

use std::io::IoSlice;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use gateway_api::{Answer, MAX_REQUEST_LEN, Request, RequestError};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, SockFlag, accept4, getsockopt, recv, sendmsg, sockopt};

/// What came in.
#[derive(Debug)]
pub(crate) enum Incoming {
    Request(Request),
    Malformed(RequestError),
    /// The agent is gone.
    End,
}

/// The agent's connection.
#[derive(Debug)]
pub(crate) struct Connection(OwnedFd);

impl Connection {
    /// The next one; none when whoever connects is not `agent`.
    pub(crate) fn accept(listener: BorrowedFd<'_>, agent: u32) -> Result<Option<Self>, Errno> {
        let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
        // SAFETY: accept4 has just made the descriptor; nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let user = getsockopt(&socket, sockopt::PeerCredentials)?.uid();
        if user != agent {
            eprintln!("gateway: user {user} is not the agent and gets no answer");
            return Ok(None);
        }
        Ok(Some(Self(socket)))
    }

    /// Waits for a packet. Descriptors beside it are the kernel's to close: there is no room for any.
    pub(crate) fn receive(&self) -> Result<Incoming, Errno> {
        // One more than there may be: what is longer is seen to be.
        let mut buffer = [0; MAX_REQUEST_LEN + 1];
        let len = match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            // It went with an answer of ours unread.
            Err(Errno::ECONNRESET) | Ok(0) => return Ok(Incoming::End),
            received => received?,
        };
        let packet = buffer.get(..len.min(MAX_REQUEST_LEN + 1)).unwrap_or_default();
        Ok(Request::from_packet(packet).map_or_else(Incoming::Malformed, Incoming::Request))
    }

    /// Answers. An agent that is gone meanwhile is no error here.
    pub(crate) fn send(&self, answer: &Answer, tap: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        let fds = tap.map(|tap| [tap.as_raw_fd()]);
        let rights = fds.as_ref().map(|fds| [ControlMessage::ScmRights(fds)]);
        let rights = rights.as_ref().map_or(&[][..], |rights| &rights[..]);
        let packet = answer.to_packet();
        // One answer is on its way at a time; an agent that does not take it is not worth waiting for.
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        match sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&packet)], rights, flags, None) {
            Ok(_) | Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
