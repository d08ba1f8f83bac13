//! A prefetch content being read: block after block, each verified before anybody sees it.

use chunk_store::{ReadError, Reader};
use devices::Memory;
use snapshot::{BLOCK_LEN, BLOCK_PAGES, FormatError, PAGE_LEN, Prefetch};

use super::pages::Done;
use crate::describe::describe;
use crate::memory::{self, MemoryError};

/// Pages of a prefetch content that are in place before the machine runs, 16 MiB: more than a small function touches. One more
/// costs a few microseconds whether or not it is wanted; one that follows later costs a request, and perhaps a fault of the
/// guest's.
const BEFORE_START: usize = 4096;

/// A prefetch content that is of no use, or no more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrefetchError {
    /// The store.
    #[error("read the prefetch content")]
    Read(#[from] ReadError),
    /// What was read is no such thing.
    #[error(transparent)]
    Content(#[from] FormatError),
}

/// A content whose head has been read.
#[derive(Debug)]
pub(crate) struct PrefetchContent {
    reader: Reader,
    head: Prefetch,
    /// The next block, by its number among all.
    next: usize,
    content: Vec<u8>,
}

impl PrefetchContent {
    /// Reads the head. `memory_pages` is the length of the snapshot's memory.
    pub(crate) fn open(mut reader: Reader, memory_pages: u32) -> Result<Self, PrefetchError> {
        let length = FormatError::Prefetch("length");
        if reader.chunk_size().bytes() != BLOCK_LEN {
            return Err(FormatError::Prefetch("length of a chunk").into());
        }
        let mut head = vec![0; reader.chunk_len(0)];
        reader.read(0, &mut head)?;
        let head_len = Prefetch::head_len(head.first_chunk().ok_or(length.clone())?)?;
        for index in 1..head_len / BLOCK_LEN {
            let start = head.len();
            head.resize(start + reader.chunk_len(index as u32), 0);
            reader.read(index as u32, head.get_mut(start..).unwrap_or_default())?;
        }
        let head = Prefetch::decode(&head, memory_pages)?;
        if reader.len() != head.content_at() + (head.pages().len() * PAGE_LEN) as u64 {
            return Err(length.into());
        }
        Ok(Self { reader, head, next: 0, content: Vec::new() })
    }

    /// Writes the first pages to memory that nothing runs in yet, and of which no range is registered: a page that is there
    /// already never faults.
    pub(super) fn write_first(&mut self, memory: &Memory, done: &mut Done) -> Result<(), MemoryError> {
        // Pages of zeros are the host's kernel's: touched, they are there.
        let zeros = self.head.zeros().iter().take(BEFORE_START);
        for page in zeros.filter(|page| done.insert(**page)) {
            memory::write_page(memory, *page, &[0])?;
        }
        let mut written = 0;
        while written < BEFORE_START && !self.is_over() {
            for (page, content) in self.next_block().filter(|(page, _)| done.insert(*page)) {
                memory::write_page(memory, page, content)?;
                written += 1;
            }
        }
        Ok(())
    }

    /// The next pages, numbers and content. A block that is of no use has none, is the last one, and is told of.
    pub(super) fn next_block(&mut self) -> impl Iterator<Item = (u32, &[u8])> {
        let number = self.next;
        match self.read(number) {
            Ok(()) => self.next += 1,
            Err(error) => {
                self.next = self.head.pages().len();
                self.content.clear();
                tell(&error);
            }
        }
        let pages = self.head.pages().chunks(BLOCK_PAGES).nth(number).unwrap_or_default();
        pages.iter().copied().zip(self.content.chunks(PAGE_LEN))
    }

    /// Whether there is nothing left.
    pub(super) fn is_over(&self) -> bool {
        self.next >= self.head.pages().len().div_ceil(BLOCK_PAGES)
    }

    fn read(&mut self, number: usize) -> Result<(), PrefetchError> {
        let index = (self.head.content_at() / BLOCK_LEN as u64) as u32 + number as u32;
        self.content.reserve_exact(BLOCK_LEN);
        self.content.resize(self.reader.chunk_len(index), 0);
        self.reader.read(index, &mut self.content)?;
        Ok(())
    }
}

/// A prefetch content, or none and a line that says why: what it holds can be had without it.
pub(crate) fn usable(content: Result<PrefetchContent, PrefetchError>) -> Option<PrefetchContent> {
    content.inspect_err(tell).ok()
}

fn tell(error: &PrefetchError) {
    eprintln!("vmm: pages are not prefetched: {}", describe(error));
}
