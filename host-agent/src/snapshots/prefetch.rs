//! The prefetch file of a snapshot: made of the pages that its first clones asked for, beside its other files.
//!
//! The pages are copied out of the memory file, and only those that are what was saved: whoever could change that file must not
//! have the change sealed here.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::Path,
};

use snapshot::{
    ChunkSealer, FormatError, Key, MAX_STATE_LEN, PAGE_LEN, PREFETCH_START_LEN, PageIndex, PageMask,
    Prefetch, PrefetchWriter, StateReader, runs,
};

/// Name of the file in a snapshot's directory.
pub(super) const FILE: &str = "prefetch";

/// It is moved into place whole.
const NEW_FILE: &str = "prefetch.new";

/// Pages that are sorted among themselves, 16 MiB: what a VMM has in place before the clone runs, so that it writes to memory in
/// the order of addresses.
const WINDOW_PAGES: usize = 4096;

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrefetchError {
    /// The disk.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The snapshot is damaged.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// Whether there is a file in `dir`. What is none, or was cut off, is removed: it is made again.
pub(super) fn is_in(dir: &Path) -> bool {
    let path = dir.join(FILE);
    let looks_whole = || -> Result<bool, PrefetchError> {
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        let mut start = [0; PREFETCH_START_LEN];
        file.read_exact_at(&mut start, 0)?;
        Prefetch::head_len(&start)?;
        Ok(true)
    };
    looks_whole().unwrap_or_else(|error| {
        tracing::warn!("{} is of no use: {error}", path.display());
        // If it stays, VMMs say so, and clones are slower.
        drop(fs::remove_file(&path));
        false
    })
}

/// Makes the file of `pages`, those that there are, in the place of the one before.
pub(super) fn make(dir: &Path, key: &Key, mut pages: Vec<u32>) -> Result<(), PrefetchError> {
    let mut state = Vec::new();
    File::open(dir.join("state"))?.take(MAX_STATE_LEN + 1).read_to_end(&mut state)?;
    let state = StateReader::open(&state, key)?;
    let index = PageIndex::decode(state.bytes(PageIndex::NAME, 0, PageIndex::VERSION)?)?;
    let memory = File::open(dir.join("memory"))?;
    let content = vec![0; index.chunk_pages() as usize * PAGE_LEN];
    let mut saved = Saved { memory, index, sealer: state.chunk_sealer(), chunk: None, content };

    pages.retain(|page| *page < saved.index.pages());
    pages.chunks_mut(WINDOW_PAGES).for_each(<[u32]>::sort_unstable);
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(io::Error::from)?;
    let mut writer = PrefetchWriter::new(pages, key, &state.tag(), salt)?;

    let file = File::options().write(true).create(true).truncate(true).open(dir.join(NEW_FILE))?;
    let mut block = Vec::new();
    while !writer.next_block().is_empty() {
        block.clear();
        for page in writer.next_block() {
            match saved.page(*page)? {
                Some(content) => block.extend_from_slice(content),
                None => block.resize(block.len() + PAGE_LEN, 0),
            }
        }
        let at = writer.push(&block);
        file.write_all_at(&block, at)?;
    }
    file.write_all_at(&writer.finish(), 0)?;
    file.sync_data()?;
    fs::rename(dir.join(NEW_FILE), dir.join(FILE))?;
    Ok(())
}

/// The pages of a memory file.
struct Saved<'a> {
    memory: File,
    index: PageIndex,
    sealer: &'a ChunkSealer,
    /// The last chunk that was read: its number and which pages of it are in `content`, one after the other.
    chunk: Option<(u32, PageMask)>,
    content: Vec<u8>,
}

impl Saved<'_> {
    /// A page as it was saved; nothing of one that was zeros.
    fn page(&mut self, page: u32) -> Result<Option<&[u8]>, PrefetchError> {
        let (number, bit) = (page / self.index.chunk_pages(), page % self.index.chunk_pages());
        let mask = match self.chunk {
            Some((held, mask)) if held == number => mask,
            _ => self.read(number)?,
        };
        self.chunk = Some((number, mask));
        let before = (mask & ((1 << bit) - 1)).count_ones() as usize * PAGE_LEN;
        Ok(self.content.get(before..before + PAGE_LEN).filter(|_| mask >> bit & 1 == 1))
    }

    fn read(&mut self, number: u32) -> Result<PageMask, PrefetchError> {
        self.chunk = None;
        let Some(chunk) = self.index.find(number) else { return Ok(0) };
        let first = u64::from(number) * u64::from(self.index.chunk_pages());
        let mut rest = self.content.as_mut_slice();
        for run in runs(chunk.mask) {
            let (piece, behind) = rest.split_at_mut(run.len() * PAGE_LEN);
            self.memory.read_exact_at(piece, (first + u64::from(run.start)) * PAGE_LEN as u64)?;
            rest = behind;
        }
        let used = chunk.mask.count_ones() as usize * PAGE_LEN;
        chunk.check(self.sealer, self.content.get(..used).unwrap_or_default())?;
        Ok(chunk.mask)
    }
}

