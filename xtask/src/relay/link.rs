//! The machine's network card as a stream of frames: each with its length before it, four bytes in network order, as
//! QEMU's socket back end writes them. Neither side blocks: what does not fit waits here, bounded.

use anyhow::{Context as _, Result, ensure};
use rustix::event::epoll::EventFlags;
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;

/// Ethernet's largest frame without its checksum: 1,500 bytes and the header.
const FRAME_MAX: usize = 1514;
/// Longest frame that QEMU is believed to send; longer ones are no frames. Those past [`FRAME_MAX`] are dropped.
const LENGTH_MAX: usize = 128 * 1024;
const PREFIX_LEN: usize = 4;
/// Bytes taken in at a time.
const READ_LEN: usize = 256 * 1024;
/// Bytes that may wait for QEMU to take them; answers to what it sends come on top.
const WAITING_MAX: usize = 512 * 1024;

/// The socket to QEMU.
pub(super) struct Link {
    socket: UnixStream,
    readable: bool,
    writable: bool,
    closed: bool,
    /// Whether anything came since somebody asked.
    heard: bool,
    /// Read, not yet understood.
    incoming: VecDeque<u8>,
    /// To be written.
    outgoing: VecDeque<u8>,
}

impl Link {
    pub(super) fn new(socket: UnixStream) -> Result<Link> {
        socket.set_nonblocking(true).context("set up the socket to QEMU")?;
        let (incoming, outgoing) = Default::default();
        Ok(Link { socket, readable: true, writable: true, closed: false, heard: false, incoming, outgoing })
    }

    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Whether QEMU is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether anything came since the last call.
    pub(super) fn take_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// Whether nothing more is sent before QEMU has read some.
    pub(super) fn is_full(&self) -> bool {
        self.outgoing.len() >= WAITING_MAX
    }

    pub(super) fn note(&mut self, flags: EventFlags) {
        self.readable |= flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR);
        self.writable |= flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
    }

    /// Takes in what QEMU sent, up to a bound; whether there may be more.
    pub(super) fn read(&mut self) -> Result<bool> {
        let mut chunk = vec![0; READ_LEN];
        if self.readable {
            match self.socket.read(&mut chunk) {
                Ok(0) => self.closed = true,
                Ok(len) => {
                    self.heard = true;
                    self.incoming.extend(&chunk[..len]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // It died with frames unread.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => self.closed = true,
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(len) = self.next_len() {
            ensure!(len <= LENGTH_MAX, "QEMU announces a frame of {len} bytes");
        }
        Ok(self.readable && !self.closed)
    }

    /// Hands over what waits, as far as QEMU takes it.
    pub(super) fn write(&mut self) -> Result<()> {
        while self.writable && !self.outgoing.is_empty() && !self.closed {
            match self.socket.write(self.outgoing.as_slices().0) {
                Ok(len) => drop(self.outgoing.drain(..len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    self.closed = true;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn next_len(&self) -> Option<usize> {
        let mut prefix = [0; PREFIX_LEN];
        for (byte, read) in prefix.iter_mut().zip(0..) {
            *byte = *self.incoming.get(read)?;
        }
        usize::try_from(u32::from_be_bytes(prefix)).ok()
    }

    /// The next whole frame that the stack can take.
    fn next_frame(&mut self) -> Option<Vec<u8>> {
        loop {
            let len = self.next_len().filter(|len| self.incoming.len() >= PREFIX_LEN + len)?;
            self.incoming.drain(..PREFIX_LEN);
            let frame: Vec<u8> = self.incoming.drain(..len).collect();
            if len <= FRAME_MAX {
                return Some(frame);
            }
        }
    }
}

impl phy::Device for Link {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.next_frame()?;
        Some((Received(frame), Sending(&mut self.outgoing)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sending<'_>> {
        (!self.is_full()).then_some(Sending(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_MAX;
        capabilities
    }
}

/// A frame of the machine.
pub(super) struct Received(Vec<u8>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, use_frame: F) -> R {
        use_frame(&self.0)
    }
}

/// Room for a frame to the machine.
pub(super) struct Sending<'a>(&'a mut VecDeque<u8>);

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut frame = vec![0; len];
        let result = fill(&mut frame);
        // The stack keeps to the largest frame.
        self.0.extend(u32::try_from(len).unwrap_or_default().to_be_bytes());
        self.0.extend(frame);
        result
    }
}
