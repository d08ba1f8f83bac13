//! The agent's side of guest-protocol on one connection: hello, start, init, invocations.
//!
//! Every byte is the guest's and hostile: frames are bounded before they are buffered, what a message may follow is
//! checked (`reply`), and a guest that breaks a rule is not spoken to again: the caller destroys its sandbox.
//! Time limits are the caller's too.

use std::{io, os::unix::net::UnixStream as StdStream, pin::pin};

use bytes::Bytes;
use guest_protocol::{
    BodyChunk, CONTROL_PORT, FrameError, FrameReader, FunctionError, GuestMessage, Hello, HostMessage,
    Invoke, MAX_CHUNK_LEN, PROTOCOL_VERSION, ShutdownNeeds, ShutdownReason, Start, encode,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
};
use vmm_api::VsockConnect;

use super::{logs::Logs, packet::PacketSocket};
use crate::invoke::memory::{Answers, Handout};

mod reply;
mod restore;
mod shutdown;

pub(crate) use reply::{Breach, Part, Reply, ReplyResult};
use reply::{Progress, ReplyReader};
pub(crate) use restore::{Restored, told};

/// One read from the connection.
const READ_LEN: usize = 64 * 1024;

/// Longest head of a handed-over connection: a JSON document with one number.
const MAX_CONNECT_LEN: usize = 256;

