//! Keys and tags: HMAC-SHA-256 derives one key for each use from the caller's key and the snapshot's salt; AES-256-GCM-SIV
//! without plaintext authenticates. It is chosen over a hash because every server has instructions for it (a chunk is
//! checked while a guest waits), and over GMAC because a nonce that is used twice, as when a chunk is written
//! again, does not give the key away.

use std::fmt;

use aes_gcm_siv::aead::{AeadInOut, KeyInit, inout::InOutBuf};
use aes_gcm_siv::{Aes256GcmSiv, Nonce};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::pages::PageMask;

/// Length of a caller's key.
const KEY_LEN: usize = 32;

/// Fresh random bytes of one snapshot.
pub type Salt = [u8; 16];

/// An authentication tag.
pub type Tag = [u8; 16];

/// What derived keys are for. The texts are part of the format.
const FOR_CHECK: &[u8] = b"tinderbox snapshot 1: which key";
const FOR_STATE: &[u8] = b"tinderbox snapshot 1: state";
const FOR_MEMORY: &[u8] = b"tinderbox snapshot 1: memory";
const FOR_PREFETCH: &[u8] = b"tinderbox snapshot 1: prefetch";

/// Nonce of a prefetch file's head: no block has this number.
const HEAD_NONCE: [u8; 12] = [0xff; 12];

/// The secret that snapshots are authenticated with.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; KEY_LEN]);

impl Key {
    /// The key of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// Tells readers with another key that theirs is the wrong one.
    pub(crate) fn check(&self, salt: &Salt) -> Tag {
        let mut check = Tag::default();
        for (to, from) in check.iter_mut().zip(self.derive(salt, FOR_CHECK)) {
            *to = from;
        }
        check
    }

    /// The tag of a state file's bytes.
    pub(crate) fn tag_state(&self, salt: &Salt, file: &[u8]) -> Tag {
        tag(&Aes256GcmSiv::new(&self.derive(salt, FOR_STATE).into()), [0; 12], file)
    }

    /// Makes and checks the tags of the memory file's chunks.
    #[must_use]
    pub fn chunk_sealer(&self, salt: &Salt) -> ChunkSealer {
        ChunkSealer(Box::new(Aes256GcmSiv::new(&self.derive(salt, FOR_MEMORY).into())))
    }

    /// Makes and checks the tags of a prefetch file with this salt, of the snapshot whose state file has that tag.
    pub(crate) fn prefetch_sealer(&self, state_tag: &Tag, salt: &Salt) -> PrefetchSealer {
        let purpose = [FOR_PREFETCH, state_tag].concat();
        PrefetchSealer(Box::new(Aes256GcmSiv::new(&self.derive(salt, &purpose).into())))
    }

    fn derive(&self, salt: &Salt, purpose: &[u8]) -> [u8; 32] {
        // HMAC takes keys of every length, so there is nothing to fail.
        let Ok(mut mac) = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0) else { return [0; 32] };
        mac.update(purpose);
        mac.update(salt);
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Tags chunks of one snapshot's memory.
#[derive(Clone)]
pub struct ChunkSealer(Box<Aes256GcmSiv>);

impl ChunkSealer {
    /// The tag of `pages`, the pages of chunk number `chunk` that `mask` names, one after the other.
    #[must_use]
    pub fn tag(&self, chunk: u32, mask: PageMask, pages: &[u8]) -> Tag {
        let mut nonce = [0; 12];
        let (number, which) = nonce.split_at_mut(4);
        number.copy_from_slice(&chunk.to_le_bytes());
        which.copy_from_slice(&mask.to_le_bytes());
        tag(&self.0, nonce, pages)
    }
}

impl fmt::Debug for ChunkSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChunkSealer(..)")
    }
}

/// Tags one prefetch file.
#[derive(Clone)]
pub(crate) struct PrefetchSealer(Box<Aes256GcmSiv>);

impl PrefetchSealer {
    /// The tag of everything before it in the head.
    pub(crate) fn tag_head(&self, head: &[u8]) -> Tag {
        tag(&self.0, HEAD_NONCE, head)
    }

    /// The tag of all of a block.
    pub(crate) fn tag_block(&self, number: u64, content: &[u8]) -> Tag {
        let mut nonce = [0; 12];
        nonce.split_at_mut(8).0.copy_from_slice(&number.to_le_bytes());
        tag(&self.0, nonce, content)
    }
}

impl fmt::Debug for PrefetchSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrefetchSealer(..)")
    }
}

fn tag(cipher: &Aes256GcmSiv, nonce: [u8; 12], bytes: &[u8]) -> Tag {
    let nothing: &mut [u8] = &mut [];
    // Fails for more than 2^36 bytes of associated data, which no file here has; a tag of zeros is then as good as none.
    cipher
        .encrypt_inout_detached(&Nonce::from(nonce), bytes, InOutBuf::from(nothing))
        .map_or(Tag::default(), Into::into)
}
