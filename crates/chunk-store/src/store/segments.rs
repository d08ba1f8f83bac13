//! Bodies of chunks on a disk: those of one publish in one file, a *segment*, which its threads append to.
//!
//! ```text
//! ID      bodies, each from the beginning of a block on
//! ID.N    an index: the chunks that are in the segment and where. The highest N that is whole counts, and is all of it
//! ```
//!
//! A file for each chunk would be thousands for one snapshot, and as many entries of a folder and inodes, of which a file system has
//! one for 16 KiB. A name is given by writing an index that has it, and taken away by one that has it not; what no index has any more
//! is made a hole. A segment without an index was never finished.
//!
//! Only a flush makes indexes, all that are due at once: until it went well the disk has those from before it, each of which is right
//! about what is there. A chunk that is written anew stays in its old segment's index for one flush longer than its new one takes.

mod index;
mod state;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FallocateFlags, fallocate};

use crate::name::{ChunkName, NAME_LEN};
use index::{Listed, MAX_INDEX_LEN};
use state::{BLOCK_LEN, Due, Inner, Segment, Spot};

/// How often a chunk is looked up anew that has been moved or deleted while it was read.
const MAX_LOOKS: usize = 8;

/// All segments of a store.
#[derive(Debug)]
pub(super) struct Segments {
    folder: PathBuf,
    inner: Mutex<Inner>,
}

