//! What a clone had to wait for, and what comes of giving it to the next one before it runs.

use std::fs::File;
use std::io::PipeReader;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use snapshot::{PAGE_LEN, PREFETCH_START_LEN, Prefetch, PrefetchWriter, StateReader};
use vmm_api::{LoadConfig, Request, Response, SnapshotConfig, SnapshotKind, Source};

use super::content::{assert_same_memory, bytes_of, file_key};
use super::{
    COUNTER, RECORD_LEN, Snapshot, assert_counts, load_config, prepared, read_more, snapshot_config,
};
use crate::process::Vmm;

/// Pages of the guest.
const PAGES: u32 = 128 << 8;
const COUNTER_PAGE: u32 = COUNTER / PAGE_LEN as u32;

/// VM generation id and VMClock, which are another clone's from the load on.
const GENERATION_PAGES: [u32; 2] = [0xf0, 0xf1];

/// A prefetch file of these pages, as an agent makes it.
fn prefetch_file(snapshot: &Snapshot, pages: Vec<u32>) -> File {
    let state = bytes_of(&snapshot.state);
    let tag = StateReader::open(&state, &file_key()).unwrap().tag();
    let mut writer = PrefetchWriter::new(pages, &file_key(), &tag, [5; 16]).unwrap();
    let (saved, file) = (snapshot.pages(), tempfile::tempfile().unwrap());
    while !writer.next_block().is_empty() {
        let content = |page| saved.get(page).cloned().unwrap_or_else(|| vec![0; PAGE_LEN]);
        let block: Vec<u8> = writer.next_block().iter().flat_map(content).collect();
        let at = writer.push(&block);
        file.write_all_at(&block, at).unwrap();
    }
    file.write_all_at(&writer.finish(), 0).unwrap();
    file
}

