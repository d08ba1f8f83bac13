//! Images of runtimes: those that the node's programs bring, and those that snapshots were made with and no program brings any more.
//!
//! A guest remembers blocks of the image that it was started from, so its clones are given that very image or none. Programs come
//! with the node's own image, which is replaced as a whole: what snapshots need of it is published among the node's contents, as
//! `runtime-HASH`, before the first snapshot that needs it. It goes at the first start at which no snapshot names it any more.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use chunk_store::{Label, LabelError};
use sha2::{Digest as _, Sha256};

use crate::{
    chunks::{Chunks, ChunksError, Content},
    code::hex,
    disk::DiskError,
};

/// What the labels of kept images begin with.
const RUNTIME: &str = "runtime-";

/// Hexadecimal digits of the hash that are in a label: what a label has room for.
const DIGITS: usize = 56;

/// Why an image was not kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    /// The image.
    #[error(transparent)]
    Chunks(#[from] ChunksError),
    /// Its length.
    #[error("read {}", image.display())]
    Len {
        /// The image.
        image: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no room for it.
    #[error("find room for it")]
    Disk(#[from] DiskError),
    /// It cannot be named.
    #[error("name it")]
    Label(#[from] LabelError),
}

/// An image of a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RuntimeImage {
    /// Of the node's programs.
    Pack(PathBuf),
    /// Kept among the node's contents: for snapshots, or a container image.
    Kept(Label),
}

impl RuntimeImage {
    /// Its content. Blocks.
    pub(crate) fn open(&self, chunks: &Arc<Chunks>) -> Result<Arc<Content>, ChunksError> {
        match self {
            Self::Pack(path) => chunks.pack(path),
            Self::Kept(label) => chunks.content(label),
        }
    }
}

/// What tells an image from every other one: the hash of what its chunks are. Blocks.
pub(super) fn hash_of(chunks: &Arc<Chunks>, pack: &Path) -> Result<String, ChunksError> {
    Ok(hex(&Sha256::digest(chunks.pack(pack)?.manifest().encode().as_slice())))
}

/// The kept image with that hash, if there is one.
pub(super) fn kept(chunks: &Chunks, hash: &str) -> Option<RuntimeImage> {
    let label = label_of(hash).ok()?;
    chunks.has(&label).then_some(RuntimeImage::Kept(label))
}

/// Keeps the image in a pack, whose hash is known. It is durable when this returns. Blocks.
pub(super) fn keep(chunks: &Chunks, pack: &Path, hash: &str) -> Result<(), KeepError> {
    Ok(chunks.adopt(&label_of(hash)?, pack)?)
}

/// Forgets all kept images but these. Blocks.
pub(super) fn retain(chunks: &Chunks, needed: &HashSet<&str>) -> Result<(), ChunksError> {
    let needed: HashSet<Label> = needed.iter().filter_map(|hash| label_of(hash).ok()).collect();
    let labels = chunks.labels()?;
    let of_runtimes = labels.iter().filter(|label| label.as_str().starts_with(RUNTIME));
    of_runtimes.filter(|label| !needed.contains(label)).try_for_each(|label| chunks.delete(label))
}

fn label_of(hash: &str) -> Result<Label, LabelError> {
    format!("{RUNTIME}{}", hash.get(..DIGITS).ok_or(LabelError)?).parse()
}
