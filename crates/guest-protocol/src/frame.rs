//! Framing: a little-endian `u32` length, then that many bytes of postcard.

use serde::{Serialize, de::DeserializeOwned};

use crate::{MAX_CHUNK_LEN, MAX_MESSAGE_LEN};

const PREFIX_LEN: usize = 4;

/// Memory that a reader keeps when it holds less: that of two pieces of a body. A guest that has sent a long error document once has not
/// taken the memory of one for as long as it lives.
const KEPT_LEN: usize = 2 * MAX_CHUNK_LEN;

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The prefix announces more than any message may have, or a message to send is that long.
    #[error("frame of {0} bytes exceeds the limit of {MAX_MESSAGE_LEN}")]
    TooLong(usize),
    /// The bytes decode to no message, or to a message and something behind it.
    #[error("frame of {0} bytes is not a message")]
    Malformed(usize),
}

/// The frame of one message.
///
/// # Errors
/// [`FrameError::TooLong`] when the message does not fit; callers cut bodies at [`crate::MAX_CHUNK_LEN`].
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, FrameError> {
    let mut frame =
        postcard::to_extend(message, vec![0; PREFIX_LEN]).map_err(|_| FrameError::Malformed(0))?;
    let len = frame.len() - PREFIX_LEN;
    if len > MAX_MESSAGE_LEN {
        return Err(FrameError::TooLong(len));
    }
    let prefix = u32::try_from(len).map_err(|_| FrameError::TooLong(len))?;
    frame[..PREFIX_LEN].copy_from_slice(&prefix.to_le_bytes());
    Ok(frame)
}

/// Collects received bytes and yields whole messages. Holds at most one frame and what was pushed behind it.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    consumed: usize,
}

impl FrameReader {
    /// Appends received bytes. Callers read at most a few tens of KiB at a time and drain with [`Self::next_message`].
    pub fn push(&mut self, bytes: &[u8]) {
        if self.consumed > 0 {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
            if self.buffer.len() < KEPT_LEN {
                self.buffer.shrink_to(KEPT_LEN);
            }
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more bytes are pushed.
    ///
    /// # Errors
    /// [`FrameError`]; the connection is of no further use then.
    pub fn next_message<M: DeserializeOwned>(&mut self) -> Result<Option<M>, FrameError> {
        let pending = &self.buffer[self.consumed..];
        let Some((prefix, rest)) = pending.split_first_chunk::<PREFIX_LEN>() else { return Ok(None) };
        let len = u32::from_le_bytes(*prefix) as usize;
        if len > MAX_MESSAGE_LEN {
            return Err(FrameError::TooLong(len));
        }
        let Some(body) = rest.get(..len) else { return Ok(None) };
        let (message, trailing) = postcard::take_from_bytes(body).map_err(|_| FrameError::Malformed(len))?;
        if !trailing.is_empty() {
            return Err(FrameError::Malformed(len));
        }
        self.consumed += PREFIX_LEN + len;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests;
