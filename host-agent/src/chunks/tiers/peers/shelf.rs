//! The shards that this node keeps for all: files in a directory of bounded size, those that nobody asked for the longest the first
//! to go. One shard a chunk.
//!
//! Blocking. Nothing is flushed and nothing is verified: who asks for a shard does not believe it. No lock is held while a file is
//! read or written, so that a file may be gone that was just there: it is missing then, and put again.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use chunk_store::ChunkName;

use super::erasure::MAX_SHARD_LEN;

/// End of the names of files that are being written.
const UNFINISHED: &str = "part";

/// What a file takes of a file system, at least: its smallest block. Bounds how many there are, and the memory for that.
const BLOCK: u64 = 4096;

/// Shards on this node's disk.
#[derive(Debug)]
pub(crate) struct Shelf {
    root: PathBuf,
    capacity: u64,
    index: Mutex<Index>,
}

/// What is where, and in which order it was used.
#[derive(Debug, Default)]
struct Index {
    /// Last use and size on the disk.
    shards: HashMap<ChunkName, (u64, u64)>,
    by_use: BTreeMap<u64, ChunkName>,
    bytes: u64,
    uses: u64,
}

impl Index {
    fn put(&mut self, name: ChunkName, size: u64) {
        self.remove(&name);
        self.uses += 1;
        self.bytes += size;
        self.shards.insert(name, (self.uses, size));
        self.by_use.insert(self.uses, name);
    }

    fn remove(&mut self, name: &ChunkName) {
        if let Some((used, size)) = self.shards.remove(name) {
            self.by_use.remove(&used);
            self.bytes -= size;
        }
    }

    fn touch(&mut self, name: &ChunkName) -> bool {
        let Some((_, size)) = self.shards.get(name).copied() else { return false };
        self.put(*name, size);
        true
    }

    /// Takes out what has to go so that no more than `capacity` bytes are there.
    fn evict(&mut self, capacity: u64) -> Vec<ChunkName> {
        let mut gone = Vec::new();
        while self.bytes > capacity {
            let Some(name) = self.by_use.values().next().copied() else { break };
            self.remove(&name);
            gone.push(name);
        }
        gone
    }
}

impl Shelf {
    /// The shards in `root`, at most `capacity` bytes of them. No other process has it.
    ///
    /// # Errors
    /// The directory cannot be listed or written to.
    pub(crate) fn open(root: &Path, capacity: u64) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let mut found = Vec::new();
        for first in 0..=u8::MAX {
            let files = match fs::read_dir(root.join(format!("{first:02x}"))) {
                Ok(files) => files,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for file in files {
                let file = file?;
                let name = file.file_name().to_str().and_then(|text| text.parse::<ChunkName>().ok());
                let Some(name) = name.filter(|name| name.as_bytes()[0] == first) else {
                    fs::remove_file(file.path())?;
                    continue;
                };
                let about = file.metadata()?;
                found.push((about.modified().unwrap_or(SystemTime::UNIX_EPOCH), name, about.len()));
            }
        }
        found.sort_unstable();
        let mut index = Index::default();
        found.into_iter().for_each(|(_, name, len)| index.put(name, size(len)));
        let shelf = Self { root: root.to_owned(), capacity, index: Mutex::new(index) };
        let gone = shelf.index().evict(capacity);
        shelf.delete(&gone);
        Ok(shelf)
    }

    /// The shard of a chunk, as it was put.
    ///
    /// # Errors
    /// The disk does not give it.
    pub(super) fn get(&self, name: &ChunkName) -> io::Result<Option<Bytes>> {
        if !self.index().touch(name) {
            return Ok(None);
        }
        let mut content = Vec::new();
        match File::open(self.path(name)) {
            Ok(file) => file.take(MAX_SHARD_LEN as u64).read_to_end(&mut content)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.index().remove(name);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        Ok(Some(content.into()))
    }

    /// Keeps a shard of a chunk in place of the one that was there.
    ///
    /// # Errors
    /// The disk does not take it.
    pub(super) fn put(&self, name: &ChunkName, shard: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        // Of one name, several may be written at a time.
        let unfinished = path.with_extension(format!("{:016x}.{UNFINISHED}", getrandom::u64()?));
        let written = match fs::write(&unfinished, shard) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // The first one of its folder.
                path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&unfinished, shard))
            }
            written => written,
        };
        let written = written.and_then(|()| fs::rename(&unfinished, &path));
        if let Err(error) = written {
            // What is left of it goes when the directory is opened.
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
        let gone = {
            let mut index = self.index();
            index.put(*name, size(shard.len() as u64));
            index.evict(self.capacity)
        };
        self.delete(&gone);
        Ok(())
    }

    /// One that stays is found, and counted, when the directory is opened again.
    fn delete(&self, names: &[ChunkName]) {
        for name in names {
            if let Err(error) = fs::remove_file(self.path(name)) {
                tracing::debug!("shard of {name} was not deleted: {error}");
            }
        }
    }

    fn path(&self, name: &ChunkName) -> PathBuf {
        self.root.join(format!("{:02x}", name.as_bytes()[0])).join(name.to_string())
    }

    /// Every call on it ends before the lock does, so a panic elsewhere does not spoil it.
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size(len: u64) -> u64 {
    len.next_multiple_of(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32) -> ChunkName {
        ChunkName::of(&number.to_le_bytes())
    }

    /// Which of `numbers` there are.
    fn there(shelf: &Shelf, numbers: std::ops::Range<u32>) -> Vec<u32> {
        numbers.filter(|number| shelf.get(&name(*number)).unwrap().is_some()).collect()
    }

    #[test]
    fn what_nobody_asks_for_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path(), 4 * BLOCK).unwrap();
        for number in 0..4 {
            shelf.put(&name(number), &[number as u8; 10]).unwrap();
        }
        assert_eq!(shelf.get(&name(0)).unwrap().unwrap(), vec![0; 10]);
        shelf.put(&name(4), &[4; 10]).unwrap();
        assert_eq!(there(&shelf, 0..5), [0, 2, 3, 4]);
        shelf.put(&name(5), &vec![5; BLOCK as usize + 1]).unwrap();
        assert_eq!(there(&shelf, 0..6), [3, 4, 5]);
        let folders = fs::read_dir(dir.path()).unwrap().map(|folder| folder.unwrap().path());
        let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap());
        assert_eq!(files.count(), 3);
    }

    #[test]
    fn what_was_put_is_there_when_it_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path(), 1 << 20).unwrap();
        shelf.put(&name(1), b"one").unwrap();
        shelf.put(&name(1), b"another").unwrap();
        let path = shelf.path(&name(1));
        fs::write(path.with_extension(UNFINISHED), b"x").unwrap();
        let shelf = Shelf::open(dir.path(), 1 << 20).unwrap();
        assert_eq!(shelf.get(&name(1)).unwrap().unwrap(), "another");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        fs::remove_file(path).unwrap();
        assert_eq!(shelf.get(&name(1)).unwrap(), None);
        assert_eq!(shelf.index().bytes, 0);
    }

    #[test]
    fn a_shard_that_is_larger_than_all_the_room_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path(), BLOCK).unwrap();
        shelf.put(&name(1), &vec![1; 2 * BLOCK as usize]).unwrap();
        assert_eq!(there(&shelf, 1..2), [0u32; 0]);
    }
}
