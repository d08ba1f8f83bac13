//! Keys and tags: HMAC-SHA-256 derives one key for each use from the caller's key and the snapshot's salt; AES-256-GCM-SIV
//! without plaintext authenticates. It is chosen over a hash because every server has instructions for it (a state is
//! checked while a guest waits), and over GMAC because a salt that comes twice does not give the key away.

use std::fmt;

use aes_gcm_siv::aead::{AeadInOut, KeyInit, inout::InOutBuf};
use aes_gcm_siv::{Aes256GcmSiv, Nonce};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Length of a caller's key.
const KEY_LEN: usize = 32;

/// Fresh random bytes of one snapshot.
pub type Salt = [u8; 16];

/// An authentication tag.
pub(crate) type Tag = [u8; 16];

/// What derived keys are for. The texts are part of the format.
const FOR_CHECK: &[u8] = b"tinderbox snapshot 1: which key";
const FOR_STATE: &[u8] = b"tinderbox snapshot 1: state";

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
        tag(&Aes256GcmSiv::new(&self.derive(salt, FOR_STATE).into()), file)
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

/// With a nonce of zeros: a key tags one file.
fn tag(cipher: &Aes256GcmSiv, bytes: &[u8]) -> Tag {
    let nothing: &mut [u8] = &mut [];
    // Fails for more than 2^36 bytes of associated data, which no file here has; a tag of zeros is then as good as none.
    cipher
        .encrypt_inout_detached(&Nonce::from([0; 12]), bytes, InOutBuf::from(nothing))
        .map_or(Tag::default(), Into::into)
}
