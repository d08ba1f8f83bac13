//! Fills the memory of a machine that was loaded.
//!
//! * The pages that its snapshot's prefetch file lists first are written before anything runs: bulk reading and checking, and no
//!   fault.
//! * Ranges that hold pages of the snapshot are registered with a userfaultfd then; in between, long ranges of zeros are left
//!   to the host's kernel, which needs no help with them. One thread answers a fault with the page's whole chunk, and puts the
//!   rest of the prefetch file in place while nobody waits.
//!
//! Every copy is private to this machine: no page is shared with a file or with another clone.
//!
//! A page that cannot be had is the end of the process, and it is this thread that ends it: the I/O thread may itself be
//! waiting for a page, and a guest must neither hang nor read something else instead.

mod pages;
mod prefetch;
mod source;
mod uffd;

use std::io;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use devices::Memory;
use jail::CompiledFilter;
use snapshot::{PAGE_LEN, PageIndex, PageMask, runs};
use vmm_api::{MAX_WORKING_SET, WorkingSet};

use crate::describe::describe;
use crate::memory::{self, MemoryError};
use pages::{Done, PageMap};
pub(crate) use prefetch::{PrefetchFile, usable};
pub(crate) use source::{LocalFile, PageSource, SourceError};
pub(crate) use uffd::Userfault;

