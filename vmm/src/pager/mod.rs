//! Fills the memory of a machine that was loaded, page by page as the guest touches it: one thread, one userfaultfd.
//!
//! Ranges that hold pages of the snapshot are registered; in between, long ranges of zeros are left to the host's kernel,
//! which needs no help with them. A fault is answered with its whole chunk. Every copy is private to this machine: no page is
//! shared with a file or with another clone.
//!
//! A page that cannot be had is the end of the process, and it is this thread that ends it: the I/O thread may itself be
//! waiting for a page, and a guest must neither hang nor read something else instead.

mod source;
mod uffd;

use std::io;
use std::ops::Range;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use devices::Memory;
use jail::CompiledFilter;
use snapshot::{PAGE_LEN, PageIndex, runs};
use vmm_api::{MAX_WORKING_SET, WorkingSet};

use crate::describe::describe;
use crate::memory::{self, MemoryError};
pub(crate) use source::{LocalFile, PageSource, SourceError};
pub(crate) use uffd::Userfault;

/// Pages of a chunk in the snapshots that this program takes: 16 KiB. Read, verified and copied at once, so it is what a
/// fault costs, and how many faults there are; a working set takes most of them away, and with it what counts is how much is
/// copied that nobody asked for.
pub(crate) const CHUNK_PAGES: u32 = 4;

/// Chunks of a working set that are put in place before one that somebody waits for: 256 KiB. More of them make a restore hardly
/// quicker (64: 2 %) and a fault four times as long.
const AHEAD_OF_FAULT: usize = 16;

/// Zeros between two registered ranges, 4 MiB: a range more costs a request and two mappings before the guest runs, 25 µs,
/// so a gap has to be worth them. Smaller gaps are served like any other page.
const LEAST_GAP_PAGES: u32 = 1024;

/// Calls a few levels deep, with the chunk on the heap.
const STACK_LEN: usize = 256 * 1024;

/// Ends the process, saying why. Does not return.
pub(crate) type LastWords = Box<dyn FnOnce(String) + Send>;

