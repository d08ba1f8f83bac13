//! How a response goes to the agent: whole, or as it comes.

use bytes::Bytes;
use guest_protocol::{BodyChunk, FunctionError, GuestMessage, MAX_CHUNK_LEN, ResponseHead, ResponseMode};

use super::{Launcher, Machine, Sandbox, SandboxError};
use crate::lifecycle::Refusal;
use crate::runtime_api::Reply;

impl<L: Launcher + Machine> Sandbox<L> {
    /// Whether an answer would be taken: to the invocation under way, if none has begun.
    pub(super) fn admits_answer(&self, request_id: &str) -> Result<ResponseMode, Refusal> {
        self.lifecycle.admits_answer(request_id)?;
        match &self.invocation {
            Some((invoke, ..)) if !self.is_streaming => Ok(invoke.response_mode),
            _ => Err(Refusal::Busy),
        }
    }

    /// Nothing else is done until the agent's queue has room: who is slow there holds up the function, and its deadline is the
    /// agent's to watch then.
    pub(super) async fn piece(
        &mut self,
        request_id: &str,
        piece: &Bytes,
        reply: Reply<()>,
    ) -> Result<(), SandboxError> {
        let admitted = self.lifecycle.admits_answer(request_id);
        let admitted = if self.is_streaming { admitted } else { Err(Refusal::Busy) };
        if admitted.is_ok() {
            self.tell(GuestMessage::Body(BodyChunk { bytes: piece.to_vec(), last: false })).await?;
        }
        let _ = reply.send(admitted);
        Ok(())
    }

    /// A response begins that comes in pieces.
    pub(super) async fn begin_response(
        &mut self,
        request_id: String,
        content_type: String,
        reply: Reply<()>,
    ) -> Result<(), SandboxError> {
        let begun = self.admits_answer(&request_id).map(drop);
        if begun.is_ok() {
            self.is_streaming = true;
            let mode = ResponseMode::Streamed;
            self.tell(GuestMessage::Response(ResponseHead { request_id, content_type, mode })).await?;
        }
        let _ = reply.send(begun);
        Ok(())
    }

    /// Sends the error that a function answers with.
    pub(super) async fn send_error(&mut self, error: FunctionError) -> Result<(), SandboxError> {
        self.answered = true;
        self.tell(GuestMessage::Failed(error)).await
    }

    /// Sends a response that is whole; of one that came in pieces, its end.
    pub(super) async fn send_response(&mut self) -> Result<(), SandboxError> {
        let Some((content_type, document)) = self.response.take() else { return Ok(()) };
        if self.is_streaming {
            return self.tell(GuestMessage::Body(BodyChunk { bytes: Vec::new(), last: true })).await;
        }
        let Some((invoke, ..)) = &self.invocation else { return Ok(()) };
        let (request_id, mode) = (invoke.request_id.clone(), ResponseMode::Buffered);
        self.tell(GuestMessage::Response(ResponseHead { request_id, content_type, mode })).await?;
        let mut rest = document;
        loop {
            let bytes = rest.split_to(rest.len().min(MAX_CHUNK_LEN)).to_vec();
            let last = rest.is_empty();
            self.tell(GuestMessage::Body(BodyChunk { bytes, last })).await?;
            if last {
                return Ok(());
            }
        }
    }
}
