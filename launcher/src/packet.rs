//! Packets of the agent's connection and the descriptors beside them; and who is at its other end.

#![expect(unsafe_code, reason = "SCM_RIGHTS hands over descriptors as integers")]

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use jail::launch::{Allotment, Answer, REQUEST_FDS, REQUEST_LEN, RequestError};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, accept4, getsockopt, recvmsg, sendmsg,
    sockopt,
};
use nix::sys::stat::{SFlag, fstat};

/// A packet that asks for nothing that there is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Malformed {
    /// Its bytes.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Its descriptors.
    #[error("a request with {0} descriptors, not {REQUEST_FDS}")]
    Descriptors(usize),
    /// More than there is room for, of either.
    #[error("a request that is too long")]
    TooLong,
    /// The first descriptor.
    #[error("a control socket that is no SOCK_SEQPACKET socket")]
    Control,
    /// The second one.
    #[error("a standard error that is no pipe")]
    Stderr,
}

/// What the agent wants started.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) allotment: Allotment,
    pub(crate) control: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// What came in.
#[derive(Debug)]
pub(crate) enum Incoming {
    Order(Order),
    Malformed(Malformed),
    /// The agent is gone.
    End,
}

/// The agent's connection.
#[derive(Debug)]
pub(crate) struct Connection(pub(crate) OwnedFd);

impl Connection {
    /// The next one; none when whoever connects is not `agent`.
    pub(crate) fn accept(listener: &OwnedFd, agent: u32) -> Result<Option<Self>, Errno> {
        let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
        // SAFETY: accept4 has just made the descriptor; nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let user = getsockopt(&socket, sockopt::PeerCredentials)?.uid();
        if user != agent {
            eprintln!("launcher: user {user} is not the agent and gets no answer");
            return Ok(None);
        }
        Ok(Some(Self(socket)))
    }

    /// Waits for a packet.
    pub(crate) fn receive(&self) -> Result<Incoming, Errno> {
        let mut buffer = [0; REQUEST_LEN];
        // Room for one more than is right would let a wrong number be told from too many; the kernel does that by itself.
        let mut control = cmsg_space!([RawFd; REQUEST_FDS]);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            // It went with an answer of ours unread.
            Err(Errno::ECONNRESET) => return Ok(Incoming::End),
            message => message?,
        };
        // Those of a packet that is refused are ours to close as well.
        let fds: Vec<OwnedFd> = message.cmsgs().into_iter().flatten().flat_map(owned).collect();
        let (len, flags) = (message.bytes, message.flags);
        if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
            return Ok(Incoming::Malformed(Malformed::TooLong));
        }
        if len == 0 && fds.is_empty() {
            return Ok(Incoming::End);
        }
        let order = buffer.get(..len).ok_or(Malformed::TooLong).and_then(|packet| Order::new(packet, fds));
        Ok(order.map_or_else(Incoming::Malformed, Incoming::Order))
    }

    /// Answers. An agent that is gone meanwhile is no error here.
    pub(crate) fn send(&self, answer: &Answer, fds: &[RawFd]) -> Result<(), Errno> {
        let rights = [ControlMessage::ScmRights(fds)];
        let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
        let packet = answer.to_packet();
        // One answer is on its way at a time; an agent that does not take it is not worth waiting for.
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        match sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&packet)], rights, flags, None) {
            Ok(_) | Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Order {
    fn new(packet: &[u8], fds: Vec<OwnedFd>) -> Result<Self, Malformed> {
        let allotment = Allotment::from_request(packet)?;
        let [control, stderr] =
            <[OwnedFd; REQUEST_FDS]>::try_from(fds).map_err(|fds| Malformed::Descriptors(fds.len()))?;
        if getsockopt(&control, sockopt::SockType) != Ok(SockType::SeqPacket) {
            return Err(Malformed::Control);
        }
        let kind = fstat(&stderr).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
        if kind != Ok(SFlag::S_IFIFO) {
            return Err(Malformed::Stderr);
        }
        Ok(Self { allotment, control, stderr })
    }
}

fn owned(message: ControlMessageOwned) -> Vec<OwnedFd> {
    let ControlMessageOwned::ScmRights(fds) = message else { return Vec::new() };
    // SAFETY: recvmsg has just installed the descriptors; nobody else owns them.
    fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect()
}
