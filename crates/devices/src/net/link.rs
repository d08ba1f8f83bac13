//! What is at the other end of the device, as frames; and how fast frames may pass.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use super::RateLimit;

/// Frames in and out.
pub trait Link: Send {
    /// Becomes readable when a frame comes in.
    fn readable(&self) -> BorrowedFd<'_>;

    /// Takes the next frame in, cut to the room that there is, and says how long it is; none when none waits. Never waits.
    ///
    /// # Errors
    /// When no frame will ever come again.
    fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>>;

    /// Sends a frame. One that there is no room for is lost, as on any link. Never waits.
    fn send(&mut self, frame: &[u8]);
}

/// A link that goes somewhere, with a limit each way.
pub struct Uplink {
    /// Where to.
    pub link: Box<dyn Link>,
    /// What the guest gets.
    pub receive: RateLimit,
    /// What it sends.
    pub transmit: RateLimit,
}

/// A tap without a header before its frames, or a socket that keeps packets apart; not blocking.
impl Link for File {
    fn readable(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.read(frame) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => return Ok(Some(len)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn send(&mut self, frame: &[u8]) {
        // A tap that is down or full says so: the frame is lost, and the guest's protocols know what to do.
        let _ = self.write(frame);
    }
}
