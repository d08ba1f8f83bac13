//! The agent's side of guest-protocol on one connection, as far as a proof needs it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};
use guest_protocol::{
    BodyChunk, FrameReader, GuestMessage, HostMessage, Invoke, LogSource, ResponseMode, encode,
};

use crate::vm::wait;

/// One read from the connection.
const READ_LEN: usize = 64 * 1024;

/// A connected guest.
pub(crate) struct Guest {
    stream: File,
    frames: FrameReader,
    log: String,
}

impl Guest {
    pub(crate) fn new(stream: File) -> Self {
        Self { stream, frames: FrameReader::default(), log: String::new() }
    }

    pub(crate) fn send(&mut self, message: &HostMessage) -> Result<()> {
        Ok(self.stream.write_all(&encode(message)?)?)
    }

    /// The first message that `wanted` takes; logs on the way are kept, everything else is an error.
    pub(crate) fn expect<T>(&mut self, what: &str, wanted: impl Fn(&GuestMessage) -> Option<T>) -> Result<T> {
        let mut buffer = vec![0; READ_LEN];
        loop {
            while let Some(message) = self.frames.next_message::<GuestMessage>()? {
                if let Some(found) = wanted(&message) {
                    return Ok(found);
                }
                match message {
                    GuestMessage::Log(chunk) => {
                        let who = if chunk.source == LogSource::Platform { "" } else { "| " };
                        self.log.push_str(who);
                        self.log.push_str(&String::from_utf8_lossy(&chunk.bytes));
                    }
                    other => bail!("{other:?} instead of {what}; log:\n{}", self.log),
                }
            }
            let waited = wait(self.stream.as_fd());
            waited.with_context(|| format!("wait for {what}; log:\n{}", self.log))?;
            let len = self.stream.read(&mut buffer).with_context(|| format!("wait for {what}"))?;
            if len == 0 {
                bail!("the guest hung up instead of {what}; log:\n{}", self.log);
            }
            self.frames.push(&buffer[..len]);
        }
    }

    /// What the function answers to `{}`.
    pub(crate) fn invoke(&mut self) -> Result<Vec<u8>> {
        self.send(&HostMessage::Invoke(Invoke {
            request_id: "8f1d6b3e-0000-4000-8000-000000000001".into(),
            timeout_ms: 60_000,
            invoked_function_arn: "arn:aws:lambda:us-east-1:000000000000:function:unique".into(),
            trace_id: "Root=1-0-0".into(),
            client_context: None,
            cognito_identity: None,
            event_len: 2,
            response_mode: ResponseMode::Buffered,
        }))?;
        self.send(&HostMessage::Body(BodyChunk { bytes: b"{}".to_vec(), last: true }))?;
        self.expect("a response", |message| matches!(message, GuestMessage::Response(_)).then_some(()))?;
        let mut answer = Vec::new();
        loop {
            let chunk = self.expect("its body", |message| match message {
                GuestMessage::Body(chunk) => Some(chunk.clone()),
                _ => None,
            })?;
            answer.extend(chunk.bytes);
            if chunk.last {
                return Ok(answer);
            }
        }
    }

    /// What was logged so far.
    pub(crate) fn log(&self) -> &str {
        &self.log
    }
}
