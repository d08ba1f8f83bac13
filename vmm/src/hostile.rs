//! Not in a `vmm` that anybody runs: what a thread of this process does that somebody took over, in a build for the test of what comes
//! of it.
//!
//! ```text
//!  before anything       a packet "try NAME" on the control socket, answered by "trying", then by the outcome
//!  from a running guest  a line "@hostile vcpu|io|pager NAME" on its serial port: that thread tries it the next time that it serves
//!                        the guest, under all that it is confined by; "hostile: …" on standard error says that it does, and what of it
//! ```

use std::io::IoSliceMut;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::{Arc, Mutex, PoisonError};

use devices::BusDevice;
use nix::sys::socket::{MsgFlags, recvmsg};
use nix::unistd::{read, write};

use crate::control::Control;
use crate::vcpu::Shared;

/// What a request begins with, where it comes over the control socket.
const TRY: &[u8] = b"try ";

/// What a request begins with, where a guest says it.
const LINE: &str = "@hostile ";

/// Longest request, bytes.
const MAX_LEN: usize = 256;

/// A kind of thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thread {
    Vcpu,
    Io,
    Pager,
}

/// What is to be tried next, and by whom.
static ASKED: Mutex<Option<(Thread, String)>> = Mutex::new(None);

/// Tries what the first packet asks for, before the process confines itself. Returns if that packet asks for something else.
pub(crate) fn before_anything(control: &Control) {
    let socket = control.as_fd();
    let mut bytes = [0; MAX_LEN];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let seen = recvmsg::<()>(socket.as_raw_fd(), &mut parts, None, MsgFlags::MSG_PEEK);
    let len = seen.map_or(0, |message| message.bytes);
    let Some(name) = bytes[..len].strip_prefix(TRY) else { return };
    let name = String::from_utf8_lossy(name).into_owned();
    // Whoever asked sees it as the end of the process if any of this fails.
    let _ = read(socket, &mut [0; MAX_LEN]);
    let _ = write(socket, b"trying");
    let _ = write(socket, attempts::make(&name).as_bytes());
    // To the end, which is another one's doing.
    let _ = read(socket, &mut [0]);
}

/// Tries what this thread was asked for, if it was.
pub(crate) fn turn(thread: Thread) {
    let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((_, name)) = asked.take_if(|(whose, _)| *whose == thread) else { return };
    drop(asked);
    eprintln!("hostile: trying {name}");
    eprintln!("hostile: {}", attempts::make(&name));
}

/// A serial port that is listened to.
pub(crate) fn heard(port: Shared) -> Shared {
    Arc::new(Mutex::new(Heard { port, line: String::new() }))
}

struct Heard {
    port: Shared,
    line: String,
}

impl BusDevice for Heard {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.port.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.port.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
        if offset != 0 {
            return;
        }
        if self.line.len() > MAX_LEN {
            self.line.clear();
        }
        self.line.extend(data.iter().copied().map(char::from));
        if self.line.ends_with('\n') {
            let line = std::mem::take(&mut self.line);
            let asked = line.split_once(LINE).and_then(|(_, rest)| asked(rest.trim_end()));
            if asked.is_some() {
                *ASKED.lock().unwrap_or_else(PoisonError::into_inner) = asked;
            }
            turn(Thread::Vcpu);
        }
    }
}

fn asked(request: &str) -> Option<(Thread, String)> {
    let (thread, name) = request.split_once(' ')?;
    let thread = match thread {
        "vcpu" => Thread::Vcpu,
        "io" => Thread::Io,
        "pager" => Thread::Pager,
        _ => return None,
    };
    Some((thread, name.to_owned()))
}
