//! One snapshot in its place: what is known of it, and its contents, opened for a clone.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chunk_store::{Label, for_reading};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::task::{JoinHandle, spawn_blocking};
use vmm_api::{Identity, WorkingSet};

use super::{
    Owner,
    contents::{self, ContentsError, ContentsId},
    lessons::Lessons,
    prefetch,
};
use crate::{
    chunks::{Chunks, Content},
    code::hex,
    functions::now_ms,
};

/// Shape of `meta.json`.
const META_FORMAT: u32 = 2;

/// Longest `meta.json`; ours have some hundred bytes.
const MAX_META_LEN: u64 = 64 * 1024;

/// Chunks of drives that clones read, beside `meta.json`.
const DRIVES: &str = "drives.json";

/// Longest file of these: all that teachers can tell of all drives.
const MAX_DRIVES_LEN: u64 = 1024 * 1024;

/// What is known of a snapshot without reading it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Meta {
    format: u32,
    pub(super) owner: Owner,
    identity: Identity,
    /// Milliseconds since the Unix epoch.
    pub(super) made_ms: i64,
    /// What its contents are called by.
    contents: String,
    /// What they take of the disk at most, bytes.
    len: u64,
}

/// A snapshot in its place.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(super) dir: PathBuf,
    pub(super) meta: Meta,
    pub(super) contents: ContentsId,
    chunks: Arc<Chunks>,
    /// vCPUs and devices, once a clone has wanted them.
    state: Mutex<Option<File>>,
    /// Number of the prefetch content; none as long as no clone has told.
    prefetch: Mutex<Option<u32>>,
    /// When it was made, or a runtime's last cloned for somebody, milliseconds since the Unix epoch. Known as long as the agent runs.
    used_ms: AtomicI64,
    lessons: Lessons,
    /// Held while the prefetch content is made.
    making: Mutex<()>,
}

/// A snapshot's contents, opened for one clone.
#[derive(Debug)]
pub(crate) struct Opened {
    /// vCPUs and devices, in a file that cannot be written to.
    pub(crate) state: File,
    /// Guest memory.
    pub(crate) memory: Arc<Content>,
    /// Pages that clones want first; nothing as long as none has told.
    pub(crate) prefetch: Option<Arc<Content>>,
    /// The guest's /tmp.
    pub(crate) scratch: Arc<Content>,
}

impl Opened {
    /// Whether a chunk was wanted that is nowhere any more.
    pub(crate) fn has_lost(&self) -> bool {
        self.memory.has_lost() || self.scratch.has_lost()
    }
}

/// What a clone is to tell of its snapshot when it has been used. When it is dropped untold, another clone is to.
#[derive(Debug)]
pub(crate) struct Lesson {
    snapshot: Arc<Snapshot>,
    told: bool,
}

