//! Asking for a chunk: one packet there, one back, over a `SOCK_SEQPACKET` socket, one question at a time.
//!
//! ```text
//! question  number of the chunk u32
//! answer    1, tag 16 bytes, the copy: at most as long as the chunk; or 0 and why not, a text
//! ```

use crate::cipher::TAG_LEN;
use crate::size::ChunkSize;

/// Bytes of a question.
pub const MAX_ASK_LEN: usize = 4;

/// Longest chunk that is answered in a packet, 64 KiB: sockets take some 200 KiB at once.
pub(super) const MAX_COPY_LEN: usize = ChunkSize::IMAGE.bytes();

/// Longest answer.
pub const MAX_ANSWER_LEN: usize = 1 + TAG_LEN + MAX_COPY_LEN;

/// Longest reason.
const MAX_REASON_LEN: usize = 512;

const NO: u8 = 0;
const YES: u8 = 1;

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The chunk as this node keeps it, to be opened with the table's key.
    Copy {
        /// Its tag.
        tag: [u8; TAG_LEN],
        /// At most as long as the chunk: what is missing are zeros.
        copy: &'a [u8],
    },
    /// It cannot be had.
    Failed(&'a str),
}

/// The chunk that a packet asks for; none of one that asks for nothing.
#[must_use]
pub fn decode_ask(packet: &[u8]) -> Option<u32> {
    packet.try_into().ok().map(u32::from_le_bytes)
}

pub(super) fn encode_ask(index: u32) -> [u8; MAX_ASK_LEN] {
    index.to_le_bytes()
}

impl<'a> Answer<'a> {
    /// The packet; a reason is cut where it gets too long.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Copy { tag, copy } => [&[YES], tag.as_slice(), copy].concat(),
            Self::Failed(reason) => {
                let end =
                    (0..=reason.len().min(MAX_REASON_LEN)).rev().find(|end| reason.is_char_boundary(*end));
                [&[NO], reason.get(..end.unwrap_or(0)).unwrap_or_default().as_bytes()].concat()
            }
        }
    }

    /// What a packet says; none when it is no answer.
    #[must_use]
    pub fn decode(packet: &'a [u8]) -> Option<Self> {
        match packet.split_first()? {
            (&YES, rest) => {
                let (tag, copy) = rest.split_first_chunk()?;
                Some(Self::Copy { tag: *tag, copy })
            }
            (&NO, reason) => std::str::from_utf8(reason).ok().map(Self::Failed),
            _ => None,
        }
    }
}
