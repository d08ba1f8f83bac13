//! A drive that is a content of the chunk store until it is written to. What the guest writes goes to a file that is this
//! sandbox's alone, block by block, and is read from there from then on: however much the content holds, a machine that starts
//! waits for none of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use devices::{Segments, Storage};

use crate::chunk_drive::ChunkDrive;

/// What is written is remembered in blocks of the guest's file system, which writes whole ones. A chunk is several of them.
const BLOCK_LEN: usize = 4096;

/// The drive.
#[derive(Debug)]
pub(crate) struct LayeredDrive {
    base: ChunkDrive,
    layer: File,
    written: Blocks,
}

/// A set of blocks: 320 KiB for the longest /tmp, of which the host has the pages that are not zeros.
#[derive(Debug)]
struct Blocks(Vec<u64>);

impl LayeredDrive {
    /// `layer` is as long as the content of `base`.
    pub(crate) fn new(base: ChunkDrive, layer: File) -> Self {
        let written = Blocks::of(base.len().div_ceil(BLOCK_LEN as u64));
        Self { base, layer, written }
    }

    /// Whether the bytes from `offset` on are in the layer, and how many of the next `most` are where that one is.
    fn run(&self, offset: u64, most: usize) -> (bool, usize) {
        let first = offset / BLOCK_LEN as u64;
        let is_written = self.written.has(first);
        let next = (first + 1..).find(|block| {
            block * BLOCK_LEN as u64 >= offset + most as u64 || self.written.has(*block) != is_written
        });
        let end = next.map_or(u64::MAX, |block| block.saturating_mul(BLOCK_LEN as u64));
        (is_written, usize::try_from(end - offset).unwrap_or(most).min(most))
    }

    /// Has a block in the layer of which a part is about to be written.
    fn keep(&mut self, block: u64) -> io::Result<()> {
        if self.written.has(block) {
            return Ok(());
        }
        let start = block * BLOCK_LEN as u64;
        let content = self.base.piece(start)?;
        // Zeros as well: a write that has failed may have left something where they are to be.
        self.layer.write_all_at(content.get(..BLOCK_LEN).unwrap_or(content), start)?;
        self.written.insert(block);
        Ok(())
    }
}

impl Storage for LayeredDrive {
    fn length(&mut self) -> io::Result<u64> {
        Ok(self.base.len())
    }

