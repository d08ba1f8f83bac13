//! What a clone had to wait for, and what comes of giving it to the next one before it runs.

use std::fs::File;
use std::io::PipeReader;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use chunk_store::{ChunkSize, Kind};
use snapshot::{BLOCK_LEN, PAGE_LEN, Prefetch};
use vmm_api::{Grant, LoadConfig, Request, Response, SnapshotConfig, SnapshotKind};

use super::content::assert_same_memory;
use super::{
    CONSOLE, COUNTER, RECORD_LEN, Snapshot, assert_counts, load_config, prepared, read_more, snapshot_config,
};
use crate::process::Vmm;
use crate::store::{Content, grant};

/// Pages of the guest.
const PAGES: u32 = 128 << 8;
const COUNTER_PAGE: u32 = COUNTER / PAGE_LEN as u32;

/// VM generation id and VMClock, which are another clone's from the load on.
const GENERATION_PAGES: [u32; 2] = [0xf0, 0xf1];

/// A prefetch content of these pages in the clear, as an agent makes it.
fn prefetch_bytes(snapshot: &Snapshot, pages: &[u32]) -> Vec<u8> {
    let saved = snapshot.pages();
    let (pages, zeros): (Vec<u32>, Vec<u32>) = pages.iter().partition(|page| saved.contains_key(page));
    let content = pages.iter().flat_map(|page| saved[page].clone());
    Prefetch::encode(&pages, &zeros).unwrap().into_iter().chain(content).collect()
}

fn sealed(bytes: &[u8]) -> Content {
    Content::seal(&file_of(bytes), Kind::Prefetch, ChunkSize::IMAGE)
}

