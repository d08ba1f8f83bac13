//! What a guest cannot be brought to do at will, done to a confined pager; `cargo xtask seccomp` runs this, too.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use snapshot::{Chunk, PAGE_LEN, PageIndex, PageMask};
use vm_memory::{Bytes, GuestAddress};

use super::{LastWords, PageSource, Pager, SavedMemory, SourceError, Userfault};
use crate::confine::{self, Role};
use crate::memory;

const CHUNK_PAGES: u32 = 4;
const CHUNK_LEN: usize = CHUNK_PAGES as usize * PAGE_LEN;

/// Chunks that are their number; of the first, it says that it is wanted, and has it when it may.
struct Held {
    wanted: Sender<()>,
    go: Receiver<()>,
}

impl PageSource for Held {
    fn fetch(&mut self, number: u32, pages: &mut [u8]) -> Result<PageMask, SourceError> {
        if number == 0 {
            self.wanted.send(()).expect("the test waits");
            self.go.recv().expect("the test goes on");
        }
        pages.fill(number as u8 + 1);
        Ok(0b1111)
    }
}

/// Both are read at once, and the second finds its page in place.
#[test]
fn two_that_want_one_chunk_while_the_pager_fetches_another_both_go_on() {
    let memory = memory::create(1 << 20).expect("memory");
    let mut index = PageIndex::new((1 << 20) / PAGE_LEN as u32, CHUNK_PAGES).expect("index");
    for number in 0..2 {
        index.push(Chunk { number, mask: 0b1111 }).expect("in order");
    }
    let uffd = Userfault::open(&crate::HostFiles::Paths).expect("userfaultfd is needed to run the tests");
    let filter = confine::filters(Role::Load).expect("compile").pager;
    let last_words: LastWords = Box::new(|words| panic!("{words}"));
    let pager = Pager::spawn(uffd, filter, last_words).expect("a pager");
    let ((wanted, is_wanted), (release, go)) = (mpsc::channel(), mpsc::channel());
    let source = Box::new(Held { wanted, go });
    let saved = SavedMemory { index: Arc::new(index), source, prefetch: None, learn: false };
    pager.serve(&memory, saved).expect("served");
    let read = |at: usize| {
        let memory = memory.clone();
        thread::spawn(move || memory.read_obj::<u8>(GuestAddress(at as u64)).expect("read"))
    };
    let first = read(0);
    is_wanted.recv().expect("the first chunk is wanted");
    let others = [read(CHUNK_LEN), read(CHUNK_LEN)];
    while pager.uffd.pending() < others.len() {
        thread::yield_now();
    }
    release.send(()).expect("the pager waits");
    assert_eq!(first.join().expect("no panic"), 1);
    assert_eq!(others.map(|other| other.join().expect("no panic")), [2, 2]);
}
