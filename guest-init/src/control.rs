//! The connection to the agent: frames in, frames out, over any stream (vsock in a guest, a pipe in tests).
//!
//! Two tasks own its halves. The queue between the sandbox and the writer is short, so that a slow agent holds back
//! the function's output instead of filling the guest's memory. The queue outlives a connection: a resumed guest gets a
//! new one, and whoever writes through an [`Agent`] does not notice.

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use guest_protocol::{
    BodyChunk, FrameError, FrameReader, GuestMessage, HostMessage, Invoke, MAX_BODY_LEN, ShutdownReason,
    Start, Unique, encode,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// Messages waiting for the writer. Each is at most a pipe's content or a chunk, so this bounds what is buffered.
pub const OUTBOUND_QUEUE: usize = 8;

/// Requests waiting for the sandbox. The agent sends one at a time; one more may wait.
const INBOUND_QUEUE: usize = 2;

/// Most bytes read at once.
const READ_LEN: usize = 64 * 1024;

/// Small messages are written together up to about this many bytes: a Response, its body and Done leave as one.
const WRITE_LEN: usize = 64 * 1024;

/// A whole request of the agent.
#[derive(Debug)]
pub enum Request {
    /// Which function this is.
    Start(Box<Start>),
    /// An invocation with its event.
    Invoke(Invoke, Bytes),
    /// Let the function stand still.
    Freeze,
    /// Become unique.
    MakeUnique(Box<Unique>),
    /// End.
    Shutdown(ShutdownReason),
}

/// Why the connection ended.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The stream failed.
    #[error("the connection to the agent failed")]
    Stream(#[from] std::io::Error),
    /// The agent sent something that is no message.
    #[error("the agent's bytes are no message")]
    Frame(#[from] FrameError),
    /// The agent sent a message that may not follow the one before, or more event than it announced.
    #[error("the agent sent {0} out of turn")]
    OutOfTurn(&'static str),
}

/// The writing half of a connection.
pub type Outgoing = Box<dyn AsyncWrite + Unpin>;

/// A fresh connection to the agent.
pub struct Link {
    /// Whole requests, then at most one error; its end is the connection's end.
    pub requests: mpsc::Receiver<Result<Request, ControlError>>,
    /// For [`Agent::switch`].
    pub outgoing: Outgoing,
}

/// Makes a [`Link`]: for a guest that was resumed.
pub type Dial = Box<dyn Fn() -> Pin<Box<dyn Future<Output = io::Result<Link>>>>>;

/// The agent is gone: its connection broke.
#[derive(Debug, thiserror::Error)]
#[error("the agent is gone")]
pub struct Gone;

enum Outbound {
    Message(GuestMessage),
    Switch(Outgoing),
}

/// The agent, as everything that has something to tell it sees it.
#[derive(Clone, Debug)]
pub struct Agent {
    queue: mpsc::Sender<Outbound>,
}

impl Agent {
    /// Starts the writer. What is sent is written in order; it ends when all clones are gone.
    #[must_use]
    pub fn spawn(stream: Outgoing) -> Self {
        let (queue, outbound) = mpsc::channel(OUTBOUND_QUEUE);
        tokio::task::spawn_local(async move {
            // A broken stream ends the reader too, and with it the sandbox: nothing to report here.
            let _ = write_all(stream, outbound).await;
        });
        Self { queue }
    }

    /// Queues a message.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn send(&self, message: GuestMessage) -> Result<(), Gone> {
        self.queue.send(Outbound::Message(message)).await.map_err(|_| Gone)
    }

    /// Writes everything from here on to another connection.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn switch(&self, stream: Outgoing) -> Result<(), Gone> {
        self.queue.send(Outbound::Switch(stream)).await.map_err(|_| Gone)
    }
}

async fn write_all(mut stream: Outgoing, mut queue: mpsc::Receiver<Outbound>) -> Result<(), ControlError> {
    let mut next = queue.recv().await;
    while let Some(outbound) = next.take() {
        match outbound {
            Outbound::Switch(other) => stream = other,
            Outbound::Message(message) => {
                let mut bytes = encode(&message)?;
                while bytes.len() < WRITE_LEN {
                    match queue.try_recv() {
                        Ok(Outbound::Message(message)) => bytes.extend(encode(&message)?),
                        Ok(switch) => {
                            next = Some(switch);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                stream.write_all(&bytes).await?;
            }
        }
        if next.is_none() {
            next = queue.recv().await;
        }
    }
    Ok(stream.flush().await?)
}

/// Starts the reader. The queue yields whole requests, then at most one error; its end is the connection's end. `broken`
/// says that the connection is of no further use although the stream does not.
pub fn spawn_reader<S, B>(stream: S, broken: B) -> mpsc::Receiver<Result<Request, ControlError>>
where
    S: AsyncRead + Unpin + 'static,
    B: Future<Output = ()> + 'static,
{
    let (sender, queue) = mpsc::channel(INBOUND_QUEUE);
    tokio::task::spawn_local(async move {
        let read = tokio::select! {
            biased;
            read = read_all(stream, &sender) => read,
            () = broken => Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
        };
        if let Err(error) = read {
            let _ = sender.send(Err(error)).await;
        }
    });
    queue
}

async fn read_all<S: AsyncRead + Unpin>(
    mut stream: S,
    sender: &mpsc::Sender<Result<Request, ControlError>>,
) -> Result<(), ControlError> {
    let mut frames = FrameReader::default();
    let mut assembly = Assembly::default();
    let mut buffer = vec![0; READ_LEN];
    loop {
        while let Some(message) = frames.next_message()? {
            if let Some(request) = assembly.take(message)?
                && sender.send(Ok(request)).await.is_err()
            {
                return Ok(());
            }
        }
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            return Ok(());
        }
        frames.push(&buffer[..len]);
    }
}

/// Puts an event's pieces together.
#[derive(Default)]
struct Assembly {
    current: Option<(Invoke, Vec<u8>)>,
}

impl Assembly {
    fn take(&mut self, message: HostMessage) -> Result<Option<Request>, ControlError> {
        match message {
            HostMessage::Shutdown(reason) => Ok(Some(Request::Shutdown(reason))),
            HostMessage::Body(chunk) => self.append(chunk),
            _ if self.current.is_some() => Err(ControlError::OutOfTurn("a message inside an event")),
            HostMessage::Start(start) => Ok(Some(Request::Start(Box::new(start)))),
            HostMessage::Freeze => Ok(Some(Request::Freeze)),
            HostMessage::MakeUnique(unique) => Ok(Some(Request::MakeUnique(Box::new(unique)))),
            HostMessage::Invoke(invoke) => {
                let len = invoke.event_len as usize;
                if len > MAX_BODY_LEN {
                    return Err(ControlError::OutOfTurn("an event beyond the limit"));
                }
                self.current = Some((invoke, Vec::with_capacity(len)));
                Ok(None)
            }
        }
    }

    fn append(&mut self, chunk: BodyChunk) -> Result<Option<Request>, ControlError> {
        let (invoke, mut event) = self.current.take().ok_or(ControlError::OutOfTurn("a body"))?;
        event.extend_from_slice(&chunk.bytes);
        let announced = invoke.event_len as usize;
        if event.len() > announced || (chunk.last && event.len() < announced) {
            return Err(ControlError::OutOfTurn("an event of another length than announced"));
        }
        if chunk.last {
            return Ok(Some(Request::Invoke(invoke, event.into())));
        }
        self.current = Some((invoke, event));
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use guest_protocol::ResponseMode;

    use super::*;

    fn invoke(event_len: u32) -> HostMessage {
        HostMessage::Invoke(Invoke {
            request_id: "id".into(),
            timeout_ms: 1,
            invoked_function_arn: "arn".into(),
            trace_id: String::new(),
            client_context: None,
            cognito_identity: None,
            event_len,
            response_mode: ResponseMode::Buffered,
        })
    }

    fn body(bytes: &[u8], last: bool) -> HostMessage {
        HostMessage::Body(BodyChunk { bytes: bytes.to_vec(), last })
    }

    #[test]
    fn an_event_in_pieces_becomes_one_request() {
        let mut assembly = Assembly::default();
        assert!(assembly.take(invoke(5)).unwrap().is_none());
        assert!(assembly.take(body(b"hel", false)).unwrap().is_none());
        let request = assembly.take(body(b"lo", true)).unwrap();
        assert!(matches!(request, Some(Request::Invoke(_, event)) if event == "hello"));
    }

    #[test]
    fn events_of_another_length_are_refused() {
        for bytes in [&b"long"[..], b"s"] {
            let mut assembly = Assembly::default();
            assembly.take(invoke(2)).unwrap();
            assert!(assembly.take(body(bytes, true)).is_err());
        }
        assert!(Assembly::default().take(invoke(u32::MAX)).is_err());
        assert!(Assembly::default().take(body(b"", true)).is_err());
    }
}
