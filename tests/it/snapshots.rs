//! Snapshots of real Linux guests, on a booted test host: clones count on where their original was, on every processor,
//! with time that never goes back, with other disks of which they may write one, with new connections to the host.
//!
//! The guest is `tests/guest-probe`, what drives it `tests/vm-driver`; both complain, this only listens.

use crate::host;

/// `clones` at once of a guest with so many processors and so much memory.
fn clones_go_on(vcpus: u32, mib: u32, clones: u32, kind: &str) {
    let numbers = [vcpus, mib, clones].map(|number| number.to_string());
    let (driver, initrd) = (host::vm_driver(), host::probe_initrd());
    let [vcpus, mib, clones] = &numbers;
    let finished = host::run(&[
        &driver,
        "/usr/lib/tinderbox/vmm",
        "/usr/lib/tinderbox/guest/vmlinux",
        &initrd,
        vcpus,
        mib,
        clones,
        kind,
    ]);
    assert_eq!(finished.code, 0, "{finished:?}");
    println!("{}", finished.stdout);
}

#[test]
fn clones_of_a_small_guest_go_on() {
    clones_go_on(1, 128, 4, "full");
}

#[test]
fn clones_with_several_processors_and_memory_beyond_the_hole_go_on() {
    clones_go_on(4, 4096, 2, "full");
}

#[test]
fn clones_of_changes_go_on() {
    clones_go_on(2, 256, 2, "diff");
}
