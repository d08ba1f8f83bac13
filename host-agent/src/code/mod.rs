//! The functions' code on this node, and layers: zips as they were uploaded, and the erofs images made from them.
//!
//! The zip is the truth and lies in an object store (a directory); the image is derived, published among the node's contents
//! (`chunks`), and made again when it is missing. A zip is named by its SHA-256, so that equal uploads are kept once, and an image by
//! those that it is made of: a function's code and its layers, which are one image (`docs/adr/0027-layers-in-the-code-image.md`). A
//! handle ([`CodeImage`]) keeps the zips and the image of a package in place: the view holds one for every function and every version
//! of a layer, an invocation holds one while it runs, and [`CodeStore::sweep`] deletes what has none.
//!
//! Of a container image nothing is kept but what it was flattened to, under its digest (`docs/adr/0035-container-images.md`).

pub(crate) mod archive;
pub(crate) mod buckets;
mod build;
pub(crate) mod confined;
mod error;
mod files;
pub(crate) mod image;
mod merge;
mod package;
pub(crate) mod uploads;

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use chunk_store::{ChunkSize, Kind, Label};
use futures_util::{Stream, TryStreamExt as _, stream};
use object_store::{ObjectStoreExt as _, PutPayload, local::LocalFileSystem};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex, Semaphore};

pub(crate) use self::{
    build::{BuildError, Builder},
    error::CodeError,
    package::{Package, PackageKind},
};
use self::{
    confined::{UPLOAD, layer_name},
    files::{BuildDir, file, object, remove_images, remove_staged, sync_dir},
    image::Description,
    package::CODE,
    uploads::Uploads,
};

use crate::{
    chunks::{Chunks, ChunksError},
    disk::{Disk, DiskError, Promise},
    functions::model::CodeRef,
    invoke::CodeImage,
};

/// Zips that are unpacked at a time: each takes a processor and, at most, some hundred MB of disk.
const MAX_BUILDS: usize = 2;

/// What making an image takes at most beside the zip: its content once as a tar, once as the image and once in chunks, each a
/// little longer than what a zip may hold.
const BUILD_LEN: u64 = 3 * (archive::MAX_UNZIPPED_LEN + 16 * 1024 * 1024);

/// How often a flattened image is on the disk while it is made: as a tar, as an image, in chunks.
const IMAGE_COPIES: u64 = 3;

/// Longest zip, of which a build has a copy for each layer: what Lambda takes of one in a request. One from a bucket is no longer.
pub(crate) const MAX_ZIP_LEN: u64 = 52_428_800;

/// What is read at once of a zip that somebody is sent.
const PIECE_LEN: u64 = 256 * 1024;

