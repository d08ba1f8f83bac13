//! Carries what the function writes to its standard output and error to the agent, and shows it to who has subscribed.
//!
//! One pipe for both keeps their order. The pipe and the queue to the agent are the only buffers: when the agent does
//! not keep up, the queue fills, then the pipe, then the function's writes block. Memory stays bounded.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use guest_protocol::{GuestMessage, LogChunk, LogSource};
use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::read;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use crate::control::Agent;
use crate::telemetry::Tap;

/// Most bytes read from the pipe at once: what a pipe holds by default, so that a full one is emptied in one message.
const READ_LEN: usize = 64 * 1024;

/// The running pump of one runtime's output. Dropping it drains the pipe once more and ends the pump.
#[derive(Debug)]
pub struct Output {
    flush: mpsc::Sender<oneshot::Sender<()>>,
    open: Rc<Cell<bool>>,
}

impl Output {
    /// Starts pumping from the read end of the function's pipe; a tap has what is pumped as well.
    ///
    /// # Errors
    /// When the descriptor is not a pipe.
    pub fn pump(pipe: OwnedFd, agent: Agent, tap: Option<Tap>) -> io::Result<Self> {
        let pipe = pipe::Receiver::from_owned_fd(pipe)?;
        let (flush, requests) = mpsc::channel(1);
        let open = Rc::new(Cell::new(true));
        tokio::task::spawn_local(pump(pipe, Sink { agent, tap }, requests, Rc::clone(&open)));
        Ok(Self { flush, open })
    }

    /// Of a runtime that never started.
    #[must_use]
    pub fn none() -> Self {
        Self { flush: mpsc::channel(1).0, open: Rc::default() }
    }

    /// Whether any process of the function can still write, as of the last [`flush`](Self::flush).
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.get()
    }

    /// Returns when everything written before the call is queued to the agent. What a background thread keeps
    /// writing meanwhile does not hold it up: at most one pipe's content is read.
    pub async fn flush(&self) {
        let (done, is_done) = oneshot::channel();
        // A pump that has ended has nothing left to flush.
        if self.flush.send(done).await.is_ok() {
            let _ = is_done.await;
        }
    }
}

/// Where it goes.
struct Sink {
    agent: Agent,
    tap: Option<Tap>,
}

async fn pump(
    pipe: pipe::Receiver,
    mut sink: Sink,
    mut requests: mpsc::Receiver<oneshot::Sender<()>>,
    open: Rc<Cell<bool>>,
) {
    let mut buffer = vec![0; READ_LEN];
    loop {
        tokio::select! {
            biased;
            request = requests.recv() => {
                if drain(&pipe, &mut sink, &mut buffer).await.is_none() {
                    open.set(false);
                }
                if let Some(tap) = &mut sink.tap {
                    tap.flush();
                }
                let Some(done) = request else { return };
                let _ = done.send(());
            }
            ready = pipe.readable(), if open.get() => {
                let result = ready.and_then(|()| pipe.try_read(&mut buffer));
                open.set(pass_on(result, &buffer, &mut sink).await != Some(0));
            }
        }
    }
}

/// Reads until the pipe is empty or has given as much as it can hold. `None` at the end.
///
/// Asks the pipe itself: the event loop learns of what was written just now only in its next turn.
async fn drain(pipe: &pipe::Receiver, sink: &mut Sink, buffer: &mut [u8]) -> Option<()> {
    // The function may have enlarged its pipe.
    let capacity = fcntl(pipe, FcntlArg::F_GETPIPE_SZ).ok().and_then(|size| usize::try_from(size).ok());
    let capacity = capacity.unwrap_or(READ_LEN);
    let mut total = 0;
    while total < capacity {
        let result = read(pipe, buffer).map_err(io::Error::from);
        match pass_on(result, buffer, sink).await {
            None => return Some(()),
            Some(0) => return None,
            Some(len) => total += len,
        }
    }
    Some(())
}

/// Queues what was read. `None` when nothing was there, `Some(0)` at the end.
async fn pass_on(result: io::Result<usize>, buffer: &[u8], sink: &mut Sink) -> Option<usize> {
    match result {
        Ok(0) => Some(0),
        Ok(len) => {
            let bytes = buffer[..len].to_vec();
            if let Some(tap) = &mut sink.tap {
                tap.write(&bytes);
            }
            let chunk = GuestMessage::Log(LogChunk { source: LogSource::Function, bytes });
            // The agent's end is the sandbox's end: whoever holds the other side of the queue sees to it.
            sink.agent.send(chunk).await.ok().map_or(Some(0), |()| Some(len))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(_) => Some(0),
    }
}
