//! A chunk as one node keeps it for itself. What comes from peers or the origin is checked by its name once; then it is
//! decompressed and sealed again, under a key that nobody outside of the node can derive. From there on one pass of
//! AES-256-GCM verifies and decrypts it, for whoever was given that one key.
//!
//! The key belongs to the chunk's name *and* key: nobody gets at a chunk through the cache whose key they do not have.

use std::fmt;

use zeroize::Zeroizing;

use crate::chunk::Entry;
use crate::cipher::{self, TAG_LEN};
use crate::name::{ChunkName, NAME_LEN};
use crate::secret::{KEY_LEN, Secret};
use crate::size::ChunkSize;

/// What is derived from the node's secret. The texts are part of the format.
const FOR_KEYS: &str = "tinderbox chunk 1: key of a chunk in a node's cache";
const FOR_NAMES: &str = "tinderbox chunk 1: name of a chunk in a node's cache";

/// What this node seals its own copies with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSecret {
    for_keys: Secret,
    for_names: Secret,
}

impl NodeSecret {
    /// The secret of these bytes, which stay on the node: random, kept as long as its cache.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        let secret = Secret::new(bytes);
        Self { for_keys: secret.derive(FOR_KEYS), for_names: secret.derive(FOR_NAMES) }
    }

    /// The key of this node's copy of a chunk.
    #[must_use]
    pub fn key_of(&self, entry: &Entry) -> LocalKey {
        LocalKey(self.for_keys.derive_for(identity(entry).as_slice()))
    }

    /// What this node calls its copy: it tells who sees the cache nothing of what others store.
    #[must_use]
    pub fn name_of(&self, entry: &Entry) -> ChunkName {
        ChunkName::from_bytes(*self.for_names.derive_for(identity(entry).as_slice()).bytes())
    }
}

/// Name and key: together they fix the plaintext.
fn identity(entry: &Entry) -> Zeroizing<[u8; NAME_LEN + KEY_LEN]> {
    let mut identity = Zeroizing::new([0; NAME_LEN + KEY_LEN]);
    let (name, key) = identity.split_at_mut(NAME_LEN);
    name.copy_from_slice(entry.name.as_bytes());
    key.copy_from_slice(entry.key.bytes());
    identity
}

/// Reads and writes one node's copy of one chunk; all that a jailed VMM is given of it.
#[derive(Clone, PartialEq, Eq)]
pub struct LocalKey(Secret);

/// Why a copy cannot be made or used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalError {
    /// No chunk has that length, or the copy is not of that length.
    #[error("a copy of {found} bytes cannot be of a chunk of {plaintext}")]
    Len {
        /// Bytes of the copy.
        found: usize,
        /// Bytes of the chunk.
        plaintext: usize,
    },
    /// Damaged, swapped or forged, or another node's.
    #[error("the copy is damaged, or not this node's of this chunk")]
    Damaged,
    /// The cryptographic library refused what it has to take.
    #[error("the cipher refused a chunk of {0} bytes")]
    Cipher(usize),
}

impl LocalKey {
    pub(crate) fn new(secret: Secret) -> Self {
        Self(secret)
    }

    pub(crate) fn bytes(&self) -> &[u8; KEY_LEN] {
        self.0.bytes()
    }

    /// Bytes of a chunk that its copy has: zeros behind them are not kept, where a small file ends in a chunk of its own.
    #[must_use]
    pub fn copy_len(plaintext: &[u8]) -> usize {
        plaintext.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1).min(plaintext.len())
    }

    /// Makes the front of a chunk's plaintext, which is as [`crate::open`] gave it and of which the rest is zeros, the copy, and
    /// gives the copy's tag.
    ///
    /// # Errors
    /// No chunk has that length.
    pub fn seal_copy(&self, plaintext: &mut [u8]) -> Result<[u8; TAG_LEN], LocalError> {
        let len = plaintext.len();
        if len == 0 || len > ChunkSize::LONGEST.bytes() {
            return Err(LocalError::Len { found: len, plaintext: len });
        }
        cipher::seal_apart(&self.0, plaintext).map_err(|_refused| LocalError::Cipher(len))
    }

    /// Fills `plaintext`, all of the chunk, from a copy that anybody may have written, and with zeros behind it; all zeros after an
    /// error.
    ///
    /// # Errors
    /// The copy is not what was sealed.
    pub fn open_copy(
        &self,
        copy: &[u8],
        tag: &[u8; TAG_LEN],
        plaintext: &mut [u8],
    ) -> Result<(), LocalError> {
        let len = plaintext.len();
        let (front, rest) = plaintext
            .split_at_mut_checked(copy.len())
            .filter(|(front, _)| !front.is_empty())
            .ok_or(LocalError::Len { found: copy.len(), plaintext: len })?;
        rest.fill(0);
        cipher::open_apart(&self.0, copy, tag, front).map_err(|_refused| {
            front.fill(0);
            LocalError::Damaged
        })
    }
}

impl fmt::Debug for LocalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalKey(..)")
    }
}
