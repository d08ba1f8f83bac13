//! The salt that chunks of one kind, time and place share. Chunks under another salt have other keys and other names: what is
//! lost with one popular chunk, and who can compare contents, ends there.

use crate::secret::Secret;

/// What a chunk's key is derived with. The text is part of the format.
const FOR_KEYS: &str = "tinderbox chunk 1: key of a chunk";

/// Which salt a manifest's chunks were made with.
pub type SaltId = [u8; 16];

/// A salt. Only nodes that publish have it: whoever has it can tell whether a content that they guess is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Salt {
    id: SaltId,
    for_keys: Secret,
}

impl Salt {
    /// The salt of these bytes, known by `id`. Two salts never have one id.
    #[must_use]
    pub fn new(id: SaltId, bytes: [u8; 32]) -> Self {
        Self { id, for_keys: Secret::new(bytes).derive(FOR_KEYS) }
    }

    /// What manifests call it.
    #[must_use]
    pub fn id(&self) -> SaltId {
        self.id
    }

    /// The key of what is encrypted with it.
    pub(crate) fn key_of(&self, encoded: &[u8]) -> Secret {
        self.for_keys.derive_for(encoded)
    }
}
