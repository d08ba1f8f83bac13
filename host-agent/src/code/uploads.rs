//! Archives that come to the node in parts, each a request of its own: what is signed is checked before it counts, and no request
//! is longer than what memory has room for.
//!
//! An archive is a file without a name in the state directory, so that nothing is left of one when the agent ends.

use std::{
    collections::HashMap,
    fs::File,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{blocking, image::MAX_IMAGE_LEN};
use crate::disk::{Disk, DiskError};

/// Longest part in bytes: a request, all of which is in memory.
pub(crate) const MAX_PART_LEN: usize = 16 * 1024 * 1024;

/// Longest archive in bytes: an image whose layers are not compressed, and what is around them.
pub(crate) const MAX_ARCHIVE_LEN: u64 = MAX_IMAGE_LEN + 64 * 1024 * 1024;

/// Most archives that are on their way: each may take that much of the disk.
const MAX_UPLOADS: usize = 4;

/// After how long without a part an archive gives way to another one.
const IDLE: Duration = Duration::from_secs(600);

/// Why a part was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    /// No such upload: it was finished, or gave way.
    #[error("there is no such upload")]
    Absent,
    /// As many as there may be.
    #[error("{MAX_UPLOADS} uploads are on their way already")]
    TooMany,
    /// It does not begin where the last one ended.
    #[error("the upload has {len} bytes, this part begins at {offset}")]
    Offset {
        /// What it has.
        len: u64,
        /// What was said.
        offset: u64,
    },
    /// Longer than an archive may be.
    #[error("an archive has at most {MAX_ARCHIVE_LEN} bytes")]
    TooLong,
    /// The disk has no room for it.
    #[error("the part was not stored")]
    Disk(#[from] DiskError),
    /// The file.
    #[error("cannot write an upload's file")]
    File(#[from] std::io::Error),
}

/// Archives on their way.
pub(crate) struct Uploads {
    dir: PathBuf,
    disk: Arc<Disk>,
    open: Mutex<HashMap<String, Upload>>,
}

#[derive(Clone)]
struct Upload {
    /// What it is to be called.
    name: String,
    touched: Instant,
    /// Held while a part is written.
    archive: Arc<tokio::sync::Mutex<Archive>>,
}

struct Archive {
    file: Arc<File>,
    len: u64,
}

impl Uploads {
    /// None yet, of files in a directory.
    pub(crate) fn new(dir: PathBuf, disk: Arc<Disk>) -> Self {
        Self { dir, disk, open: Mutex::default() }
    }

    /// Begins one that is to be called that; what it is known by until it is whole.
    pub(crate) fn begin(&self, name: String) -> Result<String, UploadError> {
        let file = Arc::new(tempfile::tempfile_in(&self.dir)?);
        let archive = Arc::new(tokio::sync::Mutex::new(Archive { file, len: 0 }));
        let mut open = self.open();
        if open.len() >= MAX_UPLOADS {
            let idle = open.iter().filter(|(_, upload)| upload.touched.elapsed() >= IDLE);
            let idlest = idle.min_by_key(|(_, upload)| upload.touched).map(|(id, _)| id.clone());
            open.remove(&idlest.ok_or(UploadError::TooMany)?);
        }
        let id = uuid::Uuid::new_v4().to_string();
        open.insert(id.clone(), Upload { name, touched: Instant::now(), archive });
        Ok(id)
    }

    /// Adds a part, which begins at that offset; how much there is then.
    pub(crate) async fn append(&self, id: &str, offset: u64, part: Bytes) -> Result<u64, UploadError> {
        let archive = self.touch(id)?;
        let mut archive = archive.lock().await;
        if offset != archive.len {
            return Err(UploadError::Offset { len: archive.len, offset });
        }
        let len = offset.saturating_add(part.len() as u64);
        if len > MAX_ARCHIVE_LEN {
            return Err(UploadError::TooLong);
        }
        self.disk.check(part.len() as u64)?;
        let file = Arc::clone(&archive.file);
        blocking(move || file.write_all_at(&part, offset)).await?;
        archive.len = len;
        Ok(len)
    }

    /// Ends one: what it is called, and the whole archive, from its beginning on. Its room is given back when it is closed.
    pub(crate) async fn finish(&self, id: &str) -> Result<(String, File), UploadError> {
        let upload = self.open().remove(id).ok_or(UploadError::Absent)?;
        // After the part that is being written.
        let archive = upload.archive.lock().await;
        Ok((upload.name, archive.file.try_clone()?))
    }

    fn touch(&self, id: &str) -> Result<Arc<tokio::sync::Mutex<Archive>>, UploadError> {
        let mut open = self.open();
        let upload = open.get_mut(id).ok_or(UploadError::Absent)?;
        upload.touched = Instant::now();
        Ok(Arc::clone(&upload.archive))
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, Upload>> {
        // Nothing under the lock panics.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn uploads(free: u64) -> (tempfile::TempDir, Uploads) {
        let dir = tempfile::tempdir().unwrap();
        let uploads = Uploads::new(dir.path().to_owned(), Disk::pretended(free));
        (dir, uploads)
    }

    #[tokio::test]
    async fn an_archive_is_its_parts_one_behind_the_other() {
        let (dir, uploads) = uploads(1 << 40);
        let id = uploads.begin("app:v1".into()).unwrap();
        assert_eq!(uploads.append(&id, 0, Bytes::from_static(b"abc")).await.unwrap(), 3);
        assert_eq!(uploads.append(&id, 3, Bytes::from_static(b"def")).await.unwrap(), 6);
        let again = uploads.append(&id, 3, Bytes::from_static(b"def")).await;
        assert!(matches!(again, Err(UploadError::Offset { len: 6, offset: 3 })));
        let mut text = String::new();
        let (name, mut archive) = uploads.finish(&id).await.unwrap();
        archive.read_to_string(&mut text).unwrap();
        assert_eq!((name.as_str(), text.as_str()), ("app:v1", "abcdef"));
        assert!(matches!(uploads.finish(&id).await, Err(UploadError::Absent)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a file of it has a name");
    }

    #[tokio::test]
    async fn archives_are_bounded_in_number_and_length() {
        let (_dir, uploads) = uploads(1 << 40);
        let begin = || uploads.begin("app:v1".into());
        let ids: Vec<_> = (0..MAX_UPLOADS).map(|_| begin().unwrap()).collect();
        assert!(matches!(begin(), Err(UploadError::TooMany)));
        let upload = uploads.open().get(&ids[0]).unwrap().clone();
        upload.archive.lock().await.len = MAX_ARCHIVE_LEN;
        let longer = uploads.append(&ids[0], MAX_ARCHIVE_LEN, Bytes::from_static(b"x")).await;
        assert!(matches!(longer, Err(UploadError::TooLong)));
        uploads.finish(&ids[0]).await.unwrap();
        begin().unwrap();
    }

    #[tokio::test]
    async fn a_full_disk_takes_no_part() {
        let (_dir, uploads) = uploads(0);
        let id = uploads.begin("app:v1".into()).unwrap();
        let refused = uploads.append(&id, 0, Bytes::from_static(b"x")).await;
        assert!(matches!(refused, Err(UploadError::Disk(DiskError::Full { .. }))));
    }
}
