//! The prefetch content: the pages of a snapshot that its clones want first, once more and one after the other, so that they
//! are read and checked in bulk. Plain bytes: whoever keeps it authenticates it, and binds it to its snapshot.
//!
//! A head that lists page numbers, then the pages; both begin at a multiple of [`BLOCK_LEN`], so that a block of pages is what
//! the content is read by. Pages of zeros are listed only.

use crate::error::FormatError;
use crate::layout::u32_at;
use crate::pages::PAGE_LEN;

/// First bytes of every prefetch content.
const MAGIC: [u8; 8] = *b"TNDRPREF";
const VERSION: u32 = 3;
const AT_VERSION: usize = 8;
const AT_COUNT: usize = 12;
const AT_ZEROS: usize = 16;

/// Bytes of the head that say how long it is; page numbers follow.
pub const PREFETCH_START_LEN: usize = 20;

/// Bytes of a block: what is read and checked at once.
pub const BLOCK_LEN: usize = 64 << 10;

/// Pages of a block. The last block may have fewer.
pub const BLOCK_PAGES: usize = BLOCK_LEN / PAGE_LEN;

/// Most pages that a prefetch content lists: 128 MiB.
pub const MAX_PREFETCH_PAGES: usize = 32_768;

/// The head of a prefetch content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefetch {
    pages: Vec<u32>,
    zeros: Vec<u32>,
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
        checked_len(u32_at(start, AT_COUNT), u32_at(start, AT_ZEROS))
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
        let (count, zeros) = (u32_at(head, AT_COUNT) as usize, u32_at(head, AT_ZEROS) as usize);
        let lists = head.get(PREFETCH_START_LEN..).unwrap_or_default();
        if lists.len() < (count + zeros) * 4 {
            return Err(FormatError::Prefetch("length"));
        }
        let (pages, rest) = lists.split_at(count * 4);
        let (zeros, padding) = rest.split_at(zeros * 4);
        if padding.iter().any(|byte| *byte != 0) {
            return Err(FormatError::Prefetch("bytes that mean nothing"));
        }
        let numbers = |list: &[u8]| -> Vec<u32> {
            list.as_chunks().0.iter().map(|number| u32::from_le_bytes(*number)).collect()
        };
        let (pages, zeros) = (numbers(pages), numbers(zeros));
        if pages.iter().chain(&zeros).any(|page| *page >= memory_pages) {
            return Err(FormatError::Prefetch("a page outside of memory"));
        }
        Ok(Self { pages, zeros })
    }

    /// The head of these pages, in this order, whose content follows it at once, and of these that are zeros.
    ///
    /// # Errors
    /// None, or more than [`MAX_PREFETCH_PAGES`] together.
    pub fn encode(pages: &[u32], zeros: &[u32]) -> Result<Vec<u8>, FormatError> {
        let counts = (u32::try_from(pages.len()), u32::try_from(zeros.len()));
        let (Ok(count), Ok(zero_count)) = counts else {
            return Err(FormatError::Prefetch("number of pages"));
        };
        let len = checked_len(count, zero_count)?;
        let mut head = Vec::with_capacity(len);
        head.extend_from_slice(&MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&count.to_le_bytes());
        head.extend_from_slice(&zero_count.to_le_bytes());
        pages.iter().chain(zeros).for_each(|page| head.extend_from_slice(&page.to_le_bytes()));
        head.resize(len, 0);
        Ok(head)
    }

    /// Page numbers, in the order of their content.
    #[must_use]
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Numbers of pages that are wanted, too, and are zeros.
    #[must_use]
    pub fn zeros(&self) -> &[u32] {
        &self.zeros
    }

    /// Where the first page is in the content, bytes: a multiple of [`BLOCK_LEN`].
    #[must_use]
    pub fn content_at(&self) -> u64 {
        head_len(self.pages.len() + self.zeros.len()) as u64
    }
}

fn checked_len(pages: u32, zeros: u32) -> Result<usize, FormatError> {
    let listed = pages.saturating_add(zeros) as usize;
    if listed == 0 || listed > MAX_PREFETCH_PAGES {
        return Err(FormatError::Prefetch("number of pages"));
    }
    Ok(head_len(listed))
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
            [(1, BLOCK_LEN), (16_379, BLOCK_LEN), (16_380, 2 * BLOCK_LEN), (32_768, 3 * BLOCK_LEN)]
        {
            let head = Prefetch::encode(&vec![7; count / 2], &vec![8; count - count / 2]).expect("fits");
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
        let head = Prefetch::encode(&[5, 6, 7], &[9]).expect("fits");
        let changed = |at: usize, bytes: &[u8]| {
            let mut head = head.clone();
            head[at..at + bytes.len()].copy_from_slice(bytes);
            decode(&head).expect_err("refused").to_string()
        };
        assert!(changed(0, b"X").ends_with("as one does"));
        assert!(changed(AT_VERSION, &[1]).ends_with("another version"));
        assert!(changed(AT_COUNT, &[0; 8]).ends_with("number of pages"));
        for count in [MAX_PREFETCH_PAGES as u32 + 1, u32::MAX] {
            assert!(changed(AT_COUNT, &count.to_le_bytes()).ends_with("number of pages"), "{count}");
        }
        // One page fewer leaves a number where nothing is.
        assert!(changed(AT_COUNT, &[2]).ends_with("mean nothing"));
        assert!(changed(AT_ZEROS, &[0]).ends_with("mean nothing"));
        assert!(changed(AT_ZEROS, &u32::MAX.to_le_bytes()).ends_with("number of pages"));
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
        let encode = |pages: usize, zeros: usize| Prefetch::encode(&vec![0; pages], &vec![0; zeros]);
        assert!(encode(0, 0).is_err() && encode(MAX_PREFETCH_PAGES, 0).is_ok() && encode(0, 1).is_ok());
        assert!(encode(MAX_PREFETCH_PAGES + 1, 0).is_err() && encode(MAX_PREFETCH_PAGES, 1).is_err());
    }

    proptest! {
        #[test]
        fn pages_come_back_in_their_order(
            pages in prop::collection::vec(0..MEMORY_PAGES, 1..300),
            zeros in prop::collection::vec(0..MEMORY_PAGES, 0..300),
        ) {
            let head = Prefetch::encode(&pages, &zeros).expect("fits");
            prop_assert_eq!(decode(&head), Ok(Prefetch { pages, zeros }));
        }

        #[test]
        fn any_head_is_read_or_refused(
            start in prop::collection::vec(any::<u8>(), 0..200),
            ours in 0usize..=PREFETCH_START_LEN,
        ) {
            let mut head = Prefetch::encode(&[1, 2, 3], &[4]).expect("fits");
            for (to, from) in head.iter_mut().skip(ours).zip(start) {
                *to = from;
            }
            if let Ok(prefetch) = decode(&head) {
                prop_assert_eq!(Prefetch::encode(prefetch.pages(), prefetch.zeros()), Ok(head));
            }
        }
    }
}
