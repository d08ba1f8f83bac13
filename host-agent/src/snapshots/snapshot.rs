//! One snapshot in its place: what is known of it, and its files, opened for a clone.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::task::{JoinHandle, spawn_blocking};
use vmm_api::{Identity, Key, WorkingSet};

use super::{
    Owner,
    lessons::Lessons,
    prefetch,
    store::{SnapshotError, failed},
};
use crate::{code::hex, functions::now_ms};

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
    /// When it was made, or a runtime's last cloned for somebody, milliseconds since the Unix epoch. Known as long as the agent runs.
    used_ms: AtomicI64,
    lessons: Lessons,
    /// Held while the prefetch file is made.
    making: Mutex<()>,
}

/// What a clone is to tell of its snapshot when it has been used. When it is dropped untold, another clone is to.
#[derive(Debug)]
pub(crate) struct Lesson {
    snapshot: Arc<Snapshot>,
    told: bool,
}

impl Snapshot {
    pub(super) fn new(dir: PathBuf, meta: Meta) -> Arc<Self> {
        let used_ms = AtomicI64::new(meta.made_ms);
        let lessons = if prefetch::is_in(&dir) { Lessons::over() } else { Lessons::default() };
        Arc::new(Self { dir, meta, used_ms, lessons, making: Mutex::default() })
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
        let blocks = |name: &str| Ok(fs::metadata(self.dir.join(name))?.blocks());
        let prefetch = blocks(prefetch::FILE).or_else(|error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Ok(0),
            _ => Err(error),
        })?;
        FILES.iter().try_fold(prefetch * BLOCK, |sum, name| Ok(sum + blocks(name)? * BLOCK))
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

    /// Pages that clones want first, opened for one clone; nothing as long as none has told.
    pub(crate) fn prefetch(&self) -> Result<Option<File>, SnapshotError> {
        let path = self.dir.join(prefetch::FILE);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.map(Some).map_err(failed("open", &path)),
        }
    }

    /// What a clone that is made now is to tell, if anything.
    pub(crate) fn lesson(self: &Arc<Self>) -> Option<Lesson> {
        self.lessons.begin().then(|| Lesson { snapshot: Arc::clone(self), told: false })
    }

    /// Makes the prefetch file of all that is known.
    fn make_prefetch(&self, key: &Key) {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing is done for one that was deleted meanwhile.
        if !self.dir.exists() {
            return;
        }
        let key = snapshot::Key::new(*key.bytes());
        if let Err(error) = prefetch::make(&self.dir, &key, self.lessons.pages()) {
            tracing::warn!("there is no new prefetch file in {}: {error}", self.dir.display());
        }
    }

    /// The guest's /tmp, to be copied.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.dir.join("scratch")
    }
}

impl Lesson {
    /// The clone had to wait for these. The clones that are made when the task is over have them before they run; there is
    /// none, when they have them already.
    pub(crate) fn tell(mut self, faulted: &WorkingSet, key: Key) -> Option<JoinHandle<()>> {
        self.told = true;
        let snapshot = Arc::clone(&self.snapshot);
        snapshot.lessons.learn(faulted).then(|| spawn_blocking(move || snapshot.make_prefetch(&key)))
    }
}

impl Drop for Lesson {
    fn drop(&mut self) {
        if !self.told {
            self.snapshot.lessons.give_back();
        }
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
