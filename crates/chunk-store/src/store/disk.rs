//! What a store needs of a disk, step by step, so that a test can end the world between any two of them.
//!
//! A file is written as a [`Draft`]; all drafts are flushed at once ([`Disk::flush`]), and only then they get their names. Until a
//! flush, or [`Disk::sync_roots`], a loss of power may undo what happened to the names of a folder, the last of it first.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use nix::unistd::syncfs;

use super::root::Label;
use super::segments::Segments;
use crate::chunk::MAX_BODY_LEN;
use crate::name::ChunkName;
use crate::size::MAX_CHUNKS;

/// End of the names of files that are being written.
const UNFINISHED: &str = "part";

/// The last of the publishes that take over what an older version of this left: no other has begun yet.
const LAST_ADOPTER: u64 = u64::MAX;

/// A file of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Chunk(ChunkName),
    Root(Label),
}

/// Where files are together: what is flushed and listed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Folder {
    /// Chunks whose names begin with this byte.
    Chunks(u8),
    Roots,
}

/// A file that has no name yet, of one publish: others may be writing the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Draft {
    pub(super) place: Place,
    pub(super) publish: u64,
}

/// Files that have a name are whole.
pub(super) trait Disk: Send + Sync {
    /// All of a file, if it has at most `max_len` bytes; of another one a byte more.
    fn read(&self, place: &Place, max_len: usize) -> io::Result<Vec<u8>>;
    /// Whether there is such a file.
    fn holds(&self, place: &Place) -> io::Result<bool>;
    /// Bytes of a file.
    fn len(&self, place: &Place) -> io::Result<u64>;
    /// Writes a draft, all of it. One thread a draft.
    fn write(&self, draft: &Draft, content: &[u8]) -> io::Result<()>;
    /// Flushes every draft that has been written and every name that has been given or taken away. An error is told once, and may be
    /// of any of them.
    fn flush(&self) -> io::Result<()>;
    /// Gives a draft that has been flushed its name, which another file may have had.
    fn finish(&self, draft: &Draft) -> io::Result<()>;
    /// Deletes a draft.
    fn discard(&self, draft: &Draft) -> io::Result<()>;
    /// Deletes a file; one that is not there is no error.
    fn remove(&self, place: &Place) -> io::Result<()>;
    /// Flushes the names of roots.
    fn sync_roots(&self) -> io::Result<()>;
    /// This publish has no drafts any more and writes none.
    fn end(&self, publish: u64);
    /// The files in a folder. Those without a name, and those with a name that is none of ours, are not in it.
    fn list(&self, folder: Folder) -> io::Result<Vec<Place>>;
}

/// A directory of one process: a file for each root, and segments of chunks.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    segments: Segments,
    /// The same, open all the time: the kernel tells of what it could not write since.
    opened: File,
}

impl Directory {
    /// Makes the folders, and deletes what was never finished.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let (roots, chunks) = (root.join("roots"), root.join("chunks"));
        fs::create_dir_all(&roots)?;
        for file in fs::read_dir(&roots)? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == UNFINISHED) {
                fs::remove_file(path)?;
            }
        }
        let segments = Segments::open(chunks.clone())?;
        let directory = Self { root: root.to_owned(), segments, opened: File::open(root)? };
        for folder in [root, &chunks] {
            File::open(folder)?.sync_all()?;
        }
        directory.adopt_files(&chunks)?;
        Ok(directory)
    }

    /// Takes over chunks from when each was a file, in a folder by the first byte of its name.
    fn adopt_files(&self, chunks: &Path) -> io::Result<()> {
        let mut adopted = 0;
        // As many as one publish has.
        let adopter = |adopted: u64| LAST_ADOPTER - adopted / MAX_CHUNKS;
        for folder in fs::read_dir(chunks)? {
            let folder = folder?;
            if !folder.file_type()?.is_dir() {
                continue;
            }
            for file in fs::read_dir(folder.path())? {
                let file = file?;
                let Some(Ok(name)) = file.file_name().to_str().map(str::parse) else { continue };
                let mut body = Vec::new();
                File::open(file.path())?.take(MAX_BODY_LEN as u64 + 1).read_to_end(&mut body)?;
                self.segments.write(adopter(adopted), name, &body)?;
                self.segments.finish(adopter(adopted), name)?;
                adopted += 1;
            }
        }
        (adopter(adopted)..=LAST_ADOPTER).for_each(|publish| self.segments.end(publish));
        self.flush()?;
        for folder in fs::read_dir(chunks)? {
            let folder = folder?;
            if folder.file_type()?.is_dir() {
                fs::remove_dir_all(folder.path())?;
            }
        }
        Ok(())
    }

    fn root(&self, label: &Label) -> PathBuf {
        self.root.join("roots").join(label.as_str())
    }

    /// Beside the root, so that one folder is changed when it gets its name.
    fn draft(&self, label: &Label, publish: u64) -> PathBuf {
        self.root(label).with_extension(format!("{publish}.{UNFINISHED}"))
    }
}

