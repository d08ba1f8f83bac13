//! The prefetch file: the pages of a snapshot that its clones want first, once more and one after the other, so that they are
//! read and checked in bulk.
//!
//! A head, then the pages in blocks of [`BLOCK_PAGES`]. The head lists page numbers and a tag for each block, and ends with
//! a tag of its own. The key is derived from the snapshot's state tag and a salt of the file's: a file fits one snapshot, and
//! no nonce is used twice.

use std::ops::Range;

use subtle::ConstantTimeEq;

use crate::error::FormatError;
use crate::key::{Key, PrefetchSealer, Salt, Tag};
use crate::layout::{TAG_LEN, array_at, u32_at};
use crate::pages::PAGE_LEN;

/// First bytes of every prefetch file.
const MAGIC: [u8; 8] = *b"TNDRPREF";
const VERSION: u32 = 1;
const AT_VERSION: usize = 8;
const AT_PAGES: usize = 12;
const AT_SALT: usize = 16;

/// Bytes of the head that say how long it is.
pub const PREFETCH_START_LEN: usize = 32;

/// Pages of a block, 256 KiB: what is read and checked at once. The last block may have fewer.
pub const BLOCK_PAGES: usize = 64;

/// Most pages of a prefetch file: 128 MiB.
pub const MAX_PREFETCH_PAGES: usize = 32_768;

/// The head of a prefetch file, authentic.
#[derive(Debug)]
pub struct Prefetch {
    pages: Vec<u32>,
    tags: Vec<Tag>,
    sealer: PrefetchSealer,
}

impl Prefetch {
    /// Bytes of the head, by its first [`PREFETCH_START_LEN`]: at most 200 KiB.
    ///
    /// # Errors
    /// It does not begin as a prefetch file does, or has more than [`MAX_PREFETCH_PAGES`].
    pub fn head_len(start: &[u8; PREFETCH_START_LEN]) -> Result<usize, FormatError> {
        if !start.starts_with(&MAGIC) {
            return Err(FormatError::Prefetch("it does not begin as one does"));
        }
        if u32_at(start, AT_VERSION) != VERSION {
            return Err(FormatError::Prefetch("it has another version"));
        }
        let pages = u32_at(start, AT_PAGES) as usize;
        if pages == 0 || pages > MAX_PREFETCH_PAGES {
            return Err(FormatError::Prefetch("number of pages"));
        }
        Ok(head_len(pages))
    }

    /// Reads all of a head. `state_tag` is that of the snapshot's state file, `memory_pages` the length of its memory.
    ///
    /// # Errors
    /// It is not this snapshot's, was changed by somebody without the key, or lists a page that there is not.
    pub fn open(head: &[u8], key: &Key, state_tag: &Tag, memory_pages: u32) -> Result<Self, FormatError> {
        let start = head.first_chunk().ok_or(FormatError::Prefetch("length"))?;
        if head.len() != Self::head_len(start)? {
            return Err(FormatError::Prefetch("length"));
        }
        let salt: Salt = array_at(head, AT_SALT).unwrap_or_default();
        let sealer = key.prefetch_sealer(state_tag, &salt);
        let (content, tag) = head.split_at(head.len() - TAG_LEN);
        if !same(&array_at(tag, 0).unwrap_or_default(), &sealer.tag_head(content)) {
            return Err(FormatError::Prefetch("it is damaged, forged or of another snapshot"));
        }
        let count = u32_at(head, AT_PAGES) as usize;
        let lists = content.get(PREFETCH_START_LEN..).unwrap_or_default();
        let (numbers, tags) = lists.split_at_checked(count * 4).ok_or(FormatError::Prefetch("length"))?;
        let pages: Vec<u32> =
            numbers.as_chunks().0.iter().map(|number| u32::from_le_bytes(*number)).collect();
        if pages.iter().any(|page| *page >= memory_pages) {
            return Err(FormatError::Prefetch("a page outside of memory"));
        }
        Ok(Self { pages, tags: tags.as_chunks().0.to_vec(), sealer })
    }

