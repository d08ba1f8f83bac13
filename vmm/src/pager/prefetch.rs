//! A prefetch file being read: block after block, each checked before anybody sees it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use devices::Memory;
use snapshot::{BLOCK_PAGES, FormatError, Key, PAGE_LEN, PREFETCH_START_LEN, Prefetch, Tag};

use super::pages::Done;
use crate::describe::describe;
use crate::memory::{self, MemoryError};

/// Pages of a prefetch file that are in place before the machine runs, 16 MiB: more than a small function touches. One more costs
/// a few microseconds whether or not it is wanted; one that follows later costs a request, and perhaps a fault of the guest's.
const BEFORE_START: usize = 4096;

/// A prefetch file that is of no use, or no more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrefetchError {
    /// The file.
    #[error("read the prefetch file")]
    Read(#[source] io::Error),
    /// What was read is not what was written for this snapshot.
    #[error(transparent)]
    Content(#[from] FormatError),
}

/// A file whose head is authentic.
#[derive(Debug)]
pub(crate) struct PrefetchFile {
    file: File,
    head: Prefetch,
    next: usize,
    content: Vec<u8>,
}

impl PrefetchFile {
    /// Reads the head. `memory_pages` is the length of the snapshot's memory, `state_tag` its state file's.
    pub(crate) fn open(
        file: File,
        key: &Key,
        state_tag: &Tag,
        memory_pages: u32,
    ) -> Result<Self, PrefetchError> {
        let mut start = [0; PREFETCH_START_LEN];
        file.read_exact_at(&mut start, 0).map_err(PrefetchError::Read)?;
        let mut head = vec![0; Prefetch::head_len(&start)?];
        file.read_exact_at(&mut head, 0).map_err(PrefetchError::Read)?;
        let head = Prefetch::open(&head, key, state_tag, memory_pages)?;
        Ok(Self { file, head, next: 0, content: Vec::new() })
    }

    /// Writes the first pages to memory that nothing runs in yet, and of which no range is registered: a page that is there
    /// already never faults.
    pub(super) fn write_first(&mut self, memory: &Memory, done: &mut Done) -> Result<(), MemoryError> {
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
                self.next = self.head.blocks();
                self.content.clear();
                tell(&error);
            }
        }
        self.head.block(number).iter().copied().zip(self.content.chunks(PAGE_LEN))
    }

    /// Whether there is nothing left.
    pub(super) fn is_over(&self) -> bool {
        self.next >= self.head.blocks()
    }

    fn read(&mut self, number: usize) -> Result<(), PrefetchError> {
        let place = self.head.place(number);
        self.content.reserve_exact(BLOCK_PAGES * PAGE_LEN);
        self.content.resize((place.end - place.start) as usize, 0);
        self.file.read_exact_at(&mut self.content, place.start).map_err(PrefetchError::Read)?;
        Ok(self.head.check(number, &self.content)?)
    }
}

/// A prefetch file, or none and a line that says why: what it holds can be had without it.
pub(crate) fn usable(file: Result<PrefetchFile, PrefetchError>) -> Option<PrefetchFile> {
    file.inspect_err(tell).ok()
}

fn tell(error: &PrefetchError) {
    eprintln!("vmm: pages are not prefetched: {}", describe(error));
}
