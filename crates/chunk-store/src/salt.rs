//! The salt that chunks of one kind, time and place share. Chunks under another salt have other keys and other names: what is
//! lost with one popular chunk, and who can compare contents, ends there.

use crate::secret::Secret;

/// What keys, salts and their ids are derived with. The texts are part of the format.
const FOR_KEYS: &str = "tinderbox chunk 1: key of a chunk";
const FOR_SALTS: &str = "tinderbox chunk 1: salts";
const FOR_IDS: &str = "tinderbox chunk 1: ids of salts";

/// The id of the salt of what is public.
const PUBLIC: SaltId = *b"tinderbox public";

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

    /// The salt of one span of time, a `bucket`, of those that come of one master secret: whoever has that, and only they, can
    /// make the salts of all times.
    #[must_use]
    pub fn for_bucket(master: &[u8; 32], bucket: u64) -> Self {
        let (master, bucket) = (Secret::new(*master), bucket.to_le_bytes());
        let named = master.derive(FOR_IDS).derive_for(&bucket);
        let mut id = SaltId::default();
        id.iter_mut().zip(named.bytes()).for_each(|(to, from)| *to = *from);
        let bytes = master.derive(FOR_SALTS).derive_for(&bucket);
        Self { id, for_keys: bytes.derive(FOR_KEYS) }
    }

    /// The salt of contents that anybody may have, runtimes above all. It is no secret, so they are the same chunks everywhere; and
    /// everybody can tell that they are stored.
    #[must_use]
    pub fn public() -> Self {
        Self::new(PUBLIC, [0; 32])
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