    /// Page numbers, in the order of their content.
    #[must_use]
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// How many blocks there are.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.tags.len()
    }

    /// The pages of block `number`; none past the last.
    #[must_use]
    pub fn block(&self, number: usize) -> &[u32] {
        self.pages.chunks(BLOCK_PAGES).nth(number).unwrap_or_default()
    }

    /// Where block `number` is in the file, bytes.
    #[must_use]
    pub fn place(&self, number: usize) -> Range<u64> {
        let start = content_at(self.pages.len()) + (number * BLOCK_PAGES * PAGE_LEN) as u64;
        start..start + (self.block(number).len() * PAGE_LEN) as u64
    }

    /// Whether `content` is what block `number` held when the file was made.
    ///
    /// # Errors
    /// It is not.
    pub fn check(&self, number: usize, content: &[u8]) -> Result<(), FormatError> {
        let refused = FormatError::Prefetch("a block is not what was written");
        let tag = self.tags.get(number).ok_or(refused.clone())?;
        if same(tag, &self.sealer.tag_block(number as u64, content)) { Ok(()) } else { Err(refused) }
    }
}

/// Makes a prefetch file: blocks are tagged one after the other, the head comes last and goes to the front.
#[derive(Debug)]
pub struct PrefetchWriter {
    pages: Vec<u32>,
    tags: Vec<Tag>,
    salt: Salt,
    sealer: PrefetchSealer,
}

impl PrefetchWriter {
    /// For these pages, in this order. `salt` is fresh random bytes.
    ///
    /// # Errors
    /// None, or more than [`MAX_PREFETCH_PAGES`].
    pub fn new(pages: Vec<u32>, key: &Key, state_tag: &Tag, salt: Salt) -> Result<Self, FormatError> {
        if pages.is_empty() || pages.len() > MAX_PREFETCH_PAGES {
            return Err(FormatError::Prefetch("number of pages"));
        }
        Ok(Self { pages, tags: Vec::new(), salt, sealer: key.prefetch_sealer(state_tag, &salt) })
    }

    /// The pages that the next call of [`Self::push`] is to have; none when all have been given.
    #[must_use]
    pub fn next_block(&self) -> &[u32] {
        self.pages.chunks(BLOCK_PAGES).nth(self.tags.len()).unwrap_or_default()
    }

    /// Tags the next block, and says where in the file it belongs.
    pub fn push(&mut self, content: &[u8]) -> u64 {
        let number = self.tags.len();
        self.tags.push(self.sealer.tag_block(number as u64, content));
        content_at(self.pages.len()) + (number * BLOCK_PAGES * PAGE_LEN) as u64
    }

    /// The file's head, once every block has been given.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let mut head = Vec::with_capacity(head_len(self.pages.len()));
        head.extend_from_slice(&MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&(self.pages.len() as u32).to_le_bytes());
        head.extend_from_slice(&self.salt);
        self.pages.iter().for_each(|page| head.extend_from_slice(&page.to_le_bytes()));
        self.tags.iter().for_each(|tag| head.extend_from_slice(tag));
        let tag = self.sealer.tag_head(&head);
        head.extend_from_slice(&tag);
        head
    }
}

fn head_len(pages: usize) -> usize {
    PREFETCH_START_LEN + pages * 4 + pages.div_ceil(BLOCK_PAGES) * TAG_LEN + TAG_LEN
}

/// The first page boundary behind the head.
fn content_at(pages: usize) -> u64 {
    head_len(pages).next_multiple_of(PAGE_LEN) as u64
}

