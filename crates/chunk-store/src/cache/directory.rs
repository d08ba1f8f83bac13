//! A directory of files that are called by names, for one process. A file is there whole or not at all: it is written under
//! another name and renamed.
//!
//! Nothing is flushed to the disk. After a loss of power a file may be cut off or hold zeros; whoever reads it verifies all of
//! it anyway, and can fetch it again.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::name::ChunkName;

/// End of the names of files that are being written.
const UNFINISHED: &str = ".part";

/// Files in folders by the first byte of their names: a million in one folder is slow to list.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
}

/// A file that was there when the directory was opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) name: ChunkName,
    pub(super) len: u64,
}

impl Directory {
    /// The directory, and the files in it, those written first first. Files that were never finished are deleted; what has
    /// no proper name is somebody else's and left alone.
    pub(super) fn open(root: &Path) -> io::Result<(Self, Vec<Found>)> {
        let mut found: Vec<(SystemTime, Found)> = Vec::new();
        for folder in 0..=u8::MAX {
            let path = root.join(format!("{folder:02x}"));
            fs::create_dir_all(&path)?;
            for file in fs::read_dir(&path)? {
                let file = file?;
                let name = file.file_name();
                let Some(text) = name.to_str() else { continue };
                if text.ends_with(UNFINISHED) {
                    fs::remove_file(file.path())?;
                } else if let Some(name) = text.parse().ok().filter(|name| folder_of(name) == folder) {
                    let metadata = file.metadata()?;
                    found.push((metadata.modified()?, Found { name, len: metadata.len() }));
                }
            }
        }
        found.sort_by_key(|(written, found)| (*written, found.name));
        Ok((Self { root: root.to_owned() }, found.into_iter().map(|(_, found)| found).collect()))
    }

    /// All of a file, if it has `len` bytes; of another one no more than a byte beyond.
    pub(super) fn read(&self, name: &ChunkName, len: usize) -> io::Result<Vec<u8>> {
        let mut content = Vec::with_capacity(len + 1);
        File::open(self.path(name))?.take(len as u64 + 1).read_to_end(&mut content)?;
        Ok(content)
    }

    /// Writes a file that is not there yet: [`Self::finish`] or [`Self::discard`] comes next. One thread a name.
    pub(super) fn write(&self, name: &ChunkName, content: &[u8]) -> io::Result<()> {
        let path = self.unfinished(name);
        let file = File::create(&path).or_else(|error| match path.parent() {
            // Somebody has emptied the directory.
            Some(folder) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(folder)?;
                File::create(&path)
            }
            _ => Err(error),
        });
        file.and_then(|mut file| file.write_all(content)).inspect_err(|_error| self.discard(name))
    }

    /// Puts it there, over one of that name.
    pub(super) fn finish(&self, name: &ChunkName) -> io::Result<()> {
        fs::rename(self.unfinished(name), self.path(name)).inspect_err(|_error| self.discard(name))
    }

    /// Forgets what has been written. What cannot be deleted goes when the directory is opened next.
    pub(super) fn discard(&self, name: &ChunkName) {
        let _ = fs::remove_file(self.unfinished(name));
    }

    /// Deletes a file; one that is not there is no error.
    pub(super) fn remove(&self, name: &ChunkName) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn unfinished(&self, name: &ChunkName) -> PathBuf {
        self.path(name).with_extension(&UNFINISHED[1..])
    }

    pub(super) fn path(&self, name: &ChunkName) -> PathBuf {
        self.root.join(format!("{:02x}", folder_of(name))).join(name.to_string())
    }
}

/// The folder that a name belongs to.
fn folder_of(name: &ChunkName) -> u8 {
    name.as_bytes()[0]
}