impl Segments {
    /// What is in the folder, which is made when it is not there. What was never finished is deleted.
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let (mut data, mut indexes) = (BTreeMap::new(), BTreeMap::<u64, Vec<u32>>::new());
        for file in fs::read_dir(&folder)? {
            let file = file?;
            match file.file_name().to_str().and_then(numbers) {
                Some((id, None)) => _ = data.insert(id, file.metadata()?),
                Some((id, Some(number))) => indexes.entry(id).or_default().push(number),
                None => {}
            }
        }
        let segments = Self { folder, inner: Mutex::default() };
        let mut inner = Inner::default();
        for (id, mut numbers) in indexes {
            numbers.sort_unstable();
            let listed = numbers.iter().rev().find_map(|number| segments.index(id, *number).transpose());
            match (listed.transpose()?, data.remove(&id)) {
                (Some(listed), Some(metadata)) => inner.know(id, listed, numbers, &metadata),
                // Its chunks were all deleted, or it was not finished.
                (_, metadata) => segments.delete(id, metadata.is_some(), &numbers)?,
            }
            inner.next = inner.next.max(id.saturating_add(1));
        }
        for id in data.into_keys() {
            segments.delete(id, true, &[])?;
            inner.next = inner.next.max(id.saturating_add(1));
        }
        *segments.lock() = inner;
        Ok(segments)
    }

    /// Bytes of a chunk, `max_len` and one at most.
    pub(super) fn read(&self, name: &ChunkName, max_len: usize) -> io::Result<Vec<u8>> {
        for _ in 0..MAX_LOOKS {
            let spot = self.spot(name)?;
            let mut body = vec![0; (spot.len as usize).min(max_len.saturating_add(1))];
            let read = File::open(self.data(spot.segment))
                .and_then(|file| file.read_exact_at(&mut body, u64::from(spot.block) * BLOCK_LEN));
            // Otherwise it has been moved or deleted meanwhile, and this may be a hole.
            if self.spot(name).ok() == Some(spot) {
                return match read {
                    Ok(()) => Ok(body),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        Err(io::Error::other("its segment is gone"))
                    }
                    Err(error) => Err(error),
                };
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    pub(super) fn holds(&self, name: &ChunkName) -> bool {
        self.lock().named.contains_key(name)
    }

    /// Bytes of a chunk.
    pub(super) fn len(&self, name: &ChunkName) -> io::Result<u64> {
        self.spot(name).map(|spot| spot.len.into())
    }

    /// Chunks whose names begin with this byte.
    pub(super) fn list(&self, first: u8) -> Vec<ChunkName> {
        let [mut from, mut to] = [[0; NAME_LEN], [u8::MAX; NAME_LEN]];
        (from[0], to[0]) = (first, first);
        let names = ChunkName::from_bytes(from)..=ChunkName::from_bytes(to);
        self.lock().named.range(names).map(|(name, _)| *name).collect()
    }

    /// Appends a draft to the segment of its publish.
    pub(super) fn write(&self, publish: u64, name: ChunkName, body: &[u8]) -> io::Result<()> {
        let len = u32::try_from(body.len()).map_err(io::Error::other)?;
        let spot = self.lock().reserve(publish, len)?;
        let file = File::options().write(true).create(true).truncate(false).open(self.data(spot.segment));
        let written = file.and_then(|file| file.write_all_at(body, u64::from(spot.block) * BLOCK_LEN));
        let mut inner = self.lock();
        let wasted = match written {
            Ok(()) => inner.drafts.insert((publish, name), spot),
            Err(_) => Some(spot),
        };
        wasted.into_iter().for_each(|spot| inner.waste(spot));
        written
    }

    /// Gives a draft its name. It is found from here on, and the next flush brings its index to the disk.
    pub(super) fn finish(&self, publish: u64, name: ChunkName) -> io::Result<()> {
        let mut inner = self.lock();
        let spot = inner.drafts.remove(&(publish, name)).ok_or(io::ErrorKind::NotFound)?;
        if let Some(before) = inner.name(name, spot) {
            inner.superseded.push((name, before));
        }
        inner.due(spot.segment);
        Ok(())
    }

    pub(super) fn discard(&self, publish: u64, name: ChunkName) -> io::Result<()> {
        let mut inner = self.lock();
        let spot = inner.drafts.remove(&(publish, name)).ok_or(io::ErrorKind::NotFound)?;
        inner.waste(spot);
        Ok(())
    }

    /// Takes a name away. The room is given back by a later flush.
    pub(super) fn remove(&self, name: &ChunkName) {
        let mut inner = self.lock();
        if let Some(spot) = inner.named.remove(name) {
            inner.due(spot.segment);
            inner.waste(spot);
        }
    }

    /// A publish writes nothing more, and has no drafts.
    pub(super) fn end(&self, publish: u64) {
        let mut inner = self.lock();
        let Some(id) = inner.open.remove(&publish) else { return };
        let Some(segment) = inner.segments.get_mut(&id) else { return };
        segment.is_open = false;
        if segment.names.is_empty() && segment.indexes.is_empty() && !segment.is_due {
            inner.segments.remove(&id);
            // Without an index it is deleted when the store is opened, if not now.
            let _ = self.delete(id, true, &[]);
        } else if segment.has_waste {
            segment.is_due = true;
        }
    }

    /// Writes the indexes that are due, for one flush at a time. They count when the file system has been flushed, and then [`Self::flushed`]
    /// is called.
    pub(super) fn begin_flush(&self) -> io::Result<Due> {
        let due = self.lock().take_due();
        for (id, number, listed) in &due.indexes {
            if let Err(error) = fs::write(self.index_file(*id, *number), listed.encode()) {
                self.failed(due);
                return Err(error);
            }
        }
        Ok(due)
    }

    /// The flush has failed: what is on the disk is not known, and the next one brings everything again.
    pub(super) fn failed(&self, due: Due) {
        let mut inner = self.lock();
        for (id, ..) in due.indexes {
            inner.due(id);
        }
        inner.superseded.extend(due.superseded);
    }

    /// Gives back what the indexes that are on the disk now have no more, as far as the file system does it.
    pub(super) fn flushed(&self, due: Due) {
        let mut inner = self.lock();
        for (_, spot) in due.superseded {
            inner.due(spot.segment);
            inner.waste(spot);
        }
        for (id, number, listed) in due.indexes {
            let Some(segment) = inner.segments.get_mut(&id) else { continue };
            // Drafts are of publishes that have not ended.
            if segment.is_open || !segment.names.is_empty() || !listed.is_empty() {
                self.settle(segment, id, number, &listed);
            } else if self.delete(id, true, &segment.indexes).is_ok() {
                inner.segments.remove(&id);
            }
        }
    }

    /// A segment that stays. What a publish is writing is in no list, so an open one keeps its waste.
    fn settle(&self, segment: &mut Segment, id: u64, number: u32, listed: &Listed) {
        let (old, kept): (Vec<u32>, Vec<u32>) = segment.indexes.iter().partition(|one| **one < number);
        if self.delete(id, false, &old).is_ok() {
            segment.indexes = kept;
        }
        if segment.has_waste && !segment.is_open {
            segment.has_waste = self.punch(id, segment.end, listed).is_err();
        }
    }

    /// Makes everything a hole that is not listed.
    fn punch(&self, id: u64, end: u32, listed: &Listed) -> io::Result<()> {
        let mut spots: Vec<_> = listed.spots(id).collect();
        spots.sort_unstable_by_key(|spot| spot.block);
        let file = File::options().write(true).open(self.data(id))?;
        let mut from = 0;
        let limits = spots.iter().map(|spot| (spot.block, spot.end())).chain([(end, end)]);
        for (block, next) in limits {
            if let Some(count) = block.checked_sub(from).filter(|count| *count > 0) {
                let [at, len] = [from, count].map(|blocks| i64::from(blocks) * BLOCK_LEN as i64);
                let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                fallocate(&file, flags, at, len)?;
            }
            from = from.max(next);
        }
        Ok(())
    }

    fn spot(&self, name: &ChunkName) -> io::Result<Spot> {
        self.lock().named.get(name).copied().ok_or(io::ErrorKind::NotFound.into())
    }

    /// An index; none when it is not whole.
    fn index(&self, id: u64, number: u32) -> io::Result<Option<Listed>> {
        let mut file = Vec::new();
        let longest = MAX_INDEX_LEN as u64;
        File::open(self.index_file(id, number))?.take(longest + 1).read_to_end(&mut file)?;
        Ok(if file.len() > MAX_INDEX_LEN { None } else { Listed::decode(&file) })
    }

    fn delete(&self, id: u64, has_data: bool, indexes: &[u32]) -> io::Result<()> {
        let data = has_data.then(|| self.data(id));
        for file in data.into_iter().chain(indexes.iter().map(|number| self.index_file(id, *number))) {
            match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn data(&self, id: u64) -> PathBuf {
        self.folder.join(format!("{id:016x}"))
    }

    fn index_file(&self, id: u64, number: u32) -> PathBuf {
        self.folder.join(format!("{id:016x}.{number:08x}"))
    }

    /// Every change of it ends before the lock does.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Segment and index by a file's name.
fn numbers(name: &str) -> Option<(u64, Option<u32>)> {
    let (id, index) = name.split_once('.').map_or((name, None), |(id, index)| (id, Some(index)));
    let number = |text: &str, digits| {
        let proper =
            text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        proper.then(|| u64::from_str_radix(text, 16).ok())?
    };
    let index = index.map(|index| u32::try_from(number(index, 8)?).ok());
    match index {
        Some(None) => None,
        index => Some((number(id, 16)?, index.flatten())),
    }
}