/// The node's code store.
pub(crate) struct CodeStore {
    zips: Arc<LocalFileSystem>,
    zip_dir: PathBuf,
    chunks: Arc<Chunks>,
    builds: PathBuf,
    builder: Builder,
    disk: Arc<Disk>,
    slots: Semaphore,
    /// One container image at a time: it takes [`IMAGE_COPIES`] of its length for a while.
    image_slot: Semaphore,
    uploads: Uploads,
    /// Every handle that may be alive. Held while something is deleted, so that no handle is made in between.
    handles: Mutex<HashMap<Package, Weak<CodeImage>>>,
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
        let zips = Arc::new(zips);
        let (slots, image_slot) = (Semaphore::new(MAX_BUILDS), Semaphore::new(1));
        let uploads = Uploads::new(builds.clone(), Arc::clone(&disk));
        let handles = Mutex::default();
        Ok(Self { zips, zip_dir, chunks, builds, builder, disk, slots, image_slot, uploads, handles })
    }

    /// Archives that are on their way.
    pub(crate) fn uploads(&self) -> &Uploads {
        &self.uploads
    }

    /// The handle of a package. Neither zips nor image need exist.
    pub(crate) async fn image(&self, package: &Package) -> Arc<CodeImage> {
        let mut handles = self.handles.lock().await;
        if let Some(handle) = handles.get(package).and_then(Weak::upgrade) {
            return handle;
        }
        let handle = Arc::new(CodeImage { label: package.label() });
        handles.insert(package.clone(), Arc::downgrade(&handle));
        handle
    }

    /// Checks and stores the zip of a function that has these layers, whose zips are stored. When this succeeds zip and image are
    /// durable, and stay while the handle lives.
    ///
    /// # Errors
    /// [`BuildError::Refused`] when the zip is no function's code, [`CodeError::Disk`] when there is no room for it;
    /// every other error is the node's.
    pub(crate) async fn ingest(
        &self,
        zip: Bytes,
        layers: Vec<String>,
    ) -> Result<(CodeRef, Arc<CodeImage>), CodeError> {
        let size = zip.len() as u64;
        let (zip, sha256) = digest(zip).await;
        let package = Package { kind: PackageKind::Zip, code: sha256.clone(), layers };
        let handle = self.image(&package).await;
        let stored = self.zips.head(&object(&sha256)).await;
        if !(stored.is_ok() && self.claim(&handle.label).await) {
            self.disk.check(build_len(&package) + size)?;
            self.build(&package, &zip).await?;
            self.store(&sha256, zip).await?;
        }
        Ok((CodeRef { sha256, size }, handle))
    }

    /// Checks and stores the zip of a layer, which no image is made of yet. When this succeeds it is durable, and stays while the
    /// handle lives.
    ///
    /// # Errors
    /// As [`Self::ingest`].
    pub(crate) async fn ingest_layer(&self, zip: Bytes) -> Result<(CodeRef, Arc<CodeImage>), CodeError> {
        let size = zip.len() as u64;
        let (zip, sha256) = digest(zip).await;
        let handle = self.image(&Package::alone(&sha256)).await;
        if self.zips.head(&object(&sha256)).await.is_err() {
            self.disk.check(BUILD_LEN + size)?;
            // The semaphore is never closed.
            let _slot = self.slots.acquire().await;
            let dir = BuildDir::create(&self.builds)?;
            write(&dir.join(UPLOAD), &zip).await?;
            self.builder.check(&dir).await?;
            self.store(&sha256, zip).await?;
        }
        Ok((CodeRef { sha256, size }, handle))
    }

    /// A file for an archive of at most so many bytes, which has no name, and its room until that is dropped.
    ///
    /// # Errors
    /// [`CodeError::Disk`].
    pub(crate) fn archive(&self, max_len: u64) -> Result<(std::fs::File, Promise), CodeError> {
        let file = tempfile::tempfile_in(&self.builds).map_err(file("create a file in", &self.builds))?;
        // Behind the archive's end it is empty, as behind that of any tar.
        file.set_len(max_len).map_err(DiskError::Io)?;
        let room = self.disk.promise(&file)?;
        Ok((file, room))
    }

    /// Verifies and flattens the image of an archive. When this succeeds it is durable, and stays while the handle lives.
    ///
    /// # Errors
    /// [`BuildError::Image`] when the archive is no function's image or there is no room for it; every other error is the node's.
    pub(crate) async fn ingest_image(
        &self,
        archive: std::fs::File,
    ) -> Result<(Description, Arc<CodeImage>), CodeError> {
        // The semaphore is never closed.
        let _slot = self.image_slot.acquire().await;
        let dir = BuildDir::create(&self.builds)?;
        let room = self.disk.room()? / IMAGE_COPIES;
        let described = self.builder.flatten_image(&dir, archive, room).await?;
        let package = Package::container(&described.digest);
        let handle = self.image(&package).await;
        if !self.claim(&handle.label).await {
            let built = self.builder.pack_image(&dir).await?;
            self.publish(&package, &built).await?;
        }
        Ok((described, handle))
    }

    /// Makes the image of zips that are stored, if there is none: of code that was uploaded with other layers.
    ///
    /// # Errors
    /// As [`Self::ingest`].
    pub(crate) async fn assemble(&self, package: &Package) -> Result<(), CodeError> {
        let handle = self.image(package).await;
        if !self.claim(&handle.label).await {
            self.disk.check(build_len(package))?;
        }
        self.restore(package).await
    }

    /// Makes the image again if it is missing, whatever room there is: it was there.
    pub(crate) async fn restore(&self, package: &Package) -> Result<(), CodeError> {
        let handle = self.image(package).await;
        if self.claim(&handle.label).await {
            return Ok(());
        }
        if package.kind == PackageKind::Container {
            return Err(CodeError::Gone { digest: package.code.clone() });
        }
        let zip = self.zip(&package.code).await?;
        self.build(package, &zip).await
    }

    /// The zip as it was uploaded: the store is not trusted, its bytes are compared with the name.
    pub(crate) async fn zip(&self, sha256: &str) -> Result<Bytes, CodeError> {
        let failed = |source| CodeError::Object { attempted: "read", sha256: sha256.into(), source };
        let zip = self.zips.get(&object(sha256)).await.map_err(failed)?.bytes().await.map_err(failed)?;
        let (zip, actual) = digest(zip).await;
        if actual == sha256 { Ok(zip) } else { Err(CodeError::Damaged { sha256: sha256.into(), actual }) }
    }

    /// How long a zip is, and its pieces one after another: who is sent them may take their time, and a zip is long. It is read once
    /// before, so that nobody is sent a damaged one.
    pub(crate) async fn pieces(
        &self,
        sha256: &str,
    ) -> Result<(u64, impl Stream<Item = Result<Bytes, object_store::Error>> + Send + use<>), CodeError> {
        let failed = |source| CodeError::Object { attempted: "read", sha256: sha256.into(), source };
        let path = object(sha256);
        let len = self.zips.head(&path).await.map_err(failed)?.size;
        let mut hash = Sha256::new();
        let mut pieces = pin!(pieces_of(Arc::clone(&self.zips), path.clone(), len));
        while let Some(piece) = pieces.try_next().await.map_err(failed)? {
            hash.update(&piece);
        }
        let actual = hex(&hash.finalize());
        if actual == sha256 {
            Ok((len, pieces_of(Arc::clone(&self.zips), path, len)))
        } else {
            Err(CodeError::Damaged { sha256: sha256.into(), actual })
        }
    }

    /// Deletes all code without a handle.
    pub(crate) async fn sweep(&self) -> Result<(), CodeError> {
        let mut handles = self.handles.lock().await;
        handles.retain(|_, handle| handle.strong_count() > 0);
        let kept: HashSet<&str> = handles.keys().flat_map(Package::zips).collect();
        for sha256 in self.stored()?.into_iter().filter(|sha256| !kept.contains(sha256.as_str())) {
            match self.zips.delete(&object(&sha256)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(CodeError::Object { attempted: "remove", sha256, source }),
            }
        }
        let alive: HashSet<Label> = handles.keys().map(Package::label).collect();
        let chunks = Arc::clone(&self.chunks);
        let deleted = blocking(move || {
            let labels = chunks.labels()?;
            let images = labels.iter().filter(|label| label.as_str().starts_with(CODE));
            let gone: Vec<_> = images.filter(|label| !alive.contains(label)).collect();
            gone.iter().try_for_each(|label| chunks.delete(label))?;
            Ok::<_, ChunksError>(!gone.is_empty())
        });
        let deleted = deleted.await?;
        // Contents are published while chunks are collected, and a disk may take its time: no update waits for that.
        drop(handles);
        if deleted {
            let chunks = Arc::clone(&self.chunks);
            blocking(move || chunks.collect()).await?;
        }
        Ok(())
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

    async fn store(&self, sha256: &str, zip: Bytes) -> Result<(), CodeError> {
        let failed = |source| CodeError::Object { attempted: "store", sha256: sha256.into(), source };
        self.zips.put(&object(sha256), PutPayload::from_bytes(zip)).await.map(drop).map_err(failed)
    }

    async fn build(&self, package: &Package, zip: &Bytes) -> Result<(), CodeError> {
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await;
        let dir = BuildDir::create(&self.builds)?;
        write(&dir.join(UPLOAD), zip).await?;
        for (index, layer) in package.layers.iter().enumerate() {
            write(&dir.join(layer_name(index)), &self.zip(layer).await?).await?;
        }
        let built = self.builder.build(&dir, package.layers.len()).await?;
        self.publish(package, &built).await
    }

    async fn publish(&self, package: &Package, built: &Path) -> Result<(), CodeError> {
        let image = std::fs::File::open(built).map_err(file("open", built))?;
        let (chunks, label) = (Arc::clone(&self.chunks), package.label());
        Ok(blocking(move || chunks.publish(&label, Kind::Code, ChunkSize::IMAGE, &image)).await?)
    }
}

fn pieces_of(
    zips: Arc<LocalFileSystem>,
    path: object_store::path::Path,
    len: u64,
) -> impl Stream<Item = Result<Bytes, object_store::Error>> + Send {
    stream::try_unfold(0, move |at| {
        let (zips, path, end) = (Arc::clone(&zips), path.clone(), len.min(at + PIECE_LEN));
        async move {
            if at == len {
                return Ok(None);
            }
            let piece = zips.get_range(&path, at..end).await?;
            Ok(Some((piece, end)))
        }
    })
}

async fn write(path: &Path, bytes: &Bytes) -> Result<(), CodeError> {
    tokio::fs::write(path, bytes).await.map_err(file("write", path))
}

/// What making the image of a package takes at most beside its code's zip.
fn build_len(package: &Package) -> u64 {
    BUILD_LEN + package.layers.len() as u64 * MAX_ZIP_LEN
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
