//! What a content consists of: for each chunk its name and key, or that it is zeros, and in which order chunks are wanted
//! first. Whoever has a manifest has the content; it leaves a node sealed (`sealed.rs`), and what is sealed is laid out by
//! `layout.rs`.

mod layout;
mod sealed;

pub use layout::MAX_PLAIN_LEN;
pub use sealed::{MAX_MANIFEST_LEN, ManifestError};

use zeroize::Zeroizing;

use crate::cache::Wanted;
use crate::chunk::Entry;
use crate::name::ChunkName;
use crate::salt::SaltId;
use crate::size::{ChunkSize, MAX_CONTENT_LEN};

/// What is cut into chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A runtime's file system.
    Image = 1,
    /// A function's code.
    Code = 2,
    /// A layer of code that functions share.
    Layer = 3,
    /// A guest's memory.
    Memory = 4,
    /// The pages that clones of a snapshot want first, one after the other.
    Prefetch = 5,
    /// The state of a guest's vCPUs and devices.
    State = 6,
    /// A guest's /tmp.
    Scratch = 7,
}

impl Kind {
    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Code => "code",
            Self::Layer => "layer",
            Self::Memory => "memory",
            Self::Prefetch => "prefetch",
            Self::State => "state",
            Self::Scratch => "scratch",
        }
    }

    /// The kind of this number, as manifests and tables have it.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        use Kind::{Code, Image, Layer, Memory, Prefetch, Scratch, State};
        let all = [Image, Code, Layer, Memory, Prefetch, State, Scratch];
        all.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// What a manifest is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// What kind of thing.
    pub kind: Kind,
    /// Bytes, all chunks together.
    pub len: u64,
    /// How it is cut.
    pub chunk_size: ChunkSize,
    /// What its chunks' keys are derived with.
    pub salt: SaltId,
}

/// The chunks of one content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    content: Content,
    /// As many as the content has; none where there are only zeros.
    chunks: Vec<Option<Entry>>,
    /// Numbers of stored chunks, each once.
    working_set: Vec<u32>,
}

/// Why this is no manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidManifest {
    /// Longer than any content, with which no chunk can be counted.
    #[error("a content of {0} bytes, at most {MAX_CONTENT_LEN} are cut into chunks")]
    ContentLen(u64),
    /// Chunks are missing, or there are too many.
    #[error("{found} chunks for a content that has {expected}")]
    Chunks {
        /// Given.
        found: usize,
        /// By length and chunk size.
        expected: u32,
    },
    /// A kind that this program does not know.
    #[error("contents of kind {0} are unknown")]
    Kind(u8),
    /// A chunk size that there is not.
    #[error("chunks of 2^{0} bytes are unknown")]
    ChunkSize(u8),
    /// Its parts and its length disagree.
    #[error("its parts take {expected} bytes and it has {found}")]
    Len {
        /// Bytes there are.
        found: usize,
        /// Bytes that its fields ask for.
        expected: usize,
    },
    /// Shorter than any.
    #[error("it ends before it says what it is of")]
    Truncated,
    /// Bits that mean nothing are zero.
    #[error("bits are set that mean nothing")]
    Reserved,
    /// The working set names a chunk that there is not, or zeros, or a chunk twice.
    #[error("the working set names chunk {0}, which is not stored or named before")]
    WorkingSet(u32),
}

impl Manifest {
    /// Of a content and its chunks, in order.
    ///
    /// # Errors
    /// The content has another number of chunks, or is too long.
    pub fn new(content: Content, chunks: Vec<Option<Entry>>) -> Result<Self, InvalidManifest> {
        let expected =
            content.chunk_size.count(content.len).ok_or(InvalidManifest::ContentLen(content.len))?;
        if chunks.len() != expected as usize {
            return Err(InvalidManifest::Chunks { found: chunks.len(), expected });
        }
        Ok(Self { content, chunks, working_set: Vec::new() })
    }

    /// With these chunks to be fetched first, in this order.
    ///
    /// # Errors
    /// One is not stored, or is named twice.
    pub fn with_working_set(mut self, working_set: Vec<u32>) -> Result<Self, InvalidManifest> {
        let mut named = vec![false; self.chunks.len()];
        for &index in &working_set {
            let named = named.get_mut(index as usize).ok_or(InvalidManifest::WorkingSet(index))?;
            if std::mem::replace(named, true) || self.chunk(index).is_none() {
                return Err(InvalidManifest::WorkingSet(index));
            }
        }
        self.working_set = working_set;
        Ok(self)
    }

    /// As bytes that are not sealed, for a process of the same node that is to read what it names: whoever sees them can.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        layout::encode(self)
    }

    /// The manifest of bytes that anybody may have written. The caller has read no more than [`MAX_PLAIN_LEN`].
    ///
    /// # Errors
    /// They are not what [`Self::encode`] makes of any.
    pub fn decode(plain: &[u8]) -> Result<Self, InvalidManifest> {
        layout::decode(plain)
    }

    /// What it is of.
    #[must_use]
    pub fn content(&self) -> Content {
        self.content
    }

    /// How to get chunk `index`; none when it is zeros, or past the end.
    #[must_use]
    pub fn chunk(&self, index: u32) -> Option<&Entry> {
        self.chunks.get(index as usize)?.as_ref()
    }

    /// Chunks of the content, zeros included.
    #[must_use]
    pub fn chunks(&self) -> &[Option<Entry>] {
        &self.chunks
    }

    /// Bytes of chunk `index`: as many as the content has left for it.
    #[must_use]
    pub fn chunk_len(&self, index: u32) -> usize {
        self.content.chunk_size.len_of(index, self.content.len)
    }

    /// Chunk `index` as it is asked for; none when it is zeros, or past the end.
    #[must_use]
    pub fn wanted(&self, index: u32) -> Option<Wanted<'_>> {
        let entry = self.chunk(index)?;
        Some(Wanted { entry, len: self.chunk_len(index), size: self.content.chunk_size })
    }

    /// What is to be fetched first, in this order.
    #[must_use]
    pub fn working_set(&self) -> &[u32] {
        &self.working_set
    }

    /// Every name that has to be kept as long as this manifest is; the same one may come several times.
    pub fn names(&self) -> impl Iterator<Item = ChunkName> {
        self.chunks.iter().flatten().map(|entry| entry.name)
    }
}
