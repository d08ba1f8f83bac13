//! Which pages of a snapshot's memory are not zeros.
//!
//! Page `n` of guest memory (regions one after the other, without the device hole) is at offset `n` × [`PAGE_LEN`] of the
//! snapshot's memory. Pages of zeros are not written: in a file of holes they take no room. A chunk is a fixed number of pages,
//! what is read at once; one without any page is not listed. Whoever keeps the memory authenticates it.

use crate::error::FormatError;
use crate::layout::{u32_at, u64_at};

/// Bytes of a page.
pub const PAGE_LEN: usize = 4096;

/// Most pages of a guest: 10,240 MiB and 256 for the platform.
pub const MAX_PAGES: u32 = (10_240 + 256) * 256;

/// Most pages of a chunk, one for each bit of a [`PageMask`].
pub const MAX_CHUNK_PAGES: u32 = 64;

/// Pages of a chunk that are not zeros, the first in the lowest bit.
pub type PageMask = u64;

/// Bytes of an encoded chunk: number, mask.
const CHUNK_LEN: usize = 12;
/// Pages of memory and pages of a chunk.
const HEAD_LEN: usize = 8;

/// A chunk with at least one page that is not zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Position in memory, in chunks.
    pub number: u32,
    /// Which of its pages are written. Never zero.
    pub mask: PageMask,
}

/// All chunks of a memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageIndex {
    pages: u32,
    chunk_pages: u32,
    /// By number, ascending.
    chunks: Vec<Chunk>,
}

impl PageIndex {
    /// Section name of an encoded index.
    pub const NAME: &'static str = "pages";
    /// Its version.
    pub const VERSION: u32 = 2;

    /// The index of a memory of zeros: `pages` long, cut into chunks of `chunk_pages`.
    ///
    /// # Errors
    /// More pages than a guest has, or a chunk length that is no power of two up to [`MAX_CHUNK_PAGES`].
    pub fn new(pages: u32, chunk_pages: u32) -> Result<Self, FormatError> {
        if pages == 0 || pages > MAX_PAGES {
            return Err(FormatError::Index("number of pages"));
        }
        if !chunk_pages.is_power_of_two() || chunk_pages > MAX_CHUNK_PAGES {
            return Err(FormatError::Index("length of a chunk"));
        }
        Ok(Self { pages, chunk_pages, chunks: Vec::new() })
    }

    /// Appends a chunk.
    ///
    /// # Errors
    /// It is not behind the last one, not inside memory, or has no page.
    pub fn push(&mut self, chunk: Chunk) -> Result<(), FormatError> {
        if self.chunks.last().is_some_and(|last| last.number >= chunk.number) {
            return Err(FormatError::Index("order of chunks"));
        }
        let len = self.len_of(chunk.number).ok_or(FormatError::Index("a chunk outside of memory"))?;
        if chunk.mask == 0 || chunk.mask & !all_pages(len) != 0 {
            return Err(FormatError::Index("pages of a chunk"));
        }
        self.chunks.push(chunk);
        Ok(())
    }

    /// Pages of memory.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Pages of a chunk; the last one may have fewer.
    #[must_use]
    pub fn chunk_pages(&self) -> u32 {
        self.chunk_pages
    }

    /// Every chunk that is listed.
    #[must_use]
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// The chunk of this number, unless it is all zeros.
    #[must_use]
    pub fn find(&self, number: u32) -> Option<&Chunk> {
        let at = self.chunks.binary_search_by_key(&number, |chunk| chunk.number).ok()?;
        self.chunks.get(at)
    }

    /// Pages of chunk `number`; none outside of memory.
    #[must_use]
    pub fn len_of(&self, number: u32) -> Option<u32> {
        let start = number.checked_mul(self.chunk_pages)?;
        let left = self.pages.checked_sub(start)?;
        (left > 0).then_some(left.min(self.chunk_pages))
    }

    /// Ranges of pages, in whole chunks, that together hold every chunk listed. Gaps of zeros below `least_gap` pages are
    /// part of a range.
    #[must_use]
    pub fn extents(&self, least_gap: u32) -> Vec<std::ops::Range<u32>> {
        let mut extents: Vec<std::ops::Range<u32>> = Vec::new();
        for chunk in &self.chunks {
            let start = chunk.number * self.chunk_pages;
            let end = start.saturating_add(self.chunk_pages).min(self.pages);
            match extents.last_mut() {
                Some(last) if start - last.end < least_gap.max(1) => last.end = end,
                _ => extents.push(start..end),
            }
        }
        extents
    }

    /// The section's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_LEN + self.chunks.len() * CHUNK_LEN);
        bytes.extend_from_slice(&self.pages.to_le_bytes());
        bytes.extend_from_slice(&self.chunk_pages.to_le_bytes());
        for chunk in &self.chunks {
            bytes.extend_from_slice(&chunk.number.to_le_bytes());
            bytes.extend_from_slice(&chunk.mask.to_le_bytes());
        }
        bytes
    }

    /// The index that `bytes` are.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let Some((head, entries)) = bytes.split_at_checked(HEAD_LEN) else {
            return Err(FormatError::Index("length"));
        };
        let mut index = Self::new(u32_at(head, 0), u32_at(head, 4))?;
        if !entries.len().is_multiple_of(CHUNK_LEN) {
            return Err(FormatError::Index("length"));
        }
        // No more than the bytes that are there already.
        index.chunks.reserve_exact(entries.len() / CHUNK_LEN);
        for entry in entries.chunks_exact(CHUNK_LEN) {
            index.push(Chunk { number: u32_at(entry, 0), mask: u64_at(entry, 4) })?;
        }
        Ok(index)
    }
}

/// The mask with the lowest `count` bits.
fn all_pages(count: u32) -> PageMask {
    1u64.checked_shl(count).map_or(u64::MAX, |bit| bit - 1)
}

/// Runs of neighbouring pages in a mask, ascending.
pub fn runs(mask: PageMask) -> impl Iterator<Item = std::ops::Range<u32>> {
    let mut left = mask;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let start = left.trailing_zeros();
        let len = (left >> start).trailing_ones();
        left &= !(all_pages(len) << start);
        Some(start..start + len)
    })
}
