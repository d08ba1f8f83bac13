//! The pager's thread at work: answers faults from a snapshot, until it cannot.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use snapshot::{PAGE_LEN, PageIndex, PageMask, runs};
use vmm_api::MAX_WORKING_SET;

use super::pages::{Done, PageMap};
use super::uffd::{self, Userfault};
use super::{LastWords, PageSource, PrefetchContent, SavedMemory, SourceError};
use crate::describe::describe;

/// A snapshot being served.
pub(super) struct Work {
    map: PageMap,
    index: Arc<PageIndex>,
    source: Box<dyn PageSource>,
    prefetch: Option<PrefetchContent>,
    learn: bool,
    done: Done,
    faulted: Arc<Mutex<Vec<u32>>>,
    /// The last chunk that was fetched: its number, which of its pages are not zeros, and all of them.
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
    pub(super) fn new(map: PageMap, saved: SavedMemory, done: Done, faulted: Arc<Mutex<Vec<u32>>>) -> Self {
        let SavedMemory { index, source, prefetch, learn } = saved;
        let content = vec![0; index.chunk_pages() as usize * PAGE_LEN];
        Self { map, index, source, prefetch, learn, done, faulted, chunk: None, content }
    }

    pub(super) fn serve(self, uffd: &Userfault, last_words: LastWords) {
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
            #[cfg(feature = "hostile")]
            crate::hostile::turn(crate::hostile::Thread::Pager);
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

    /// Puts more of the prefetch content in place.
    fn put_next_block(&mut self, uffd: &Userfault) -> Result<(), FaultError> {
        let Some(prefetch) = self.prefetch.as_mut().filter(|prefetch| !prefetch.is_over()) else {
            self.prefetch = None;
            return Ok(());
        };
        for (page, content) in prefetch.next_block().filter(|(page, _)| self.done.insert(*page)) {
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
            let place = run.start as usize * PAGE_LEN..run.end as usize * PAGE_LEN;
            let content = self.content.get(place).unwrap_or_default();
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

    /// Has a chunk in `content`, and says which of its pages are not zeros.
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
    use std::sync::mpsc;
    use std::thread;

    use devices::Memory;
    use snapshot::{Chunk, FormatError};
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::memory;

    /// More pages than the real ones have: holes of all kinds.
    const CHUNK_PAGES: u32 = 16;

    /// What a source leaves where zeros are.
    const LEFT_OVER: u8 = 0xee;

    /// Chunks by number; one that is missing cannot be read.
    struct Fake(BTreeMap<u32, (PageMask, u8)>);

    impl PageSource for Fake {
        fn fetch(&mut self, number: u32, pages: &mut [u8]) -> Result<PageMask, SourceError> {
            let (mask, byte) = *self.0.get(&number).ok_or(FormatError::Index("a lost chunk"))?;
            pages.fill(LEFT_OVER);
            runs(mask).flatten().for_each(|page| pages[page as usize * PAGE_LEN..][..PAGE_LEN].fill(byte));
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
            index.push(Chunk { number, mask }).expect("in order");
        }
        let map = PageMap::new(&memory).expect("map");
        let uffd = Userfault::open(&crate::HostFiles::Paths).expect("userfaultfd is needed to run the tests");
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
        let expected = "the guest's memory cannot be restored: the index of pages is not valid: a lost chunk";
        assert_eq!(words, expected);
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
