//! Room on the node's state disk. Images of /tmp are sparse files: what their guests may still write is promised to them
//! here and given to nobody else, so that a function finds its /tmp as large as it was configured, whatever its
//! neighbours and uploads do, and the node's own records always find room.
//!
//! Promises end with what they were made for; what was written in their place is free again when the file is.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

#[cfg(test)]
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::statvfs::statvfs;

/// Kept for the node itself: records of functions, templates of /tmp, the file system's own. They grow by kilobytes a
/// change, and a deletion needs some before it gives some back.
const RESERVE: u64 = 256 * 1024 * 1024;

/// Unit of a file's `blocks`.
const BLOCK: u64 = 512;

/// Why there is no room.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    /// It is taken or promised.
    #[error("the disk has {free} bytes, of which {promised} are promised: {wanted} more are too many")]
    Full {
        /// Bytes that nobody has written yet.
        free: u64,
        /// Those that running sandboxes and the cache may still write.
        promised: u64,
        /// What was asked for.
        wanted: u64,
    },
    /// The file system or a file could not be asked.
    #[error("look for room on the disk")]
    Io(#[from] io::Error),
}

/// The disk that holds a folder.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: Folder,
    promises: Mutex<Promises>,
    /// What a cache on it may still grow by.
    cache: OnceLock<Growth>,
}

/// Bytes that something may still grow by.
pub(crate) struct Growth(Box<dyn Fn() -> u64 + Send + Sync>);

impl std::fmt::Debug for Growth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Growth(..)")
    }
}

#[derive(Debug)]
enum Folder {
    Real(PathBuf),
    /// With this much free, for tests.
    #[cfg(test)]
    Pretended(AtomicU64),
}

#[derive(Debug, Default)]
struct Promises {
    last_id: u64,
    /// Files and their full lengths.
    files: HashMap<u64, (File, u64)>,
}

impl Promises {
    /// What the files may still grow by.
    fn outstanding(&self) -> io::Result<u64> {
        self.files.values().try_fold(0u64, |sum, (file, len)| {
            let written = file.metadata()?.blocks() * BLOCK;
            Ok(sum.saturating_add(len.saturating_sub(written)))
        })
    }
}

impl Disk {
    /// The disk that holds `folder`.
    pub(crate) fn of(folder: &Path) -> Arc<Self> {
        let (promises, cache) = (Mutex::default(), OnceLock::new());
        Arc::new(Self { folder: Folder::Real(folder.to_owned()), promises, cache })
    }

    /// A disk with that much free, for tests.
    #[cfg(test)]
    pub(crate) fn pretended(free: u64) -> Arc<Self> {
        let (promises, cache) = (Mutex::default(), OnceLock::new());
        Arc::new(Self { folder: Folder::Pretended(AtomicU64::new(free)), promises, cache })
    }

    /// Changes how much is free.
    #[cfg(test)]
    pub(crate) fn pretend(&self, now: u64) {
        if let Folder::Pretended(free) = &self.folder {
            free.store(now, Ordering::Relaxed);
        }
    }

    /// A cache that grows up to a bound has its room, too: what it may still grow by is given to nobody. Said once.
    pub(crate) fn keep_room_for(&self, growth: impl Fn() -> u64 + Send + Sync + 'static) {
        drop(self.cache.set(Growth(Box::new(growth))));
    }

    /// Bytes of the whole disk.
    pub(crate) fn len(&self) -> io::Result<u64> {
        match &self.folder {
            Folder::Real(path) => {
                let numbers = statvfs(path)?;
                Ok(numbers.blocks().saturating_mul(numbers.fragment_size()))
            }
            #[cfg(test)]
            Folder::Pretended(free) => Ok(free.load(Ordering::Relaxed)),
        }
    }

    /// Promises a sparse file all of its length.
    ///
    /// # Errors
    /// [`DiskError::Full`] when that would be more than there is.
    pub(crate) fn promise(self: &Arc<Self>, file: &File) -> Result<Promise, DiskError> {
        let len = file.metadata()?.len();
        let written = file.metadata()?.blocks() * BLOCK;
        let file = file.try_clone()?;
        let mut promises = self.promises();
        self.admit(&promises, len.saturating_sub(written))?;
        promises.last_id += 1;
        let id = promises.last_id;
        promises.files.insert(id, (file, len));
        Ok(Promise { disk: Arc::clone(self), id })
    }

