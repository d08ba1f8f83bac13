//! Page numbers: where they are in this process, and which pages are in place.

use std::ops::Range;

use devices::Memory;
use snapshot::PAGE_LEN;

use crate::memory::{self, MemoryError};

/// Where page numbers are in this process.
pub(super) struct PageMap {
    /// First page and host addresses, ascending.
    regions: Vec<(u32, Range<usize>)>,
}

impl PageMap {
    pub(super) fn new(memory: &Memory) -> Result<Self, MemoryError> {
        let mut first = 0;
        let mut regions = Vec::new();
        for range in memory::host_ranges(memory)? {
            let pages = (range.len() / PAGE_LEN) as u32;
            regions.push((first, range));
            first += pages;
        }
        Ok(Self { regions })
    }

    pub(super) fn pages(&self) -> u64 {
        self.regions.iter().map(|(_, range)| (range.len() / PAGE_LEN) as u64).sum()
    }

    pub(super) fn page_of(&self, address: usize) -> Option<u32> {
        let (first, range) = self.regions.iter().find(|(_, range)| range.contains(&address))?;
        Some(first + ((address - range.start) / PAGE_LEN) as u32)
    }

    /// One range, or two around the device hole.
    pub(super) fn host_ranges(&self, pages: &Range<u32>) -> Vec<Range<usize>> {
        let inside = |(first, range): &(u32, Range<usize>)| {
            let end = first + (range.len() / PAGE_LEN) as u32;
            let (from, to) = (pages.start.max(*first), pages.end.min(end));
            let at = |page: u32| range.start + (page - first) as usize * PAGE_LEN;
            (from < to).then(|| at(from)..at(to))
        };
        self.regions.iter().filter_map(inside).collect()
    }
}

/// Pages that are in place, one bit each.
#[derive(Default)]
pub(super) struct Done {
    /// What is served at all, ascending.
    extents: Vec<Range<u32>>,
    words: Vec<u64>,
}

impl Done {
    pub(super) fn new(pages: u64, extents: Vec<Range<u32>>) -> Self {
        Self { extents, words: vec![0; pages.div_ceil(64) as usize] }
    }

    pub(super) fn has(&self, page: u32) -> bool {
        self.mask(page, 1) == 1
    }

    /// Which of the pages from `first` on, as many as `all` has bits; they are in one word.
    pub(super) fn mask(&self, first: u32, all: u64) -> u64 {
        self.words.get((first / 64) as usize).map_or(0, |word| word >> (first % 64) & all)
    }

    /// Whether it was not there and is to be put there.
    pub(super) fn insert(&mut self, page: u32) -> bool {
        let extent = self.extents.partition_point(|extent| extent.end <= page);
        let served = self.extents.get(extent).is_some_and(|extent| extent.contains(&page));
        let Some(word) = self.words.get_mut((page / 64) as usize).filter(|_| served) else { return false };
        let new = *word >> (page % 64) & 1 == 0;
        *word |= 1 << (page % 64);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_behind_the_hole() {
        let memory = memory::create(4 << 30).expect("mapped lazily");
        let map = PageMap::new(&memory).expect("map");
        let ranges = map.host_ranges(&(0xb_ffff..0xc_0001));
        assert_eq!(
            ranges.iter().map(|range| map.page_of(range.start)).collect::<Vec<_>>(),
            [Some(0xb_ffff), Some(0xc_0000)]
        );
        assert_eq!((map.pages(), map.page_of(0)), (1 << 20, None));
    }

    #[test]
    fn a_page_is_put_in_place_once_and_only_where_it_is_served() {
        let mut done = Done::new(1 << 20, vec![64..128, 200..201]);
        let inserted: Vec<bool> =
            [63, 64, 64, 127, 128, 199, 200, 201, u32::MAX].map(|page| done.insert(page)).into();
        assert_eq!(inserted, [false, true, false, true, false, false, true, false, false]);
        assert!(done.has(200) && !done.has(201) && !done.has(u32::MAX));
        assert_eq!((done.mask(64, 0b1111), done.mask(124, 0b1111)), (0b0001, 0b1000));
    }
}
