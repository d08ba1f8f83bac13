//! Fills the memory of a machine that was loaded.
//!
//! * The pages that its snapshot's prefetch content lists first are written before anything runs, by the thread that loads and this
//!   one (`fill`): bulk reading and checking, and no fault.
//! * Ranges that hold pages of the snapshot are registered with a userfaultfd then; in between, long ranges of zeros are left
//!   to the host's kernel, which needs no help with them. One thread answers a fault with the page's whole chunk, and puts the
//!   rest of the prefetch content in place while nobody waits.
//!
//! What is read are chunks of the store, which are encrypted wherever others see them. Every page in the clear is private to this
//! machine: none is shared with a file or with another clone.
//!
//! A page that cannot be had is the end of the process, and it is this thread that ends it: the I/O thread may itself be
//! waiting for a page, and a guest must neither hang nor read something else instead.

mod fill;
mod pages;
mod prefetch;
#[cfg(test)]
mod provoked;
mod source;
mod uffd;
mod work;

use std::io;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use devices::Memory;
use jail::CompiledFilter;
use snapshot::PageIndex;

use crate::memory::{self, MemoryError};
use fill::Help;
use pages::{Done, PageMap};
pub(crate) use prefetch::{PrefetchContent, usable};
pub(crate) use source::{PageSource, SourceError, StoredPages};
pub(crate) use uffd::Userfault;
use work::Work;

/// Pages of a chunk in the snapshots that this program takes: 16 KiB, as the store cuts memory. Read and verified at once, so it
/// is what a fault costs, and how many faults there are where no prefetch content takes them away.
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

/// What the thread is there for.
enum Task {
    /// To help to put pages in place, as long as nobody waits for one.
    Help(Help),
    /// To answer whoever does, from then on.
    Serve(Work),
}

/// The I/O thread's end of the pager.
pub(crate) struct Pager {
    uffd: Arc<Userfault>,
    tasks: Sender<Task>,
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
        let (tasks, inbox) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let faults = Arc::clone(&uffd);
        let body = move || {
            let confined = filter.apply();
            let go = confined.is_ok();
            // The waiting side is gone only when the process is ending, and so is the sender of work.
            let _ = ready.send(confined);
            while go && let Ok(task) = inbox.recv() {
                match task {
                    Task::Help(help) => help.give(),
                    Task::Serve(work) => return work.serve(&faults, last_words),
                }
            }
        };
        thread::Builder::new()
            .name("pager".into())
            .stack_size(STACK_LEN)
            .spawn(body)
            .map_err(PagerError::Spawn)?;
        is_ready.recv().map_err(|_| PagerError::Gone)?.map_err(PagerError::Confine)?;
        Ok(Self { uffd, tasks, index: OnceLock::new(), faulted: Arc::default() })
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
        if let Some(content) = &mut saved.prefetch {
            for range in &ranges {
                memory::by_small_pages(range)?;
            }
            let helper = |help| self.tasks.send(Task::Help(help)).map_err(|_| PagerError::Gone);
            done = content.write_first(memory, done, helper)?;
        }
        for range in ranges {
            let failed = |source| PagerError::Register { len: range.len(), source };
            self.uffd.register(&range).map_err(failed)?;
        }
        let work = Work::new(map, saved, done, Arc::clone(&self.faulted));
        // Set once: a machine is loaded once.
        let _ = self.index.set(index);
        self.tasks.send(Task::Serve(work)).map_err(|_| PagerError::Gone)
    }

    /// The first [`vmm_api::MAX_WORKING_SET`] pages that somebody had to wait for.
    pub(crate) fn faulted(&self) -> Vec<u32> {
        self.faulted.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
    pub(crate) prefetch: Option<PrefetchContent>,
    /// Whether every page that is asked for is to be told.
    pub(crate) learn: bool,
}
