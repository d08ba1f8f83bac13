//! AES-256-GCM with a nonce of zeros. Every key here seals one message only: it is derived from that message, or from a salt
//! that is fresh. Nothing else may call this.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::secret::Secret;

/// Length of a tag.
pub(crate) const TAG_LEN: usize = 16;

/// The library refused a key or a length that it has to take; or, of [`open`], the tag is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// Encrypts `message` in place and appends the tag.
pub(crate) fn seal(key: &Secret, about: &[u8], message: &mut Vec<u8>) -> Result<(), Refused> {
    let tag = cipher(key)?
        .seal_in_place_separate_tag(nonce(), Aad::from(about), message)
        .map_err(|_unspecified| Refused)?;
    message.extend_from_slice(tag.as_ref());
    Ok(())
}

/// Encrypts `message` in place and gives its tag.
pub(crate) fn seal_apart(key: &Secret, message: &mut [u8]) -> Result<[u8; TAG_LEN], Refused> {
    let tag = cipher(key)?
        .seal_in_place_separate_tag(nonce(), Aad::empty(), message)
        .map_err(|_unspecified| Refused)?;
    tag.as_ref().try_into().map_err(|_other_length| Refused)
}

/// Decrypts `content` to `plaintext`, which is as long and of no use after an error.
pub(crate) fn open_apart(
    key: &Secret,
    content: &[u8],
    tag: &[u8; TAG_LEN],
    plaintext: &mut [u8],
) -> Result<(), Refused> {
    if content.len() != plaintext.len() {
        return Err(Refused);
    }
    cipher(key)?
        .open_separate_gather(nonce(), Aad::empty(), content, tag, plaintext)
        .map_err(|_unspecified| Refused)
}

/// Decrypts `sealed` to `plaintext`, which has the same length less the tag's and is of no use after an error.
pub(crate) fn open(key: &Secret, about: &[u8], sealed: &[u8], plaintext: &mut [u8]) -> Result<(), Refused> {
    let at = sealed.len().checked_sub(TAG_LEN).ok_or(Refused)?;
    let (content, tag) = sealed.split_at_checked(at).ok_or(Refused)?;
    if content.len() != plaintext.len() {
        return Err(Refused);
    }
    cipher(key)?
        .open_separate_gather(nonce(), Aad::from(about), content, tag, plaintext)
        .map_err(|_unspecified| Refused)
}

fn cipher(key: &Secret) -> Result<LessSafeKey, Refused> {
    UnboundKey::new(&AES_256_GCM, key.bytes()).map(LessSafeKey::new).map_err(|_unspecified| Refused)
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}
