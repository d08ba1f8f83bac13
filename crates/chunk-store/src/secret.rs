//! 32 bytes that nobody may see: wiped when dropped, never printed, compared in constant time, and the one way from a secret
//! to the keys that are used. (What a hash function or a move leaves on the stack is not wiped.)

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Length of every key.
pub(crate) const KEY_LEN: usize = 32;

/// A key, or what keys are derived from.
#[derive(Clone)]
pub(crate) struct Secret(Zeroizing<[u8; KEY_LEN]>);

impl Secret {
    pub(crate) fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Fresh from the kernel.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        getrandom::fill(bytes.as_mut_slice())?;
        Ok(Self(bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The key for one use, which `context` names; the texts are part of the format.
    pub(crate) fn derive(&self, context: &str) -> Self {
        Self::new(blake3::derive_key(context, self.0.as_slice()))
    }

    /// The key that belongs to `message`.
    pub(crate) fn derive_for(&self, message: &[u8]) -> Self {
        Self::new(*blake3::keyed_hash(&self.0, message).as_bytes())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}
