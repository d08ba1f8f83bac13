//! What a snapshot is of, and what it was made from.
//!
//! Two snapshots with the same owner and the same identity resume as the same thing. One whose identity is not what the
//! node would make today is stale: it serves until it has been made again.

use std::{
    collections::HashMap,
    env::consts::ARCH,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use guest_protocol::PROTOCOL_VERSION;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;
use vmm_api::{Identity, Shape};

use super::{
    Snapshot, SnapshotStore,
    runtimes::{self, KeepError, RuntimeImage},
};
use crate::{
    chunks::{Chunks, ChunksError},
    code::{blocking, hex},
    disk::DiskError,
    functions::model::{FunctionConfig, FunctionId},
    invoke::Retired,
};

/// Raised when the agent bakes something else into a guest before its snapshot.
const BAKED: &str = "1";

/// Name of the part that is the version of the protocol that its guest speaks.
const PROTOCOL: &str = "protocol";

/// Name of the part that is the runtime's image.
const RUNTIME: &str = "runtime";

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Owner {
    /// A version, initialised.
    Version {
        /// The function.
        function: FunctionId,
        /// `$LATEST` or a number.
        version: String,
        /// As in its record: another after every change.
        deployment_id: String,
    },
    /// A guest with a runtime, before it is known which function it will run.
    Runtime {
        /// Identifier of the runtime.
        runtime: String,
        /// Memory of the functions that it is for, MiB: fixes the machine's shape.
        memory_mib: u32,
    },
}

/// What is in a guest beside what each of its runtime has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    /// An initialised function: what names it and its settings.
    Function(&'a str),
    /// Nothing yet, in a machine of that shape.
    Nobody(Shape),
}

impl Content<'_> {
    fn part(self) -> (String, String) {
        match self {
            Self::Function(content) => ("code".into(), content.into()),
            Self::Nobody(Shape { vcpu_count, mem_size_mib }) => {
                ("machine".into(), format!("{ARCH}, {vcpu_count} vCPUs, {mem_size_mib} MiB"))
            }
        }
    }
}

impl Owner {
    /// The owner that a function's record is.
    pub(crate) fn version(config: &FunctionConfig) -> Self {
        Self::Version {
            function: config.id.clone(),
            version: config.version.clone(),
            deployment_id: config.deployment_id.clone(),
        }
    }

    /// Whether it is one of the versions that are gone when that of the function is.
    pub(crate) fn is_retired(&self, id: &FunctionId, what: Retired<'_>) -> bool {
        let Self::Version { function, version, deployment_id } = self else { return false };
        function == id
            && match what {
                Retired::Function => true,
                Retired::Sandboxes => false,
                Retired::Version(retired) => version == retired,
                Retired::Deployment(replaced) => deployment_id == replaced,
            }
    }
}

/// A snapshot and what its guest's root file system is in.
#[derive(Clone, Debug)]
pub(crate) struct Resumable {
    /// The snapshot.
    pub(crate) snapshot: Arc<Snapshot>,
    /// The image of its runtime, as it was when the snapshot was made.
    pub(crate) image: RuntimeImage,
}

impl Resumable {
    /// The version of its runtime, as [`Host::runtime`] says it.
    pub(crate) fn runtime_version(&self) -> Option<&str> {
        self.snapshot.identity().0.get(RUNTIME).map(String::as_str)
    }

    /// Whether its runtime is the version that the node has now.
    pub(crate) fn has_current_runtime(&self) -> bool {
        matches!(self.image, RuntimeImage::Pack(_))
    }
}

/// What this node makes snapshots from, hashed when it is first asked for.
#[derive(Debug)]
pub(crate) struct Host {
    lib_dir: PathBuf,
    chunks: Arc<Chunks>,
    hashes: Mutex<HashMap<PathBuf, Arc<OnceCell<String>>>>,
}

impl Host {
    /// Of a node with its programs and images in `lib_dir`, and what it keeps in `chunks`.
    pub(crate) fn new(lib_dir: PathBuf, chunks: Arc<Chunks>) -> Self {
        Self { lib_dir, chunks, hashes: Mutex::default() }
    }

    /// The identity of a snapshot that would be made now.
    pub(crate) async fn identity(&self, runtime: &str, content: Content<'_>) -> io::Result<Identity> {
        let files = [("vmm", "vmm"), ("kernel", "guest/vmlinux"), ("initrd", "guest/initrd.cpio")];
        let protocol = (PROTOCOL.to_owned(), PROTOCOL_VERSION.to_string());
        let mut parts = vec![("baked".to_owned(), BAKED.to_owned()), protocol, content.part()];
        for (name, file) in files {
            parts.push((name.into(), self.hash(&self.lib_dir.join(file)).await?));
        }
        parts.push((RUNTIME.into(), self.runtime(runtime).await?));
        Ok(Identity(parts.into_iter().collect()))
    }

