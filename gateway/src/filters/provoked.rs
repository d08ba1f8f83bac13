//! What libc and the standard library do of themselves in the one thread that there is: they may.

use confined_libc::{Confined, End, Heap, use_heap};

use super::*;

fn under_the_filter(what: impl Fn(Confined<'_>)) {
    what(Confined { filter: &gateway(), heap: Heap::Process, end: End::Process });
}

#[test]
fn the_heap_grows_and_shrinks_and_the_process_ends() {
    under_the_filter(|gateway| gateway.run(use_heap));
}

#[test]
fn an_abort_ends_the_process_by_its_own_signal() {
    under_the_filter(|gateway| gateway.abort());
}

#[test]
fn an_abort_does_so_though_that_signal_is_ignored() {
    let ignored = confined_libc::ignore_aborts;
    under_the_filter(|gateway| gateway.abort_after(ignored));
}