/// Why a guest is of no further use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestError {
    /// The connection or the broker failed.
    #[error("talk to the guest")]
    Io(#[from] io::Error),
    /// The connection ended.
    #[error("the guest closed its connection")]
    Closed,
    /// Bytes that are no message.
    #[error("understand the guest")]
    Frame(#[from] FrameError),
    /// The VMM handed over something that is no connection.
    #[error("the vmm handed over no connection: {0}")]
    NoConnection(&'static str),
    /// Another protocol.
    #[error("the guest speaks version {0} of the protocol, this agent {PROTOCOL_VERSION}")]
    Version(u32),
    /// A message that may not come here.
    #[error("the guest broke the protocol")]
    Breach(#[from] Breach),
    /// The guest could not be made unique.
    #[error("the resumed guest did not become unique: {0}")]
    Gate(String),
    /// A guest that was resumed from something else than was loaded, or cannot tell.
    #[error("the resumed guest has generation {}, it was given {given:016x}", number(found))]
    Generation {
        /// Counter that it was given.
        given: u64,
        /// Counter that it has, if it finds one.
        found: Option<u64>,
    },
    /// The runtime ended between invocations.
    #[error("the function's runtime ended while it had nothing to do ({})", .0.error_type)]
    Ended(FunctionError),
}

fn number(counter: &Option<u64>) -> String {
    counter.map_or("none".to_owned(), |counter| format!("{counter:016x}"))
}

/// How an init went. Both kinds of sandbox take an invocation: after a failed init the guest repeats it then, under the
/// function's timeout, so that the failure has a request to be reported to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Init {
    /// The runtime waits for an event.
    Done,
    /// To be repeated.
    Failed(FunctionError),
}

/// Where an invocation was when its sandbox was lost.
#[derive(Debug)]
pub(crate) enum Lost {
    /// The guest has not had the whole event: it may be given to another.
    Before(GuestError),
    /// The function may have run.
    After(GuestError),
}

/// Where an answer goes: what it has its memory of, where it is streamed to, and who is told of it before its end, if they are.
pub(crate) type Outlets<'a, Tell> = (&'a Answers, Option<&'a mpsc::Sender<Part>>, Tell);

/// A connected guest.
#[derive(Debug)]
pub(crate) struct Guest {
    incoming: Incoming,
    outgoing: OwnedWriteHalf,
    /// As it said when it was initialised or restored.
    shutdown_needs: ShutdownNeeds,
}

#[derive(Debug)]
struct Incoming {
    stream: OwnedReadHalf,
    frames: FrameReader,
    buffer: Vec<u8>,
}

impl Guest {
    /// Takes the guest's one connection from the broker and reads its hello. Connections to other ports are closed;
    /// none is taken afterwards, as user code may try what it likes then.
    pub(crate) async fn accept(broker: &PacketSocket) -> Result<(Self, Hello), GuestError> {
        let mut guest = Self::connected(broker).await?;
        match guest.incoming.next().await? {
            GuestMessage::Hello(hello) if hello.protocol_version == PROTOCOL_VERSION => Ok((guest, hello)),
            GuestMessage::Hello(hello) => Err(GuestError::Version(hello.protocol_version)),
            other => Err(Breach::unexpected(&other, "hello").into()),
        }
    }

    /// Takes the guest's one connection.
    async fn connected(broker: &PacketSocket) -> Result<Self, GuestError> {
        let (incoming, outgoing) = connection(broker).await?.into_split();
        broker.refuse_packets()?;
        let incoming =
            Incoming { stream: incoming, frames: FrameReader::default(), buffer: vec![0; READ_LEN] };
        Ok(Self { incoming, outgoing, shutdown_needs: ShutdownNeeds::None })
    }

    /// Tells the guest which function it is and waits for the end of its init.
    pub(crate) async fn init(&mut self, start: Start, logs: &mut Logs) -> Result<Init, GuestError> {
        self.outgoing.write_all(&encode(&HostMessage::Start(start))?).await?;
        loop {
            match self.incoming.next().await? {
                GuestMessage::Log(chunk) => logs.write(&chunk),
                GuestMessage::InitDone(report) => {
                    self.shutdown_needs = report.shutdown;
                    return Ok(Init::Done);
                }
                GuestMessage::InitFailed(failure) => {
                    self.shutdown_needs = failure.shutdown;
                    return Ok(Init::Failed(failure.error));
                }
                other => return Err(Breach::unexpected(&other, "init").into()),
            }
        }
    }

    /// Hands over an event, which is let go when its answer begins, and collects that, as far as `answers` has memory for it; what
    /// is streamed of it goes into `sink`, and the guest waits as long as that is full. `tell` is given the answer before its end,
    /// and gives back one that it has not told. Reads while it writes: a guest that logs before it has read the event must not stop
    /// either side.
    pub(crate) async fn invoke(
        &mut self,
        invoke: Invoke,
        event: &Handout,
        (answers, sink, tell): Outlets<'_, impl FnOnce(ReplyResult) -> Option<ReplyResult>>,
        logs: &mut Logs,
    ) -> Result<Reply, Lost> {
        let mut reply = ReplyReader::new(invoke.request_id.clone(), invoke.response_mode);
        let (mut tell, mut answer, mut room) = (Some(tell), None, None);
        let mut handing_over = pin!(hand_over(&mut self.outgoing, invoke, event.event()));
        let mut handed_over = false;
        loop {
            let message = tokio::select! {
                result = &mut handing_over, if !handed_over => {
                    result.map_err(if reply.has_begun() { Lost::After } else { Lost::Before })?;
                    handed_over = true;
                    continue;
                }
                message = self.incoming.next() => message,
            };
            let lost = if handed_over || reply.has_begun() { Lost::After } else { Lost::Before };
            match message.map_err(lost)? {
                GuestMessage::Log(chunk) => logs.write(&chunk),
                // It crossed the event on the wire: the guest says so by itself.
                GuestMessage::Ended(error) if !reply.has_begun() => {
                    return Err(Lost::Before(GuestError::Ended(error)));
                }
                message => {
                    if let Some(len) = reply.wants(&message) {
                        // What was there for another answer is free first: nobody waits with anything.
                        drop(room.take());
                        room = answers.room(len).await;
                        if room.is_none() {
                            reply.discard();
                        }
                    }
                    let progress =
                        reply.accept(message).map_err(|breach| Lost::After(GuestError::Breach(breach)))?;
                    if reply.has_begun() {
                        event.done();
                    }
                    let answered = match progress {
                        Progress::Ended(mut reply) => {
                            self.shutdown_needs = reply.shutdown;
                            reply.result = answer.or(reply.result.map(|result| result.kept(room)));
                            // An event that was answered unread would be taken for the next one's messages.
                            if !handed_over {
                                reply.end.get_or_insert(ShutdownReason::Failure);
                            }
                            return Ok(reply);
                        }
                        Progress::Part(part) => {
                            pass_on(answers, sink, part).await;
                            continue;
                        }
                        Progress::Last(piece) => {
                            if !piece.is_empty() {
                                pass_on(answers, sink, Part::Piece(piece)).await;
                            }
                            ReplyResult::Streamed
                        }
                        Progress::Answered(result) => result.kept(room.take()),
                        Progress::Waiting => continue,
                    };
                    answer = tell.take().and_then(|tell| tell(answered));
                }
            }
        }
    }

    /// Keeps the log of a guest that has nothing to do, until it can no longer be used. Cancel-safe.
    pub(crate) async fn idle(&mut self, logs: &mut Logs) -> GuestError {
        loop {
            match self.incoming.next().await {
                Ok(GuestMessage::Log(chunk)) => logs.write(&chunk),
                Ok(GuestMessage::Ended(error)) => return GuestError::Ended(error),
                Ok(other) => return Breach::unexpected(&other, "idling").into(),
                Err(error) => return error,
            }
        }
    }
}

impl Incoming {
    /// The next message. Cancel-safe: bytes that were read stay in `frames`.
    async fn next(&mut self) -> Result<GuestMessage, GuestError> {
        loop {
            if let Some(message) = self.frames.next_message()? {
                return Ok(message);
            }
            let len = match self.stream.read(&mut self.buffer).await {
                Ok(0) => return Err(GuestError::Closed),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(GuestError::Closed);
                }
                result => result?,
            };
            self.frames.push(&self.buffer[..len]);
        }
    }
}

async fn connection(broker: &PacketSocket) -> Result<UnixStream, GuestError> {
    let mut buffer = [0; MAX_CONNECT_LEN];
    loop {
        let (len, mut fds) = broker.receive(&mut buffer).await?;
        if len == 0 {
            return Err(GuestError::Closed);
        }
        let head: VsockConnect = vmm_api::decode(&buffer[..len])
            .map_err(|_| GuestError::NoConnection("its head is not a port"))?;
        let stream = fds.pop().ok_or(GuestError::NoConnection("no descriptor came with it"))?;
        if head.port == CONTROL_PORT {
            let stream = StdStream::from(stream);
            stream.set_nonblocking(true)?;
            return Ok(UnixStream::from_std(stream)?);
        }
        tracing::warn!(port = head.port, "a guest connected to a port that nobody serves");
    }
}

/// Nobody may be listening any more: an invocation runs to its end without its client.
async fn pass_on(answers: &Answers, sink: Option<&mpsc::Sender<Part>>, part: Part) {
    let Some(sink) = sink.filter(|sink| !sink.is_closed()) else { return };
    let part = match part {
        // The guest waits as long as there is none, and its function's timeout ends that.
        Part::Piece(piece) => match answers.room_in_time(piece.len()).await {
            Some(room) => Part::Piece(room.keep(piece)),
            None => return,
        },
        head @ Part::Head(_) => head,
    };
    drop(sink.send(part).await);
}

/// Sends the head and the event. A small event travels with its head in one write.
async fn hand_over(stream: &mut OwnedWriteHalf, invoke: Invoke, event: Bytes) -> Result<(), GuestError> {
    let mut frames = encode(&HostMessage::Invoke(invoke))?;
    let mut rest = &event[..];
    loop {
        let (piece, behind) = rest.split_at(rest.len().min(MAX_CHUNK_LEN));
        let last = behind.is_empty();
        frames.extend(encode(&HostMessage::Body(BodyChunk { bytes: piece.to_vec(), last }))?);
        stream.write_all(&frames).await?;
        if last {
            return Ok(());
        }
        frames.clear();
        rest = behind;
    }
}
