//! What is in the files of a snapshot, by `docs/snapshot-format.md`: sections that can be changed and sealed again, pages that
//! can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use snapshot::{PAGE_LEN, PageIndex, StateReader, StateWriter, runs};

use super::{Snapshot, key};

const HEADER_LEN: usize = 64;
const SECTION_HEADER_LEN: usize = 40;
const TAG_LEN: usize = 16;
const AT_SALT: usize = 32;

/// One section of a state file.
#[derive(Clone)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) instance: u32,
    pub(super) version: u32,
    /// Where it begins in the file, with its header.
    pub(super) at: usize,
    pub(super) bytes: Vec<u8>,
}

impl Section {
    /// With its header.
    pub(super) fn len(&self) -> usize {
        SECTION_HEADER_LEN + self.bytes.len()
    }
}

/// The sections of a file, in its order.
pub(super) fn sections(file: &[u8]) -> Vec<Section> {
    let mut found = Vec::new();
    let mut at = HEADER_LEN;
    while at < file.len() - TAG_LEN {
        let header = &file[at..at + SECTION_HEADER_LEN];
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let name = std::str::from_utf8(&header[..24]).unwrap().trim_end_matches('\0');
        let len = word(32) as usize;
        let bytes = file[at + SECTION_HEADER_LEN..at + SECTION_HEADER_LEN + len].to_vec();
        // The writer wants names that live as long as the program, as this test does.
        let name = Box::leak(name.to_owned().into_boxed_str());
        found.push(Section { name, instance: word(24), version: word(28), at, bytes });
        at += SECTION_HEADER_LEN + len;
    }
    found
}

/// A file of these sections with the salt of `original`, as somebody with the key would write it.
pub(super) fn sealed(original: &[u8], sections: &[Section]) -> Vec<u8> {
    let mut writer = StateWriter::new();
    for section in sections {
        let Section { name, instance, version, at: _, bytes } = section.clone();
        writer.add_bytes(name, instance, version, bytes).unwrap();
    }
    writer.finish(&file_key(), original[AT_SALT..AT_SALT + 16].try_into().unwrap())
}

pub(super) fn file_key() -> snapshot::Key {
    snapshot::Key::new(*key().bytes())
}

/// Where the number at `at` ends (postcard: seven bits a byte, the highest says that more follow), and which it is.
pub(super) fn number_at(bytes: &[u8], at: usize) -> (usize, usize) {
    let more = bytes[at..].iter().take_while(|byte| **byte >= 0x80).count();
    let value =
        bytes[at..=at + more].iter().rev().fold(0, |value, byte| value << 7 | usize::from(byte & 0x7f));
    (at + more + 1, value)
}

/// Pages that are not zeros, by number.
pub(super) type Pages = BTreeMap<u32, Vec<u8>>;

/// Says which pages differ.
#[track_caller]
pub(super) fn assert_same_memory(ours: &Pages, theirs: &Pages) {
    let numbers: BTreeSet<u32> = ours.keys().chain(theirs.keys()).copied().collect();
    let different: Vec<u32> = numbers.into_iter().filter(|page| ours.get(page) != theirs.get(page)).collect();
    assert!(different.is_empty(), "pages {different:#x?} differ");
}

/// All of a file.
pub(super) fn bytes_of(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Replaces all of a file.
pub(super) fn write_over(file: &File, bytes: &[u8]) {
    file.set_len(0).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

impl Snapshot {
    /// Pages that are not zeros, by chunk.
    pub(super) fn chunks(&self) -> BTreeMap<u32, Pages> {
        let mut chunks = BTreeMap::<u32, Pages>::new();
        let chunk_pages = self.index().chunk_pages();
        for (number, page) in self.pages() {
            chunks.entry(number / chunk_pages).or_default().insert(number, page);
        }
        chunks
    }

    fn index(&self) -> PageIndex {
        let state = bytes_of(&self.state);
        let reader = StateReader::open(&state, &file_key()).unwrap();
        reader.bytes(PageIndex::NAME, 0, PageIndex::VERSION).and_then(PageIndex::decode).unwrap()
    }

    /// Guest memory as it would be restored: every page that is not zeros, by number.
    pub(super) fn pages(&self) -> Pages {
        let index = self.index();
        let mut pages = Pages::new();
        for chunk in index.chunks() {
            for page in runs(chunk.mask).flatten() {
                let number = chunk.number * index.chunk_pages() + page;
                let mut bytes = vec![0; PAGE_LEN];
                self.memory.read_exact_at(&mut bytes, u64::from(number) * PAGE_LEN as u64).unwrap();
                pages.insert(number, bytes);
            }
        }
        pages
    }
}
