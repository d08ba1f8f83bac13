//! A snapshot's prefetch content, once its clones have told what they want first: page numbers, then the pages
//! (`crates/snapshot`), in chunks of their own. It is made anew with every lesson and takes the place of the one before.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use chunk_store::{ChunkSize, Kind, Label, Verified};
use snapshot::{FormatError, PAGE_LEN, Prefetch};

use super::contents::{ContentsError, ContentsId, open};
use crate::chunks::{Chunks, ChunksError, Content, Plain};

/// Pages whose order is that of their addresses, 16 MiB: what a VMM writes before the guest runs, quicker the fewer gaps there
/// are. Behind these the order in which they were told counts.
const WINDOW_PAGES: usize = 4096;

/// A prefetch content that cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrefetchError {
    /// The snapshot's contents.
    #[error(transparent)]
    Contents(#[from] ContentsError),
    /// The store of chunks.
    #[error(transparent)]
    Chunks(#[from] ChunksError),
    /// The pages.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Memory.
    #[error("read the snapshot's memory")]
    Memory(#[from] io::Error),
}

/// The number that a snapshot's prefetch content has, if there is one: the highest, where a crash has left several.
pub(super) fn number_in(labels: &[Label], id: &ContentsId) -> Option<u32> {
    let number = |label: &Label| {
        let text = label.as_str().rsplit_once("-prefetch-").map(|(_, number)| number)?;
        text.parse().ok().filter(|number| label_of(id, *number).is_ok_and(|ours| ours == *label))
    };
    labels.iter().filter_map(number).max()
}

/// What a prefetch content is called.
pub(super) fn label_of(id: &ContentsId, number: u32) -> Result<Label, ContentsError> {
    id.label(&format!("prefetch-{number}"))
}

/// Makes the prefetch content of `pages`, those that there are. Blocks.
pub(super) fn make(
    chunks: &Arc<Chunks>,
    id: &ContentsId,
    number: u32,
    mut pages: Vec<u32>,
) -> Result<(), PrefetchError> {
    let memory = open(chunks, id, "memory")?;
    let memory_pages = memory.manifest().content().len / PAGE_LEN as u64;
    pages.retain(|page| u64::from(*page) < memory_pages);
    pages.chunks_mut(WINDOW_PAGES).for_each(<[u32]>::sort_unstable);
    let mut first = Pages { head: Vec::new(), pages, memory, last: Mutex::default() };
    let zeros = first.take_zeros()?;
    first.head = Prefetch::encode(&first.pages, &zeros)?;
    Ok(chunks.publish(&label_of(id, number)?, Kind::Prefetch, ChunkSize::IMAGE, &first)?)
}

/// The content as it is read for its chunks.
struct Pages {
    head: Vec<u8>,
    pages: Vec<u32>,
    memory: Arc<Content>,
    /// The last chunk of memory that was read, and its number: pages come by address.
    last: Mutex<Option<(u32, Option<Arc<Verified>>)>>,
}

impl Pages {
    /// Takes out the pages that are zeros, which are only listed.
    fn take_zeros(&mut self) -> io::Result<Vec<u32>> {
        let (mut content, mut pages, mut zeros) = ([0; PAGE_LEN], Vec::new(), Vec::new());
        for page in std::mem::take(&mut self.pages) {
            self.page(page, &mut content)?;
            if content == [0; PAGE_LEN] { zeros.push(page) } else { pages.push(page) }
        }
        self.pages = pages;
        Ok(zeros)
    }

    fn page(&self, page: u32, buffer: &mut [u8]) -> io::Result<()> {
        let in_chunk = self.memory.manifest().content().chunk_size.bytes() / PAGE_LEN;
        let (index, place) = (page / in_chunk as u32, page as usize % in_chunk);
        let held = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let chunk = match held {
            Some((held, chunk)) if held == index => chunk,
            _ => {
                let chunk = self.memory.read(index).map_err(io::Error::other)?;
                *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((index, chunk.clone()));
                chunk
            }
        };
        match chunk.as_ref().and_then(|chunk| chunk.plaintext.get(place * PAGE_LEN..(place + 1) * PAGE_LEN)) {
            Some(content) => buffer.copy_from_slice(content),
            None => buffer.fill(0),
        }
        Ok(())
    }
}

impl Plain for Pages {
    fn len(&self) -> u64 {
        (self.head.len() + self.pages.len() * PAGE_LEN) as u64
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<bool> {
        // Head and pages both begin at a chunk's beginning.
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        if let Some(head) = self.head.get(at..).filter(|head| !head.is_empty()) {
            let head = head.get(..buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(head);
            return Ok(true);
        }
        let first = (at - self.head.len()) / PAGE_LEN;
        let pages = self.pages.get(first..).unwrap_or_default();
        for (number, page) in pages.iter().zip(buffer.chunks_mut(PAGE_LEN)) {
            self.page(*number, page)?;
        }
        Ok(true)
    }
}
