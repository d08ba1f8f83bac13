//! Working sets: what a clone had to wait for, and what comes of a list that is given to the next one.

use std::io::{PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};

use vmm_api::{LoadConfig, MAX_WORKING_SET, Request, Response, WorkingSet};

use super::{COUNTER, RECORD_LEN, Snapshot, assert_counts, load_config, prepared, read_more};
use crate::process::Vmm;

/// Bytes of a chunk.
const CHUNK_LEN: u32 = 16 << 10;

fn clone_with(snapshot: &Snapshot, vmm: &Vmm, list: &[u32]) -> PipeReader {
    let (reader, writer) = std::io::pipe().unwrap();
    let console: OwnedFd = writer.into();
    let config = LoadConfig { working_set: WorkingSet(list.to_vec()), ..load_config() };
    match snapshot.load(vmm, config, &[console.as_fd()]) {
        Response::Loaded(_) => reader,
        other => panic!("not loaded: {other:?}"),
    }
}

fn waited_for(vmm: &Vmm) -> Vec<u32> {
    match vmm.call(&Request::WorkingSet) {
        Response::WorkingSet(list) => list.0,
        other => panic!("no working set: {other:?}"),
    }
}

#[test]
fn what_one_clone_waits_for_the_next_one_has() {
    let (snapshot, mut printed) = Snapshot::of_counter();
    let before = printed.clone();
    let first = prepared();
    read_more(&mut printed, &mut clone_with(&snapshot, &first, &[]));
    assert_counts(&printed);
    let waited = waited_for(&first);
    assert!(waited.contains(&(COUNTER / CHUNK_LEN)), "{waited:?}");

    let (second, mut printed) = (prepared(), before);
    read_more(&mut printed, &mut clone_with(&snapshot, &second, &waited));
    assert_counts(&printed);
    // The rest of the list comes with the first chunk that somebody waits for.
    assert!(waited.len() > 1 && waited_for(&second).len() <= 1, "{waited:?}, {:?}", waited_for(&second));
}

#[test]
fn a_wrong_list_does_no_harm() {
    let (snapshot, printed) = Snapshot::of_counter();
    let nonsense: Vec<u32> = [u32::MAX, 0, 0, 128 << 20, 1].into_iter().chain(1000..6000).collect();
    let longest = nonsense[..MAX_WORKING_SET].to_vec();
    for list in [longest, vec![COUNTER / CHUNK_LEN; 8], nonsense] {
        let (vmm, mut printed) = (prepared(), printed.clone());
        let mut console = clone_with(&snapshot, &vmm, &list);
        read_more(&mut printed, &mut console);
        assert_counts(&printed);
        assert_eq!(vmm.call(&Request::Stop), Response::Ok);
        console.read_to_end(&mut printed).unwrap();
        assert!(printed.len() >= RECORD_LEN && vmm.wait().0.success());
    }
}

#[test]
fn a_machine_that_was_booted_has_waited_for_nothing() {
    assert_eq!(waited_for(&Vmm::spawn()), [0_u32; 0]);
}
