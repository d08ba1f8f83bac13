//! Who may read what. A manifest is sealed under a key of its own, which is kept wrapped by its tenant's key; that is kept
//! wrapped by the root key of the node or the cluster. A new root key wraps the tenants' keys again, 96 bytes each, and no
//! manifest and no chunk is touched.

use crate::bytes::Bytes;
use crate::cipher::{self, TAG_LEN};
use crate::secret::{KEY_LEN, Secret};

/// What is derived from a root key. The text is part of the format.
const FOR_TENANTS: &str = "tinderbox chunk 1: wrapping of tenants' keys";

const MAGIC: [u8; 8] = *b"TNDRTKEY";
const VERSION: u32 = 1;
/// Magic, version, root key, salt; the wrapped key follows.
const HEADER_LEN: usize = 16 + SALT_LEN;
const SALT_LEN: usize = 32;

/// Length of a wrapped tenant's key.
pub const WRAPPED_LEN: usize = HEADER_LEN + KEY_LEN + TAG_LEN;

/// The key of one tenant's manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantKey(pub(crate) Secret);

/// Which root key.
pub type RootId = u32;

/// A key that wraps the keys of tenants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootKey {
    id: RootId,
    for_tenants: Secret,
}

/// Why a key cannot be wrapped or unwrapped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No wrapped key has that length.
    #[error("a wrapped key of {0} bytes, they have {WRAPPED_LEN}")]
    Len(usize),
    /// Something else altogether.
    #[error("the record does not begin as a wrapped key does")]
    Magic,
    /// Written by a newer program, or by one that never was.
    #[error("wrapped key version {0}, this program reads version {VERSION}")]
    Version(u32),
    /// Rotated, or to be rotated.
    #[error("the key is wrapped by root key {found}, this is root key {ours}")]
    OtherRoot {
        /// In the record.
        found: RootId,
        /// The one that was asked.
        ours: RootId,
    },
    /// Changed, another tenant's, or another root key under the same number.
    #[error("the wrapped key is not authentic, or not that tenant's")]
    Forged,
    /// The kernel gave no random bytes.
    #[error("there is no randomness for a key: {0}")]
    Random(getrandom::Error),
    /// The cryptographic library refused what it has to take.
    #[error("the cipher refused a key")]
    Cipher,
}

impl TenantKey {
    /// The key of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(Secret::new(bytes))
    }

    /// A new tenant's.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        Secret::random().map(Self).map_err(KeyError::Random)
    }

    /// What is derived from it for another use than manifests, which `context` names; a key of nothing else has that text.
    #[must_use]
    pub fn derive(&self, context: &str) -> zeroize::Zeroizing<[u8; KEY_LEN]> {
        zeroize::Zeroizing::new(*self.0.derive(context).bytes())
    }
}

impl RootKey {
    /// The root key of these bytes. Two root keys never have one id.
    #[must_use]
    pub fn new(id: RootId, bytes: [u8; KEY_LEN]) -> Self {
        Self { id, for_tenants: Secret::new(bytes).derive(FOR_TENANTS) }
    }

    /// A tenant's key as it is kept. `tenant` says whose it is; nobody else's name unwraps it.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn wrap(&self, key: &TenantKey, tenant: &[u8]) -> Result<Vec<u8>, KeyError> {
        let salt = Secret::random().map_err(KeyError::Random)?;
        self.wrap_with(key, tenant, salt.bytes())
    }

    /// With a salt that is used once.
    pub(crate) fn wrap_with(
        &self,
        key: &TenantKey,
        tenant: &[u8],
        salt: &[u8; SALT_LEN],
    ) -> Result<Vec<u8>, KeyError> {
        let mut record = Vec::with_capacity(WRAPPED_LEN);
        record.extend_from_slice(&MAGIC);
        record.extend_from_slice(&VERSION.to_le_bytes());
        record.extend_from_slice(&self.id.to_le_bytes());
        record.extend_from_slice(salt);
        let mut wrapped = Vec::with_capacity(KEY_LEN + TAG_LEN);
        wrapped.extend_from_slice(key.0.bytes());
        let about = [&record, tenant].concat();
        cipher::seal(&self.for_tenants.derive_for(salt), &about, &mut wrapped)
            .map_err(|_refused| KeyError::Cipher)?;
        record.extend_from_slice(&wrapped);
        Ok(record)
    }

    /// The key that [`Self::wrap`] made `record` of.
    ///
    /// # Errors
    /// The record is not what this root key wrapped for that tenant.
    pub fn unwrap(&self, record: &[u8], tenant: &[u8]) -> Result<TenantKey, KeyError> {
        let found = root_of(record)?;
        if found != self.id {
            return Err(KeyError::OtherRoot { found, ours: self.id });
        }
        let (header, wrapped) = record.split_at_checked(HEADER_LEN).ok_or(KeyError::Len(record.len()))?;
        let salt = header.get(HEADER_LEN - SALT_LEN..).unwrap_or_default();
        let mut key = zeroize::Zeroizing::new([0; KEY_LEN]);
        let about = [header, tenant].concat();
        cipher::open(&self.for_tenants.derive_for(salt), &about, wrapped, key.as_mut_slice())
            .map_err(|_refused| KeyError::Forged)?;
        Ok(TenantKey::new(*key))
    }
}

/// Which root key unwraps `record`.
///
/// # Errors
/// It is no wrapped key.
pub fn root_of(record: &[u8]) -> Result<RootId, KeyError> {
    if record.len() != WRAPPED_LEN {
        return Err(KeyError::Len(record.len()));
    }
    let mut fields = Bytes::new(record);
    if fields.array() != Some(MAGIC) {
        return Err(KeyError::Magic);
    }
    match (fields.u32(), fields.u32()) {
        (Some(VERSION), Some(root)) => Ok(root),
        (version, _) => Err(KeyError::Version(version.unwrap_or_default())),
    }
}
