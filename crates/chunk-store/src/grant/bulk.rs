//! Copies that are read several at a time, as they lie in their file.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rustix::io::{ReadWriteFlags, preadv2};

use super::table::Place;
use crate::size::ChunkSize;

/// Read at once, 256 KiB: four chunks of an image's length, which a processor's nearest caches hold until they are decrypted.
const BULK_LEN: usize = 256 << 10;

/// What reads past the page cache are multiples of, in the file and in memory: a block of any disk, and a page.
const ALIGNMENT: usize = 4096;

/// A run of the file of copies.
#[derive(Debug)]
pub(super) struct Bulk {
    size: ChunkSize,
    is_past_cache: bool,
    /// Longer than the run by what aligns it.
    buffer: Vec<u8>,
    /// Where the run is in the file, bytes.
    at: u64,
    /// How much of it was read.
    len: usize,
}

impl Bulk {
    /// Of copies of contents that are cut like this. `slots` is read past the page cache from now on if one of these is not in it and the
    /// file system does that; where it does not, the page cache is as good.
    pub(super) fn new(slots: &File, size: ChunkSize, mut samples: impl Iterator<Item = Place>) -> Self {
        let is_past_cache =
            samples.any(|sample| !is_cached(slots, sample.at)) && read_past_cache(slots).is_ok();
        let longest = BULK_LEN.max(size.bytes());
        Self { size, is_past_cache, buffer: vec![0; longest + ALIGNMENT], at: 0, len: 0 }
    }

    /// For a second reader of the same file.
    pub(super) fn another(&self) -> Self {
        Self { buffer: vec![0; self.buffer.len()], at: 0, len: 0, ..*self }
    }

    /// Whether what is read is not by way of the page cache.
    pub(super) fn is_past_cache(&self) -> bool {
        self.is_past_cache
    }

    /// The copy at `place`, and if it has to be read, the ones in `next` with it, as far as they lie around it.
    pub(super) fn copy(
        &mut self,
        slots: &File,
        place: Place,
        next: impl Iterator<Item = Place>,
    ) -> io::Result<&[u8]> {
        if !self.holds(place) {
            let (from, to) = run(self.size.bytes() as u64, place, next);
            self.read(slots, from, (to - from) as usize)?;
        }
        let start = self.start() + place.at.checked_sub(self.at).ok_or(io::ErrorKind::InvalidInput)? as usize;
        let copy = self.holds(place).then(|| self.buffer.get(start..start + place.len as usize)).flatten();
        copy.ok_or(io::ErrorKind::UnexpectedEof.into())
    }

    /// Reads anew whatever is wanted next.
    pub(super) fn forget(&mut self) {
        self.len = 0;
    }

    fn holds(&self, place: Place) -> bool {
        let end = place.at.checked_add(u64::from(place.len));
        self.at <= place.at && end.is_some_and(|end| end <= self.at + self.len as u64)
    }

    /// Up to the file's end, which need not be one of a block.
    fn read(&mut self, slots: &File, at: u64, len: usize) -> io::Result<()> {
        let start = self.start();
        (self.at, self.len) = (at, 0);
        let buffer = self.buffer.get_mut(start..start + len).ok_or(io::ErrorKind::InvalidInput)?;
        while self.len < len {
            let rest = buffer.get_mut(self.len..).unwrap_or_default();
            match slots.read_at(rest, at + self.len as u64) {
                Ok(0) => break,
                Ok(read) => self.len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Past the page cache there is nothing to be had behind an end that is none of a block.
                Err(_) if !self.len.is_multiple_of(ALIGNMENT) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Where the run begins in the buffer.
    fn start(&self) -> usize {
        self.buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT)
    }
}

/// The slots around `place` that hold `next`, one after the other, as long as all of them are one read.
fn run(slot_len: u64, place: Place, next: impl Iterator<Item = Place>) -> (u64, u64) {
    let end = |at: u64| at.saturating_add(slot_len);
    let mut run = (place.at, end(place.at));
    for place in next {
        let longer = (run.0.min(place.at), run.1.max(end(place.at)));
        if longer.1 - longer.0 > BULK_LEN as u64 {
            break;
        }
        run = longer;
    }
    run
}

/// Whether what is there can be read without a disk.
fn is_cached(slots: &File, at: u64) -> bool {
    let mut byte = [0];
    preadv2(slots, &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT).is_ok()
}

fn read_past_cache(slots: &File) -> Result<(), Errno> {
    let flags = OFlag::from_bits_retain(fcntl(slots, FcntlArg::F_GETFL)?);
    fcntl(slots, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: u64 = 16 << 10;

    fn place(slot: u64) -> Place {
        Place { at: slot * SLOT, len: SLOT as u32, tag: [0; 16] }
    }

    fn run_of(first: u64, next: &[u64]) -> (u64, u64) {
        let (from, to) = run(SLOT, place(first), next.iter().copied().map(place));
        (from / SLOT, to / SLOT)
    }

    #[test]
    fn what_lies_together_is_one_read() {
        assert_eq!(run_of(7, &[]), (7, 8));
        assert_eq!(run_of(7, &[8, 9]), (7, 10));
        assert_eq!(run_of(7, &[9, 8, 5]), (5, 10), "whatever the order");
        assert_eq!(run_of(7, &[22, 6, 8]), (7, 23), "no longer than one read");
        assert_eq!(run_of(7, &[500, 8]), (7, 8), "what is behind one that is far away is another read's");
        let last = Place { at: u64::MAX - 1, ..place(0) };
        assert_eq!(run(SLOT, last, [place(0)].into_iter()), (last.at, u64::MAX));
    }
}
