//! The directory of snapshots and the index of it.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chunk_store::Label;
use vmm_api::{Identity, Key};

use super::{
    Owner,
    contents::{self, ContentsError, ContentsId, FILES, is_of_snapshot},
    key,
    snapshot::{Meta, Snapshot},
};
use crate::{chunks::Chunks, code::blocking, functions::model::FunctionId, invoke::Retired};

/// Prefix of a directory that is being made.
const NEW: &str = "new-";

/// Prefix of a directory that is being deleted.
const GONE: &str = "gone-";

/// Why a snapshot could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// Its directory.
    #[error("cannot {attempted} {}", path.display())]
    File {
        /// What was attempted.
        attempted: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What it consists of.
    #[error("cannot use its contents")]
    Contents(#[from] ContentsError),
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
    chunks: Arc<Chunks>,
    /// By id. Held while a directory gets or loses its name, so that index and disk agree.
    index: Mutex<BTreeMap<String, Arc<Snapshot>>>,
}

impl SnapshotStore {
    /// Opens the snapshots under `state_dir`, whose contents are in `chunks`. What was being made or deleted is removed, and so is
    /// what is no snapshot.
    pub(crate) fn open(state_dir: &Path, chunks: Arc<Chunks>) -> Result<Self, SnapshotError> {
        fs::create_dir_all(state_dir).map_err(failed("create", state_dir))?;
        let dir = state_dir.join("snapshots");
        // Guest memory is in there: nobody else's business.
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(failed("create", &dir))?;
        let key = key::load(state_dir).map_err(failed("keep the key in", state_dir))?;
        let labels = chunks.labels().map_err(ContentsError::from)?;
        let mut index = BTreeMap::new();
        for entry in fs::read_dir(&dir).map_err(failed("list", &dir))? {
            let entry = entry.map_err(failed("list", &dir))?;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let unfinished = name.starts_with(NEW) || name.starts_with(GONE);
            match Meta::read(&path) {
                Ok(meta) if !unfinished && meta.id() == name => {
                    match Snapshot::new(path.clone(), meta, Arc::clone(&chunks), &labels) {
                        Ok(snapshot) => {
                            index.insert(name, snapshot);
                            continue;
                        }
                        Err(problem) => tracing::warn!("{} is no snapshot: {problem}", path.display()),
                    }
                }
                Ok(_) | Err(_) if unfinished => {}
                Ok(_) => tracing::warn!("{} is another snapshot than its name says", path.display()),
                Err(problem) => tracing::warn!("{} is no snapshot: {problem}", path.display()),
            }
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(failed("remove", &path))?;
        }
        sync(&dir)?;
        let of_none = |label: &&Label| {
            let owned = index.values().any(|snapshot: &Arc<Snapshot>| snapshot.contents.owns(label));
            is_of_snapshot(label) && !owned
        };
        for label in labels.iter().filter(of_none) {
            chunks.delete(label).map_err(ContentsError::from)?;
        }
        Ok(Self { dir, key, chunks, index: Mutex::new(index) })
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
        let contents = ContentsId::fresh();
        let id = contents.clone();
        let put = blocking(move || store.put(draft, (owner, identity), &id, wanted)).await;
        if !matches!(put, Ok((Some(_), _))) {
            // Nobody has it, so nothing of it is to stay.
            let chunks = Arc::clone(&self.chunks);
            blocking(move || delete_contents(&chunks, &contents)).await;
        }
        let (published, replaced) = put?;
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
        let chunks = Arc::clone(&self.chunks);
        blocking(move || delete_all(&chunks, gone)).await;
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

    fn take(&self, snapshot: &Arc<Snapshot>) -> Vec<Gone> {
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
    fn delete(&self, gone: Vec<Gone>) {
        if gone.is_empty() {
            return;
        }
        let chunks = Arc::clone(&self.chunks);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || delete_all(&chunks, gone))),
            Err(_) => delete_all(&chunks, gone),
        }
    }

    /// What was published, and what is to be deleted for it.
    fn put(
        &self,
        draft: Draft,
        (owner, identity): (Owner, Identity),
        contents: &ContentsId,
        wanted: impl FnOnce() -> bool,
    ) -> Result<(Option<Arc<Snapshot>>, Vec<Gone>), SnapshotError> {
        let len = contents::publish(&self.chunks, contents, |name| File::open(draft.dir.join(name)))?;
        for name in FILES {
            let path = draft.dir.join(name);
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        let meta = Meta::new(owner, identity, contents, len);
        let text =
            serde_json::to_vec(&meta).map_err(io::Error::other).map_err(failed("describe", &draft.dir))?;
        let path = draft.dir.join("meta.json");
        fs::write(&path, text).map_err(failed("write", &path))?;
        File::open(&path).and_then(|file| file.sync_all()).map_err(failed("sync", &path))?;
        sync(&draft.dir)?;
        let (id, mut gone) = (meta.id(), Vec::new());
        let mut index = self.index();
        if !wanted() {
            return Ok((None, gone));
        }
        let place = self.dir.join(&id);
        if let Some(old) = index.get(&id) {
            take_name(&self.dir, old, &mut gone);
        }
        fs::rename(&draft.dir, &place).map_err(failed("publish", &draft.dir))?;
        sync(&self.dir)?;
        // The old ones of this owner have served until now.
        index.retain(|other, snapshot| {
            snapshot.meta.owner != meta.owner || (*other != id && !take_name(&self.dir, snapshot, &mut gone))
        });
        let snapshot = Snapshot::new(place, meta, Arc::clone(&self.chunks), &[])?;
        index.insert(id, Arc::clone(&snapshot));
        Ok((Some(snapshot), gone))
    }

    fn index(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Snapshot>>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A snapshot that has lost its name.
struct Gone {
    dir: PathBuf,
    contents: ContentsId,
}

/// Gives a snapshot's directory a name that is nobody's; whether it has lost its own.
fn take_name(dir: &Path, snapshot: &Snapshot, gone: &mut Vec<Gone>) -> bool {
    let path = dir.join(format!("{GONE}{}", uuid::Uuid::new_v4()));
    match fs::rename(&snapshot.dir, &path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::error!("{} cannot be deleted: {error}", snapshot.dir.display());
            return false;
        }
        _ => gone.push(Gone { dir: path, contents: snapshot.contents.clone() }),
    }
    true
}

/// The directories go last: a crash before that leaves contents that belong to no snapshot, which the next start deletes.
fn delete_all(chunks: &Chunks, gone: Vec<Gone>) {
    for Gone { dir, contents } in gone {
        delete_contents(chunks, &contents);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{} is left until the next start: {error}", dir.display());
            }
            _ => {}
        }
    }
    if let Err(error) = chunks.collect() {
        tracing::warn!("chunks that nobody needs are left: {error}");
    }
}

fn delete_contents(chunks: &Chunks, contents: &ContentsId) {
    if let Err(error) = contents::delete(chunks, contents) {
        tracing::warn!("contents of a snapshot are left until the next start: {error}");
    }
}

fn sync(dir: &Path) -> Result<(), SnapshotError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
}

fn failed(attempted: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_owned();
    move |source| SnapshotError::File { attempted, path, source }
}
