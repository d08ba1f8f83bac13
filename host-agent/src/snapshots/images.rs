//! Images of runtimes that snapshots were made with and the node's programs no longer bring.
//!
//! A guest remembers blocks of the image that it was started from, so its clones are given that very image or none. Programs come
//! with the node's own image, which is replaced as a whole: what snapshots need of it is copied beside them.
//!
//! ```text
//! STATE/runtimes/SHA256.erofs  durable before the first snapshot that needs it is
//! STATE/runtimes/new-*         being copied; removed at the next start
//! ```
//!
//! A copy goes at the first start at which no snapshot names it any more.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::{code::hex, disk::DiskError};

/// Characters of a SHA-256 in hexadecimal.
const HASH_CHARS: usize = 64;

/// How much of an image is copied at a time.
const PIECE: usize = 1 << 20;

/// Why an image was not kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    /// It cannot be said which one it is.
    #[error("read the image {}", image.display())]
    Hash {
        /// The image.
        image: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no room for it.
    #[error("find room for a copy")]
    Disk(#[from] DiskError),
    /// A file.
    #[error("copy {} to {}", from.display(), to.display())]
    Copy {
        /// The image.
        from: PathBuf,
        /// Its copy.
        to: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The copies.
#[derive(Debug)]
pub(super) struct Images {
    dir: PathBuf,
}

impl Images {
    /// Those under `state_dir`.
    pub(super) fn under(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("runtimes") }
    }

    /// Where the copy of the image with that hash is, if there is one. Its content is whoever's who could write it.
    pub(super) fn find(&self, sha256: &str) -> Option<PathBuf> {
        let path = self.path(sha256)?;
        path.exists().then_some(path)
    }

    /// Makes the copy of an image whose hash is known, in place of any there is. It is durable when this returns.
    pub(super) fn keep(&self, image: &Path, sha256: &str) -> Result<(), KeepError> {
        let no_hash = || io::Error::new(io::ErrorKind::InvalidInput, "its hash is none");
        let copied = self.path(sha256).ok_or_else(no_hash).and_then(|to| self.copy(image, sha256, &to));
        copied.map_err(|source| KeepError::Copy { from: image.to_owned(), to: self.dir.clone(), source })
    }

    /// Removes all copies but these.
    pub(super) fn retain(&self, needed: &HashSet<&str>) -> io::Result<()> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let wanted = needed.iter().any(|sha256| self.path(sha256).as_ref() == Some(&path));
            if !wanted {
                if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
            }
        }
        Ok(())
    }

    /// The name of a copy; none for what is no hash.
    fn path(&self, sha256: &str) -> Option<PathBuf> {
        let is_hash = sha256.len() == HASH_CHARS && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hash.then(|| self.dir.join(format!("{sha256}.erofs")))
    }

    fn copy(&self, image: &Path, sha256: &str, to: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        if let Some(state_dir) = self.dir.parent() {
            File::open(state_dir)?.sync_all()?;
        }
        // Two may make the same copy at a time: each writes its own, and either is right.
        let draft = self.dir.join(format!("new-{}", uuid::Uuid::new_v4()));
        let copied = copy_hashed(image, &draft).and_then(|actual| {
            if actual != sha256 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it has changed since it was hashed"));
            }
            fs::rename(&draft, to)?;
            File::open(&self.dir)?.sync_all()
        });
        copied.inspect_err(|_| drop(fs::remove_file(&draft)))
    }
}

/// Copies a file durably; the hash of what was copied.
fn copy_hashed(from: &Path, to: &Path) -> io::Result<String> {
    let (mut from, mut to) = (File::open(from)?, File::create_new(to)?);
    let (mut hash, mut piece) = (Sha256::new(), vec![0; PIECE]);
    loop {
        match from.read(&mut piece)? {
            0 => break,
            len => {
                hash.update(&piece[..len]);
                to.write_all(&piece[..len])?;
            }
        }
    }
    to.sync_all()?;
    Ok(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir.join("runtimes")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_image_is_copied_and_goes_when_nothing_needs_it() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("python.erofs");
        fs::write(&image, vec![7; PIECE + 1]).unwrap();
        let sha256 = hex(&Sha256::digest(vec![7; PIECE + 1]));
        let images = Images::under(dir.path());
        images.retain(&HashSet::new()).unwrap();
        assert_eq!(images.find(&sha256), None);
        images.keep(&image, &sha256).unwrap();
        let copy = images.find(&sha256).unwrap();
        fs::write(&copy, "damaged").unwrap();
        images.keep(&image, &sha256).unwrap();
        assert_eq!(fs::read(&copy).unwrap(), vec![7; PIECE + 1]);

        fs::write(dir.path().join("runtimes/new-1"), "half of one").unwrap();
        fs::create_dir(dir.path().join("runtimes/somebody's")).unwrap();
        images.retain(&HashSet::from([&sha256[..], "../../etc"])).unwrap();
        assert_eq!(names(dir.path()), [format!("{sha256}.erofs")]);
        images.retain(&HashSet::new()).unwrap();
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn what_cannot_be_copied_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (image, images) = (dir.path().join("python.erofs"), Images::under(dir.path()));
        let other = "0".repeat(HASH_CHARS);
        let problem = |sha256: &str| crate::sandbox::describe(&images.keep(&image, sha256).unwrap_err());
        assert!(problem(&other).contains("No such file"));
        fs::write(&image, "an image").unwrap();
        assert!(problem(&other).contains("changed"));
        assert!(problem("../key").contains("its hash is none"));
        assert!(names(dir.path()).is_empty());
        assert_eq!((images.find("../key"), images.find(&other)), (None, None));
    }
}
