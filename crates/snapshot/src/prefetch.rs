//! The prefetch content: the pages of a snapshot that its clones want first, once more and one after the other, so that they
//! are read and checked in bulk. Plain bytes: whoever keeps it authenticates it, and binds it to its snapshot.
//!
//! A head that lists page numbers, then the pages; both begin at a multiple of [`BLOCK_LEN`], so that a block of pages is what
//! the content is read by.

use crate::error::FormatError;
use crate::layout::u32_at;
use crate::pages::PAGE_LEN;

/// First bytes of every prefetch content.
const MAGIC: [u8; 8] = *b"TNDRPREF";
const VERSION: u32 = 2;
const AT_VERSION: usize = 8;
const AT_COUNT: usize = 12;

/// Bytes of the head that say how long it is; page numbers follow.
pub const PREFETCH_START_LEN: usize = 16;

/// Bytes of a block: what is read and checked at once.
pub const BLOCK_LEN: usize = 64 << 10;

/// Pages of a block. The last block may have fewer.
pub const BLOCK_PAGES: usize = BLOCK_LEN / PAGE_LEN;

/// Most pages of a prefetch content: 128 MiB.
pub const MAX_PREFETCH_PAGES: usize = 32_768;

/// The head of a prefetch content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefetch {
    pages: Vec<u32>,
}

impl Prefetch {
    /// Bytes of the head, by its first [`PREFETCH_START_LEN`]: at most 192 KiB.
    ///
    /// # Errors
    /// It does not begin as a prefetch content does, or has no page, or more than [`MAX_PREFETCH_PAGES`].
    pub fn head_len(start: &[u8; PREFETCH_START_LEN]) -> Result<usize, FormatError> {
        if !start.starts_with(&MAGIC) {
            return Err(FormatError::Prefetch("it does not begin as one does"));
        }
        if u32_at(start, AT_VERSION) != VERSION {
            return Err(FormatError::Prefetch("it has another version"));
        }
        checked_len(u32_at(start, AT_COUNT) as usize)
    }

    /// Reads all of a head; `memory_pages` is the length of the snapshot's memory.
    ///
    /// # Errors
    /// It is of another length than it says, lists a page that there is not, or is not zeros where nothing is.
    pub fn decode(head: &[u8], memory_pages: u32) -> Result<Self, FormatError> {
        let start = head.first_chunk().ok_or(FormatError::Prefetch("length"))?;
        if head.len() != Self::head_len(start)? {
            return Err(FormatError::Prefetch("length"));
        }
        let count = u32_at(head, AT_COUNT) as usize;
        let lists = head.get(PREFETCH_START_LEN..).unwrap_or_default();
        let (numbers, padding) = lists.split_at_checked(count * 4).ok_or(FormatError::Prefetch("length"))?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(FormatError::Prefetch("bytes that mean nothing"));
        }
        let pages: Vec<u32> =
            numbers.as_chunks().0.iter().map(|number| u32::from_le_bytes(*number)).collect();
        if pages.iter().any(|page| *page >= memory_pages) {
            return Err(FormatError::Prefetch("a page outside of memory"));
        }
        Ok(Self { pages })
    }

    /// The head of these pages, in this order; their content follows it at once.
    ///
    /// # Errors
    /// None, or more than [`MAX_PREFETCH_PAGES`].
    pub fn encode(pages: &[u32]) -> Result<Vec<u8>, FormatError> {
        let len = checked_len(pages.len())?;
        let mut head = Vec::with_capacity(len);
        head.extend_from_slice(&MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&(pages.len() as u32).to_le_bytes());
        pages.iter().for_each(|page| head.extend_from_slice(&page.to_le_bytes()));
        head.resize(len, 0);
        Ok(head)
    }

    /// Page numbers, in the order of their content.
    #[must_use]
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Where the first page is in the content, bytes: a multiple of [`BLOCK_LEN`].
    #[must_use]
    pub fn content_at(&self) -> u64 {
        head_len(self.pages.len()) as u64
    }
}

