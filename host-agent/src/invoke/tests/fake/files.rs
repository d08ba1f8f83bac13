//! The files of the fake's snapshots: real ones, of a machine that is no more than whose it is and 16 pages; and contents as a
//! VMM reads them.

use std::{
    fs::File,
    os::{fd::OwnedFd, unix::fs::FileExt},
};

use snapshot::{Chunk, PAGE_LEN, PageIndex, Prefetch, StateReader, StateWriter};
use vmm_api::{Grant, Key};

use crate::chunks::{Handed, tests::read_handed};

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
    for number in 0..PAGES / CHUNK_PAGES {
        index.push(Chunk { number, mask: 0b1111 }).unwrap();
    }
    let mut state = StateWriter::new();
    state.add_bytes(PageIndex::NAME, 0, PageIndex::VERSION, index.encode()).unwrap();
    state.add_bytes(WHOSE, 0, 1, vec![u8::from(of_nobody)]).unwrap();
    [state.finish(&key, &SALT), memory]
}

/// Whether a snapshot is nobody's.
pub(super) fn open(state: &OwnedFd, memory: &[u8], key: &Key) -> bool {
    let file = File::from(state.try_clone().unwrap());
    assert!(file.write_at(b"x", 0).is_err(), "other clones read it");
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let reader = StateReader::open(&bytes, &file_key(key)).unwrap();
    assert_eq!(memory, contents(true, key)[1]);
    reader.bytes(WHOSE, 0, 1).unwrap() == [1]
}

/// The pages of a prefetch content.
pub(super) fn pages_first(prefetch: &[u8]) -> Vec<u32> {
    let len = Prefetch::head_len(prefetch.first_chunk().unwrap()).unwrap();
    let head = Prefetch::decode(&prefetch[..len], PAGES).unwrap();
    for (page, content) in head.pages().iter().zip(prefetch[len..].chunks(PAGE_LEN)) {
        assert_eq!(content, [*page as u8 + 1; PAGE_LEN]);
    }
    head.pages().to_vec()
}

/// All of a content, as a machine would have it.
pub(super) fn read(fds: &[OwnedFd], Grant { table, slots, asks }: &Grant) -> Vec<u8> {
    let [table, slots, asks] = [table, slots, asks].map(|fd| fds[*fd].try_clone().unwrap());
    for fd in [&table, &slots] {
        let file = File::from(fd.try_clone().unwrap());
        assert!(file.write_at(b"x", 0).is_err(), "the agent's alone");
    }
    read_handed(Handed([table, slots, asks])).unwrap()
}
