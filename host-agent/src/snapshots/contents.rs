//! What a snapshot consists of, as contents in chunks.
//!
//! ```text
//! snapshot-ID-state       vCPUs and devices; a VMM reads it as a file
//! snapshot-ID-memory      guest memory
//! snapshot-ID-scratch     the guest's /tmp as it was then
//! snapshot-ID-prefetch-N  the pages that its clones want first, made anew N times
//! ```
//!
//! ID is another one for each snapshot that is made: a content is never replaced by another one that its clones may be reading.

use std::{
    fs::File,
    io::{self, Write as _},
    sync::Arc,
};

use chunk_store::{ChunkSize, Kind, Label};
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};

use crate::{
    chunks::{Chunks, ChunksError, Content, Plain, ReadAllError},
    sandbox::scratch::Extents,
};

/// What every label of a snapshot's begins with.
const SNAPSHOT: &str = "snapshot-";

/// Contents that every snapshot has, and how they are cut. A VMM reads memory by pages, everything else in longer pieces.
const PARTS: [(&str, Kind, ChunkSize); 3] = [
    ("state", Kind::State, ChunkSize::IMAGE),
    ("memory", Kind::Memory, ChunkSize::MEMORY),
    ("scratch", Kind::Scratch, ChunkSize::IMAGE),
];

/// Names of the files that a snapshot's contents are made of.
pub(super) const FILES: [&str; 3] = [PARTS[0].0, PARTS[1].0, PARTS[2].0];

/// Contents that cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentsError {
    /// The store of chunks.
    #[error(transparent)]
    Chunks(#[from] ChunksError),
    /// A content that is read as a whole.
    #[error("read the snapshot's {what}")]
    Read {
        /// Which.
        what: &'static str,
        /// Why not.
        source: ReadAllError,
    },
    /// A part of it is nowhere any more.
    #[error("a chunk of the snapshot's memory is lost")]
    Lost,
    /// The id is nobody's.
    #[error("{0:?} is no snapshot's id")]
    Id(String),
}

/// Which snapshot's contents.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ContentsId(String);

impl ContentsId {
    /// Those of a snapshot that is made now.
    pub(super) fn fresh() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }

    /// Those that a file names.
    pub(super) fn named(text: &str) -> Result<Self, ContentsError> {
        let proper = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        proper.then(|| Self(text.to_owned())).ok_or_else(|| ContentsError::Id(text.to_owned()))
    }

    /// As it is named in a file.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The label of one content.
    pub(super) fn label(&self, part: &str) -> Result<Label, ContentsError> {
        let label = format!("{SNAPSHOT}{}-{part}", self.0);
        label.parse().map_err(|_| ContentsError::Id(label))
    }

    /// Whether a content is one of these.
    pub(super) fn owns(&self, label: &Label) -> bool {
        label.as_str().strip_prefix(SNAPSHOT).and_then(|rest| rest.strip_prefix(&self.0)).is_some()
    }
}

/// Whether a content is any snapshot's.
pub(super) fn is_of_snapshot(label: &Label) -> bool {
    label.as_str().starts_with(SNAPSHOT)
}

/// Publishes the contents of a snapshot from its files, and says what they take at most, bytes. Blocks.
pub(super) fn publish(
    chunks: &Chunks,
    id: &ContentsId,
    files: impl Fn(&'static str) -> io::Result<File>,
) -> Result<u64, ContentsError> {
    let mut len = 0;
    for (part, kind, chunk_size) in PARTS {
        let failed = |source: io::Error| ContentsError::Read { what: part, source: source.into() };
        let sparse = Sparse(Extents::of(files(part).map_err(failed)?).map_err(failed)?);
        len += sparse.0.data_len();
        chunks.publish(&id.label(part)?, kind, chunk_size, &sparse)?;
    }
    Ok(len)
}

/// Deletes the contents of a snapshot, those that are open when they are closed. Blocks.
pub(super) fn delete(chunks: &Chunks, id: &ContentsId) -> Result<(), ContentsError> {
    for label in chunks.labels()?.iter().filter(|label| id.owns(label)) {
        chunks.delete(label)?;
    }
    Ok(())
}

/// The state as a file that nobody can write to. Blocks.
pub(super) fn state(chunks: &Arc<Chunks>, id: &ContentsId) -> Result<File, ContentsError> {
    let content = chunks.content(&id.label("state")?)?;
    let failed = |source| ContentsError::Read { what: "state", source };
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let copied = || {
        let file = File::from(memfd_create(c"state", flags).map_err(io::Error::from)?);
        file.set_len(content.manifest().content().len)?;
        content.read_all(|offset, bytes| std::os::unix::fs::FileExt::write_all_at(&file, bytes, offset))?;
        (&file).flush()?;
        let seals =
            SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(io::Error::from)?;
        Ok(file)
    };
    copied().map_err(failed)
}

/// A content of a snapshot. Blocks.
pub(super) fn open(chunks: &Arc<Chunks>, id: &ContentsId, part: &str) -> Result<Arc<Content>, ContentsError> {
    Ok(chunks.content(&id.label(part)?)?)
}

/// A file with holes, which are not read.
struct Sparse(Extents);

impl Plain for Sparse {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<bool> {
        if !self.0.has_data(offset..offset + buffer.len() as u64) {
            return Ok(false);
        }
        std::os::unix::fs::FileExt::read_exact_at(self.0.file(), buffer, offset).map(|()| true)
    }
}