    /// The snapshot with its runtime's image: the one that the runtime has now, or what was kept of then; none, when there is
    /// neither. Kernel, initrd and VMM of another time are in its memory, or the VMM refuses it; but a guest that remembers one
    /// image's blocks would read another one wrong and not notice.
    pub(crate) async fn resumable(
        &self,
        snapshot: Arc<Snapshot>,
        runtime: &str,
    ) -> io::Result<Option<Resumable>> {
        let parts = &snapshot.identity().0;
        // Its guest would be refused after it was resumed, each time.
        if parts.get(PROTOCOL) != Some(&PROTOCOL_VERSION.to_string()) {
            return Ok(None);
        }
        let Some(needed) = parts.get(RUNTIME) else { return Ok(None) };
        let image = match self.runtime(runtime).await {
            Ok(hash) if hash == *needed => Some(RuntimeImage::Pack(self.image(runtime))),
            // The node may have the runtime no more.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {
                let (chunks, needed) = (Arc::clone(&self.chunks), needed.clone());
                blocking(move || runtimes::kept(&chunks, &needed)).await
            }
        };
        Ok(image.map(|image| Resumable { snapshot, image }))
    }

    /// Has snapshots that are made with the runtime's image now outlive it. `room` makes room for so many bytes, when it is not kept
    /// yet.
    pub(crate) async fn keep_image(
        &self,
        runtime: &str,
        room: impl AsyncFnOnce(u64) -> Result<(), DiskError>,
    ) -> Result<(), KeepError> {
        let image = self.image(runtime);
        let unread = |source| KeepError::Len { image: image.clone(), source };
        let hash = self.runtime(runtime).await.map_err(unread)?;
        let (chunks, named) = (Arc::clone(&self.chunks), hash.clone());
        if blocking(move || runtimes::kept(&chunks, &named)).await.is_some() {
            return Ok(());
        }
        room(std::fs::metadata(&image).map_err(unread)?.len()).await?;
        let chunks = Arc::clone(&self.chunks);
        blocking(move || runtimes::keep(&chunks, &image, &hash)).await
    }

    /// Forgets the images that none of these snapshots needs. Blocks.
    pub(crate) fn shed_images(&self, snapshots: &SnapshotStore) -> Result<(), ChunksError> {
        let snapshots = snapshots.all();
        let needed = snapshots.iter().filter_map(|snapshot| snapshot.identity().0.get(RUNTIME));
        runtimes::retain(&self.chunks, &needed.map(String::as_str).collect())
    }

    /// What tells the image that a runtime has now from every other one: SHA-256, lower-case hexadecimal.
    pub(crate) async fn runtime(&self, name: &str) -> io::Result<String> {
        let chunks = Arc::clone(&self.chunks);
        self.once(&self.image(name), move |path| {
            runtimes::hash_of(&chunks, path).map_err(|error| {
                let kind =
                    if error.is_missing() { io::ErrorKind::NotFound } else { io::ErrorKind::InvalidData };
                io::Error::new(kind, error)
            })
        })
        .await
    }

    fn image(&self, runtime: &str) -> PathBuf {
        image_in(&self.lib_dir, runtime)
    }

    async fn hash(&self, path: &Path) -> io::Result<String> {
        self.once(path, hash_file).await
    }

    /// Programs and images do not change under a running agent, so each is read once.
    async fn once(
        &self,
        path: &Path,
        hash: impl FnOnce(&Path) -> io::Result<String> + Send + 'static,
    ) -> io::Result<String> {
        let cell = {
            let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(hashes.entry(path.into()).or_default())
        };
        let path = path.to_owned();
        cell.get_or_try_init(|| blocking(move || hash(&path))).await.cloned()
    }
}

/// Where the image of a runtime is among the node's programs.
pub(crate) fn image_in(lib_dir: &Path, runtime: &str) -> PathBuf {
    lib_dir.join("runtimes").join(format!("{runtime}.pack"))
}

fn hash_file(path: &Path) -> io::Result<String> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut file = File::open(path).map_err(named)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1024 * 1024]);
    loop {
        match file.read(&mut buffer).map_err(named)? {
            0 => return Ok(hex(&hash.finalize())),
            len => hash.update(&buffer[..len]),
        }
    }
}