#[cfg(test)]
mod tests {
    use snapshot::{Chunk, StateWriter};

    use super::*;

    const PAGES: u32 = 64;

    fn key() -> Key {
        Key::new([4; 32])
    }

    /// A snapshot of a memory with these pages.
    fn snapshot_in(dir: &Path, pages: &[u32]) {
        let (salt, chunk_pages) = ([8; 16], 4);
        let mut index = PageIndex::new(PAGES, chunk_pages).expect("index");
        let memory = File::create(dir.join("memory")).expect("file");
        memory.set_len(u64::from(PAGES) * PAGE_LEN as u64).expect("length");
        for number in 0..PAGES / chunk_pages {
            let here: Vec<u32> = pages.iter().copied().filter(|page| page / chunk_pages == number).collect();
            let mask = here.iter().fold(0, |mask, page| mask | 1 << (page % chunk_pages));
            let chunk: Vec<u8> = here.iter().flat_map(|page| content(*page)).collect();
            for page in &here {
                memory.write_all_at(&content(*page), u64::from(*page) * PAGE_LEN as u64).expect("write");
            }
            if mask != 0 {
                let tag = key().chunk_sealer(&salt).tag(number, mask, &chunk);
                index.push(Chunk { number, mask, tag }).expect("in order");
            }
        }
        let mut state = StateWriter::new();
        state.add_bytes(PageIndex::NAME, 0, PageIndex::VERSION, index.encode()).expect("fits");
        fs::write(dir.join("state"), state.finish(&key(), &salt)).expect("write");
    }

    fn content(page: u32) -> Vec<u8> {
        vec![page as u8 | 0x80; PAGE_LEN]
    }

    /// What is in the file: pages and their first bytes.
    fn made(dir: &Path) -> Vec<(u32, u8)> {
        let file = fs::read(dir.join(FILE)).expect("there is one");
        let state = fs::read(dir.join("state")).expect("state");
        let tag = StateReader::open(&state, &key()).expect("ours").tag();
        let len = Prefetch::head_len(file.first_chunk().expect("long enough")).expect("ours");
        let head = Prefetch::open(&file[..len], &key(), &tag, PAGES).expect("authentic");
        (0..head.blocks())
            .flat_map(|number| {
                let place = head.place(number);
                let content = &file[place.start as usize..place.end as usize];
                head.check(number, content).expect("authentic");
                head.block(number)
                    .iter()
                    .copied()
                    .zip(content.iter().copied().step_by(PAGE_LEN))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn pages_are_as_they_were_saved_in_the_order_of_addresses() {
        let dir = tempfile::tempdir().expect("a directory");
        snapshot_in(dir.path(), &[3, 5, 6, 40]);
        assert!(!is_in(dir.path()));
        make(dir.path(), &key(), vec![6, 40, PAGES, 5, 4, u32::MAX, 12]).expect("made");
        assert_eq!(made(dir.path()), [(4, 0), (5, 0x85), (6, 0x86), (12, 0), (40, 0xa8)]);
        make(dir.path(), &key(), vec![3]).expect("made again");
        assert_eq!(made(dir.path()), [(3, 0x83)]);
        assert!(is_in(dir.path()) && !dir.path().join(NEW_FILE).exists());
    }

    #[test]
    fn what_was_changed_is_not_sealed() {
        let dir = tempfile::tempdir().expect("a directory");
        snapshot_in(dir.path(), &[3, 5]);
        let memory = File::options().write(true).open(dir.path().join("memory")).expect("memory");
        memory.write_all_at(&[1], 5 * PAGE_LEN as u64).expect("write");
        let error = make(dir.path(), &key(), vec![3, 5]).expect_err("forged");
        assert_eq!(error.to_string(), "chunk 1 of the memory file is not what was saved");
        assert!(make(dir.path(), &Key::new([0; 32]), vec![3]).is_err() && !is_in(dir.path()));
        make(dir.path(), &key(), vec![3]).expect("the rest is as before");
        assert!(make(&dir.path().join("gone"), &key(), vec![3]).is_err());
    }

    #[test]
    fn a_file_of_nonsense_is_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        for nonsense in [&b""[..], b"TNDRPREF", &[7; 4096]] {
            fs::write(dir.path().join(FILE), nonsense).expect("write");
            assert!(!is_in(dir.path()) && !dir.path().join(FILE).exists());
        }
    }
}
