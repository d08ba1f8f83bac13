//! The functions' code on this node: zips as they were uploaded, and the erofs images made from them.
//!
//! The zip is the truth and lies in an object store (a directory); the image is derived, published among the node's contents
//! (`chunks`), and made again when it is missing. Both are named by the SHA-256 of the zip, so that equal uploads are kept once. A handle
//! ([`CodeImage`]) keeps both in place: the view holds one for every function, an invocation holds one while it runs,
//! and [`CodeStore::sweep`] deletes what has none.

pub(crate) mod archive;
mod build;
pub(crate) mod confined;

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use bytes::Bytes;
use chunk_store::{ChunkSize, Kind, Label};
use object_store::{ObjectStoreExt as _, PutPayload, local::LocalFileSystem};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex, Semaphore};

pub(crate) use build::{BuildError, Builder};

use crate::{
    chunks::{Chunks, ChunksError},
    disk::{Disk, DiskError},
    functions::model::CodeRef,
    invoke::CodeImage,
};

/// Zips that are unpacked at a time: each takes a processor and, at most, some hundred MB of disk.
const MAX_BUILDS: usize = 2;

/// What making an image takes at most beside the zip: its content once as a tar, once as the image and once in chunks, each a
/// little longer than what a zip may hold.
const BUILD_LEN: u64 = 3 * (archive::MAX_UNZIPPED_LEN + 16 * 1024 * 1024);

/// Why code could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodeError {
    /// There is no image.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The disk has no room for it.
    #[error("the code was not stored")]
    Disk(#[from] DiskError),
    /// Its image cannot be kept.
    #[error("the code's image was not kept")]
    Chunks(#[from] ChunksError),
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
    zip_dir: PathBuf,
    chunks: Arc<Chunks>,
    builds: PathBuf,
    builder: Builder,
    disk: Arc<Disk>,
    slots: Semaphore,
    /// Every handle that may be alive, by SHA-256. Held while something is deleted, so that no handle is made in between.
    handles: Mutex<HashMap<String, Weak<CodeImage>>>,
}

impl CodeStore {
    /// Opens the store under `state_dir`, making its directories, with images among `chunks`; what an unfinished build left is
    /// removed.
    pub(crate) fn open(
        state_dir: &Path,
        builder: Builder,
        disk: Arc<Disk>,
        chunks: Arc<Chunks>,
    ) -> Result<Self, CodeError> {
        let (zip_dir, builds) = (state_dir.join("code"), state_dir.join("builds"));
        if builds.exists() {
            std::fs::remove_dir_all(&builds).map_err(file("remove", &builds))?;
        }
        for dir in ["images", "runtimes"] {
            remove_images(&state_dir.join(dir))?;
        }
        for dir in [&zip_dir, &builds] {
            std::fs::create_dir_all(dir).map_err(file("create", dir))?;
        }
        sync_dir(state_dir)?;
        remove_staged(&zip_dir)?;
        let zips = LocalFileSystem::new_with_prefix(&zip_dir)
            .map_err(|source| CodeError::Object { attempted: "open", sha256: "any".into(), source })?
            .with_fsync(true);
        let (slots, handles) = (Semaphore::new(MAX_BUILDS), Mutex::default());
        Ok(Self { zips, zip_dir, chunks, builds, builder, disk, slots, handles })
    }

    /// The handle of some code. Neither zip nor image need exist.
    pub(crate) async fn image(&self, sha256: &str) -> Arc<CodeImage> {
        let mut handles = self.handles.lock().await;
        if let Some(handle) = handles.get(sha256).and_then(Weak::upgrade) {
            return handle;
        }
        let handle = Arc::new(CodeImage { label: label_of(sha256) });
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
        if !(stored.is_ok() && self.claim(&handle.label).await) {
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
        if self.claim(&handle.label).await {
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
        for sha256 in self.stored()?.into_iter().filter(|sha256| !handles.contains_key(sha256)) {
            match self.zips.delete(&object(&sha256)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(CodeError::Object { attempted: "remove", sha256, source }),
            }
        }
        let alive: HashSet<Label> = handles.keys().map(|sha256| label_of(sha256)).collect();
        let chunks = Arc::clone(&self.chunks);
        let swept = blocking(move || {
            let labels = chunks.labels()?;
            let images = labels.iter().filter(|label| label.as_str().starts_with(CODE));
            let gone: Vec<_> = images.filter(|label| !alive.contains(label)).collect();
            gone.iter().try_for_each(|label| chunks.delete(label))?;
            if gone.is_empty() { Ok(()) } else { chunks.collect().map(drop) }
        });
        Ok(swept.await?)
    }

    /// Names of all zips on the disk.
    fn stored(&self) -> Result<Vec<String>, CodeError> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.zip_dir).map_err(file("list", &self.zip_dir))? {
            let name = entry.map_err(file("list", &self.zip_dir))?.file_name();
            names.extend(name.to_string_lossy().split('.').next().map(String::from));
        }
        Ok(names)
    }

    /// Whether there is such an image, which is wanted: an open one may have been about to be deleted.
    async fn claim(&self, label: &Label) -> bool {
        let (chunks, label) = (Arc::clone(&self.chunks), label.clone());
        blocking(move || chunks.claim(&label)).await
    }

    async fn build(&self, sha256: &str, zip: &Bytes) -> Result<(), CodeError> {
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await;
        let dir = BuildDir(self.builds.join(uuid::Uuid::new_v4().to_string()));
        std::fs::create_dir(&dir.0).map_err(file("create", &dir.0))?;
        let upload = dir.0.join("upload.zip");
        tokio::fs::write(&upload, zip).await.map_err(file("write", &upload))?;
        let built = self.builder.build(&upload, &dir.0).await?;
        let image = std::fs::File::open(&built).map_err(file("open", &built))?;
        let (chunks, label) = (Arc::clone(&self.chunks), label_of(sha256));
        Ok(blocking(move || chunks.publish(&label, Kind::Code, ChunkSize::IMAGE, &image)).await?)
    }
}

/// What the images' labels begin with.
const CODE: &str = "code-";

/// Hexadecimal digits of the hash that are in a label: what a label has room for.
const DIGITS: usize = 56;

/// What an image is published as.
fn label_of(sha256: &str) -> Label {
    let digits = sha256.get(..DIGITS).unwrap_or(sha256);
    #[expect(clippy::expect_used, reason = "a hash has hexadecimal digits only")]
    format!("{CODE}{digits}").parse().expect("letters, digits and a hyphen")
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

/// Removes whole images, which an older agent kept beside the zips and the snapshots. Nothing else: a directory of that name may be
/// somebody's.
fn remove_images(dir: &Path) -> Result<(), CodeError> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let path = entry.map_err(file("list", dir))?.path();
        if path.extension().is_some_and(|extension| extension == "erofs") {
            std::fs::remove_file(&path).map_err(file("remove", &path))?;
        }
    }
    // One that has something else in it stays.
    drop(std::fs::remove_dir(dir));
    Ok(())
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