impl Disk for Directory {
    fn read(&self, place: &Place, max_len: usize) -> io::Result<Vec<u8>> {
        match place {
            Place::Chunk(name) => self.segments.read(name, max_len),
            Place::Root(label) => {
                let mut content = Vec::new();
                File::open(self.root(label))?.take(max_len as u64 + 1).read_to_end(&mut content)?;
                Ok(content)
            }
        }
    }

    fn holds(&self, place: &Place) -> io::Result<bool> {
        match place {
            Place::Chunk(name) => Ok(self.segments.holds(name)),
            Place::Root(label) => self.root(label).try_exists(),
        }
    }

    fn len(&self, place: &Place) -> io::Result<u64> {
        match place {
            Place::Chunk(name) => self.segments.len(name),
            Place::Root(label) => Ok(fs::metadata(self.root(label))?.len()),
        }
    }

    fn write(&self, draft: &Draft, content: &[u8]) -> io::Result<()> {
        match &draft.place {
            Place::Chunk(name) => self.segments.write(draft.publish, *name, content),
            Place::Root(label) => File::create(self.draft(label, draft.publish))?.write_all(content),
        }
    }

    fn flush(&self) -> io::Result<()> {
        let due = self.segments.begin_flush()?;
        match syncfs(&self.opened) {
            Ok(()) => self.segments.flushed(due),
            Err(errno) => {
                self.segments.failed(due);
                return Err(errno.into());
            }
        }
        Ok(())
    }

    fn finish(&self, draft: &Draft) -> io::Result<()> {
        match &draft.place {
            Place::Chunk(name) => self.segments.finish(draft.publish, *name),
            Place::Root(label) => fs::rename(self.draft(label, draft.publish), self.root(label)),
        }
    }

    fn discard(&self, draft: &Draft) -> io::Result<()> {
        match &draft.place {
            Place::Chunk(name) => self.segments.discard(draft.publish, *name),
            Place::Root(label) => fs::remove_file(self.draft(label, draft.publish)),
        }
    }

    fn remove(&self, place: &Place) -> io::Result<()> {
        match place {
            Place::Chunk(name) => self.segments.remove(name),
            Place::Root(label) => match fs::remove_file(self.root(label)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
        }
        Ok(())
    }

    fn sync_roots(&self) -> io::Result<()> {
        File::open(self.root.join("roots"))?.sync_all()
    }

    fn end(&self, publish: u64) {
        self.segments.end(publish);
    }

    fn list(&self, folder: Folder) -> io::Result<Vec<Place>> {
        match folder {
            Folder::Chunks(first) => Ok(self.segments.list(first).into_iter().map(Place::Chunk).collect()),
            Folder::Roots => {
                let names = fs::read_dir(self.root.join("roots"))?.map(|file| Ok(file?.file_name()));
                let names: Vec<_> = names.collect::<io::Result<_>>()?;
                let label = |name: &std::ffi::OsString| name.to_str()?.parse().ok().map(Place::Root);
                Ok(names.iter().filter_map(label).collect())
            }
        }
    }
}