impl Snapshot {
    /// The snapshot in `dir`, whose contents are among these.
    pub(super) fn new(
        dir: PathBuf,
        meta: Meta,
        chunks: Arc<Chunks>,
        labels: &[Label],
    ) -> Result<Arc<Self>, ContentsError> {
        let contents = ContentsId::named(&meta.contents)?;
        let used_ms = AtomicI64::new(meta.made_ms);
        let number = prefetch::number_in(labels, &contents);
        let lessons = if number.is_some() { Lessons::over() } else { Lessons::default() };
        lessons.recall(read_drives(&dir));
        let (state, prefetch, making) = (Mutex::default(), Mutex::new(number), Mutex::default());
        Ok(Arc::new(Self { dir, meta, contents, chunks, state, prefetch, used_ms, lessons, making }))
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

    /// What it takes of the disk at most, bytes: what it has in common with others takes nothing.
    pub(super) fn disk_len(&self) -> u64 {
        self.meta.len
    }

    /// What it was made from.
    pub(crate) fn identity(&self) -> &Identity {
        &self.meta.identity
    }

    /// Its contents, for a clone. Blocks.
    pub(crate) fn open(&self) -> Result<Opened, ContentsError> {
        let part = |part| contents::open(&self.chunks, &self.contents, part);
        let number = *lock(&self.prefetch);
        let prefetch = number.and_then(|number| {
            let opened = prefetch::label_of(&self.contents, number).and_then(|label| Ok(self.chunks.content(&label)?));
            let told = |error: &ContentsError| tracing::warn!(dir = %self.dir.display(), "pages are not prefetched: {error}");
            opened.inspect_err(told).ok()
        });
        let opened =
            Opened { state: self.state()?, memory: part("memory")?, prefetch, scratch: part("scratch")? };
        if opened.has_lost() { Err(ContentsError::Lost) } else { Ok(opened) }
    }

    fn state(&self) -> Result<File, ContentsError> {
        let mut held = lock(&self.state);
        let state = match held.take() {
            Some(state) => state,
            None => contents::state(&self.chunks, &self.contents)?,
        };
        let failed = |source: io::Error| ContentsError::Read { what: "state", source: source.into() };
        let theirs = for_reading(&state).map_err(failed)?;
        *held = Some(state);
        Ok(theirs.into())
    }

    /// Chunks of a drive that clones read, in the order in which they were told.
    pub(crate) fn chunks_of(&self, drive: &str) -> Vec<u32> {
        self.lessons.chunks_of(drive)
    }

    /// What a clone that is made now is to tell, if anything.
    pub(crate) fn lesson(self: &Arc<Self>) -> Option<Lesson> {
        self.lessons.begin().then(|| Lesson { snapshot: Arc::clone(self), told: false })
    }

    /// Makes the prefetch content of all that is known, in the place of the one before.
    fn make_prefetch(&self) {
        let _making = lock(&self.making);
        // Nothing is done for one that was deleted meanwhile.
        if !self.dir.exists() {
            return;
        }
        let before = *lock(&self.prefetch);
        let number = before.map_or(1, |before| before + 1);
        if let Err(error) = prefetch::make(&self.chunks, &self.contents, number, self.lessons.pages()) {
            tracing::warn!("there is no new prefetch content of {}: {error}", self.dir.display());
            return;
        }
        *lock(&self.prefetch) = Some(number);
        let gone = match before {
            // It was deleted while this was made: nobody deletes this one otherwise.
            _ if !self.dir.exists() => Some(number),
            before => before,
        };
        let deleted =
            gone.map(|gone| prefetch::label_of(&self.contents, gone).map(|label| self.chunks.delete(&label)));
        if let Some(Err(error)) = deleted {
            tracing::warn!("a prefetch content of {} is left: {error}", self.dir.display());
        }
    }

    /// Keeps what is known of drives.
    fn keep_drives(&self) {
        let _making = lock(&self.making);
        let written = || {
            let unfinished = self.dir.join("new");
            fs::write(&unfinished, serde_json::to_vec(&self.lessons.drives())?)?;
            fs::rename(&unfinished, self.dir.join(DRIVES))
        };
        match written() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("what clones of {} read is not kept: {error}", self.dir.display());
            }
            _ => {}
        }
    }
}

impl Lesson {
    /// The clone had to wait for these. The clones that are made when the task is over have them before they run; there is
    /// none, when they have them already.
    pub(crate) fn tell(mut self, told: &WorkingSet) -> Option<JoinHandle<()>> {
        self.told = true;
        let snapshot = Arc::clone(&self.snapshot);
        let new = snapshot.lessons.learn(told);
        (new.pages || new.drives).then(|| {
            spawn_blocking(move || {
                if new.pages {
                    snapshot.make_prefetch();
                }
                if new.drives {
                    snapshot.keep_drives();
                }
            })
        })
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
    pub(super) fn new(owner: Owner, identity: Identity, contents: &ContentsId, len: u64) -> Self {
        let contents = contents.as_str().to_owned();
        Self { format: META_FORMAT, owner, identity, made_ms: now_ms(), contents, len }
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

/// What an agent before this one was told of drives: a list of numbers that costs time where it is wrong.
fn read_drives(dir: &Path) -> BTreeMap<String, Vec<u32>> {
    let mut bytes = Vec::new();
    let read =
        File::open(dir.join(DRIVES)).and_then(|file| file.take(MAX_DRIVES_LEN).read_to_end(&mut bytes));
    read.ok().and_then(|_| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Nothing is left half done under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