fn same(ours: &Tag, theirs: &Tag) -> bool {
    ours.ct_eq(theirs).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE_TAG: Tag = [3; 16];

    fn key() -> Key {
        Key::new([9; 32])
    }

    fn content(page: u32) -> Vec<u8> {
        vec![page as u8; PAGE_LEN]
    }

    /// The file of these pages, as whoever makes one would write it.
    fn file_of(pages: &[u32], salt: Salt) -> Vec<u8> {
        let mut writer = PrefetchWriter::new(pages.to_vec(), &key(), &STATE_TAG, salt).expect("fits");
        let mut file = Vec::new();
        while !writer.next_block().is_empty() {
            let block: Vec<u8> = writer.next_block().iter().flat_map(|page| content(*page)).collect();
            let at = writer.push(&block) as usize;
            file.resize(at, 0);
            file.extend(block);
        }
        let head = writer.finish();
        file[..head.len()].copy_from_slice(&head);
        file
    }

    fn open(file: &[u8]) -> Result<Prefetch, FormatError> {
        let len = Prefetch::head_len(file.first_chunk().expect("long enough"))?;
        let head = file.get(..len).ok_or(FormatError::Prefetch("length"))?;
        Prefetch::open(head, &key(), &STATE_TAG, 1000)
    }

    fn block<'a>(file: &'a [u8], prefetch: &Prefetch, number: usize) -> &'a [u8] {
        let place = prefetch.place(number);
        &file[place.start as usize..place.end as usize]
    }

    #[test]
    fn pages_come_back_in_blocks() {
        let pages: Vec<u32> = (0..150).map(|n| n * 7 % 900).collect();
        let file = file_of(&pages, [1; 16]);
        let prefetch = open(&file).expect("ours");
        assert_eq!((prefetch.pages(), prefetch.blocks()), (pages.as_slice(), 3));
        assert_eq!([0, 1, 2, 3].map(|number| prefetch.block(number).len()), [64, 64, 22, 0]);
        assert!(prefetch.place(0).start.is_multiple_of(PAGE_LEN as u64));
        assert_eq!(prefetch.place(2).end, file.len() as u64);
        for number in 0..3 {
            let found = block(&file, &prefetch, number);
            let expected: Vec<u8> = prefetch.block(number).iter().flat_map(|page| content(*page)).collect();
            assert_eq!(found, expected);
            prefetch.check(number, found).expect("as written");
        }
    }

    #[test]
    fn every_byte_of_the_head_counts() {
        let file = file_of(&[5, 6, 7], [1; 16]);
        let len = Prefetch::head_len(file.first_chunk().expect("long")).expect("ours");
        for at in 0..len {
            let mut changed = file.clone();
            changed[at] ^= 0x10;
            assert!(open(&changed).is_err(), "byte {at}");
        }
        for cut in [0, PREFETCH_START_LEN, len - 1, len + 1] {
            assert!(Prefetch::open(&file[..cut], &key(), &STATE_TAG, 1000).is_err(), "{cut} bytes");
        }
    }

    #[test]
    fn a_block_in_anothers_place_or_changed_is_found_out() {
        let file = file_of(&(0..128).collect::<Vec<_>>(), [1; 16]);
        let prefetch = open(&file).expect("ours");
        let mut first = block(&file, &prefetch, 0).to_vec();
        assert!(prefetch.check(1, &first).is_err() && prefetch.check(2, &first).is_err());
        first[777] ^= 1;
        assert!(prefetch.check(0, &first).is_err());
    }

    #[test]
    fn a_file_fits_one_snapshot_and_one_key() {
        let file = file_of(&[1, 2], [1; 16]);
        let head = &file[..Prefetch::head_len(file.first_chunk().expect("long")).expect("ours")];
        assert!(Prefetch::open(head, &key(), &STATE_TAG, 3).is_ok());
        assert!(Prefetch::open(head, &key(), &STATE_TAG, 2).is_err(), "a smaller memory");
        assert!(Prefetch::open(head, &key(), &[4; 16], 3).is_err());
        assert!(Prefetch::open(head, &Key::new([8; 32]), &STATE_TAG, 3).is_err());
    }

    #[test]
    fn its_length_is_bounded() {
        let new = |pages: usize| PrefetchWriter::new(vec![0; pages], &key(), &STATE_TAG, [1; 16]);
        assert!(new(0).is_err() && new(MAX_PREFETCH_PAGES).is_ok() && new(MAX_PREFETCH_PAGES + 1).is_err());
        let mut start: [u8; PREFETCH_START_LEN] = *file_of(&[1], [1; 16]).first_chunk().expect("long");
        for pages in [0, MAX_PREFETCH_PAGES as u32 + 1, u32::MAX] {
            start[AT_PAGES..AT_PAGES + 4].copy_from_slice(&pages.to_le_bytes());
            assert!(Prefetch::head_len(&start).is_err(), "{pages} pages");
        }
    }
}
