//! The files of the fake's snapshots: real ones, of a machine that is no more than whose it is and 16 pages.

use std::{
    fs::File,
    os::{fd::OwnedFd, unix::fs::FileExt},
};

use snapshot::{Chunk, PAGE_LEN, PREFETCH_START_LEN, PageIndex, Prefetch, StateReader, StateWriter, Tag};
use vmm_api::Key;

const PAGES: u32 = 16;
const CHUNK_PAGES: u32 = 4;
const SALT: [u8; 16] = [6; 16];
/// The section that says whose it is.
const WHOSE: &str = "whose";

fn file_key(key: &Key) -> snapshot::Key {
    snapshot::Key::new(*key.bytes())
}

/// State file and memory file.
pub(super) fn contents(of_nobody: bool, key: &Key) -> [Vec<u8>; 2] {
    let (key, mut index) = (file_key(key), PageIndex::new(PAGES, CHUNK_PAGES).unwrap());
    let memory: Vec<u8> = (1..=PAGES as u8).flat_map(|page| [page; PAGE_LEN]).collect();
    for (number, content) in (0..).zip(memory.chunks(CHUNK_PAGES as usize * PAGE_LEN)) {
        let tag = key.chunk_sealer(&SALT).tag(number, 0b1111, content);
        index.push(Chunk { number, mask: 0b1111, tag }).unwrap();
    }
    let mut state = StateWriter::new();
    state.add_bytes(PageIndex::NAME, 0, PageIndex::VERSION, index.encode()).unwrap();
    state.add_bytes(WHOSE, 0, 1, vec![u8::from(of_nobody)]).unwrap();
    [state.finish(&key, &SALT), memory]
}

/// Whether a snapshot is nobody's, and its state's tag.
pub(super) fn open(state: &OwnedFd, memory: &OwnedFd, key: &Key) -> (bool, Tag) {
    let bytes = start_of(state, len(state));
    let reader = StateReader::open(&bytes, &file_key(key)).unwrap();
    assert_eq!(len(memory), PAGES as usize * PAGE_LEN);
    (reader.bytes(WHOSE, 0, 1).unwrap() == [1], reader.tag())
}

/// The pages of a prefetch file.
pub(super) fn pages_first(prefetch: &OwnedFd, key: &Key, state_tag: &Tag) -> Vec<u32> {
    let start = start_of(prefetch, PREFETCH_START_LEN);
    let head = start_of(prefetch, Prefetch::head_len(start.first_chunk().unwrap()).unwrap());
    Prefetch::open(&head, &file_key(key), state_tag, PAGES).unwrap().pages().to_vec()
}

fn len(fd: &OwnedFd) -> usize {
    File::from(fd.try_clone().unwrap()).metadata().unwrap().len() as usize
}

fn start_of(fd: &OwnedFd, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    File::from(fd.try_clone().unwrap()).read_exact_at(&mut bytes, 0).unwrap();
    bytes
}
