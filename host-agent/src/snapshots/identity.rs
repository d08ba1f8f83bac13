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

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;
use vmm_api::{Identity, Shape};

use crate::{
    code::{blocking, hex},
    functions::model::{FunctionConfig, FunctionId},
};

/// Raised when the agent bakes something else into a guest before its snapshot.
const BAKED: &str = "1";

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
}

/// What this node makes snapshots from, hashed when it is first asked for.
#[derive(Debug)]
pub(crate) struct Host {
    lib_dir: PathBuf,
    hashes: Mutex<HashMap<PathBuf, Arc<OnceCell<String>>>>,
}

impl Host {
    /// Of a node with its programs and images in `lib_dir`.
    pub(crate) fn new(lib_dir: PathBuf) -> Self {
        Self { lib_dir, hashes: Mutex::default() }
    }

    /// The identity of a snapshot that would be made now.
    pub(crate) async fn identity(&self, runtime: &str, content: Content<'_>) -> io::Result<Identity> {
        let files = [("vmm", "vmm"), ("kernel", "guest/vmlinux"), ("initrd", "guest/initrd.cpio")];
        let mut parts = vec![("baked".to_owned(), BAKED.to_owned()), content.part()];
        for (name, file) in files {
            parts.push((name.into(), self.hash(&self.lib_dir.join(file)).await?));
        }
        parts.push((RUNTIME.into(), self.runtime(runtime).await?));
        Ok(Identity(parts.into_iter().collect()))
    }

    /// Whether a snapshot can be resumed with the image that the runtime has now. Kernel, initrd and VMM of another time
    /// are in its memory, or the VMM refuses it; of the image there is only the one that the node has, and a guest that
    /// remembers another one's blocks would read it wrong and not notice.
    pub(crate) async fn has_runtime_of(&self, snapshot: &Identity, runtime: &str) -> io::Result<bool> {
        Ok(snapshot.0.get(RUNTIME) == Some(&self.runtime(runtime).await?))
    }

    async fn runtime(&self, name: &str) -> io::Result<String> {
        self.hash(&self.lib_dir.join("runtimes").join(format!("{name}.erofs"))).await
    }

    /// Programs and images do not change under a running agent, so each is read once.
    async fn hash(&self, path: &Path) -> io::Result<String> {
        let cell = {
            let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(hashes.entry(path.into()).or_default())
        };
        let path = path.to_owned();
        cell.get_or_try_init(|| blocking(move || hash_file(&path))).await.cloned()
    }
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
