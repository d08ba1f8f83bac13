//! The proof of uniqueness: clones of one snapshot share nothing that one of them could be told from another by. What is
//! compared, `tests/vm-driver` and the function `tests/functions/unique` say; why it holds, `docs/uniqueness.md`.

use std::collections::BTreeSet;

use crate::host::{self, Finished};

const LIB: &str = "/usr/lib/tinderbox";

/// Clones of one snapshot, unless the environment says another number: a thousand takes more than
/// an hour where KVM is emulated (128 took nine minutes).
const CLONES: usize = 64;
const CLONES_VARIABLE: &str = "TINDERBOX_CLONES";

/// The same of a function in Rust: what a clone gets from gate and kernel it has been looked at in the others.
const CLONES_IN_RUST: usize = 16;

/// Enough to see that clones are the same.
const FEW: usize = 4;

/// What every clone has from its original until the gate replaces it: all of them share it.
const NAMES: [&str; 5] = ["boot_id", "generation", "hostname", "instance_id", "machine_id"];

/// What a generator gives that nobody has rekeyed: the kernel's, in `spinner`, and those in processes, which the others are,
/// the vDSO's among them.
///
/// Not in it, though it comes from the same generators: `getrandom`, `urandom` and `kernel_uuid`, one value each of the stream
/// that the kernel has for a processor, from which the spinner draws at the same time, so that each clone comes upon another
/// place of it; and what the clock goes into (`uuid1`, and OpenSSL in the runtime's process, which is reseeded after a resume
/// and adds the time).
const DRAWN: [&str; 5] = ["openssl_of_older_process", "random", "secrets", "spinner", "uuid4"];

/// The same of the function in Rust, whose libc does not know the vDSO's generator: `rand` is reseeded from the kernel, as
/// above.
const DRAWN_IN_RUST: [&str; 2] = ["rand_of_older_thread", "spinner"];

/// Snapshots to look at: on a host that is slow for a while, clones come to the time at which the kernel rekeys its generator
/// by itself.
const ATTEMPTS: usize = 3;

/// Whether the generation devices tell the kernel of a clone that it is one; the driver's words.
const TOLD: &str = "told";
const UNTOLD: &str = "untold";

fn prove(initrd: &str, clones: usize, kernel: &str, bootstrap: Option<&str>) -> Finished {
    let (driver, clones) = (host::vm_driver(), clones.to_string());
    let mut command = vec![driver.as_str(), "prove", LIB, initrd, &clones, kernel];
    command.extend(bootstrap);
    host::run(&command)
}

#[track_caller]
fn assert_unique(clones: usize, kernel: &str, bootstrap: Option<&str>) {
    let finished = prove(&format!("{LIB}/guest/initrd.cpio"), clones, kernel, bootstrap);
    assert_eq!(finished.code, 0, "{finished:?}");
    assert!(finished.stdout.contains(&format!("{clones} clones, ")), "{finished:?}");
}

fn clones_or(usual: usize) -> usize {
    match std::env::var(CLONES_VARIABLE) {
        Ok(text) => {
            text.parse().unwrap_or_else(|_| panic!("{CLONES_VARIABLE}={text} is no number of clones"))
        }
        Err(_) => usual,
    }
}

/// Fails unless ungated clones of a kernel that is told nothing share all of [`NAMES`], and some two of them each of `drawn`.
#[track_caller]
fn assert_shared_without_the_gate(drawn: &[&str], bootstrap: Option<&str>) {
    let mut unseen: BTreeSet<&str> = drawn.iter().copied().collect();
    for _ in 0..ATTEMPTS {
        let finished = prove(&host::ungated_initrd(), FEW, UNTOLD, bootstrap);
        assert_ne!(finished.code, 0, "{finished:?}");
        for name in NAMES {
            assert!(finished.stderr.contains(&format!("\"{name}\": {}", FEW - 1)), "{name}: {finished:?}");
        }
        unseen.retain(|name| !finished.stderr.contains(&format!("\"{name}\": ")));
        if unseen.is_empty() {
            return;
        }
        eprintln!("not shared: {unseen:?} of {finished:?}");
    }
    panic!("{unseen:?} were different {ATTEMPTS} times, and nothing made them so");
}

#[test]
fn no_two_clones_share_a_value() {
    assert_unique(clones_or(CLONES), TOLD, None);
}

#[test]
fn no_two_clones_of_a_rust_function_share_a_value() {
    assert_unique(clones_or(CLONES_IN_RUST), TOLD, Some(&host::unique_rust()));
}

#[test]
fn the_gate_alone_makes_clones_different() {
    assert_unique(FEW, UNTOLD, None);
}

#[test]
fn without_the_gate_clones_draw_the_same() {
    assert_shared_without_the_gate(&DRAWN, None);
}

#[test]
fn without_the_gate_clones_of_a_rust_function_draw_the_same() {
    assert_shared_without_the_gate(&DRAWN_IN_RUST, Some(&host::unique_rust()));
}
