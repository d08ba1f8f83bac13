//! How long a chunk is, and how many a content has.

/// Longest content: the largest image and the largest memory have 10 GiB and a little.
pub const MAX_CONTENT_LEN: u64 = 16 << 30;

/// Most chunks of a content: all of the longest in the shortest chunks.
pub const MAX_CHUNKS: u64 = MAX_CONTENT_LEN >> SHORTEST_LOG2;

/// 16 KiB: below it a manifest is too long for what it names.
const SHORTEST_LOG2: u8 = 14;
/// 1 MiB: above it a read of a few KiB waits for more than the disk.
const LONGEST_LOG2: u8 = 20;

/// Bytes of plaintext in every chunk of a content but the last: a power of two from 16 KiB to 1 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkSize {
    log2: u8,
}

impl ChunkSize {
    /// Of runtime images, code and layers.
    pub const IMAGE: Self = Self { log2: 16 };
    /// Of guest memory.
    pub const MEMORY: Self = Self { log2: SHORTEST_LOG2 };
    /// No chunk is longer.
    pub const LONGEST: Self = Self { log2: LONGEST_LOG2 };

    /// The size of this binary logarithm; none outside the bounds.
    #[must_use]
    pub fn from_log2(log2: u8) -> Option<Self> {
        (SHORTEST_LOG2..=LONGEST_LOG2).contains(&log2).then_some(Self { log2 })
    }

    /// Its binary logarithm, as manifests have it.
    #[must_use]
    pub fn log2(self) -> u8 {
        self.log2
    }

    /// Bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        1 << self.log2
    }

    /// Chunks of a content of `len` bytes; none when there are more than [`MAX_CHUNKS`].
    pub(crate) fn count(self, len: u64) -> Option<u32> {
        let count = len.div_ceil(1 << self.log2);
        (len <= MAX_CONTENT_LEN).then_some(u32::try_from(count).ok()?)
    }

    /// Bytes of chunk `index` of a content of `len` bytes; zero past its end.
    pub(crate) fn len_of(self, index: u32, len: u64) -> usize {
        let left = len.saturating_sub(u64::from(index) << self.log2);
        usize::try_from(left).unwrap_or(usize::MAX).min(self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_chunk_is_shorter() {
        let size = ChunkSize::MEMORY;
        assert_eq!([0, 1, 16_384, 16_385].map(|len| size.count(len)), [Some(0), Some(1), Some(1), Some(2)]);
        assert_eq!([0, 1, 2, 3].map(|index| size.len_of(index, 40_000)), [16_384, 16_384, 7_232, 0]);
        assert_eq!(size.count(MAX_CONTENT_LEN).map(u64::from), Some(MAX_CHUNKS));
        assert_eq!([MAX_CONTENT_LEN + 1, u64::MAX].map(|len| size.count(len)), [None, None]);
    }

    #[test]
    fn sizes_outside_the_bounds_do_not_exist() {
        assert_eq!([0, 13, 21, 64, 255].map(ChunkSize::from_log2), [None; 5]);
        assert_eq!(ChunkSize::from_log2(16), Some(ChunkSize::IMAGE));
        assert_eq!(ChunkSize::LONGEST.bytes(), 1 << 20);
    }
}
