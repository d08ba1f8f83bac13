//! A program of the node's that serves an agent at a socket, which is the driver here: one of its own, beside the node's.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};

/// The process, and a connection to it. Killed and reaped when dropped.
pub(crate) struct Server {
    child: Child,
    connection: OwnedFd,
}

impl Server {
    /// Starts it; `name` is the socket's.
    pub(crate) fn start(command: &mut Command, name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("bench-{name}.sock"));
        let listener = seqpacket()?;
        bind(listener.as_raw_fd(), &UnixAddr::new(&path)?).with_context(|| format!("listen for {name}"))?;
        listen(&listener, Backlog::new(1)?)?;
        let child =
            command.stdin(Stdio::from(listener)).spawn().with_context(|| format!("start a {name}"))?;
        let connection = seqpacket()?;
        connect(connection.as_raw_fd(), &UnixAddr::new(&path)?).with_context(|| format!("reach {name}"))?;
        Ok(Self { child, connection })
    }

    /// Says one packet and waits for `len` bytes at most.
    pub(crate) fn ask(
        &self,
        packet: &[u8],
        fds: &[BorrowedFd<'_>],
        len: usize,
    ) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
        vmm_api::send(self.connection.as_fd(), packet, fds)?;
        let mut answer = vec![0; len];
        let (len, fds) = vmm_api::receive(self.connection.as_fd(), &mut answer)?;
        answer.truncate(len);
        Ok((answer, fds))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it is reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn seqpacket() -> Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).context("make a socket")
}
