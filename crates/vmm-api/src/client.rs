//! Packets and the descriptors beside them over a `SOCK_SEQPACKET` socket, and a blocking client for programs without
//! an async runtime (tests, benches). host-agent calls [`send`] and [`receive`] when its runtime says that the
//! socket is ready; the `vmm` serves its end with the same two functions.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use crate::{DecodeError, EncodeError, MAX_FDS, MAX_PACKET_LEN, Request, Response, decode, encode};

/// A conversation that broke off.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The message cannot be sent.
    #[error("encode the request")]
    Encode(#[from] EncodeError),
    /// The peer's bytes are no message.
    #[error("decode the answer")]
    Decode(#[from] DecodeError),
    /// The socket failed.
    #[error("talk over the control socket")]
    Socket(#[from] Errno),
    /// The peer closed the socket.
    #[error("the control socket was closed")]
    Closed,
}

/// One end of a control socket, used blockingly.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
}

impl Client {
    /// A client on a connected `SOCK_SEQPACKET` socket.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Sends a request with descriptors beside it and waits for the next message, which is the answer unless
    /// the guest ended meanwhile ([`Response::Exited`]).
    ///
    /// # Errors
    /// The socket failed or the peer is gone.
    pub fn call(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Response, ClientError> {
        send(self.socket.as_fd(), &encode(request)?, fds)?;
        self.next()
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// [`ClientError::Closed`] once the process has ended.
    pub fn next(&self) -> Result<Response, ClientError> {
        let mut buffer = vec![0; MAX_PACKET_LEN];
        let (len, _fds) = receive(self.socket.as_fd(), &mut buffer)?;
        if len == 0 {
            return Err(ClientError::Closed);
        }
        Ok(decode(&buffer[..len])?)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends one packet with at most [`MAX_FDS`] descriptors.
///
/// # Errors
/// The kernel's: `EPIPE` when the peer is gone, `EAGAIN` when a non-blocking socket is full.
pub fn send(socket: BorrowedFd<'_>, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(packet)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives one packet: its length (0: the peer closed the socket) and the descriptors beside it, close-on-exec.
///
/// # Errors
/// The kernel's, and `EMSGSIZE` for a packet longer than `buffer` or with more than [`MAX_FDS`] descriptors.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut control = cmsg_space!([RawFd; MAX_FDS]);
    let mut parts = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    // A truncated control buffer still holds descriptors that are ours to close, so they are collected first.
    if let Ok(messages) = message.cmsgs() {
        for entry in messages {
            if let ControlMessageOwned::ScmRights(raw) = entry {
                fds.extend(raw.into_iter().map(own));
            }
        }
    }
    if message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(Errno::EMSGSIZE);
    }
    Ok((message.bytes, fds))
}

#[expect(unsafe_code, reason = "SCM_RIGHTS hands over descriptors as integers")]
fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: `raw` was installed by the recvmsg call just made, so it is open and nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .expect("socketpair")
    }

    #[test]
    fn descriptors_arrive_beside_their_packet() {
        let (ours, theirs) = pair();
        let zero = File::open("/dev/zero").expect("open");
        send(ours.as_fd(), b"hello", &[zero.as_fd()]).expect("send");
        let mut buffer = [0; 16];
        let (len, mut fds) = receive(theirs.as_fd(), &mut buffer).expect("receive");
        assert_eq!(&buffer[..len], b"hello");
        let mut byte = [1];
        File::from(fds.remove(0)).read_exact(&mut byte).expect("read");
        assert_eq!(byte, [0]);
    }

    #[test]
    fn a_closed_peer_and_a_long_packet_are_told_apart() {
        let (ours, theirs) = pair();
        send(ours.as_fd(), &[0; 32], &[]).expect("send");
        assert_eq!(receive(theirs.as_fd(), &mut [0; 16]).map(|(len, _)| len), Err(Errno::EMSGSIZE));
        drop(ours);
        assert_eq!(receive(theirs.as_fd(), &mut [0; 16]).map(|(len, _)| len), Ok(0));
    }
}
