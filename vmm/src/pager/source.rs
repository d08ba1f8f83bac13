//! Where the pages of a snapshot come from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use snapshot::{ChunkSealer, FormatError, PAGE_LEN, PageIndex, PageMask, runs};

/// A chunk that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// The file.
    #[error("read chunk {chunk} of the memory file")]
    Read {
        /// Its number.
        chunk: u32,
        /// Why not.
        source: io::Error,
    },
    /// What was read is not what was saved.
    #[error(transparent)]
    Content(#[from] FormatError),
}

/// Pages of one snapshot, by chunk.
pub(crate) trait PageSource: Send {
    /// Writes the pages of chunk `number` that are not zeros to the front of `pages`, one after the other, and says which
    /// they are. `pages` has room for all of a chunk.
    ///
    /// # Errors
    /// They cannot be read, or are not what was saved: a source verifies what it returns.
    fn fetch(&mut self, number: u32, pages: &mut [u8]) -> Result<PageMask, SourceError>;
}

/// A memory file on this host.
#[derive(Debug)]
pub(crate) struct LocalFile {
    file: File,
    index: Arc<PageIndex>,
    sealer: ChunkSealer,
}

impl LocalFile {
    pub(crate) fn new(file: File, index: Arc<PageIndex>, sealer: ChunkSealer) -> Self {
        Self { file, index, sealer }
    }
}

impl PageSource for LocalFile {
    fn fetch(&mut self, number: u32, pages: &mut [u8]) -> Result<PageMask, SourceError> {
        let Some(chunk) = self.index.find(number) else { return Ok(0) };
        let first = u64::from(number) * u64::from(self.index.chunk_pages());
        let mut used = 0;
        for run in runs(chunk.mask) {
            let len = run.len() * PAGE_LEN;
            let offset = (first + u64::from(run.start)) * PAGE_LEN as u64;
            let piece = pages.get_mut(used..used + len).ok_or(FormatError::Chunk { chunk: number })?;
            self.file
                .read_exact_at(piece, offset)
                .map_err(|source| SourceError::Read { chunk: number, source })?;
            used += len;
        }
        let content = pages.get(..used).unwrap_or_default();
        chunk.check(&self.sealer, content)?;
        Ok(chunk.mask)
    }
}
