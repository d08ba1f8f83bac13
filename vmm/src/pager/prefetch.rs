//! A prefetch content being read: block after block, each verified before anybody sees it.

use std::io;
use std::sync::Arc;

use chunk_store::{ReadError, Reader};
use devices::Memory;
use snapshot::{BLOCK_LEN, BLOCK_PAGES, FormatError, PAGE_LEN, Prefetch};

use super::PagerError;
use super::fill::{Fill, FillError, Help};
use super::pages::Done;
use crate::describe::describe;
use crate::memory;

/// Pages of a prefetch content that are in place before the machine runs, 16 MiB: more than a small function touches. One more
/// costs a few microseconds whether or not it is wanted; one that follows later costs a request, and perhaps a fault of the
/// guest's.
const BEFORE_START: usize = 4096;

/// The same in blocks.
const BLOCKS_BEFORE_START: usize = BEFORE_START / BLOCK_PAGES;

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
    blocks: Blocks,
    head: Arc<Prefetch>,
    /// The next block, by its number among all.
    next: usize,
    content: Vec<u8>,
}

/// Its blocks of pages, each a chunk.
#[derive(Debug)]
pub(super) struct Blocks {
    reader: Reader,
    /// The chunk that the first one is.
    first: u32,
}

impl Blocks {
    /// A second reader, for [`Self::read_here`].
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { reader: self.reader.try_clone()?, first: self.first })
    }

    /// Has a block in `content`, unless it has to be asked for or there is something wrong with it.
    pub(super) fn read_here(&mut self, number: usize, content: &mut Vec<u8>) -> bool {
        let index = self.room(number, content);
        matches!(self.reader.read_here(index, content), Ok(Some(_)))
    }

    fn read(&mut self, number: usize, content: &mut Vec<u8>) -> Result<(), PrefetchError> {
        let index = self.room(number, content);
        self.reader.read(index, content)?;
        Ok(())
    }

    /// The chunk that it is, and room for that.
    fn room(&self, number: usize, content: &mut Vec<u8>) -> u32 {
        let index = self.first + number as u32;
        content.reserve_exact(BLOCK_LEN);
        content.resize(self.reader.chunk_len(index), 0);
        index
    }
}

impl PrefetchContent {
    /// Reads the head. `memory_pages` is the length of the snapshot's memory.
    pub(crate) fn open(mut reader: Reader, memory_pages: u32) -> Result<Self, PrefetchError> {
        let length = FormatError::Prefetch("length");
        if reader.chunk_size().bytes() != BLOCK_LEN {
            return Err(FormatError::Prefetch("length of a chunk").into());
        }
        reader.in_bulk();
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
        let first = (head.content_at() / BLOCK_LEN as u64) as u32;
        Ok(Self { blocks: Blocks { reader, first }, head: Arc::new(head), next: 0, content: Vec::new() })
    }

    /// Whether it is read past the page cache.
    pub(crate) fn is_past_cache(&self) -> bool {
        self.blocks.reader.is_past_cache()
    }

    /// Writes the first pages to memory that nothing runs in yet, and of which no range is registered: a page that is there
    /// already never faults. `helper` hands a part of it to another thread, if there is one.
    pub(super) fn write_first(
        &mut self,
        memory: &Memory,
        mut done: Done,
        helper: impl FnOnce(Help) -> Result<(), PagerError>,
    ) -> Result<Done, PagerError> {
        // Pages of zeros are the host's kernel's: touched, they are there.
        let zeros = self.head.zeros().iter().take(BEFORE_START);
        for page in zeros.filter(|page| done.insert(**page)) {
            memory::write_page(memory, *page, &[0])?;
        }
        let count = self.block_count().min(BLOCKS_BEFORE_START);
        let fill = Fill::new(memory.clone(), Arc::clone(&self.head), count, done);
        let helped = match fill.help(&self.blocks) {
            Some((help, told)) => helper(help).map(|()| Some(told))?,
            None => None,
        };
        let blocks = &mut self.blocks;
        let mut worked = fill.work(|number, content| blocks.read(number, content).map(|()| true)).map(drop);
        // It has to have ended, whatever came of it.
        if let Some(told) = helped {
            let left = told.recv().map_err(|_| PagerError::Gone)??;
            let mut put = |number| {
                blocks.read(number, &mut self.content)?;
                Ok(fill.put(number, &self.content)?)
            };
            worked = worked.and_then(|()| left.into_iter().try_for_each(&mut put));
        }
        self.next = count;
        match worked {
            Ok(()) => {}
            Err(FillError::Content(error)) => self.give_up(&error),
            Err(FillError::Memory(error)) => return Err(error.into()),
        }
        Ok(fill.done())
    }

    /// The next pages, numbers and content. A block that is of no use has none, is the last one, and is told of.
    pub(super) fn next_block(&mut self) -> impl Iterator<Item = (u32, &[u8])> {
        let number = self.next;
        match self.blocks.read(number, &mut self.content) {
            Ok(()) => self.next += 1,
            Err(error) => self.give_up(&error),
        }
        let pages = self.head.pages().chunks(BLOCK_PAGES).nth(number).unwrap_or_default();
        pages.iter().copied().zip(self.content.chunks(PAGE_LEN))
    }

    /// Whether there is nothing left.
    pub(super) fn is_over(&self) -> bool {
        self.next >= self.block_count()
    }

    fn block_count(&self) -> usize {
        self.head.pages().len().div_ceil(BLOCK_PAGES)
    }

    /// There are no more blocks, and it is told why.
    fn give_up(&mut self, error: &PrefetchError) {
        self.next = self.block_count();
        self.content.clear();
        tell(error);
    }
}

/// A prefetch content, or none and a line that says why: what it holds can be had without it.
pub(crate) fn usable(content: Result<PrefetchContent, PrefetchError>) -> Option<PrefetchContent> {
    content.inspect_err(tell).ok()
}

fn tell(error: &PrefetchError) {
    eprintln!("vmm: pages are not prefetched: {}", describe(error));
}
