//! A `SOCK_SEQPACKET` socket under tokio: whole packets with descriptors beside them.
//!
//! Carries the control conversation with a `vmm` and the broker that hands over vsock connections; what the packets
//! mean is `vmm`'s and `guest`'s matter.

#![expect(unsafe_code, reason = "tokio takes a descriptor's validity as the caller's promise")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::socket::{
        AddressFamily, Shutdown, SockFlag, SockType, UnixAddr, connect, shutdown, socket, socketpair,
    },
};
use tokio::io::{Interest, unix::AsyncFd};

/// Our end of a packet socket.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    socket: AsyncFd<OwnedFd>,
}

impl PacketSocket {
    /// A connected pair: our end, and the peer's, which blocks and closes on exec.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self::new(ours)?, theirs))
    }

    /// Takes over a connected socket.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // SAFETY: `register` asks that the descriptor stays open and registered once for as long as the `AsyncFd` lives:
        // an `OwnedFd` that moves in keeps one number open for its life, and it is given out neither mutably nor by value.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self { socket })
    }

    /// A connection to whoever listens at `path`.
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let connection = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        connect(connection.as_raw_fd(), &UnixAddr::new(path)?)?;
        Self::new(connection)
    }

    /// Sends one packet.
    pub(crate) async fn send(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let attempt = |socket: &OwnedFd| vmm_api::send(socket.as_fd(), packet, fds).map_err(io::Error::from);
        self.socket.async_io(Interest::WRITABLE, attempt).await
    }

    /// Receives one packet: its length, 0 when the peer is gone, and the descriptors beside it. A reset is an end
    /// too: the peer ended with a packet unread. Cancel-safe.
    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        loop {
            let mut ready = self.socket.readable().await?;
            let attempt = ready.try_io(|socket| match vmm_api::receive(socket.as_fd(), buffer) {
                Err(Errno::ECONNRESET) => Ok((0, Vec::new())),
                result => result.map_err(io::Error::from),
            });
            if let Ok(result) = attempt {
                return result;
            }
        }
    }

    /// Waits until there may be a packet. Cancel-safe.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        // Dropping the guard leaves the readiness in place.
        self.socket.readable().await.map(drop)
    }

    /// Refuses everything that the peer sends from now on; what it has sent is dropped with the socket.
    pub(crate) fn refuse_packets(&self) -> io::Result<()> {
        Ok(shutdown(self.socket.as_raw_fd(), Shutdown::Read)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn packets_and_descriptors_cross() {
        let (ours, theirs) = PacketSocket::pair().unwrap();
        let theirs = PacketSocket::new(theirs).unwrap();
        let file = tempfile::tempfile().unwrap();
        ours.send(b"one", &[file.as_fd()]).await.unwrap();
        let mut buffer = [0; 16];
        let (len, fds) = theirs.receive(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..len], fds.len()), (&b"one"[..], 1));
        drop(theirs);
        assert_eq!(ours.receive(&mut buffer).await.unwrap().0, 0);
    }

    #[tokio::test]
    async fn a_peer_that_is_refused_gets_an_error() {
        let (ours, theirs) = PacketSocket::pair().unwrap();
        ours.refuse_packets().unwrap();
        assert_eq!(vmm_api::send(theirs.as_fd(), b"late", &[]), Err(Errno::EPIPE));
    }
}
