//! One snapshot in its place: what is known of it, and its files, opened for a clone.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use vmm_api::{Identity, WorkingSet};

use super::{
    Owner,
    store::{SnapshotError, failed},
    working_set::{self, Learned},
};
use crate::{
    code::{blocking, hex},
    functions::now_ms,
};

/// Shape of `meta.json`.
const META_FORMAT: u32 = 1;

/// Longest `meta.json`; ours have some hundred bytes.
const MAX_META_LEN: u64 = 64 * 1024;

/// What a snapshot consists of.
pub(super) const FILES: [&str; 4] = ["state", "memory", "scratch", "meta.json"];

/// Unit of a file's `blocks`.
const BLOCK: u64 = 512;

/// What is known of a snapshot without reading it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Meta {
    format: u32,
    pub(super) owner: Owner,
    identity: Identity,
    /// Milliseconds since the Unix epoch.
    pub(super) made_ms: i64,
}

/// A snapshot in its place.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(super) dir: PathBuf,
    pub(super) meta: Meta,
    /// When it was last cloned or made, milliseconds since the Unix epoch. Known as long as the agent runs.
    used_ms: AtomicI64,
    learned: Learned,
}

impl Snapshot {
    pub(super) fn new(dir: PathBuf, meta: Meta) -> Arc<Self> {
        let used_ms = AtomicI64::new(meta.made_ms);
        let learned = Learned::read(&dir);
        Arc::new(Self { dir, meta, used_ms, learned })
    }

    /// What it is of.
    pub(crate) fn owner(&self) -> &Owner {
        &self.meta.owner
    }

    /// How long ago it was made; nothing when the clock was put back since.
    pub(crate) fn age(&self) -> Duration {
        Duration::from_millis(u64::try_from(now_ms() - self.meta.made_ms).unwrap_or_default())
    }

    /// It is about to be cloned.
    pub(crate) fn use_now(&self) {
        self.used_ms.store(now_ms(), Ordering::Relaxed);
    }

    /// It was cloned then, for tests.
    #[cfg(test)]
    pub(super) fn used_at(&self, ms: i64) {
        self.used_ms.store(ms, Ordering::Relaxed);
    }

    pub(super) fn used_ms(&self) -> i64 {
        self.used_ms.load(Ordering::Relaxed)
    }

    /// What it takes of the disk, bytes: memory is sparse, most of it was never touched.
    pub(super) fn disk_len(&self) -> io::Result<u64> {
        FILES.iter().try_fold(0, |sum, name| Ok(sum + fs::metadata(self.dir.join(name))?.blocks() * BLOCK))
    }

    /// What it was made from.
    pub(crate) fn identity(&self) -> &Identity {
        &self.meta.identity
    }

    /// vCPUs and devices, opened for one clone.
    pub(crate) fn state(&self) -> Result<File, SnapshotError> {
        open(&self.dir.join("state"))
    }

    /// Guest memory, opened for one clone.
    pub(crate) fn memory(&self) -> Result<File, SnapshotError> {
        open(&self.dir.join("memory"))
    }

    /// What a clone is going to touch.
    pub(crate) fn working_set(&self) -> WorkingSet {
        self.learned.working_set()
    }

    /// Whether what a clone had to wait for is of interest.
    pub(crate) fn is_learning(&self) -> bool {
        self.learned.is_learning()
    }

    /// A clone had to wait for these.
    pub(crate) async fn learn(&self, faulted: WorkingSet) {
        if let Some(working_set) = self.learned.learn(&faulted) {
            let dir = self.dir.clone();
            blocking(move || working_set::keep(dir, &working_set)).await;
        }
    }

    /// The guest's /tmp, to be copied.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.dir.join("scratch")
    }
}

impl Meta {
    /// Of a snapshot that is made now.
    pub(super) fn new(owner: Owner, identity: Identity) -> Self {
        Self { format: META_FORMAT, owner, identity, made_ms: now_ms() }
    }

    /// What the directory of a snapshot says.
    pub(super) fn read(dir: &Path) -> Result<Self, String> {
        let text = |error: io::Error| error.to_string();
        let mut bytes = Vec::new();
        let file = File::open(dir.join("meta.json")).map_err(text)?;
        file.take(MAX_META_LEN).read_to_end(&mut bytes).map_err(text)?;
        let meta: Self = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        if meta.format != META_FORMAT {
            return Err(format!("its format is {}, this agent's {META_FORMAT}", meta.format));
        }
        Ok(meta)
    }

    /// The name of a snapshot's directory: what it is of and what it was made from.
    pub(super) fn id(&self) -> String {
        // Strings and numbers: nothing in them can fail to be JSON.
        hex(&Sha256::digest(serde_json::to_vec(&(&self.owner, &self.identity)).unwrap_or_default()))
    }
}

fn open(path: &Path) -> Result<File, SnapshotError> {
    File::open(path).map_err(failed("open", path))
}
