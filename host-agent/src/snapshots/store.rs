//! The directory of snapshots and the index of it.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use vmm_api::{Identity, Key};

use super::{
    Owner, key,
    snapshot::{FILES, Meta, Snapshot},
};
use crate::{code::blocking, functions::model::FunctionId, invoke::Retired};

/// Prefix of a directory that is being made.
const NEW: &str = "new-";

/// Prefix of a directory that is being deleted.
const GONE: &str = "gone-";

/// Why a snapshot could not be kept or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempted} {}", path.display())]
pub(crate) struct SnapshotError {
    attempted: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// A snapshot that is being made: removed when it is dropped before it is published.
#[derive(Debug)]
pub(crate) struct Draft {
    dir: PathBuf,
}

impl Draft {
    /// A new file of it, for its maker to write and read.
    pub(crate) fn create(&self, name: &'static str) -> Result<File, SnapshotError> {
        let path = self.dir.join(name);
        let options = File::options().read(true).write(true).create_new(true).open(&path);
        options.map_err(failed("create", &path))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("a snapshot that was not finished is left until the next start: {error}");
            }
            _ => {}
        }
    }
}

/// The node's snapshots.
#[derive(Debug)]
pub(crate) struct SnapshotStore {
    dir: PathBuf,
    key: Key,
    /// By id. Held while a directory gets or loses its name, so that index and disk agree.
    index: Mutex<BTreeMap<String, Arc<Snapshot>>>,
}