    /// Whether `len` bytes can be written now.
    ///
    /// # Errors
    /// [`DiskError::Full`] when not.
    pub(crate) fn check(&self, len: u64) -> Result<(), DiskError> {
        self.admit(&self.promises(), len)
    }

    /// Bytes that can be written now.
    pub(crate) fn room(&self) -> Result<u64, DiskError> {
        let growth = self.cache.get().map_or(0, |Growth(growth)| growth());
        let promised = self.promises().outstanding()?.saturating_add(growth);
        Ok(self.free()?.saturating_sub(promised).saturating_sub(RESERVE))
    }

    fn admit(&self, promises: &Promises, wanted: u64) -> Result<(), DiskError> {
        let growth = self.cache.get().map_or(0, |Growth(growth)| growth());
        let (free, promised) = (self.free()?, promises.outstanding()?.saturating_add(growth));
        if fits(free, promised, wanted) { Ok(()) } else { Err(DiskError::Full { free, promised, wanted }) }
    }

    fn free(&self) -> io::Result<u64> {
        match &self.folder {
            Folder::Real(path) => {
                let numbers = statvfs(path)?;
                Ok(numbers.blocks_available().saturating_mul(numbers.fragment_size()))
            }
            #[cfg(test)]
            Folder::Pretended(free) => Ok(free.load(Ordering::Relaxed)),
        }
    }

    fn promises(&self) -> MutexGuard<'_, Promises> {
        // Nothing under the lock panics, and a table is right at any moment.
        self.promises.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fits(free: u64, promised: u64, wanted: u64) -> bool {
    promised.saturating_add(wanted).saturating_add(RESERVE) <= free
}

/// Room that a file has for itself; given back when dropped.
#[derive(Debug)]
pub(crate) struct Promise {
    disk: Arc<Disk>,
    id: u64,
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.disk.promises().files.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn sparse(len: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        file
    }

    #[test]
    fn what_is_promised_to_one_is_not_promised_to_another() {
        let disk = Disk::pretended(RESERVE + 1000 * MIB);
        let first = disk.promise(&sparse(600 * MIB)).unwrap();
        assert!(matches!(disk.promise(&sparse(600 * MIB)), Err(DiskError::Full { .. })));
        assert!(disk.check(401 * MIB).is_err());
        disk.check(400 * MIB).unwrap();
        drop(first);
        disk.promise(&sparse(600 * MIB)).unwrap();
    }

    #[test]
    fn what_was_written_is_counted_once() {
        let disk = Disk::pretended(RESERVE + 10 * MIB);
        let file = sparse(10 * MIB);
        let _promise = disk.promise(&file).unwrap();
        file.write_all_at(&vec![1; 4 << 20], 0).unwrap();
        file.sync_all().unwrap();
        let Err(DiskError::Full { promised, .. }) = disk.check(5 * MIB) else { panic!("no room is left") };
        assert_eq!(promised, 6 * MIB);
    }

    #[test]
    fn what_a_cache_may_grow_by_is_nobodys() {
        let disk = Disk::pretended(RESERVE + 10 * MIB);
        disk.check(10 * MIB).unwrap();
        disk.keep_room_for(|| 4 * MIB);
        disk.check(6 * MIB).unwrap();
        let Err(DiskError::Full { promised, .. }) = disk.check(7 * MIB) else { panic!("it is the cache's") };
        assert_eq!(promised, 4 * MIB);
    }

    #[test]
    fn a_real_disk_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::of(dir.path());
        assert!(matches!(disk.check(u64::MAX / 2), Err(DiskError::Full { free, .. }) if free > 0));
        assert!(disk.len().unwrap() > RESERVE);
        assert!(matches!(Disk::of(&dir.path().join("none")).check(0), Err(DiskError::Io(_))));
    }
}
