//! The node's contents: which there are, which are open, and the end of those that nobody needs.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use chunk_store::{
    Cache, CacheError, Collected, Label, Manifest, ManifestError, NodeSecret, Pack, PackError, Source, Store,
    StoreError, TableError, TenantKey,
};

use super::{
    content::Content,
    keys::{Keys, KeysError, Roots},
    tiers::{Tiers, TiersError, UploadError},
};
use crate::{config, disk::Disk};

/// Whose contents are sealed with whose key: there is one account on a node.
const TENANT: &str = "account";

/// Contents that stay open although nobody has them: those of functions that are cloned again and again …
const KEPT_OPEN: usize = 128;

/// … and how many chunks these may have together: each takes 130 bytes, of its manifest and its table. 10 GiB of image have
/// 163,840.
const KEPT_OPEN_CHUNKS: usize = 1 << 20;

/// Part of the disk that the cache may take at most, whatever is configured: what it may take is kept free for it.
const CACHE_PART: u64 = 8;

/// Why a content cannot be kept or had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChunksError {
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The store of what is published.
    #[error("keep chunks")]
    Store(#[from] StoreError),
    /// The cache.
    #[error("open the cache of chunks in {}", path.display())]
    Cache {
        /// Its directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What is behind the cache.
    #[error("set up where chunks come from")]
    Tiers(#[from] TiersError),
    /// The bucket that all nodes share.
    #[error("upload {label}")]
    Upload {
        /// Which content.
        label: String,
        /// Why not.
        source: UploadError,
    },
    /// A manifest.
    #[error("open the manifest of {label}")]
    Manifest {
        /// Of which content.
        label: String,
        /// Why not.
        source: ManifestError,
    },
    /// A manifest that cannot be sealed, or a chunk.
    #[error("cut {label} into chunks")]
    Cut {
        /// Which content.
        label: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A pack.
    #[error("open {}", path.display())]
    Pack {
        /// Its file.
        path: PathBuf,
        /// Why not.
        source: PackError,
    },
    /// A table.
    #[error("make a table of chunks")]
    Table(#[from] TableError),
    /// A chunk.
    #[error("read a chunk")]
    Chunk(#[from] CacheError),
}

impl ChunksError {
    /// Whether it is about a content that there is not.
    pub(crate) fn is_missing(&self) -> bool {
        match self {
            Self::Store(StoreError::NoRoot(_)) => true,
            Self::Pack { source: PackError::File(error), .. } => error.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// The chunks of this node.
pub(crate) struct Chunks {
    pub(super) store: Arc<Store>,
    /// What is behind the cache; none in tests.
    pub(super) tiers: Option<Arc<Tiers>>,
    pub(super) cache: Cache,
    pub(super) tenant: TenantKey,
    pub(super) salts: [u8; 32],
    roots: Arc<Roots>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    contents: HashMap<Name, Weak<Content>>,
    /// The last ones that were asked for, the oldest first.
    recent: VecDeque<Arc<Content>>,
    /// To be deleted when they are closed.
    doomed: HashSet<Label>,
}

/// What a content is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Name {
    /// Published.
    Root(Label),
    /// A file of this node, which may be read by everybody.
    Pack(PathBuf),
}

impl Chunks {
    /// The chunks under `state_dir` and what other nodes have, as configured. `disk` keeps the cache's room free.
    pub(crate) async fn start(
        config: &config::Chunks,
        state_dir: &Path,
        disk: &Disk,
    ) -> Result<Arc<Self>, ChunksError> {
        let failed = |source| ChunksError::Cache { path: state_dir.to_owned(), source };
        let most = disk.len().map_err(failed)? / CACHE_PART;
        let mut chunks = Self::new(state_dir, config.cache_bytes.min(most))?;
        let dir = state_dir.join("chunks");
        let tiers = Tiers::open(config, Arc::clone(&chunks.store), &dir.join("shards")).await?;
        chunks.tiers = Some(Arc::new(tiers));
        let chunks = Arc::new(chunks);
        let cache = Arc::clone(&chunks);
        disk.keep_room_for(move || {
            let stats = cache.cache.stats();
            stats.capacity.saturating_sub(stats.bytes)
        });
        Ok(chunks)
    }

    /// The chunks under `state_dir` alone, for tests.
    #[cfg(test)]
    pub(crate) fn open(state_dir: &Path, cache_len: u64) -> Result<Arc<Self>, ChunksError> {
        Self::new(state_dir, cache_len).map(Arc::new)
    }

    fn new(state_dir: &Path, cache_len: u64) -> Result<Self, ChunksError> {
        let dir = state_dir.join("chunks");
        let keys = Keys::open(&dir.join("keys"))?;
        let store = Arc::new(Store::open(&dir.join("origin"))?);
        let cache = open_cache(&dir.join("cache"), keys.node(), cache_len)?;
        let (tenant, open) = (keys.tenant(TENANT)?, Mutex::default());
        Ok(Self { store, tiers: None, cache, tenant, salts: keys.salts, roots: keys.roots, open })
    }

    /// What the node's keys of other things are wrapped with, too.
    pub(crate) fn roots(&self) -> Arc<Roots> {
        Arc::clone(&self.roots)
    }

    /// Where chunks come from that are not in the cache.
    fn source(&self) -> Arc<dyn Source + Send + Sync> {
        match &self.tiers {
            Some(tiers) => Arc::clone(tiers) as Arc<dyn Source + Send + Sync>,
            None => Arc::clone(&self.store) as Arc<dyn Source + Send + Sync>,
        }
    }

    /// A published content. Blocks.
    pub(crate) fn content(self: &Arc<Self>, label: &Label) -> Result<Arc<Content>, ChunksError> {
        let name = Name::Root(label.clone());
        if let Some(content) = self.opened(&name) {
            return Ok(content);
        }
        let sealed = self.store.manifest(label)?;
        let opened = Manifest::open(&sealed, &self.tenant, label.as_str().as_bytes());
        let manifest = opened.map_err(|source| ChunksError::Manifest { label: label.to_string(), source })?;
        self.keep(name, manifest, self.source())
    }

    /// What a published content consists of. Blocks.
    pub(super) fn manifest(&self, label: &Label) -> Result<Manifest, ChunksError> {
        let sealed = self.store.manifest(label)?;
        let opened = Manifest::open(&sealed, &self.tenant, label.as_str().as_bytes());
        opened.map_err(|source| ChunksError::Manifest { label: label.to_string(), source })
    }

    /// A content in a file of its own. Blocks.
    pub(crate) fn pack(self: &Arc<Self>, path: &Path) -> Result<Arc<Content>, ChunksError> {
        let name = Name::Pack(path.to_owned());
        if let Some(content) = self.opened(&name) {
            return Ok(content);
        }
        let pack = open_pack(path)?;
        self.keep(name, pack.manifest().clone(), Arc::new(pack))
    }

    /// Whether a content is published and not about to be deleted.
    pub(crate) fn has(&self, label: &Label) -> bool {
        self.store.has_root(label).unwrap_or(false) && !self.state().doomed.contains(label)
    }

    /// Whether a content is published; one that was about to be deleted is not any more.
    pub(crate) fn claim(&self, label: &Label) -> bool {
        let mut open = self.state();
        let there = self.store.has_root(label).unwrap_or(false);
        if there {
            open.doomed.remove(label);
        }
        there
    }

    /// The contents that are published.
    pub(crate) fn labels(&self) -> Result<Vec<Label>, ChunksError> {
        Ok(self.store.roots()?)
    }

    /// Deletes a content: now, or as soon as nobody has it open any more. Blocks.
    pub(crate) fn delete(&self, label: &Label) -> Result<(), ChunksError> {
        let name = Name::Root(label.clone());
        // Dropped outside of the lock: they may be the last.
        let (closed, deleted) = {
            let mut open = self.state();
            let (closed, recent) =
                open.recent.drain(..).partition::<Vec<_>, _>(|content| content.name == name);
            open.recent = recent.into();
            open.doomed.insert(label.clone());
            drop(open);
            (closed, self.bury(&name))
        };
        drop(closed);
        deleted
    }

    /// Deletes what nobody needs any more. Blocks.
    pub(crate) fn collect(&self) -> Result<Collected, ChunksError> {
        let collected = self.store.collect()?;
        if collected.deleted > 0 {
            tracing::info!(deleted = collected.deleted, kept = collected.kept, "chunks were collected");
        }
        Ok(collected)
    }

    /// What a label is published for is wanted again.
    pub(super) fn reprieve(&self, label: &Label) {
        self.state().doomed.remove(label);
    }

    /// Deletes a doomed content that nobody has open.
    pub(super) fn bury(&self, name: &Name) -> Result<(), ChunksError> {
        let Name::Root(label) = name else { return Ok(()) };
        let mut open = self.state();
        if open.contents.get(name).is_some_and(|content| content.strong_count() > 0) {
            return Ok(());
        }
        open.contents.remove(name);
        if open.doomed.remove(label) {
            // Under the lock: whoever publishes it anew comes before or behind this.
            self.store.delete(label)?;
            if let Some(tiers) = &self.tiers {
                tiers.retract_beside(label.clone());
            }
        }
        Ok(())
    }

    fn opened(&self, name: &Name) -> Option<Arc<Content>> {
        let (content, closed) = {
            let mut open = self.state();
            let content = open.contents.get(name).and_then(Weak::upgrade)?;
            let closed = note_use(&mut open.recent, &content);
            (content, closed)
        };
        // Outside of the lock: they may be the last.
        drop(closed);
        content.refresh();
        Some(content)
    }

    fn keep(
        self: &Arc<Self>,
        name: Name,
        manifest: Manifest,
        source: Arc<dyn Source + Send + Sync>,
    ) -> Result<Arc<Content>, ChunksError> {
        let content = Arc::new(Content::new(Arc::clone(self), name.clone(), manifest, source)?);
        let mut open = self.state();
        if let Some(other) = open.contents.get(&name).and_then(Weak::upgrade) {
            drop(open);
            return Ok(other);
        }
        open.contents.insert(name, Arc::downgrade(&content));
        let closed = note_use(&mut open.recent, &content);
        drop(open);
        // Outside of the lock: they may be the last.
        drop(closed);
        Ok(content)
    }

    fn state(&self) -> MutexGuard<'_, Open> {
        // Every change of it is one call: it is right at any moment.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a content the newest, and takes out what is too much then, the oldest first.
fn note_use(recent: &mut VecDeque<Arc<Content>>, used: &Arc<Content>) -> Vec<Arc<Content>> {
    let mut closed: Vec<_> = recent
        .iter()
        .position(|content| Arc::ptr_eq(content, used))
        .into_iter()
        .filter_map(|at| recent.remove(at))
        .collect();
    recent.push_back(Arc::clone(used));
    let len = |content: &Arc<Content>| content.manifest().chunks().len();
    let mut chunks: usize = recent.iter().map(len).sum();
    while recent.len() > 1 && (recent.len() > KEPT_OPEN || chunks > KEPT_OPEN_CHUNKS) {
        let Some(oldest) = recent.pop_front() else { break };
        chunks -= len(&oldest);
        closed.push(oldest);
    }
    closed
}

/// The cache in its directory; in an empty one, when what is there cannot be used.
fn open_cache(dir: &Path, secret: NodeSecret, len: u64) -> Result<Cache, ChunksError> {
    let failed = |source| ChunksError::Cache { path: dir.to_owned(), source };
    Cache::open(dir, secret.clone(), len).or_else(|error| {
        tracing::warn!("the cache in {} is of no use and begun anew: {error}", dir.display());
        std::fs::remove_dir_all(dir).map_err(failed)?;
        Cache::open(dir, secret, len).map_err(failed)
    })
}

/// A pack and what is in it.
pub(super) fn open_pack(path: &Path) -> Result<Pack, ChunksError> {
    let failed = |source| ChunksError::Pack { path: path.to_owned(), source };
    File::open(path).map_err(PackError::from).and_then(Pack::open).map_err(failed)
}

impl fmt::Debug for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunks").field("cache", &self.cache.stats()).finish_non_exhaustive()
    }
}