impl SnapshotStore {
    /// Opens the snapshots under `state_dir`. What was being made or deleted is removed, and so is what is no snapshot.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, SnapshotError> {
        fs::create_dir_all(state_dir).map_err(failed("create", state_dir))?;
        let dir = state_dir.join("snapshots");
        // Guest memory is in there: nobody else's business.
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(failed("create", &dir))?;
        let key = key::load(state_dir).map_err(failed("keep the key in", state_dir))?;
        let mut index = BTreeMap::new();
        for entry in fs::read_dir(&dir).map_err(failed("list", &dir))? {
            let entry = entry.map_err(failed("list", &dir))?;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let unfinished = name.starts_with(NEW) || name.starts_with(GONE);
            match Meta::read(&path) {
                Ok(meta) if !unfinished && meta.id() == name => {
                    index.insert(name, Snapshot::new(path, meta));
                    continue;
                }
                Ok(_) | Err(_) if unfinished => {}
                Ok(_) => tracing::warn!("{} is another snapshot than its name says", path.display()),
                Err(problem) => tracing::warn!("{} is no snapshot: {problem}", path.display()),
            }
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(failed("remove", &path))?;
        }
        sync(&dir)?;
        Ok(Self { dir, key, index: Mutex::new(index) })
    }

    /// The key that authenticates all of them.
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// The newest snapshot of `owner`.
    pub(crate) fn find(&self, owner: &Owner) -> Option<Arc<Snapshot>> {
        let index = self.index();
        let of_owner = index.values().filter(|snapshot| snapshot.meta.owner == *owner);
        of_owner.max_by_key(|snapshot| snapshot.meta.made_ms).cloned()
    }

    /// Begins a snapshot.
    pub(crate) fn begin(&self) -> Result<Draft, SnapshotError> {
        let dir = self.dir.join(format!("{NEW}{}", uuid::Uuid::new_v4()));
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(failed("create", &dir))?;
        Ok(Draft { dir })
    }

    /// Puts a finished snapshot into its place, in that of all others of its owner, unless `wanted` says meanwhile that
    /// nobody needs it. When this succeeds it is durable.
    pub(crate) async fn publish(
        self: &Arc<Self>,
        draft: Draft,
        owner: Owner,
        identity: Identity,
        wanted: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<Option<Arc<Snapshot>>, SnapshotError> {
        let store = Arc::clone(self);
        let meta = Meta::new(owner, identity);
        let (published, replaced) = blocking(move || store.put(&draft, meta, wanted)).await?;
        self.delete(replaced);
        Ok(published)
    }

    /// Deletes the snapshots of what was retired.
    pub(crate) fn retire(self: &Arc<Self>, id: &FunctionId, what: Retired<'_>) {
        self.remove(|owner| owner.is_retired(id, what));
    }

    /// Deletes the snapshots of all versions but those with these deployments.
    pub(crate) fn keep(self: &Arc<Self>, deployments: &HashSet<String>) {
        self.remove(|owner| match owner {
            Owner::Version { deployment_id, .. } => !deployments.contains(deployment_id),
            Owner::Runtime { .. } => false,
        });
    }

    /// Deletes a snapshot that turned out to be of no use.
    pub(crate) fn discard(self: &Arc<Self>, snapshot: &Arc<Snapshot>) {
        let gone = self.take(snapshot);
        self.delete(gone);
    }

    /// As [`Self::discard`], and waits until the disk has its room back.
    pub(super) async fn discard_now(self: &Arc<Self>, snapshot: &Arc<Snapshot>) {
        let gone = self.take(snapshot);
        // What is left is told, and goes at the next start.
        blocking(|| delete_all(gone)).await;
    }

    /// All snapshots.
    pub(super) fn all(&self) -> Vec<Arc<Snapshot>> {
        self.index().values().cloned().collect()
    }

    /// All snapshots of runtimes.
    pub(crate) fn of_runtimes(&self) -> Vec<Arc<Snapshot>> {
        let of_runtime = |snapshot: &&Arc<Snapshot>| matches!(snapshot.meta.owner, Owner::Runtime { .. });
        self.index().values().filter(of_runtime).cloned().collect()
    }

    fn take(&self, snapshot: &Arc<Snapshot>) -> Vec<PathBuf> {
        let mut gone = Vec::new();
        self.index()
            .retain(|_, other| !Arc::ptr_eq(other, snapshot) || !take_name(&self.dir, other, &mut gone));
        gone
    }

    fn remove(self: &Arc<Self>, unwanted: impl Fn(&Owner) -> bool) {
        let mut gone = Vec::new();
        self.index().retain(|_, snapshot| {
            !unwanted(&snapshot.meta.owner) || !take_name(&self.dir, snapshot, &mut gone)
        });
        self.delete(gone);
    }

    /// Deletes directories that have lost their name, where it holds up nobody.
    fn delete(&self, gone: Vec<PathBuf>) {
        if gone.is_empty() {
            return;
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(|| delete_all(gone))),
            Err(_) => delete_all(gone),
        }
    }

    /// What was published, and what is to be deleted for it.
    fn put(
        &self,
        draft: &Draft,
        meta: Meta,
        wanted: impl FnOnce() -> bool,
    ) -> Result<(Option<Arc<Snapshot>>, Vec<PathBuf>), SnapshotError> {
        let text =
            serde_json::to_vec(&meta).map_err(io::Error::other).map_err(failed("describe", &draft.dir))?;
        let path = draft.dir.join("meta.json");
        fs::write(&path, text).map_err(failed("write", &path))?;
        for name in FILES {
            let path = draft.dir.join(name);
            File::open(&path).and_then(|file| file.sync_all()).map_err(failed("sync", &path))?;
        }
        sync(&draft.dir)?;
        let (id, mut gone) = (meta.id(), Vec::new());
        let mut index = self.index();
        if !wanted() {
            return Ok((None, gone));
        }
        let place = self.dir.join(&id);
        if place.exists() {
            let old = Snapshot::new(place.clone(), meta.clone());
            take_name(&self.dir, &old, &mut gone);
        }
        fs::rename(&draft.dir, &place).map_err(failed("publish", &draft.dir))?;
        sync(&self.dir)?;
        // The old ones of this owner have served until now.
        index.retain(|other, snapshot| {
            snapshot.meta.owner != meta.owner || (*other != id && !take_name(&self.dir, snapshot, &mut gone))
        });
        let snapshot = Snapshot::new(place, meta);
        index.insert(id, Arc::clone(&snapshot));
        Ok((Some(snapshot), gone))
    }

    fn index(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Snapshot>>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives a snapshot's directory a name that is nobody's; whether it has lost its own.
fn take_name(dir: &Path, snapshot: &Snapshot, gone: &mut Vec<PathBuf>) -> bool {
    let path = dir.join(format!("{GONE}{}", uuid::Uuid::new_v4()));
    match fs::rename(&snapshot.dir, &path) {
        Ok(()) => gone.push(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::error!("{} cannot be deleted: {error}", snapshot.dir.display());
            return false;
        }
    }
    true
}

fn delete_all(gone: Vec<PathBuf>) {
    for path in gone {
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!("{} is left until the next start: {error}", path.display());
        }
    }
}

fn sync(dir: &Path) -> Result<(), SnapshotError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
}

pub(super) fn failed(attempted: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_owned();
    move |source| SnapshotError { attempted, path, source }
}
