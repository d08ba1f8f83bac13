//! /tmp of a function: a sparse ext4 image without a name.
//!
//! `mkfs.ext4` runs once per size; each sandbox gets a copy of the few hundred KiB it wrote, in a file that is
//! unlinked from the start, so that nothing remains of it when the VMM ends, however it ends. No journal: nobody
//! mounts a sandbox's /tmp after a crash.

use std::{
    collections::HashMap,
    fs::File,
    io,
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use nix::{
    errno::Errno,
    fcntl::copy_file_range,
    unistd::{Whence, lseek},
};
use tokio::{process::Command, sync::OnceCell, task::spawn_blocking};

use crate::disk::{Disk, DiskError, Promise};

#[cfg(test)]
mod tests;

/// Part of a template's name: changes with [`MKFS_OPTIONS`], so that an updated agent does not use old templates.
const FORMAT: &str = "ext4-1";

/// Deterministic (fixed identifier, hash seed and time), without a journal, and without writing what a sparse file
/// reads as anyway; the guest's kernel has nothing to initialise later either. No blocks are reserved for root.
/// Owner and mode of the root directory are the guest's business.
const MKFS_OPTIONS: [&str; 14] = [
    "-q",
    "-F",
    "-b",
    "4096",
    "-m",
    "0",
    "-O",
    "^has_journal,^resize_inode",
    "-U",
    "74696e64-6572-4b6f-8078-736372617463",
    "-E",
    "hash_seed=74696e64-6572-4b6f-8078-736372617463,lazy_itable_init=1,assume_storage_prezeroed=1,nodiscard",
    "-L",
    "scratch",
];

/// Makes templates.
const MKFS: &str = "mkfs.ext4";

/// Where Debian has it.
const TOOL_PATH: &str = "/usr/sbin:/sbin:/usr/bin:/bin";

/// Where `mkfs.ext4` may be found.
pub(crate) fn mkfs_ext4_paths() -> impl Iterator<Item = PathBuf> {
    TOOL_PATH.split(':').map(|dir| Path::new(dir).join(MKFS))
}

/// Extension of a template that is being made.
const UNFINISHED: &str = "new";

/// Longest piece of one copy, and the buffer of a copy that the file system cannot do by itself.
const COPY_LEN: usize = 1024 * 1024;

/// Why there is no /tmp.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScratchError {
    /// The template could not be made.
    #[error("make a scratch template of {size_mib} MiB: {problem}")]
    Template {
        /// Size asked for.
        size_mib: u32,
        /// What `mkfs.ext4` or the file system said.
        problem: String,
    },
    /// There is no file for what a clone writes to its /tmp.
    #[error("make room for what a clone writes to its /tmp")]
    Layer(#[source] io::Error),
    /// A clone's image has what it has changed, and nothing else.
    #[error("a clone's /tmp cannot be kept")]
    Partial,
    /// A guest's /tmp could not be kept.
    #[error("keep a guest's /tmp")]
    Save(#[source] io::Error),
    /// The disk has no room for all that a guest may write to it.
    #[error("find room for a /tmp")]
    Room(#[from] DiskError),
    /// The copy could not be made.
    #[error("copy the scratch template of {size_mib} MiB")]
    Copy {
        /// Size asked for.
        size_mib: u32,
        /// Why.
        source: io::Error,
    },
}

/// A sparse file, and where its data is.
#[derive(Debug)]
pub(crate) struct Extents {
    file: File,
    len: u64,
    /// Ascending.
    extents: Vec<(u64, u64)>,
}

/// A sandbox's image. While this value lives, the disk has room for all of it.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    holds: Holds,
    _room: Promise,
}

/// What is in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// The file system.
    All,
    /// What of a snapshot's was written over.
    Changes,
}

impl Image {
    /// Another descriptor of it.
    pub(crate) fn try_clone(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Another descriptor, of one that is a whole file system.
    pub(crate) fn whole(&self) -> Result<File, ScratchError> {
        match self.holds {
            Holds::All => self.try_clone().map_err(ScratchError::Save),
            Holds::Changes => Err(ScratchError::Partial),
        }
    }
}

/// Scratch images of one node.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: PathBuf,
    disk: Arc<Disk>,
    /// One cell a size, 9,729 at most. The lock covers the look-up alone.
    templates: Mutex<HashMap<u32, Arc<OnceCell<Arc<Extents>>>>>,
}

impl Scratch {
    /// Images in `dir`, which is made when it is not there. A template that an agent was making when it was killed is
    /// removed: nobody may want one of that size again.
    pub(crate) fn new(dir: PathBuf, disk: Arc<Disk>) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == UNFINISHED) {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(Self { dir, disk, templates: Mutex::default() })
    }

    /// A new, empty file system of `size_mib`.
    pub(crate) async fn image(&self, size_mib: u32) -> Result<Image, ScratchError> {
        let cell = {
            let mut templates = self.templates.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(templates.entry(size_mib).or_default())
        };
        let template = Arc::clone(cell.get_or_try_init(|| self.template(size_mib)).await?);
        let dir = self.dir.clone();
        let copied = spawn_blocking(move || copy(&template, &dir)).await;
        let file = copied
            .unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
            .map_err(|source| ScratchError::Copy { size_mib, source })?;
        self.with_room(file, Holds::All)
    }

    /// A file of holes for what a clone writes over a snapshot's /tmp of `len` bytes.
    pub(crate) fn layer(&self, len: u64) -> Result<Image, ScratchError> {
        let file = tempfile::tempfile_in(&self.dir).map_err(ScratchError::Layer)?;
        file.set_len(len).map_err(ScratchError::Layer)?;
        self.with_room(file, Holds::Changes)
    }

    fn with_room(&self, file: File, holds: Holds) -> Result<Image, ScratchError> {
        let _room = self.disk.promise(&file)?;
        Ok(Image { file, holds, _room })
    }

    async fn template(&self, size_mib: u32) -> Result<Arc<Extents>, ScratchError> {
        let path = self.dir.join(format!("{FORMAT}-{size_mib}.img"));
        let failed = |problem: String| ScratchError::Template { size_mib, problem };
        if !path.exists() {
            make(&path, size_mib).await.map_err(failed)?;
        }
        open(&path).map(Arc::new).map_err(|error| failed(error.to_string()))
    }
}