fn checked_len(pages: usize) -> Result<usize, FormatError> {
    if pages == 0 || pages > MAX_PREFETCH_PAGES {
        return Err(FormatError::Prefetch("number of pages"));
    }
    Ok(head_len(pages))
}

fn head_len(pages: usize) -> usize {
    (PREFETCH_START_LEN + pages * 4).next_multiple_of(BLOCK_LEN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MEMORY_PAGES: u32 = 1000;

    fn decode(head: &[u8]) -> Result<Prefetch, FormatError> {
        Prefetch::decode(head, MEMORY_PAGES)
    }

    #[test]
    fn a_head_says_how_long_it_is_and_ends_at_a_block() {
        for (count, len) in
            [(1, BLOCK_LEN), (16_380, BLOCK_LEN), (16_381, 2 * BLOCK_LEN), (32_768, 3 * BLOCK_LEN)]
        {
            let head = Prefetch::encode(&vec![7; count]).expect("fits");
            assert_eq!(
                (head.len(), Prefetch::head_len(head.first_chunk().expect("long"))),
                (len, Ok(len)),
                "{count}"
            );
            assert_eq!(decode(&head).expect("ours").content_at(), len as u64, "{count}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let head = Prefetch::encode(&[5, 6, 7]).expect("fits");
        let changed = |at: usize, bytes: &[u8]| {
            let mut head = head.clone();
            head[at..at + bytes.len()].copy_from_slice(bytes);
            decode(&head).expect_err("refused").to_string()
        };
        assert!(changed(0, b"X").ends_with("as one does"));
        assert!(changed(AT_VERSION, &[1]).ends_with("another version"));
        for count in [0, MAX_PREFETCH_PAGES as u32 + 1, u32::MAX] {
            assert!(changed(AT_COUNT, &count.to_le_bytes()).ends_with("number of pages"), "{count}");
        }
        // One page fewer leaves a number where nothing is.
        assert!(changed(AT_COUNT, &[2]).ends_with("mean nothing"));
        assert!(changed(AT_COUNT, &20_000u32.to_le_bytes()).ends_with("length"));
        assert!(changed(BLOCK_LEN - 1, &[1]).ends_with("mean nothing"));
        assert!(changed(PREFETCH_START_LEN, &MEMORY_PAGES.to_le_bytes()).ends_with("outside of memory"));
        for cut in [0, PREFETCH_START_LEN - 1, PREFETCH_START_LEN, BLOCK_LEN - 1] {
            assert!(decode(&head[..cut]).is_err(), "{cut} bytes");
        }
        assert!(decode(&[head.as_slice(), &[0]].concat()).is_err());
    }

    #[test]
    fn its_length_is_bounded() {
        let encode = |pages: usize| Prefetch::encode(&vec![0; pages]);
        assert!(encode(0).is_err() && encode(MAX_PREFETCH_PAGES).is_ok());
        assert!(encode(MAX_PREFETCH_PAGES + 1).is_err());
    }

    proptest! {
        #[test]
        fn pages_come_back_in_their_order(pages in prop::collection::vec(0..MEMORY_PAGES, 1..300)) {
            let head = Prefetch::encode(&pages).expect("fits");
            prop_assert_eq!(decode(&head), Ok(Prefetch { pages }));
        }

        #[test]
        fn any_head_is_read_or_refused(
            start in prop::collection::vec(any::<u8>(), 0..200),
            ours in 0usize..=PREFETCH_START_LEN,
        ) {
            let mut head = Prefetch::encode(&[1, 2, 3]).expect("fits");
            for (to, from) in head.iter_mut().skip(ours).zip(start) {
                *to = from;
            }
            if let Ok(prefetch) = decode(&head) {
                prop_assert_eq!(Prefetch::encode(prefetch.pages()), Ok(head));
            }
        }
    }
}
