//! The functions' code on this node: zips as they were uploaded, and the erofs images made from them.
//!
//! The zip is the truth and lies in an object store (a directory); the image is derived, local, and made again when it
//! is missing. Both are named by the SHA-256 of the zip, so that equal uploads are kept once. A handle
//! ([`CodeImage`]) keeps both in place: the view holds one for every function, an invocation holds one while it runs,
//! and [`CodeStore::sweep`] deletes what has none.

pub(crate) mod archive;
mod build;
pub(crate) mod confined;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use bytes::Bytes;
use object_store::{ObjectStoreExt as _, PutPayload, local::LocalFileSystem};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex, Semaphore};

pub(crate) use build::{BuildError, Builder};

use crate::{
    disk::{Disk, DiskError},
    functions::model::CodeRef,
    invoke::CodeImage,
};

/// Zips that are unpacked at a time: each takes a processor and, at most, some hundred MB of disk.
const MAX_BUILDS: usize = 2;

/// What making an image takes at most beside the zip: its content once as a tar and once as the image, each a little
/// longer than what a zip may hold.
const BUILD_LEN: u64 = 2 * (archive::MAX_UNZIPPED_LEN + 16 * 1024 * 1024);

/// Why code could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodeError {
    /// There is no image.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The disk has no room for it.
    #[error("the code was not stored")]
    Disk(#[from] DiskError),
    /// A directory or file of the store.
    #[error("cannot {attempted} {}", path.display())]
    File {
        /// What was attempted.
        attempted: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The object store.
    #[error("cannot {attempted} the zip of {sha256}")]
    Object {
        /// What was attempted.
        attempted: &'static str,
        /// Of which code.
        sha256: String,
        /// Why not.
        source: object_store::Error,
    },
    /// The object store gave back other bytes than it was given.
    #[error("the zip of {sha256} is damaged: its bytes have {actual}")]
    Damaged {
        /// Of which code.
        sha256: String,
        /// SHA-256 of what was read.
        actual: String,
    },
}

/// The node's code store.
pub(crate) struct CodeStore {
    zips: LocalFileSystem,
    images: PathBuf,
    builds: PathBuf,
    builder: Builder,
    disk: Arc<Disk>,
    slots: Semaphore,
    /// Every handle that may be alive. Held while something is deleted, so that no handle is made in between.
    handles: Mutex<HashMap<String, Weak<CodeImage>>>,
}

impl CodeStore {
    /// Opens the store under `state_dir`, making its directories; what an unfinished build left is removed.
    pub(crate) fn open(state_dir: &Path, builder: Builder, disk: Arc<Disk>) -> Result<Self, CodeError> {
        let (zips, images, builds) =
            (state_dir.join("code"), state_dir.join("images"), state_dir.join("builds"));
        if builds.exists() {
            std::fs::remove_dir_all(&builds).map_err(file("remove", &builds))?;
        }
        for dir in [&zips, &images, &builds] {
            std::fs::create_dir_all(dir).map_err(file("create", dir))?;
        }
        sync_dir(state_dir)?;
        remove_staged(&zips)?;
        let zips = LocalFileSystem::new_with_prefix(&zips)
            .map_err(|source| CodeError::Object { attempted: "open", sha256: "any".into(), source })?
            .with_fsync(true);
        let (slots, handles) = (Semaphore::new(MAX_BUILDS), Mutex::default());
        Ok(Self { zips, images, builds, builder, disk, slots, handles })
    }

    /// The handle of some code. Its files need not exist.
    pub(crate) async fn image(&self, sha256: &str) -> Arc<CodeImage> {
        let mut handles = self.handles.lock().await;
        if let Some(handle) = handles.get(sha256).and_then(Weak::upgrade) {
            return handle;
        }
        let handle = Arc::new(CodeImage { path: self.image_path(sha256) });
        handles.insert(sha256.into(), Arc::downgrade(&handle));
        handle
    }

    /// Checks and stores a zip. When this succeeds zip and image are durable, and stay while the handle lives.
    ///
    /// # Errors
    /// [`BuildError::Refused`] when the zip is no function's code, [`CodeError::Disk`] when there is no room for it;
    /// every other error is the node's.
    pub(crate) async fn ingest(&self, zip: Bytes) -> Result<(CodeRef, Arc<CodeImage>), CodeError> {
        let size = zip.len() as u64;
        let (zip, sha256) = digest(zip).await;
        let handle = self.image(&sha256).await;
        let stored = self.zips.head(&object(&sha256)).await;
        if !(stored.is_ok() && handle.path.exists()) {
            self.disk.check(BUILD_LEN + size)?;
            self.build(&sha256, &zip).await?;
            self.zips
                .put(&object(&sha256), PutPayload::from_bytes(zip))
                .await
                .map_err(|source| CodeError::Object { attempted: "store", sha256: sha256.clone(), source })?;
        }
        Ok((CodeRef { sha256, size }, handle))
    }

    /// Makes the image again if it is missing.
    pub(crate) async fn restore(&self, sha256: &str) -> Result<(), CodeError> {
        let handle = self.image(sha256).await;
        if handle.path.exists() {
            return Ok(());
        }
        let zip = self.zip(sha256).await?;
        self.build(sha256, &zip).await
    }

    /// The zip as it was uploaded: the store is not trusted, its bytes are compared with the name.
    pub(crate) async fn zip(&self, sha256: &str) -> Result<Bytes, CodeError> {
        let failed = |source| CodeError::Object { attempted: "read", sha256: sha256.into(), source };
        let zip = self.zips.get(&object(sha256)).await.map_err(failed)?.bytes().await.map_err(failed)?;
        let (zip, actual) = digest(zip).await;
        if actual == sha256 { Ok(zip) } else { Err(CodeError::Damaged { sha256: sha256.into(), actual }) }
    }

    /// Deletes all code without a handle.
    pub(crate) async fn sweep(&self) -> Result<(), CodeError> {
        let mut handles = self.handles.lock().await;
        handles.retain(|_, handle| handle.strong_count() > 0);
        for name in self.names()? {
            if handles.contains_key(&name) {
                continue;
            }
            let image = self.image_path(&name);
            match std::fs::remove_file(&image) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(file("remove", &image)(error));
                }
                _ => {}
            }
            match self.zips.delete(&object(&name)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(CodeError::Object { attempted: "remove", sha256: name, source }),
            }
        }
        Ok(())
    }

    /// Names of all code on the disk.
    fn names(&self) -> Result<Vec<String>, CodeError> {
        let zips = self.zips.path_to_filesystem(&object("x")).ok();
        let zips = zips.as_deref().and_then(Path::parent).map(Path::to_owned);
        let mut names = Vec::new();
        for dir in [Some(self.images.clone()), zips].into_iter().flatten() {
            for entry in std::fs::read_dir(&dir).map_err(file("list", &dir))? {
                let name = entry.map_err(file("list", &dir))?.file_name();
                let name = name.to_string_lossy();
                names.extend(name.split('.').next().filter(|name| !name.is_empty()).map(String::from));
            }
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    async fn build(&self, sha256: &str, zip: &Bytes) -> Result<(), CodeError> {
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await;
        let dir = BuildDir(self.builds.join(uuid::Uuid::new_v4().to_string()));
        std::fs::create_dir(&dir.0).map_err(file("create", &dir.0))?;
        let upload = dir.0.join("upload.zip");
        tokio::fs::write(&upload, zip).await.map_err(file("write", &upload))?;
        let built = self.builder.build(&upload, &dir.0).await?;
        let image = self.image_path(sha256);
        std::fs::rename(&built, &image).map_err(file("rename", &built))?;
        let images = self.images.clone();
        blocking(move || sync_dir(&images)).await
    }

    fn image_path(&self, sha256: &str) -> PathBuf {
        self.images.join(format!("{sha256}.erofs"))
    }
}

/// A build's directory, removed with everything in it when the build ends, however it ends.
struct BuildDir(PathBuf);

impl Drop for BuildDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("a build's directory is left until the next start: {error}");
        }
    }
}

/// The SHA-256 of a zip, computed where it holds up nobody.
async fn digest(zip: Bytes) -> (Bytes, String) {
    blocking(move || {
        let sha256 = hex(&Sha256::digest(&zip));
        (zip, sha256)
    })
    .await
}

/// Runs long work on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Nobody aborts these tasks: what is left is a panic of the work itself.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Removes what the object store had staged under `NAME#NUMBER` when the agent was killed.
fn remove_staged(dir: &Path) -> Result<(), CodeError> {
    for entry in std::fs::read_dir(dir).map_err(file("list", dir))? {
        let path = entry.map_err(file("list", dir))?.path();
        if path.to_string_lossy().contains('#') {
            std::fs::remove_file(&path).map_err(file("remove", &path))?;
        }
    }
    Ok(())
}

fn sync_dir(dir: &Path) -> Result<(), CodeError> {
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(file("sync", dir))
}

fn object(sha256: &str) -> object_store::path::Path {
    object_store::path::Path::from(format!("{sha256}.zip"))
}

fn file(attempted: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CodeError {
    let path = path.to_owned();
    move |source| CodeError::File { attempted, path, source }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
pub(crate) mod tests;
