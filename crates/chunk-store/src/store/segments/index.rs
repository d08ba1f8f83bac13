//! An index as a file has it.
//!
//! ```text
//!  0  magic "TNDRINDX", version u32, number of chunks u32
//! 16  of each chunk: name 32 bytes, block u32, length u32
//!     hash of everything before it
//! ```

use crate::bytes::{Bytes, HASH_LEN, checked, open_checked};
use crate::name::{ChunkName, NAME_LEN};
use crate::size::MAX_CHUNKS;

const MAGIC: [u8; 8] = *b"TNDRINDX";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 16;
const ENTRY_LEN: usize = NAME_LEN + 8;

/// Longest index, in bytes: a publish has no more chunks, and each has a segment of its own.
pub(super) const MAX_INDEX_LEN: usize = HEADER_LEN + MAX_CHUNKS as usize * ENTRY_LEN + HASH_LEN;

/// Chunks of a segment: name, block, length in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listed(pub(super) Vec<(ChunkName, u32, u32)>);

impl Listed {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        checked(MAGIC, VERSION, size_of::<u32>() + self.0.len() * ENTRY_LEN, |file| {
            // Each is a block or more of a segment, whose blocks are counted in 32 bits.
            file.extend_from_slice(&(self.0.len() as u32).to_le_bytes());
            for (name, block, len) in &self.0 {
                file.extend_from_slice(name.as_bytes());
                file.extend_from_slice(&block.to_le_bytes());
                file.extend_from_slice(&len.to_le_bytes());
            }
        })
    }

    /// None when it is not what was written.
    pub(super) fn decode(file: &[u8]) -> Option<Self> {
        let mut fields = open_checked(file, MAGIC, VERSION)?;
        let count = fields.u32()? as usize;
        let entries = fields.rest();
        if entries.len() != count.checked_mul(ENTRY_LEN)? {
            return None;
        }
        let mut fields = Bytes::new(entries);
        let entry = |_| Some((ChunkName::from_bytes(fields.array()?), fields.u32()?, fields.u32()?));
        (0..count).map(entry).collect::<Option<_>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_an_index_counts() {
        let listed = Listed(vec![(ChunkName::of(b"one"), 0, 5000), (ChunkName::of(b"two"), 2, 17)]);
        let file = listed.encode();
        assert_eq!(Listed::decode(&file), Some(listed));
        for at in 0..file.len() {
            for change in [1 << (at % 8), 0xff] {
                let mut changed = file.clone();
                changed[at] ^= change;
                assert_eq!(Listed::decode(&changed), None, "byte {at}");
            }
            assert_eq!(Listed::decode(&file[..at]), None, "cut to {at} bytes");
        }
        assert_eq!(Listed::decode(&Listed::default().encode()), Some(Listed::default()));
    }
}