    fn read(&mut self, offset: u64, mut into: Segments<'_>) -> io::Result<()> {
        let mut offset = offset;
        while !into.is_empty() {
            let (is_written, len) = self.run(offset, into.len());
            let rest = into.split_off(len).unwrap_or_default();
            if is_written {
                Storage::read(&mut self.layer, offset, into)?;
            } else {
                self.base.read(offset, into)?;
            }
            (into, offset) = (rest, offset + len as u64);
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, mut from: Segments<'_>) -> io::Result<()> {
        let mut offset = offset;
        while !from.is_empty() {
            let (skip, len) = ((offset % BLOCK_LEN as u64) as usize, from.len());
            let whole = len - len % BLOCK_LEN;
            let len = if skip == 0 && whole > 0 { whole } else { len.min(BLOCK_LEN - skip) };
            let blocks = offset / BLOCK_LEN as u64..(offset + len as u64).div_ceil(BLOCK_LEN as u64);
            if len % BLOCK_LEN != 0 {
                self.keep(blocks.start)?;
            }
            let rest = from.split_off(len).unwrap_or_default();
            Storage::write(&mut self.layer, offset, from)?;
            blocks.for_each(|block| self.written.insert(block));
            (from, offset) = (rest, offset + len as u64);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.layer.flush()
    }
}

impl Blocks {
    /// None of `count`.
    fn of(count: u64) -> Self {
        Self(vec![0; count.div_ceil(u64::BITS.into()) as usize])
    }

    fn place(block: u64) -> (usize, u64) {
        ((block / u64::from(u64::BITS)) as usize, 1 << (block % u64::from(u64::BITS)))
    }

    fn has(&self, block: u64) -> bool {
        let (word, bit) = Self::place(block);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    fn insert(&mut self, block: u64) {
        let (word, bit) = Self::place(block);
        if let Some(word) = self.0.get_mut(word) {
            *word |= bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chunk_drive::tests::{CHUNK_LEN, LEN, drive as base, read, write};
    use crate::memory;

    const SECTOR_LEN: usize = 512;

    /// What it reads as, the copies of its content, its layer, and the drive.
    fn drive() -> (Vec<u8>, File, File, LayeredDrive) {
        let (bytes, slots, base) = base();
        let layer = tempfile::tempfile().expect("a file");
        layer.set_len(LEN as u64).expect("long enough");
        let ours = layer.try_clone().expect("a descriptor");
        (bytes, slots, ours, LayeredDrive::new(base, layer))
    }

    #[derive(Clone, Debug)]
    struct Request {
        writes: Option<u8>,
        offset: usize,
        len: usize,
        cuts: Vec<usize>,
    }

    /// Whole sectors, as a guest's.
    fn request() -> impl Strategy<Value = Request> {
        let cuts = prop::collection::vec(0..CHUNK_LEN, 0..3);
        let range = (0..LEN / SECTOR_LEN, 1..40_usize, any::<bool>());
        (any::<Option<u8>>(), range, cuts).prop_map(|(writes, (first, sectors, in_blocks), cuts)| {
            let first = if in_blocks { first / 8 * 8 } else { first };
            let sectors = if in_blocks { sectors.next_multiple_of(8) } else { sectors };
            let offset = first * SECTOR_LEN;
            Request { writes, offset, len: (sectors * SECTOR_LEN).min(LEN - offset), cuts }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_is_a_disk(requests in prop::collection::vec(request(), 1..24)) {
            let (mut bytes, slots, _, mut drive) = drive();
            let before = slots.metadata().expect("metadata").len();
            let memory = memory::create(1 << 20).expect("memory");
            for Request { writes, offset, len, cuts } in requests {
                let range = offset..offset + len;
                if let Some(byte) = writes {
                    bytes[range.clone()].iter_mut().enumerate().for_each(|(at, target)| {
                        *target = byte.wrapping_add((at / 3) as u8);
                    });
                    write(&mut drive, &memory, offset, &cuts, &bytes[range]).expect("written");
                } else {
                    let found = read(&mut drive, &memory, offset, &cuts, len).expect("read");
                    prop_assert!(found == bytes[range], "{len} bytes at {offset}");
                }
            }
            let found = read(&mut drive, &memory, 0, &[], LEN).expect("read");
            prop_assert!(found == bytes);
            prop_assert_eq!(slots.metadata().expect("metadata").len(), before);
        }
    }

    #[test]
    fn what_is_written_whole_needs_nothing_of_the_content() {
        let (bytes, slots, layer, mut drive) = drive();
        let memory = memory::create(1 << 20).expect("memory");
        slots.set_len(0).expect("lost");
        write(&mut drive, &memory, BLOCK_LEN, &[], &[7; 2 * BLOCK_LEN]).expect("written");
        assert!(write(&mut drive, &memory, 3 * BLOCK_LEN, &[], &[7; SECTOR_LEN]).is_err());
        assert!(read(&mut drive, &memory, 0, &[], 2 * BLOCK_LEN).is_err());
        assert_eq!(
            read(&mut drive, &memory, BLOCK_LEN, &[], 2 * BLOCK_LEN).ok(),
            Some(vec![7; 2 * BLOCK_LEN])
        );
        write(&mut drive, &memory, 2 * BLOCK_LEN + SECTOR_LEN, &[], &[8; SECTOR_LEN]).expect("kept already");
        let mut found = [0; SECTOR_LEN];
        layer.read_exact_at(&mut found, 3 * BLOCK_LEN as u64).expect("inside");
        assert_eq!(found, [0; SECTOR_LEN], "a write that failed left nothing");
        assert!(drive.flush().is_ok());
        assert_eq!(drive.length().ok(), Some(bytes.len() as u64));
    }

    #[test]
    fn what_a_write_that_failed_has_left_is_not_read() {
        let (bytes, _slots, layer, mut drive) = drive();
        let memory = memory::create(1 << 20).expect("memory");
        // In the chunk that is zeros.
        let block = 2 * CHUNK_LEN;
        layer.write_all_at(&[9; BLOCK_LEN], block as u64).expect("written");
        assert_eq!(read(&mut drive, &memory, block, &[], BLOCK_LEN).ok(), Some(vec![0; BLOCK_LEN]));
        write(&mut drive, &memory, block + SECTOR_LEN, &[], &[1; SECTOR_LEN]).expect("written");
        let mut expected = bytes[block..block + BLOCK_LEN].to_vec();
        expected[SECTOR_LEN..2 * SECTOR_LEN].fill(1);
        assert_eq!(read(&mut drive, &memory, block, &[], BLOCK_LEN).ok(), Some(expected));
    }
}