/// A clone of the counting guest, with its console.
fn clone_with(snapshot: &Snapshot, vmm: &Vmm, prefetch: &File, config: LoadConfig) -> PipeReader {
    let (reader, writer) = std::io::pipe().unwrap();
    let console: OwnedFd = writer.into();
    let config = LoadConfig { prefetch: Some(Source::Fd(3)), ..config };
    match snapshot.load(vmm, config, &[console.as_fd(), prefetch.as_fd()]) {
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
    let (mut reader, writer) = std::io::pipe().unwrap();
    let console: OwnedFd = writer.into();
    let config = LoadConfig { learn: true, ..load_config() };
    assert!(matches!(snapshot.load(&first, config, &[console.as_fd()]), Response::Loaded(_)));
    read_more(&mut printed, &mut reader);
    assert_counts(&printed);
    let waited = waited_for(&first);
    assert!(waited.len() > 1 && waited.contains(&COUNTER_PAGE), "{waited:?}");

    let (second, mut printed) = (prepared(), before);
    let file = prefetch_file(&snapshot, waited.clone());
    let config = LoadConfig { learn: true, ..load_config() };
    read_more(&mut printed, &mut clone_with(&snapshot, &second, &file, config));
    assert_counts(&printed);
    assert!(waited_for(&second).iter().all(|page| !waited.contains(page)), "{waited:?}");
}

/// More than is put in place before the machine runs, zeros and pages that nothing serves among them, in no order.
fn everything(snapshot: &Snapshot) -> File {
    prefetch_file(snapshot, (0..PAGES).map(|n| n.wrapping_mul(12_347) % PAGES).collect())
}

#[test]
fn all_of_memory_can_be_fetched_first_and_is_what_was_saved() {
    let (snapshot, mut printed) = Snapshot::of_counter();
    let (vmm, file) = (prepared(), everything(&snapshot));
    let paused = LoadConfig { resume: false, ..load_config() };
    let mut console = clone_with(&snapshot, &vmm, &file, paused);
    let [copy, saved] = [Snapshot::take(&vmm).pages(), snapshot.pages()].map(|mut pages| {
        pages.retain(|page, _| !GENERATION_PAGES.contains(page));
        pages
    });
    assert_same_memory(&copy, &saved);
    assert_eq!(vmm.call(&Request::Resume), Response::Ok);
    read_more(&mut printed, &mut console);
    assert_counts(&printed);
}

#[test]
fn what_was_fetched_first_has_not_changed() {
    let (snapshot, mut printed) = Snapshot::of_counter();
    let (vmm, file) = (prepared(), everything(&snapshot));
    let tracked = LoadConfig { track_changes: true, ..load_config() };
    let mut console = clone_with(&snapshot, &vmm, &file, tracked);
    read_more(&mut printed, &mut console);
    assert_eq!(vmm.call(&Request::Pause), Response::Ok);
    let diff = SnapshotConfig { kind: SnapshotKind::Diff, ..snapshot_config() };
    let changes = Snapshot::take_as(&vmm, diff, snapshot.copy_of_memory());
    assert!(changes.report.memory_bytes < snapshot.report.memory_bytes, "{:?}", changes.report);
    assert_same_memory(&changes.pages(), &Snapshot::take(&vmm).pages());
}

#[test]
fn a_file_of_no_use_is_told_of_and_costs_nothing_else() {
    let (snapshot, printed) = Snapshot::of_counter();
    let (other, _) = Snapshot::of_counter();
    let pages: Vec<u32> = snapshot.pages().into_keys().collect();
    let good = bytes_of(&prefetch_file(&snapshot, pages.clone()));
    let head = Prefetch::head_len(good.first_chunk::<PREFETCH_START_LEN>().unwrap()).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    let worse = [
        ("does not begin as one does", vec![0; 8192]),
        ("read the prefetch file", Vec::new()),
        ("read the prefetch file", good[..head / 2].to_vec()),
        ("read the prefetch file", good[..good.len() - 1].to_vec()),
        ("another version", flipped(8)),
        ("number of pages", flipped(15)),
        ("damaged, forged or of another snapshot", flipped(20)),
        ("damaged, forged or of another snapshot", flipped(head - 1)),
        ("a block is not what was written", flipped(good.len() - 1)),
        ("damaged, forged or of another snapshot", bytes_of(&prefetch_file(&other, vec![COUNTER_PAGE]))),
    ];
    for (why, bytes) in worse {
        let (vmm, mut printed) = (prepared(), printed.clone());
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        let mut console = clone_with(&snapshot, &vmm, &file, load_config());
        read_more(&mut printed, &mut console);
        assert_counts(&printed);
        assert_eq!(vmm.call(&Request::Stop), Response::Ok);
        let (status, log) = vmm.wait();
        assert!(status.success() && printed.len() > RECORD_LEN, "{status}, {log}");
        assert!(log.starts_with("vmm: pages are not prefetched: ") && log.contains(why), "{why}: {log}");
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_found_out() {
    let (snapshot, mut printed) = Snapshot::of_counter();
    let (vmm, file) = (prepared(), everything(&snapshot));
    // The last block: it comes when the machine runs.
    let len = file.metadata().unwrap().len();
    file.write_all_at(&[0xee], len - 1).unwrap();
    let mut console = clone_with(&snapshot, &vmm, &file, load_config());
    read_more(&mut printed, &mut console);
    assert_counts(&printed);
    assert_eq!(vmm.call(&Request::Pause), Response::Ok);
    let clone = Snapshot::take(&vmm);
    let written: Vec<_> =
        clone.pages().into_iter().filter(|(_, page)| page.ends_with(&[0xee])).map(|(page, _)| page).collect();
    assert!(written.is_empty(), "{written:?}");
}

#[test]
fn it_is_a_descriptor_of_its_own() {
    let (snapshot, _) = Snapshot::of_counter();
    let vmm = prepared();
    let path = LoadConfig { prefetch: Some(Source::Path("/etc/passwd".into())), ..load_config() };
    assert!(snapshot.refusal(&vmm, path).message.contains("a descriptor is wanted"));
    for fd in [0, 9] {
        let taken = LoadConfig { prefetch: Some(Source::Fd(fd)), ..load_config() };
        let refusal = snapshot.refusal(&vmm, taken);
        assert_eq!(refusal.field.as_deref(), Some("prefetch.fd"), "{refusal:?}");
    }
    snapshot.clone_in(&vmm);
}

#[test]
fn a_machine_that_was_booted_has_waited_for_nothing() {
    assert_eq!(waited_for(&Vmm::spawn()), [0_u32; 0]);
}

#[test]
fn a_machine_that_is_stopped_while_pages_follow_ends_well() {
    let (snapshot, _) = Snapshot::of_counter();
    let file = everything(&snapshot);
    for _ in 0..8 {
        let vmm = prepared();
        let _console = clone_with(&snapshot, &vmm, &file, load_config());
        assert_eq!(vmm.call(&Request::Stop), Response::Ok);
        let (status, log) = vmm.wait();
        assert!(status.success() && log.is_empty(), "{status}, {log}");
    }
}
