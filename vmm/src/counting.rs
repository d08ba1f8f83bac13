//! The allocator of this crate's own tests: the C library's, with a count of what a thread has asked for.

#![expect(unsafe_code, reason = "an allocator is unsafe to implement")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ASKED_FOR: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it came, and so do its answers. The counter is a word of the thread
// without a destructor: it is there for as long as the thread is, and counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED_FOR.set(ASKED_FOR.get().wrapping_add(layout.size()));
        // SAFETY: the caller vouches for the layout, which is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the memory is the system's, as all that `alloc` has given, and the caller vouches for the layout.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// What `work` yields, and how many bytes it has asked for, freed or not.
pub(crate) fn count<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = ASKED_FOR.get();
    let done = work();
    (done, ASKED_FOR.get().wrapping_sub(before))
}