/// A pager that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PagerError {
    /// No thread.
    #[error("start the pager")]
    Spawn(#[source] io::Error),
    /// Its system call filter.
    #[error("confine the pager")]
    Confine(#[source] jail::FilterError),
    /// It ended before it was ready.
    #[error("wait for the pager")]
    Gone,
    /// The host address of guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A range of memory cannot be watched.
    #[error("watch {len} bytes of guest memory")]
    Register {
        /// How many.
        len: usize,
        /// Why not.
        source: io::Error,
    },
    /// The index is of a memory of another size.
    #[error("the snapshot has {saved} pages of memory, the machine {machine}")]
    Size {
        /// Pages in the snapshot.
        saved: u64,
        /// Pages of the machine.
        machine: u64,
    },
}

/// The I/O thread's end of the pager.
pub(crate) struct Pager {
    uffd: Arc<Userfault>,
    work: Sender<Work>,
    index: OnceLock<Arc<PageIndex>>,
    faulted: Arc<Mutex<Vec<u32>>>,
}

impl Pager {
    /// Starts the thread, confined and waiting for a snapshot.
    pub(crate) fn spawn(
        uffd: Userfault,
        filter: Arc<CompiledFilter>,
        last_words: LastWords,
    ) -> Result<Self, PagerError> {
        let uffd = Arc::new(uffd);
        let (work, inbox) = mpsc::channel::<Work>();
        let (ready, is_ready) = mpsc::channel();
        let faults = Arc::clone(&uffd);
        let body = move || {
            let confined = filter.apply();
            let go = confined.is_ok();
            // The waiting side is gone only when the process is ending, and so is the sender of work.
            let _ = ready.send(confined);
            if go && let Ok(work) = inbox.recv() {
                work.serve(&faults, last_words);
            }
        };
        thread::Builder::new()
            .name("pager".into())
            .stack_size(STACK_LEN)
            .spawn(body)
            .map_err(PagerError::Spawn)?;
        is_ready.recv().map_err(|_| PagerError::Gone)?.map_err(PagerError::Confine)?;
        Ok(Self { uffd, work, index: OnceLock::new(), faulted: Arc::default() })
    }

    /// Fills `memory`, of which nothing has been touched, from `source` from now on: the working set's chunks one after the
    /// other, whatever is asked for before them.
    pub(crate) fn serve(
        &self,
        memory: &Memory,
        index: Arc<PageIndex>,
        source: Box<dyn PageSource>,
        working_set: &WorkingSet,
    ) -> Result<(), PagerError> {
        let map = PageMap::new(memory)?;
        let (saved, machine) = (u64::from(index.pages()), map.pages());
        if saved != machine {
            return Err(PagerError::Size { saved, machine });
        }
        for extent in index.extents(LEAST_GAP_PAGES) {
            for range in map.host_ranges(&extent) {
                let failed = |source| PagerError::Register { len: range.len(), source };
                self.uffd.register(&range).map_err(failed)?;
            }
        }
        let ahead = working_set.0.iter().copied().take(MAX_WORKING_SET).collect();
        let faulted = Arc::clone(&self.faulted);
        let work = Work { map, index: Arc::clone(&index), source, ahead, faulted };
        // Set once: a machine is loaded once.
        let _ = self.index.set(index);
        self.work.send(work).map_err(|_| PagerError::Gone)
    }

    /// The first [`MAX_WORKING_SET`] chunks that somebody had to wait for.
    pub(crate) fn faulted(&self) -> WorkingSet {
        WorkingSet(self.faulted.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Pages that the snapshot holds; none before it is known.
    pub(crate) fn index(&self) -> Option<&PageIndex> {
        self.index.get().map(AsRef::as_ref)
    }
}

/// Where page numbers are in this process.
struct PageMap {
    /// First page and host addresses, ascending.
    regions: Vec<(u32, Range<usize>)>,
}

impl PageMap {
    fn new(memory: &Memory) -> Result<Self, MemoryError> {
        let mut first = 0;
        let mut regions = Vec::new();
        for range in memory::host_ranges(memory)? {
            let pages = (range.len() / PAGE_LEN) as u32;
            regions.push((first, range));
            first += pages;
        }
        Ok(Self { regions })
    }

    fn pages(&self) -> u64 {
        self.regions.iter().map(|(_, range)| (range.len() / PAGE_LEN) as u64).sum()
    }

    fn page_of(&self, address: usize) -> Option<u32> {
        let (first, range) = self.regions.iter().find(|(_, range)| range.contains(&address))?;
        Some(first + ((address - range.start) / PAGE_LEN) as u32)
    }

    /// One range, or two around the device hole.
    fn host_ranges(&self, pages: &Range<u32>) -> Vec<Range<usize>> {
        let inside = |(first, range): &(u32, Range<usize>)| {
            let end = first + (range.len() / PAGE_LEN) as u32;
            let (from, to) = (pages.start.max(*first), pages.end.min(end));
            let at = |page: u32| range.start + (page - first) as usize * PAGE_LEN;
            (from < to).then(|| at(from)..at(to))
        };
        self.regions.iter().filter_map(inside).collect()
    }
}

/// A snapshot being served.
struct Work {
    map: PageMap,
    index: Arc<PageIndex>,
    source: Box<dyn PageSource>,
    /// To be in place before they are asked for, where the index lists them.
    ahead: Vec<u32>,
    faulted: Arc<Mutex<Vec<u32>>>,
}

/// Why no more pages can be had.
#[derive(Debug, thiserror::Error)]
enum FaultError {
    #[error("wait for page faults")]
    Wait(#[source] io::Error),
    #[error("a page fault outside of guest memory")]
    Outside,
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("put pages in place")]
    Fill(#[source] io::Error),
}

impl Work {
    fn serve(self, uffd: &Userfault, last_words: LastWords) {
        if let Err(error) = self.serve_faults(uffd) {
            last_words(format!("the guest's memory cannot be restored: {}", describe(&error)));
        }
    }

    fn serve_faults(mut self, uffd: &Userfault) -> Result<(), FaultError> {
        let index = Arc::clone(&self.index);
        let mut pages = vec![0; index.chunk_pages() as usize * PAGE_LEN];
        let mut done = Done::new(self.map.pages(), index.chunk_pages());
        let mut addresses = Vec::with_capacity(uffd::BATCH);
        // Looked up here, not while a load waits.
        let ahead = std::mem::take(&mut self.ahead).into_iter();
        let mut ahead = ahead.filter(|chunk| index.find(*chunk).is_some());
        loop {
            addresses.clear();
            uffd.take(&mut addresses).map_err(FaultError::Wait)?;
            if addresses.is_empty() {
                match ahead.next() {
                    Some(chunk) if done.insert(chunk) => self.fill(uffd, chunk, &mut pages)?,
                    Some(_) => {}
                    None => uffd.wait(&mut addresses).map_err(FaultError::Wait)?,
                }
            }
            for &address in &addresses {
                let page = self.map.page_of(address).ok_or(FaultError::Outside)?;
                let chunk = page / index.chunk_pages();
                if done.insert(chunk) {
                    self.record(chunk);
                    // Whoever waits here will want these next, and would wait for each.
                    for next in ahead.by_ref().take(AHEAD_OF_FAULT) {
                        if done.insert(next) {
                            self.fill(uffd, next, &mut pages)?;
                        }
                    }
                    self.fill(uffd, chunk, &mut pages)?;
                } else {
                    // Two vCPUs wanted the same chunk; the second may have slept through its arrival.
                    uffd.wake(&(address..address + PAGE_LEN)).map_err(FaultError::Fill)?;
                }
            }
        }
    }

    fn record(&self, chunk: u32) {
        let mut faulted = self.faulted.lock().unwrap_or_else(PoisonError::into_inner);
        if faulted.len() < MAX_WORKING_SET {
            faulted.push(chunk);
        }
    }

    /// Puts all of a chunk in place.
    fn fill(&mut self, uffd: &Userfault, chunk: u32, pages: &mut [u8]) -> Result<(), FaultError> {
        let mask = self.source.fetch(chunk, pages)?;
        let chunk_pages = self.index.chunk_pages();
        let first = chunk * chunk_pages;
        let mut used = 0;
        for run in runs(mask) {
            let len = run.len() * PAGE_LEN;
            let content = pages.get(used..used + len).unwrap_or_default();
            for range in self.map.host_ranges(&(first + run.start..first + run.end)) {
                uffd.copy(range.start, content).map_err(FaultError::Fill)?;
            }
            used += len;
        }
        let all = u64::MAX >> (u64::BITS - chunk_pages);
        for run in runs(!mask & all) {
            for range in self.map.host_ranges(&(first + run.start..first + run.end)) {
                uffd.zero(range).map_err(FaultError::Fill)?;
            }
        }
        Ok(())
    }
}

/// Chunks that are in place, one bit each.
struct Done(Vec<u64>);

impl Done {
    fn new(pages: u64, chunk_pages: u32) -> Self {
        let chunks = pages.div_ceil(chunk_pages.into());
        Self(vec![0; chunks.div_ceil(64) as usize])
    }

    /// Whether it was not there.
    fn insert(&mut self, chunk: u32) -> bool {
        let bit = 1 << (chunk % 64);
        let Some(word) = self.0.get_mut((chunk / 64) as usize) else { return false };
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use snapshot::{Chunk, FormatError, PageMask};
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    /// More pages than the real ones have: holes of all kinds.
    const CHUNK_PAGES: u32 = 16;

    /// Chunks by number; one that is missing cannot be read.
    struct Fake(BTreeMap<u32, (PageMask, u8)>);

    impl PageSource for Fake {
        fn fetch(&mut self, number: u32, pages: &mut [u8]) -> Result<PageMask, SourceError> {
            let (mask, byte) = *self.0.get(&number).ok_or(FormatError::Chunk { chunk: number })?;
            pages[..mask.count_ones() as usize * PAGE_LEN].fill(byte);
            Ok(mask)
        }
    }

    /// Memory of 8 MiB whose index lists `chunks`, served by `fake` until it fails; what it says then.
    fn served(chunks: &[(u32, PageMask)], fake: Fake) -> (Memory, mpsc::Receiver<String>) {
        let memory = memory::create(8 << 20).expect("memory");
        let mut index = PageIndex::new(2048, CHUNK_PAGES).expect("index");
        for &(number, mask) in chunks {
            index.push(Chunk { number, mask, tag: [0; 16] }).expect("in order");
        }
        let map = PageMap::new(&memory).expect("map");
        let uffd = Userfault::open().expect("userfaultfd is needed to run the tests");
        for extent in index.extents(1) {
            map.host_ranges(&extent).iter().for_each(|range| uffd.register(range).expect("register"));
        }
        let (ahead, faulted) = (Vec::new(), Arc::default());
        let work = Work { map, index: Arc::new(index), source: Box::new(fake), ahead, faulted };
        let (say, said) = mpsc::channel();
        thread::spawn(move || {
            work.serve(&uffd, Box::new(move |words| say.send(words).expect("someone listens")))
        });
        (memory, said)
    }

    #[test]
    fn a_fault_brings_its_chunk_with_zeros_where_they_were() {
        let chunk = (2, 0b1000_0000_0000_0101);
        let (memory, _said) = served(&[chunk], Fake([(chunk.0, (chunk.1, 0xab))].into()));
        let read =
            |page: u64| memory.read_obj::<u8>(GuestAddress((32 + page) * PAGE_LEN as u64)).expect("read");
        let found: Vec<u8> = (0..16).map(read).collect();
        let expected: Vec<u8> = (0..16).map(|page| if chunk.1 >> page & 1 == 1 { 0xab } else { 0 }).collect();
        assert_eq!(found, expected);
        let unregistered: u8 = memory.read_obj(GuestAddress(7 << 20)).expect("read");
        assert_eq!(unregistered, 0, "the kernel's own zeros");
    }

    #[test]
    fn a_source_that_fails_is_the_end_and_says_which_chunk() {
        let (memory, said) = served(&[(3, 1)], Fake(BTreeMap::new()));
        // Waits for a page that never comes; the process would end here, the thread is left behind.
        thread::spawn(move || memory.read_obj::<u8>(GuestAddress(3 << 16)));
        let words = said.recv().expect("last words");
        assert_eq!(
            words,
            "the guest's memory cannot be restored: chunk 3 of the memory file is not what was saved"
        );
    }

    #[test]
    fn many_threads_want_the_same_chunks_and_all_get_them() {
        let chunks: Vec<(u32, PageMask)> = (0..64).map(|number| (number, PageMask::from(u16::MAX))).collect();
        let fake = Fake(chunks.iter().map(|&(number, mask)| (number, (mask, number as u8 | 0x80))).collect());
        let (memory, _said) = served(&chunks, fake);
        let read = |memory: Memory, step: usize| {
            move || {
                for page in (0..1024).step_by(step) {
                    let byte: u8 = memory.read_obj(GuestAddress((page * PAGE_LEN) as u64)).expect("read");
                    assert_eq!(byte, (page / 16) as u8 | 0x80, "page {page}");
                }
            }
        };
        let threads: Vec<_> = (1..9).map(|step| thread::spawn(read(memory.clone(), step))).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no page was wrong"));
    }
}
