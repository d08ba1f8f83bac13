//! What a store needs of a disk, step by step, so that a test can end the world between any two of them.
//!
//! A file is written as a [`Draft`]; all drafts are flushed at once ([`Disk::flush`]), and only then they get their names. Until a
//! flush, or [`Disk::sync`] of the folder, a loss of power may undo what happened to the names of a folder, the last of it first.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use nix::unistd::syncfs;

use super::root::Label;
use crate::name::ChunkName;

/// End of the names of files that are being written.
const UNFINISHED: &str = "part";

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

impl Place {
    pub(super) fn folder(&self) -> Folder {
        match self {
            Self::Chunk(name) => Folder::Chunks(name.as_bytes()[0]),
            Self::Root(_) => Folder::Roots,
        }
    }
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
    /// Flushes the names in a folder.
    fn sync(&self, folder: Folder) -> io::Result<()>;
    /// The files in a folder. Those without a name, and those with a name that is none of ours, are not in it.
    fn list(&self, folder: Folder) -> io::Result<Vec<Place>>;
}

/// A directory of one process.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    /// The same, open all the time: the kernel tells of what it could not write since.
    opened: File,
}

impl Directory {
    /// Makes the folders, and deletes what was never finished.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let directory = Self { root: root.to_owned(), opened: File::open(root)? };
        let folders = (0..=u8::MAX).map(Folder::Chunks).chain([Folder::Roots]);
        for folder in folders.map(|folder| directory.folder(folder)) {
            fs::create_dir_all(&folder)?;
            for file in fs::read_dir(&folder)? {
                let path = file?.path();
                if path.extension().is_some_and(|extension| extension == UNFINISHED) {
                    fs::remove_file(path)?;
                }
            }
        }
        for folder in [&directory.root, &directory.root.join("chunks")] {
            File::open(folder)?.sync_all()?;
        }
        Ok(directory)
    }

    fn folder(&self, folder: Folder) -> PathBuf {
        match folder {
            Folder::Chunks(first) => self.root.join("chunks").join(format!("{first:02x}")),
            Folder::Roots => self.root.join("roots"),
        }
    }

    fn path(&self, place: &Place) -> PathBuf {
        let folder = self.folder(place.folder());
        match place {
            Place::Chunk(name) => folder.join(name.to_string()),
            Place::Root(label) => folder.join(label.as_str()),
        }
    }

    /// Beside the place, so that one folder is changed when it gets its name.
    fn draft(&self, draft: &Draft) -> PathBuf {
        self.path(&draft.place).with_extension(format!("{}.{UNFINISHED}", draft.publish))
    }
}

impl Disk for Directory {
    fn read(&self, place: &Place, max_len: usize) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        File::open(self.path(place))?.take(max_len as u64 + 1).read_to_end(&mut content)?;
        Ok(content)
    }

    fn holds(&self, place: &Place) -> io::Result<bool> {
        self.path(place).try_exists()
    }

    fn len(&self, place: &Place) -> io::Result<u64> {
        Ok(fs::metadata(self.path(place))?.len())
    }

    fn write(&self, draft: &Draft, content: &[u8]) -> io::Result<()> {
        File::create(self.draft(draft))?.write_all(content)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(syncfs(&self.opened)?)
    }

    fn finish(&self, draft: &Draft) -> io::Result<()> {
        fs::rename(self.draft(draft), self.path(&draft.place))
    }

    fn discard(&self, draft: &Draft) -> io::Result<()> {
        fs::remove_file(self.draft(draft))
    }

    fn remove(&self, place: &Place) -> io::Result<()> {
        match fs::remove_file(self.path(place)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync(&self, folder: Folder) -> io::Result<()> {
        File::open(self.folder(folder))?.sync_all()
    }

    fn list(&self, folder: Folder) -> io::Result<Vec<Place>> {
        let mut places = Vec::new();
        for file in fs::read_dir(self.folder(folder))? {
            let name = file?.file_name();
            let Some(text) = name.to_str() else { continue };
            let place = match folder {
                Folder::Chunks(_) => text.parse().map(Place::Chunk).ok(),
                Folder::Roots => text.parse().map(Place::Root).ok(),
            };
            places.extend(place.filter(|place| place.folder() == folder));
        }
        Ok(places)
    }
}