/// Pages of a chunk in the snapshots that this program takes: 16 KiB. Read and verified at once, so it is what a fault costs,
/// and how many faults there are where no prefetch file takes them away.
pub(crate) const CHUNK_PAGES: u32 = 4;

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

    /// Fills `memory`, of which nothing has been touched, from now on. Pages of `prefetch` are in place when this returns, as
    /// far as there are any; whatever is touched from then on waits for its page.
    pub(crate) fn serve(&self, memory: &Memory, mut saved: SavedMemory) -> Result<(), PagerError> {
        let index = Arc::clone(&saved.index);
        let map = PageMap::new(memory)?;
        let (pages, machine) = (u64::from(index.pages()), map.pages());
        if pages != machine {
            return Err(PagerError::Size { saved: pages, machine });
        }
        let extents = index.extents(LEAST_GAP_PAGES);
        let ranges: Vec<_> = extents.iter().flat_map(|extent| map.host_ranges(extent)).collect();
        let mut done = Done::new(pages, extents);
        if let Some(file) = &mut saved.prefetch {
            for range in &ranges {
                memory::by_small_pages(range)?;
            }
            file.write_first(memory, &mut done)?;
        }
        for range in ranges {
            let failed = |source| PagerError::Register { len: range.len(), source };
            self.uffd.register(&range).map_err(failed)?;
        }
        let work = Work::new(map, saved, done, Arc::clone(&self.faulted));
        // Set once: a machine is loaded once.
        let _ = self.index.set(index);
        self.work.send(work).map_err(|_| PagerError::Gone)
    }

    /// The first [`MAX_WORKING_SET`] pages that somebody had to wait for.
    pub(crate) fn faulted(&self) -> WorkingSet {
        WorkingSet(self.faulted.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Pages that the snapshot holds; none before it is known.
    pub(crate) fn index(&self) -> Option<&PageIndex> {
        self.index.get().map(AsRef::as_ref)
    }
}

/// The memory of a snapshot.
pub(crate) struct SavedMemory {
    pub(crate) index: Arc<PageIndex>,
    pub(crate) source: Box<dyn PageSource>,
    /// What of it is wanted first.
    pub(crate) prefetch: Option<PrefetchFile>,
    /// Whether every page that is asked for is to be told.
    pub(crate) learn: bool,
}

/// A snapshot being served.
struct Work {
    map: PageMap,
    index: Arc<PageIndex>,
    source: Box<dyn PageSource>,
    prefetch: Option<PrefetchFile>,
    learn: bool,
    done: Done,
    faulted: Arc<Mutex<Vec<u32>>>,
    /// The last chunk that was fetched: its number, which of its pages there are, and these one after the other.
    chunk: Option<(u32, PageMask)>,
    content: Vec<u8>,
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
    fn new(map: PageMap, saved: SavedMemory, done: Done, faulted: Arc<Mutex<Vec<u32>>>) -> Self {
        let SavedMemory { index, source, prefetch, learn } = saved;
        let content = vec![0; index.chunk_pages() as usize * PAGE_LEN];
        Self { map, index, source, prefetch, learn, done, faulted, chunk: None, content }
    }

    fn serve(self, uffd: &Userfault, last_words: LastWords) {
        if let Err(error) = self.serve_faults(uffd) {
            last_words(format!("the guest's memory cannot be restored: {}", describe(&error)));
        }
    }

    fn serve_faults(mut self, uffd: &Userfault) -> Result<(), FaultError> {
        let mut addresses = Vec::with_capacity(uffd::BATCH);
        loop {
            addresses.clear();
            if self.prefetch.is_none() {
                uffd.wait(&mut addresses).map_err(FaultError::Wait)?;
            } else {
                uffd.take(&mut addresses).map_err(FaultError::Wait)?;
                if addresses.is_empty() {
                    self.put_next_block(uffd)?;
                }
            }
            for &address in &addresses {
                let page = self.map.page_of(address).ok_or(FaultError::Outside)?;
                if self.done.has(page) {
                    // Two vCPUs wanted the same chunk; the second may have slept through its arrival.
                    uffd.wake(&(address..address + PAGE_LEN)).map_err(FaultError::Fill)?;
                } else {
                    self.record(page);
                    self.fill(uffd, page)?;
                }
            }
        }
    }

    fn record(&self, page: u32) {
        let mut faulted = self.faulted.lock().unwrap_or_else(PoisonError::into_inner);
        if faulted.len() < MAX_WORKING_SET {
            faulted.push(page);
        }
    }

    /// Puts more of the prefetch file in place.
    fn put_next_block(&mut self, uffd: &Userfault) -> Result<(), FaultError> {
        let Some(file) = self.prefetch.as_mut().filter(|file| !file.is_over()) else {
            self.prefetch = None;
            return Ok(());
        };
        for (page, content) in file.next_block().filter(|(page, _)| self.done.insert(*page)) {
            for range in self.map.host_ranges(&(page..page + 1)) {
                uffd.copy(range.start, content).map_err(FaultError::Fill)?;
            }
        }
        Ok(())
    }

    /// Puts a page in place, and what of its chunk is missing with it: unless whoever asks for that is to be noticed, too.
    fn fill(&mut self, uffd: &Userfault, page: u32) -> Result<(), FaultError> {
        let chunk_pages = self.index.chunk_pages();
        let (number, first) = (page / chunk_pages, page - page % chunk_pages);
        let mask = self.fetch(number)?;
        let all = u64::MAX >> (u64::BITS - chunk_pages);
        let wanted = if self.learn { 1 << (page - first) } else { all & !self.done.mask(first, all) };
        for run in runs(mask & wanted) {
            let before = (mask & ((1 << run.start) - 1)).count_ones() as usize * PAGE_LEN;
            let content = self.content.get(before..before + run.len() * PAGE_LEN).unwrap_or_default();
            for range in self.map.host_ranges(&(first + run.start..first + run.end)) {
                uffd.copy(range.start, content).map_err(FaultError::Fill)?;
            }
        }
        for run in runs(!mask & wanted) {
            for range in self.map.host_ranges(&(first + run.start..first + run.end)) {
                uffd.zero(range).map_err(FaultError::Fill)?;
            }
        }
        runs(wanted).flatten().for_each(|page| {
            self.done.insert(first + page);
        });
        Ok(())
    }

    /// Has the pages of a chunk in `content`, and says which they are.
    fn fetch(&mut self, number: u32) -> Result<PageMask, SourceError> {
        match self.chunk.take() {
            Some((held, mask)) if held == number => self.chunk = Some((held, mask)),
            _ => self.chunk = Some((number, self.source.fetch(number, &mut self.content)?)),
        }
        Ok(self.chunk.map_or(0, |(_, mask)| mask))
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
        let (memory, said, _) = served_to(chunks, fake, false);
        (memory, said)
    }

    /// The same with the pages that were asked for.
    fn served_to(
        chunks: &[(u32, PageMask)],
        fake: Fake,
        learn: bool,
    ) -> (Memory, mpsc::Receiver<String>, Arc<Mutex<Vec<u32>>>) {
        let memory = memory::create(8 << 20).expect("memory");
        let mut index = PageIndex::new(2048, CHUNK_PAGES).expect("index");
        for &(number, mask) in chunks {
            index.push(Chunk { number, mask, tag: [0; 16] }).expect("in order");
        }
        let map = PageMap::new(&memory).expect("map");
        let uffd = Userfault::open().expect("userfaultfd is needed to run the tests");
        let extents = index.extents(1);
        for extent in &extents {
            map.host_ranges(extent).iter().for_each(|range| uffd.register(range).expect("register"));
        }
        let (done, faulted) = (Done::new(map.pages(), extents), Arc::default());
        let saved = SavedMemory { index: Arc::new(index), source: Box::new(fake), prefetch: None, learn };
        let work = Work::new(map, saved, done, Arc::clone(&faulted));
        let (say, said) = mpsc::channel();
        thread::spawn(move || {
            work.serve(&uffd, Box::new(move |words| say.send(words).expect("someone listens")))
        });
        (memory, said, faulted)
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
    fn whoever_is_to_be_learned_from_asks_for_every_page() {
        let chunk = (2, 0b0101);
        for (learn, expected) in [(true, vec![32, 34, 33, 35]), (false, vec![32])] {
            let fake = Fake([(chunk.0, (chunk.1, 0xab))].into());
            let (memory, _said, faulted) = served_to(&[chunk], fake, learn);
            for (page, content) in [(0, 0xab), (2, 0xab), (1, 0), (3, 0)] {
                let found: u8 = memory.read_obj(GuestAddress((32 + page) * PAGE_LEN as u64)).expect("read");
                assert_eq!(found, content, "page {page}");
            }
            assert_eq!(*faulted.lock().expect("whole"), expected);
        }
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