/// Makes the template beside its place and moves it there when it is whole and on the disk.
async fn make(path: &Path, size_mib: u32) -> Result<(), String> {
    let unfinished = path.with_extension(UNFINISHED);
    let text = |error: io::Error| error.to_string();
    let file = File::create(&unfinished).map_err(text)?;
    file.set_len(u64::from(size_mib) * 1024 * 1024).map_err(text)?;
    let output = Command::new(MKFS)
        .args(MKFS_OPTIONS)
        .arg(&unfinished)
        .env_clear()
        .env("PATH", TOOL_PATH)
        .env("E2FSPROGS_FAKE_TIME", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("mkfs.ext4: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("mkfs.ext4 ended with {}: {}", output.status, said.trim()));
    }
    file.sync_all().and_then(|()| std::fs::rename(&unfinished, path)).map_err(text)
}

fn open(path: &Path) -> io::Result<Extents> {
    Extents::of(File::open(path)?)
}

/// Writes what an image holds to a new file, sparse as it is. Nobody may be writing to the image.
pub(crate) fn save(image: &File, to: &File) -> io::Result<()> {
    let image = Extents::of(image.try_clone()?)?;
    to.set_len(image.len)?;
    image.extents.iter().try_for_each(|(start, end)| copy_extent(&image.file, to, *start, *end))
}

impl Extents {
    /// Finds where a file's data is.
    pub(crate) fn of(file: File) -> io::Result<Self> {
        let len = file.metadata()?.size();
        let mut extents = Vec::new();
        let mut at = 0;
        while let Some(start) = seek(&file, at, Whence::SeekData)? {
            let end = seek(&file, start, Whence::SeekHole)?.unwrap_or(len);
            extents.push((start, end));
            at = end;
        }
        Ok(Self { file, len, extents })
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Its length, holes included, bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes that are no holes.
    pub(crate) fn data_len(&self) -> u64 {
        self.extents.iter().map(|(start, end)| end - start).sum()
    }

    /// Whether there is anything but holes in that part of the file.
    pub(crate) fn has_data(&self, part: Range<u64>) -> bool {
        let behind = self.extents.partition_point(|(_, end)| *end <= part.start);
        self.extents.get(behind).is_some_and(|(start, _)| *start < part.end)
    }
}

/// The next data or hole at or behind `from`; `None` when there is none.
fn seek(file: &File, from: u64, whence: Whence) -> io::Result<Option<u64>> {
    let from = i64::try_from(from).map_err(io::Error::other)?;
    match lseek(file, from, whence) {
        Ok(at) => Ok(u64::try_from(at).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn copy(template: &Extents, dir: &Path) -> io::Result<File> {
    let image = tempfile::tempfile_in(dir)?;
    image.set_len(template.len)?;
    for (start, end) in &template.extents {
        copy_extent(&template.file, &image, *start, *end)?;
    }
    Ok(image)
}

fn copy_extent(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let mut at = start;
    while at < end {
        let len = usize::try_from(end - at).unwrap_or(COPY_LEN).min(COPY_LEN);
        let mut source_at = i64::try_from(at).map_err(io::Error::other)?;
        let mut target_at = source_at;
        let copied = match copy_file_range(from, Some(&mut source_at), to, Some(&mut target_at), len) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(copied) => copied,
            Err(Errno::EXDEV | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => {
                let mut buffer = vec![0; len];
                from.read_exact_at(&mut buffer, at)?;
                to.write_all_at(&buffer, at)?;
                len
            }
            Err(errno) => return Err(errno.into()),
        };
        at += copied as u64;
    }
    Ok(())
}
