//! Where serial output goes: nowhere, or to a descriptor whose reader may be slow, stuck or gone.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bytes collected before they are written: a line of a console. Below PIPE_BUF, so that a pipe which polls as
/// writable takes it without waiting.
const LINE_MAX: usize = 256;

/// Output of a serial port. Writing always succeeds and never waits; what the reader has no room for is lost.
#[derive(Debug)]
pub struct SerialSink {
    to: Option<OwnedFd>,
    line: Vec<u8>,
}

impl SerialSink {
    /// Discards everything.
    #[must_use]
    pub fn null() -> Self {
        Self { to: None, line: Vec::new() }
    }

    /// Writes to a pipe, socket, terminal or file, as is: no flag of the open file is changed, since others may
    /// share it.
    #[must_use]
    pub fn fd(to: OwnedFd) -> Self {
        Self { to: Some(to), line: Vec::with_capacity(LINE_MAX) }
    }

    pub(super) fn flush_line(&mut self) {
        if let Some(to) = &self.to
            && !self.line.is_empty()
            && writable(to)
        {
            // A short or failed write loses the rest: the guest is not to notice.
            let _ = nix::unistd::write(to, &self.line);
        }
        self.line.clear();
    }
}

fn writable(to: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready == 1)
        && fds.iter().all(|fd| fd.revents() == Some(PollFlags::POLLOUT))
}

impl Write for SerialSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.to.is_some() {
            for &byte in bytes {
                self.line.push(byte);
                if byte == b'\n' || self.line.len() == LINE_MAX {
                    self.flush_line();
                }
            }
        }
        Ok(bytes.len())
    }

    /// Called after every byte; lines go out by themselves.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
