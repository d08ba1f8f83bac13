//! The proof of uniqueness: clones of one snapshot share nothing that one of them could be told from another by. What is
//! compared, `tests/vm-driver` and the function `tests/functions/unique` say; why it holds, `docs/uniqueness.md`.

use crate::host::{self, Finished};

const LIB: &str = "/usr/lib/tinderbox";

/// Clones of one snapshot, unless the environment says another number: a thousand takes the better part of an hour.
const CLONES: usize = 64;
const CLONES_VARIABLE: &str = "TINDERBOX_CLONES";

/// Enough to see that clones are the same.
const FEW: usize = 4;

fn prove(initrd: &str, clones: usize, bootstrap: Option<String>) -> Finished {
    let (driver, clones) = (host::vm_driver(), clones.to_string());
    let mut command = vec![driver.as_str(), "prove", LIB, initrd, &clones];
    command.extend(bootstrap.as_deref());
    host::run(&command)
}

#[track_caller]
fn assert_unique(bootstrap: Option<String>) {
    let clones = std::env::var(CLONES_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(CLONES);
    let finished = prove(&format!("{LIB}/guest/initrd.cpio"), clones, bootstrap);
    assert_eq!(finished.code, 0, "{finished:?}");
    finished.stdout.lines().filter(|line| line.contains("clone lost")).for_each(|line| eprintln!("{line}"));
    assert!(finished.stdout.contains(&format!("{clones} clones, ")), "{finished:?}");
}

#[test]
fn no_two_clones_share_a_value() {
    assert_unique(None);
}

#[test]
fn no_two_clones_of_a_rust_function_share_a_value() {
    assert_unique(Some(host::unique_rust()));
}

#[test]
fn without_the_gate_they_do() {
    let finished = prove(&host::ungated_initrd(), FEW, None);
    assert_ne!(finished.code, 0, "{finished:?}");
    for shared in ["boot_id", "generation", "hostname", "instance_id", "machine_id"] {
        assert!(finished.stderr.contains(&format!("\"{shared}\": {}", FEW - 1)), "{shared}: {finished:?}");
    }
}
