//! What is known of all segments: what is on the disk, what is being written, and what the disk is to be told.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use super::index::Listed;
use crate::name::ChunkName;

/// Bodies begin on multiples of it, so that a hole gives back all of one.
pub(super) const BLOCK_LEN: u64 = 4096;

/// Bytes that `st_blocks` counts in (inode(7)).
const STAT_BLOCK_LEN: u64 = 512;

/// What a file system takes for its own notes of a file's extents, and more, bytes: not worth looking for waste.
const NO_WASTE_LEN: u64 = 64 << 10;

/// Where a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) segment: u64,
    /// In [`BLOCK_LEN`].
    pub(super) block: u32,
    /// Bytes.
    pub(super) len: u32,
}

impl Spot {
    /// Past its last block.
    pub(super) fn end(self) -> u32 {
        self.block.saturating_add(blocks(self.len.into()))
    }
}

/// What is known of a segment beside its chunks.
#[derive(Debug, Default)]
pub(super) struct Segment {
    /// Blocks that are somebody's, or were.
    pub(super) end: u32,
    /// A publish may append to it.
    pub(super) is_open: bool,
    /// The disk's index is not what it should be.
    pub(super) is_due: bool,
    /// There are blocks that are nobody's and no hole.
    pub(super) has_waste: bool,
    /// Numbers of the indexes on the disk, ascending.
    pub(super) indexes: Vec<u32>,
    /// At least the chunks that have their spot in it: a flush asks for those of a few segments, and a store has millions.
    pub(super) names: Vec<ChunkName>,
}

impl Segment {
    /// What its index is to have, in the order of the names, and what [`Self::names`] is from here on.
    fn list(&mut self, id: u64, named: &BTreeMap<ChunkName, Spot>) -> Listed {
        self.names.sort_unstable();
        self.names.dedup();
        let spot = |name: &ChunkName| named.get(name).filter(|spot| spot.segment == id);
        let entry = |name| spot(name).map(|spot| (*name, spot.block, spot.len));
        let listed = Listed(self.names.iter().filter_map(entry).collect());
        self.names = listed.0.iter().map(|(name, ..)| *name).collect();
        listed
    }
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) segments: BTreeMap<u64, Segment>,
    /// Of each publish that has written something.
    pub(super) open: HashMap<u64, u64>,
    /// Written, and without a name.
    pub(super) drafts: HashMap<(u64, ChunkName), Spot>,
    pub(super) named: BTreeMap<ChunkName, Spot>,
    /// Spots of chunks that have another one now, until an index with that is on the disk.
    pub(super) superseded: Vec<(ChunkName, Spot)>,
    /// No segment has had this number.
    pub(super) next: u64,
}

/// Indexes that a flush has to bring to the disk.
#[derive(Debug)]
pub(in crate::store) struct Due {
    pub(super) indexes: Vec<(u64, u32, Listed)>,
    pub(super) superseded: Vec<(ChunkName, Spot)>,
}

impl Inner {
    /// A segment that was there when the store was opened.
    pub(super) fn know(&mut self, id: u64, listed: Listed, indexes: Vec<u32>, metadata: &fs::Metadata) {
        let taken: u64 = listed.spots(id).map(|spot| u64::from(blocks(spot.len.into())) * BLOCK_LEN).sum();
        let end = blocks(metadata.len());
        let has_waste = metadata.blocks().saturating_mul(STAT_BLOCK_LEN) > taken + NO_WASTE_LEN;
        // It is looked at by the next flush then, which is somebody's.
        let segment = Segment { end, is_due: has_waste, has_waste, indexes, ..Segment::default() };
        self.segments.insert(id, segment);
        for (name, block, len) in listed.0 {
            // The later one: it was written because there was something wrong with the other, or at the same time.
            if let Some(before) = self.name(name, Spot { segment: id, block, len }) {
                self.due(before.segment);
                self.waste(before);
            }
        }
    }

    /// Gives a chunk this spot; the one that it had.
    pub(super) fn name(&mut self, name: ChunkName, spot: Spot) -> Option<Spot> {
        if let Some(segment) = self.segments.get_mut(&spot.segment) {
            segment.names.push(name);
        }
        self.named.insert(name, spot)
    }

    /// Room at the end of the segment of a publish.
    pub(super) fn reserve(&mut self, publish: u64, len: u32) -> io::Result<Spot> {
        let id = *self.open.entry(publish).or_insert_with(|| {
            let id = self.next;
            self.next += 1;
            self.segments.insert(id, Segment { is_open: true, ..Segment::default() });
            id
        });
        let segment = self.segments.entry(id).or_default();
        let spot = Spot { segment: id, block: segment.end, len };
        segment.end = segment.end.checked_add(blocks(len.into())).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(spot)
    }

    pub(super) fn due(&mut self, segment: u64) {
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.is_due = true;
        }
    }

    pub(super) fn waste(&mut self, spot: Spot) {
        if let Some(segment) = self.segments.get_mut(&spot.segment) {
            segment.has_waste = true;
        }
    }

    pub(super) fn take_due(&mut self) -> Due {
        let superseded = std::mem::take(&mut self.superseded);
        let mut indexes = BTreeMap::new();
        for (id, segment) in self.segments.iter_mut().filter(|(_, segment)| segment.is_due) {
            segment.is_due = false;
            let number = segment.indexes.last().map_or(0, |last| last.saturating_add(1));
            segment.indexes.push(number);
            indexes.insert(*id, (number, segment.list(*id, &self.named)));
        }
        for (name, spot) in &superseded {
            if let Some((_, listed)) = indexes.get_mut(&spot.segment) {
                listed.0.push((*name, spot.block, spot.len));
            }
        }
        let indexes = indexes.into_iter().map(|(id, (number, listed))| (id, number, listed)).collect();
        Due { indexes, superseded }
    }
}

/// Blocks of so many bytes.
fn blocks(len: u64) -> u32 {
    u32::try_from(len.div_ceil(BLOCK_LEN)).unwrap_or(u32::MAX)
}

impl Listed {
    pub(super) fn spots(&self, segment: u64) -> impl Iterator<Item = Spot> {
        self.0.iter().map(move |(_, block, len)| Spot { segment, block: *block, len: *len })
    }
}