fn file_of(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn prefetch_of(snapshot: &Snapshot, pages: &[u32]) -> Content {
    sealed(&prefetch_bytes(snapshot, pages))
}

/// A clone of the counting guest, with its console.
fn clone_with(snapshot: &Snapshot, vmm: &Vmm, prefetch: &Content, config: LoadConfig) -> PipeReader {
    let (reader, writer) = std::io::pipe().unwrap();
    let console: OwnedFd = writer.into();
    let config = LoadConfig { prefetch: Some(grant(CONSOLE + 1)), ..config };
    let prefetch = prefetch.handed();
    let [table, slots, asks] = prefetch.each_ref().map(AsFd::as_fd);
    match snapshot.load(vmm, config, &[console.as_fd(), table, slots, asks]) {
        Response::Loaded(_) => reader,
        other => panic!("not loaded: {other:?}"),
    }
}

fn waited_for(vmm: &Vmm) -> Vec<u32> {
    match vmm.call(&Request::WorkingSet) {
        Response::WorkingSet(list) => list.pages,
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
    let prefetch = prefetch_of(&snapshot, &waited);
    let config = LoadConfig { learn: true, ..load_config() };
    read_more(&mut printed, &mut clone_with(&snapshot, &second, &prefetch, config));
    assert_counts(&printed);
    assert!(waited_for(&second).iter().all(|page| !waited.contains(page)), "{waited:?}");
}

/// More than is put in place before the machine runs, zeros and pages that nothing serves among them, in no order.
fn everything(snapshot: &Snapshot) -> Content {
    let pages: Vec<u32> = (0..PAGES).map(|n| n.wrapping_mul(12_347) % PAGES).collect();
    prefetch_of(snapshot, &pages)
}

#[test]
fn all_of_memory_can_be_fetched_first_and_is_what_was_saved() {
    let (snapshot, mut printed) = Snapshot::of_counter();
    let (vmm, prefetch) = (prepared(), everything(&snapshot));
    let paused = LoadConfig { resume: false, ..load_config() };
    let mut console = clone_with(&snapshot, &vmm, &prefetch, paused);
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
    let (vmm, prefetch) = (prepared(), everything(&snapshot));
    let tracked = LoadConfig { track_changes: true, ..load_config() };
    let mut console = clone_with(&snapshot, &vmm, &prefetch, tracked);
    read_more(&mut printed, &mut console);
    assert_eq!(vmm.call(&Request::Pause), Response::Ok);
    let diff = SnapshotConfig { kind: SnapshotKind::Diff, ..snapshot_config() };
    let changes = Snapshot::take_as(&vmm, diff, snapshot.copy_of_memory());
    assert!(changes.report.memory_bytes < snapshot.report.memory_bytes, "{:?}", changes.report);
    assert_same_memory(&changes.pages(), &Snapshot::take(&vmm).pages());
}

/// A content that is lost from this chunk on.
fn cut_off(bytes: &[u8], chunk: usize) -> Content {
    let content = sealed(bytes);
    content.slots().set_len((chunk * BLOCK_LEN) as u64).unwrap();
    content
}

#[test]
fn a_content_of_no_use_is_told_of_and_costs_nothing_else() {
    let (snapshot, printed) = Snapshot::of_counter();
    let pages: Vec<u32> = snapshot.pages().into_keys().collect();
    let good = prefetch_bytes(&snapshot, &pages);
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x40;
        sealed(&bytes)
    };
    let worse = [
        ("does not begin as one does", sealed(&[0; 8192])),
        ("of no use: length", sealed(&good[..4])),
        ("of no use: length", sealed(&good[..BLOCK_LEN / 2])),
        ("of no use: length", sealed(&good[..good.len() - 1])),
        ("another version", flipped(8)),
        ("number of pages", flipped(15)),
        ("number of pages", flipped(19)),
        ("a page outside of memory", flipped(23)),
        ("bytes that mean nothing", flipped(BLOCK_LEN - 1)),
        ("length of a chunk", Content::seal(&file_of(&good), Kind::Prefetch, ChunkSize::MEMORY)),
        ("read the prefetch content: ask for chunk 0", cut_off(&good, 0)),
        ("read the prefetch content: ask for chunk 1", cut_off(&good, 1)),
    ];
    for (why, prefetch) in worse {
        let (vmm, mut printed) = (prepared(), printed.clone());
        let mut console = clone_with(&snapshot, &vmm, &prefetch, load_config());
        read_more(&mut printed, &mut console);
        assert_counts(&printed);
        assert_eq!(vmm.call(&Request::Stop), Response::Ok);
        let (status, log) = vmm.wait();
        assert!(status.success() && printed.len() > RECORD_LEN, "{status}, {log}");
        assert!(log.starts_with("vmm: pages are not prefetched: ") && log.contains(why), "{why}: {log}");
    }
}

#[test]
fn a_chunk_that_is_damaged_while_it_is_read_is_not_used() {
    let (snapshot, mut printed) = Snapshot::of_counter();
    let bytes = vec![0xee; PAGE_LEN];
    let pages: Vec<u32> = (0..PAGES / 2).collect();
    // All pages in it are wrong, but for those that are put in place before the machine runs.
    let saved = snapshot.pages();
    let as_saved =
        pages.iter().flat_map(|page| saved.get(page).cloned().unwrap_or_else(|| vec![0; PAGE_LEN]));
    let mut content: Vec<u8> = Prefetch::encode(&pages, &[]).unwrap().into_iter().chain(as_saved).collect();
    let at = content.len() - pages.len() * PAGE_LEN;
    let late = at + (8192 * PAGE_LEN);
    content[late..].chunks_mut(PAGE_LEN).for_each(|page| page.copy_from_slice(&bytes));
    let prefetch = sealed(&content);
    prefetch.damage((late / BLOCK_LEN) as u32);
    let vmm = prepared();
    let mut console = clone_with(&snapshot, &vmm, &prefetch, load_config());
    read_more(&mut printed, &mut console);
    assert_counts(&printed);
    assert_eq!(vmm.call(&Request::Pause), Response::Ok);
    let clone = Snapshot::take(&vmm);
    let written: Vec<_> =
        clone.pages().into_iter().filter(|(_, page)| *page == bytes).map(|(page, _)| page).collect();
    assert!(written.is_empty(), "{written:?}");
}

#[test]
fn its_descriptors_are_its_own_and_its_kind_is_that_of_no_other() {
    let (snapshot, _) = Snapshot::of_counter();
    let vmm = prepared();
    for (grant, field) in [
        (grant(1), "prefetch.table"),
        (grant(99), "prefetch.table"),
        (Grant { table: CONSOLE, slots: 0, asks: 3 }, "prefetch.slots"),
    ] {
        let config = LoadConfig { prefetch: Some(grant), ..load_config() };
        let refusal = snapshot.refusal_with(&vmm, config, &[std::io::stdin().as_fd()]);
        assert_eq!(refusal.field.as_deref(), Some(field), "{refusal:?}");
    }
    let config = LoadConfig { prefetch: Some(grant(CONSOLE)), ..load_config() };
    let memory = snapshot.content().handed();
    let refusal = snapshot.refusal_with(&vmm, config, &memory.each_ref().map(AsFd::as_fd));
    assert_eq!(refusal.field.as_deref(), Some("prefetch"), "{refusal:?}");
    snapshot.clone_in(&vmm);
}

#[test]
fn a_machine_that_was_booted_has_waited_for_nothing() {
    assert_eq!(waited_for(&Vmm::spawn()), [0_u32; 0]);
}

#[test]
fn a_machine_that_is_stopped_while_pages_follow_ends_well() {
    let (snapshot, _) = Snapshot::of_counter();
    let prefetch = everything(&snapshot);
    for _ in 0..8 {
        let vmm = prepared();
        let _console = clone_with(&snapshot, &vmm, &prefetch, load_config());
        assert_eq!(vmm.call(&Request::Stop), Response::Ok);
        let (status, log) = vmm.wait();
        assert!(status.success() && log.is_empty(), "{status}, {log}");
    }
}
