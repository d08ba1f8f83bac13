//! Where the pages of a snapshot come from.

use std::sync::Arc;

use chunk_store::{Filled, ReadError, Reader};
use snapshot::{FormatError, PAGE_LEN, PageIndex, PageMask};

/// A chunk that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// The store.
    #[error("read the snapshot's memory")]
    Read(#[from] ReadError),
    /// A chunk that there cannot be.
    #[error(transparent)]
    Index(#[from] FormatError),
}

/// Pages of one snapshot, by chunk.
pub(crate) trait PageSource: Send {
    /// Fills the front of `pages`, which has room for all of a chunk, with chunk `number`, each page at its place, and says
    /// which of them are not zeros; what is at the others' places means nothing.
    ///
    /// # Errors
    /// They cannot be had: a source verifies what it returns.
    fn fetch(&mut self, number: u32, pages: &mut [u8]) -> Result<PageMask, SourceError>;
}

/// Memory in the chunk store, cut as its index is.
#[derive(Debug)]
pub(crate) struct StoredPages {
    reader: Reader,
    index: Arc<PageIndex>,
}

impl StoredPages {
    /// None when `reader` is not of memory of that length, or cut otherwise.
    pub(crate) fn new(reader: Reader, index: Arc<PageIndex>) -> Option<Self> {
        let len = u64::from(index.pages()) * PAGE_LEN as u64;
        let chunk_len = index.chunk_pages() as usize * PAGE_LEN;
        (reader.len() == len && reader.chunk_size().bytes() == chunk_len).then_some(Self { reader, index })
    }
}

impl PageSource for StoredPages {
    fn fetch(&mut self, number: u32, pages: &mut [u8]) -> Result<PageMask, SourceError> {
        let Some(chunk) = self.index.find(number) else { return Ok(0) };
        let len = self.reader.chunk_len(number);
        let content = pages.get_mut(..len).ok_or(FormatError::Index("length of a chunk"))?;
        match self.reader.read(number, content)? {
            Filled::Chunk => Ok(chunk.mask),
            Filled::Zeros => Ok(0),
        }
    }
}
