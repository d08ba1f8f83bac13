//! Guest memory as a file: every page that is not zeros at its place, holes in between, and the index that says which and
//! how each chunk is known to be whole.
//!
//! A page that this process has never touched is zeros, or still where the machine was loaded from; `/proc/self/pagemap`
//! says which pages exist, so that a snapshot does not make the others exist. A chunk is copied out of guest memory before it
//! is looked at: what is tagged is what is written.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use devices::Memory;
use snapshot::{Chunk, ChunkSealer, FormatError, PAGE_LEN, PageIndex, PageMask, runs};
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress, VolatileSlice};

use crate::memory::{self, MemoryError};

/// Bits 63 and 62 of a pagemap entry: present, swapped.
const EXISTS: u64 = 0b11 << 62;
/// Entries read at once: those of 256 MiB.
const ENTRIES: usize = 1 << 16;

/// Memory that cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryFileError {
    /// Which pages exist.
    #[error("read the process's page map")]
    Pagemap(#[source] io::Error),
    /// Guest memory itself.
    #[error("read guest memory")]
    Read(#[source] vm_memory::GuestMemoryError),
    /// Its address.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The file.
    #[error("write the memory file")]
    Write(#[source] io::Error),
    /// The index.
    #[error(transparent)]
    Index(#[from] FormatError),
}

/// What was written.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) index: PageIndex,
    pub(crate) bytes: u64,
}

/// `/proc/self/pagemap`, opened before the jail closes.
#[derive(Debug)]
pub(crate) struct Pagemap(File);

impl Pagemap {
    pub(crate) fn open() -> io::Result<Self> {
        File::open("/proc/self/pagemap").map(Self)
    }

    /// Calls `each` for every chunk of `host` with the pages that exist in it.
    fn chunks(
        &self,
        host: &Range<usize>,
        chunk_pages: usize,
        mut each: impl FnMut(PageMask) -> Result<(), MemoryFileError>,
    ) -> Result<(), MemoryFileError> {
        let pages = host.len() / PAGE_LEN;
        let mut bytes = vec![0; ENTRIES.min(pages) * 8];
        let mut at = 0;
        while at < pages {
            let count = ENTRIES.min(pages - at);
            let piece = bytes.get_mut(..count * 8).unwrap_or_default();
            let offset = (host.start / PAGE_LEN + at) as u64 * 8;
            self.0.read_exact_at(piece, offset).map_err(MemoryFileError::Pagemap)?;
            for chunk in piece.chunks(chunk_pages * 8) {
                let (entries, _) = chunk.as_chunks::<8>();
                let exists = entries.iter().map(|entry| u64::from_le_bytes(*entry) & EXISTS != 0);
                each(exists.rev().fold(0, |mask, exists| mask << 1 | PageMask::from(exists)))?;
            }
            at += count;
        }
        Ok(())
    }
}

/// Writes all of `memory` to `file`. `source` are the pages that were saved before, when this machine was loaded; those
/// that do not exist here yet are fetched by reading them.
pub(crate) fn write_full(
    memory: &Memory,
    pagemap: &Pagemap,
    source: Option<&PageIndex>,
    sealer: &ChunkSealer,
    chunk_pages: u32,
    file: &File,
) -> Result<Written, MemoryFileError> {
    let hosts = memory::host_ranges(memory)?;
    let pages: usize = hosts.iter().map(|host| host.len() / PAGE_LEN).sum();
    file.set_len(0).map_err(MemoryFileError::Write)?;
    file.set_len((pages * PAGE_LEN) as u64).map_err(MemoryFileError::Write)?;
    let mut writer = Writer {
        sealer,
        file,
        buffer: vec![0; chunk_pages as usize * PAGE_LEN],
        written: Written { index: PageIndex::new(pages as u32, chunk_pages)?, bytes: 0 },
    };
    let saved = source.map(SavedPages);
    let mut number = 0;
    for (region, host) in memory.iter().zip(&hosts) {
        let mut offset = 0;
        pagemap.chunks(host, chunk_pages as usize, |exists| {
            let len = (chunk_pages as usize * PAGE_LEN).min(host.len() - offset);
            let saved = saved.as_ref().map_or(0, |saved| saved.mask(number * chunk_pages, chunk_pages));
            if exists | saved != 0 {
                let place = region.get_slice(MemoryRegionAddress(offset as u64), len);
                writer.write(number, exists | saved, &place.map_err(MemoryFileError::Read)?)?;
            }
            offset += len;
            number += 1;
            Ok(())
        })?;
    }
    Ok(writer.written)
}

/// Pages of an index whose chunks may have another length.
struct SavedPages<'a>(&'a PageIndex);

impl SavedPages<'_> {
    /// Which of `count` pages from `first` on it holds.
    fn mask(&self, first: u32, count: u32) -> PageMask {
        let len = self.0.chunk_pages();
        let holds =
            |page: u32| self.0.find(page / len).is_some_and(|chunk| chunk.mask >> (page % len) & 1 == 1);
        if len == count {
            return self.0.find(first / len).map_or(0, |chunk| chunk.mask);
        }
        (0..count).filter(|&page| holds(first + page)).fold(0, |mask, page| mask | 1 << page)
    }
}

struct Writer<'a> {
    sealer: &'a ChunkSealer,
    file: &'a File,
    buffer: Vec<u8>,
    written: Written,
}

impl Writer<'_> {
    /// Writes those of `wanted` pages of a chunk that are not zeros.
    fn write(
        &mut self,
        number: u32,
        wanted: PageMask,
        place: &VolatileSlice<'_, impl BitmapSlice>,
    ) -> Result<(), MemoryFileError> {
        let (mut mask, mut used): (PageMask, usize) = (0, 0);
        for page in runs(wanted).flatten() {
            let Some(target) = self.buffer.get_mut(used..used + PAGE_LEN) else { break };
            let from = place.subslice(page as usize * PAGE_LEN, PAGE_LEN);
            from.map_err(|error| MemoryFileError::Read(error.into()))?.copy_to(target);
            if !is_zero(target) {
                mask |= 1 << page;
                used += PAGE_LEN;
            }
        }
        if mask == 0 {
            return Ok(());
        }
        let content = self.buffer.get(..used).unwrap_or_default();
        let tag = self.sealer.tag(number, mask, content);
        let first = u64::from(number) * u64::from(self.written.index.chunk_pages());
        let mut rest = content;
        for run in runs(mask) {
            let piece;
            (piece, rest) = rest.split_at(run.len() * PAGE_LEN);
            let offset = (first + u64::from(run.start)) * PAGE_LEN as u64;
            self.file.write_all_at(piece, offset).map_err(MemoryFileError::Write)?;
        }
        self.written.bytes += used as u64;
        Ok(self.written.index.push(Chunk { number, mask, tag })?)
    }
}

/// A cache line at a time, so that it is a few vector instructions and ends early.
fn is_zero(page: &[u8]) -> bool {
    page.chunks(64).all(|line| line.iter().fold(0, |all, byte| all | byte) == 0)
}
