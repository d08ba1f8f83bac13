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

use crate::{
    code::hex,
    disk::{Disk, DiskError},
};

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

    /// Sees to it that there is a copy of an image whose hash is known.
    pub(super) fn keep(&self, image: &Path, sha256: &str, disk: &Disk) -> Result<(), KeepError> {
        let to = self.path(sha256).unwrap_or_else(|| self.dir.clone());
        if to.exists() {
            return Ok(());
        }
        let failed = |source| KeepError::Copy { from: image.to_owned(), to: to.clone(), source };
        disk.check(fs::metadata(image).map_err(failed)?.len())?;
        self.copy(image, sha256, &to).map_err(failed)
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
                fs::remove_file(path)?;
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

    const MIB: u64 = 1 << 20;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir.join("runtimes")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_image_is_copied_once_and_goes_when_nothing_needs_it() {
        let dir = tempfile::tempdir().unwrap();
        let (image, disk) = (dir.path().join("python.erofs"), Disk::pretended(1000 * MIB));
        fs::write(&image, vec![7; PIECE + 1]).unwrap();
        let sha256 = hex(&Sha256::digest(vec![7; PIECE + 1]));
        let images = Images::under(dir.path());
        images.retain(&HashSet::new()).unwrap();
        assert_eq!(images.find(&sha256), None);
        images.keep(&image, &sha256, &disk).unwrap();
        fs::write(&image, "another one").unwrap();
        images.keep(&image, &sha256, &disk).unwrap();
        let copy = images.find(&sha256).unwrap();
        assert_eq!(fs::read(&copy).unwrap(), vec![7; PIECE + 1]);

        fs::write(dir.path().join("runtimes/new-1"), "half of one").unwrap();
        images.retain(&HashSet::from([&sha256[..], "../../etc"])).unwrap();
        assert_eq!(names(dir.path()), [format!("{sha256}.erofs")]);
        images.retain(&HashSet::new()).unwrap();
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn what_cannot_be_copied_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (image, images) = (dir.path().join("python.erofs"), Images::under(dir.path()));
        let (full, roomy) = (Disk::pretended(0), Disk::pretended(1000 * MIB));
        let other = "0".repeat(HASH_CHARS);
        assert!(matches!(images.keep(&image, &other, &roomy), Err(KeepError::Copy { .. })), "no image");
        fs::write(&image, "an image").unwrap();
        assert!(matches!(images.keep(&image, &other, &full), Err(KeepError::Disk(_))));
        let changed = images.keep(&image, &other, &roomy).unwrap_err();
        assert!(crate::sandbox::describe(&changed).contains("changed"), "{changed:?}");
        assert!(names(dir.path()).is_empty());
        assert_eq!((images.find("../key"), images.find(&other)), (None, None));
    }
}
