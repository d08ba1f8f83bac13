//! Guest memory as a file: every page that is not zeros at its place, holes in between, and the index that says which. Whoever
//! asked for it makes a content of the store of it.
//!
//! A page that this process has never touched is zeros, or still where the machine was loaded from; `/proc/self/pagemap`
//! says which pages exist, so that a snapshot does not make the others exist. A chunk is copied out of guest memory before it
//! is looked at: what was found not to be zeros is what is written.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use devices::Memory;
use snapshot::{Chunk, FormatError, PAGE_LEN, PageIndex, PageMask, runs};
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress, VolatileSlice};

use crate::host_files::HostFiles;
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
    /// Of all of memory.
    pub(crate) index: PageIndex,
    /// To the file.
    pub(crate) bytes: u64,
}

impl Written {
    /// Pages that are not listed.
    pub(crate) fn zero_pages(&self) -> u64 {
        let listed: u32 = self.index.chunks().iter().map(|chunk| chunk.mask.count_ones()).sum();
        u64::from(self.index.pages()) - u64::from(listed)
    }
}

/// `/proc/self/pagemap`, opened before the jail closes.
#[derive(Debug)]
pub(crate) struct Pagemap(File);

impl Pagemap {
    pub(crate) fn open(files: &HostFiles) -> io::Result<Self> {
        files.of_process("pagemap").map(Self)
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
    chunk_pages: u32,
    file: &File,
) -> Result<Written, MemoryFileError> {
    let hosts = memory::host_ranges(memory)?;
    let pages: usize = hosts.iter().map(|host| host.len() / PAGE_LEN).sum();
    file.set_len(0).map_err(MemoryFileError::Write)?;
    file.set_len((pages * PAGE_LEN) as u64).map_err(MemoryFileError::Write)?;
    let mut writer = Writer {
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

/// Brings `file`, a copy of the memory file that `base` is the index of, up to date with the pages that are `dirty`. Those
/// that have become zeros are left in the file; nobody reads a page that the index does not list.
pub(crate) fn write_diff(
    memory: &Memory,
    base: &PageIndex,
    dirty: &[Vec<u64>],
    file: &File,
) -> Result<Written, MemoryFileError> {
    let chunk_pages = base.chunk_pages();
    let index = PageIndex::new(base.pages(), chunk_pages)?;
    let buffer = vec![0; chunk_pages as usize * PAGE_LEN];
    let mut writer = Writer { file, buffer, written: Written { index, bytes: 0 } };
    let mut number = 0;
    for (region, dirty) in memory.iter().zip(dirty) {
        let chunk_len = chunk_pages as usize * PAGE_LEN;
        for offset in (0..region.len() as usize).step_by(chunk_len) {
            let bit = offset / PAGE_LEN;
            // A chunk has a power of two of up to 64 pages, so it lies in one word.
            let word = dirty.get(bit / 64).copied().unwrap_or(0) >> (bit % 64);
            let changed = word & u64::MAX >> (u64::BITS - chunk_pages);
            let saved = base.find(number);
            if changed != 0 {
                let len = chunk_len.min(region.len() as usize - offset);
                let place = region.get_slice(MemoryRegionAddress(offset as u64), len);
                let wanted = changed | saved.map_or(0, |chunk| chunk.mask);
                writer.write(number, wanted, &place.map_err(MemoryFileError::Read)?)?;
            } else if let Some(chunk) = saved {
                writer.written.index.push(*chunk)?;
            }
            number += 1;
        }
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
        let first = u64::from(number) * u64::from(self.written.index.chunk_pages());
        let mut rest = self.buffer.get(..used).unwrap_or_default();
        for run in runs(mask) {
            let piece;
            (piece, rest) = rest.split_at(run.len() * PAGE_LEN);
            let offset = (first + u64::from(run.start)) * PAGE_LEN as u64;
            self.file.write_all_at(piece, offset).map_err(MemoryFileError::Write)?;
        }
        self.written.bytes += used as u64;
        Ok(self.written.index.push(Chunk { number, mask })?)
    }
}

/// A cache line at a time, so that it is a few vector instructions and ends early.
fn is_zero(page: &[u8]) -> bool {
    page.chunks(64).all(|line| line.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use kvm_ioctls::Kvm;
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::memory::Tracking;

    const PAGES: u64 = 128;

    /// Pages by number, and what they are filled with; zeros are a page that is written and still, or again, all zeros.
    fn writes() -> impl Strategy<Value = Vec<(u64, u8)>> {
        prop::collection::vec((0..PAGES, 0u8..3), 0..20)
    }

    fn fill(memory: &Memory, writes: &[(u64, u8)]) {
        for (page, byte) in writes {
            let place = GuestAddress(page * PAGE_LEN as u64);
            memory.write_slice(&[*byte; PAGE_LEN], place).expect("inside of memory");
        }
    }

    /// All of memory, as a clone would find it.
    fn restored(file: &File, written: &Written) -> Vec<u8> {
        let mut all = vec![0; PAGES as usize * PAGE_LEN];
        for chunk in written.index.chunks() {
            for page in runs(chunk.mask).flatten() {
                let at = (chunk.number * written.index.chunk_pages() + page) as usize * PAGE_LEN;
                file.read_exact_at(&mut all[at..at + PAGE_LEN], at as u64).expect("in the file");
            }
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn changes_over_the_file_before_are_what_a_full_snapshot_is(
            before in writes(),
            rounds in prop::collection::vec(writes(), 1..4),
            shift in 0u32..7,
        ) {
            let vm = Kvm::new().and_then(|kvm| kvm.create_vm()).expect("these tests need /dev/kvm");
            let memory = memory::create(PAGES * PAGE_LEN as u64).expect("memory");
            let pagemap = Pagemap::open(&HostFiles::Paths).expect("page map");
            let full = |file: &File| write_full(&memory, &pagemap, None, 1 << shift, file).expect("written");
            fill(&memory, &before);
            let file = tempfile::tempfile().expect("a file");
            let mut last = full(&file);
            memory::register(&vm, &memory, Tracking::On).expect("tracked");
            for writes in rounds {
                fill(&memory, &writes);
                let dirty = memory::take_dirty(&vm, &memory).expect("a log");
                last = write_diff(&memory, &last.index, &dirty, &file).expect("written");
                let whole = full(&tempfile::tempfile().expect("a file"));
                prop_assert_eq!(&last.index, &whole.index);
                prop_assert_eq!(last.zero_pages(), whole.zero_pages());
                prop_assert!(last.bytes <= whole.bytes);
                let mut now = vec![0; PAGES as usize * PAGE_LEN];
                memory.read_slice(&mut now, GuestAddress(0)).expect("inside of memory");
                prop_assert!(restored(&file, &last) == now);
            }
        }
    }

    #[test]
    fn without_changes_nothing_is_written() {
        let memory = memory::create(PAGES * PAGE_LEN as u64).expect("memory");
        fill(&memory, &[(3, 1), (100, 2)]);
        let pagemap = Pagemap::open(&HostFiles::Paths).expect("page map");
        let file = tempfile::tempfile().expect("a file");
        let full = write_full(&memory, &pagemap, None, 16, &file).expect("written");
        let diff = write_diff(&memory, &full.index, &[vec![0; 2]], &file).expect("written");
        assert_eq!((diff.bytes, diff.index), (0, full.index));
    }
}
