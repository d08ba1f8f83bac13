//! Pages that are in place before anything runs, put there by the two threads that have nothing else to do meanwhile: the one that
//! loads, and the pager's. While one waits for a disk, or where there is a processor for each, both get on.

use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use devices::Memory;
use snapshot::{BLOCK_PAGES, PAGE_LEN, Prefetch};

use super::pages::Done;
use super::prefetch::{Blocks, PrefetchError};
use crate::memory::{self, MemoryError};

/// Blocks that one thread takes at a time: as many as it reads together.
const TURN: usize = 4;

/// The first blocks of a prefetch content on their way into memory that nothing runs in yet, and of which no range is registered:
/// a page that is there already never faults.
pub(super) struct Fill {
    memory: Memory,
    head: Arc<Prefetch>,
    /// How many.
    blocks: usize,
    /// The first that nobody has taken.
    next: AtomicUsize,
    done: Mutex<Done>,
}

/// Blocks that a thread could not read; or why there is no place for one.
type Left = Result<Vec<usize>, MemoryError>;

/// For a thread that helps.
pub(super) struct Help {
    fill: Arc<Fill>,
    blocks: Blocks,
    left: Sender<Left>,
}

/// A block that is not in place.
#[derive(Debug, thiserror::Error)]
pub(super) enum FillError {
    /// It cannot be had.
    #[error(transparent)]
    Content(#[from] PrefetchError),
    /// There is no place for it.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl Fill {
    pub(super) fn new(memory: Memory, head: Arc<Prefetch>, blocks: usize, done: Done) -> Arc<Self> {
        Arc::new(Self { memory, head, blocks, next: AtomicUsize::new(0), done: Mutex::new(done) })
    }

    /// What a second thread is to do, if there is enough for two, and where it then tells what it has left.
    pub(super) fn help(self: &Arc<Self>, blocks: &Blocks) -> Option<(Help, Receiver<Left>)> {
        // Without descriptors for two, one does it.
        let blocks = blocks.try_clone().ok().filter(|_| self.blocks > TURN)?;
        let (left, told) = mpsc::channel();
        Some((Help { fill: Arc::clone(self), blocks, left }, told))
    }

    /// Puts blocks in place as long as there are any that nobody has taken, read by `read`: `false` leaves one, and those are given.
    pub(super) fn work(
        &self,
        mut read: impl FnMut(usize, &mut Vec<u8>) -> Result<bool, PrefetchError>,
    ) -> Result<Vec<usize>, FillError> {
        let (mut content, mut left) = (Vec::new(), Vec::new());
        while let Some(turn) = self.take() {
            for number in turn {
                // Whoever fails has the other one end.
                let is_read = read(number, &mut content)
                    .inspect_err(|_| self.next.store(self.blocks, Ordering::Relaxed));
                if is_read? {
                    self.put(number, &content)?;
                } else {
                    left.push(number);
                }
            }
        }
        Ok(left)
    }

    /// Puts a block in place, of which what is there already and what nobody serves is left out.
    pub(super) fn put(&self, number: usize, content: &[u8]) -> Result<(), MemoryError> {
        let pages = self.head.pages().chunks(BLOCK_PAGES).nth(number).unwrap_or_default();
        let mut wanted = [false; BLOCK_PAGES];
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.iter_mut().zip(pages).for_each(|(wanted, page)| *wanted = done.insert(*page));
        drop(done);
        for ((page, content), _) in
            pages.iter().zip(content.chunks(PAGE_LEN)).zip(wanted).filter(|(_, wanted)| *wanted)
        {
            memory::write_page(&self.memory, *page, content)?;
        }
        Ok(())
    }

    /// What is in place, when nobody works any more.
    pub(super) fn done(&self) -> Done {
        mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&self) -> Option<Range<usize>> {
        let first = self.next.fetch_add(TURN, Ordering::Relaxed);
        (first < self.blocks).then(|| first..self.blocks.min(first + TURN))
    }
}

impl Help {
    /// Reads what is on the node. There is one socket to ask for what is not, and the other thread has it.
    pub(super) fn give(self) {
        let Self { fill, mut blocks, left } = self;
        let worked = fill.work(|number, content| Ok(blocks.read_here(number, content)));
        let told = match worked {
            Ok(left) => Ok(left),
            Err(FillError::Memory(error)) => Err(error),
            // Reading does not fail here.
            Err(FillError::Content(_)) => Ok(Vec::new()),
        };
        // Nobody waits for it when the process is ending.
        let _ = left.send(told);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    const PAGES: u32 = 1000;

    fn fill(pages: &[u32]) -> Arc<Fill> {
        let head = Prefetch::encode(pages, &[]).unwrap();
        let head = Prefetch::decode(&head, PAGES).unwrap();
        let memory = memory::create(u64::from(PAGES) * PAGE_LEN as u64).unwrap();
        // Nobody serves the last hundred.
        let done = Done::new(PAGES.into(), vec![0..500, 500..PAGES - 100]);
        Fill::new(memory, Arc::new(head), pages.len().div_ceil(BLOCK_PAGES), done)
    }

    /// Each page its number.
    fn block(pages: &[u32], number: usize, content: &mut Vec<u8>) {
        content.clear();
        let pages = pages.chunks(BLOCK_PAGES).nth(number).unwrap();
        pages.iter().for_each(|page| content.extend([*page as u8 | 1; PAGE_LEN]));
    }

    fn first_byte(fill: &Fill, page: u32) -> u8 {
        fill.memory.read_obj(GuestAddress(u64::from(page) * PAGE_LEN as u64)).unwrap()
    }

    #[test]
    fn two_put_each_page_in_its_place_and_what_neither_can_read_is_left() {
        let pages: Vec<u32> = (0..PAGES).rev().step_by(2).collect();
        let fill = fill(&pages);
        let work = || {
            let read = |number, content: &mut Vec<u8>| {
                block(&pages, number, content);
                Ok(number % 7 != 3)
            };
            fill.work(read).unwrap()
        };
        let mut left = thread::scope(|scope| {
            let other = scope.spawn(work);
            let mine = work();
            [mine, other.join().unwrap()].concat()
        });
        left.sort_unstable();
        assert_eq!(left, [3, 10, 17, 24, 31]);
        let mut content = Vec::new();
        for number in left {
            block(&pages, number, &mut content);
            fill.put(number, &content).unwrap();
        }
        let done = fill.done();
        for page in 0..PAGES {
            let is_wanted = page % 2 == 1 && page < PAGES - 100;
            assert_eq!(done.has(page), is_wanted, "page {page}");
            assert_eq!(first_byte(&fill, page), if is_wanted { page as u8 | 1 } else { 0 }, "page {page}");
        }
    }

    #[test]
    fn one_that_fails_is_the_end_of_both() {
        let pages: Vec<u32> = (0..800).collect();
        let fill = fill(&pages);
        let mut read = 0;
        let failed = fill.work(|number, content| {
            block(&pages, number, content);
            read += 1;
            if number == 5 { Err(snapshot::FormatError::Prefetch("damaged").into()) } else { Ok(true) }
        });
        assert!(matches!(failed, Err(FillError::Content(_))) && read == 6);
        assert!(fill.work(|_, _| panic!("there is nothing more to do")).unwrap().is_empty());
        assert!(fill.done().has(79) && first_byte(&fill, 80) == 0);
    }

    #[test]
    fn what_is_there_already_is_left_alone() {
        let fill = fill(&[7, 8]);
        assert!(fill.done.lock().unwrap().insert(7));
        fill.put(0, &[9; 2 * PAGE_LEN]).unwrap();
        assert_eq!((first_byte(&fill, 7), first_byte(&fill, 8)), (0, 9));
    }
}
