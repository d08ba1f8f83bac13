//! What libc and the standard library do of themselves in a thread that is confined: they may.

use confined_libc::{Confined, End, Heap, read_clock, use_heap};

use super::*;

/// Each kind of thread, as it ends. There is one heap (`allocator`).
fn under_each(what: impl Fn(Confined<'_>)) {
    let kinds = [
        (vcpu_filter(Role::Load), End::Thread),
        (io_filter(Role::Load), End::Process),
        (pager_filter(), End::Thread),
        // In force in all of them, and before they have their own.
        (jail::sandbox_filter(), End::Thread),
    ];
    for (filter, end) in kinds {
        what(Confined { filter: &filter, heap: Heap::Process, end });
    }
}

#[test]
fn a_heap_grows_and_shrinks() {
    under_each(|thread| thread.run(use_heap));
}

#[test]
fn the_clock_is_read_without_the_vdso() {
    under_each(|thread| thread.run(read_clock));
}

#[test]
fn whoever_meets_another_at_a_channel_gives_way() {
    under_each(|thread| thread.run(std::thread::yield_now));
}

#[test]
fn an_abort_ends_the_process_by_its_own_signal() {
    under_each(|thread| thread.abort());
}
