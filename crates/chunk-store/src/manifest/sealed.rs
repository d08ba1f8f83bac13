//! A manifest as it leaves a node: sealed with a key of its own, which its tenant's key wraps.
//!
//! ```text
//! length, magic, version ─► which tenant's key ─► wrapped key ─► body ─► layout
//!   "not for this program"      "another key"        "forged"     "forged"  "invalid"
//! ```

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{InvalidManifest, MAX_PLAIN_LEN, Manifest, layout};
use crate::bytes::Bytes;
use crate::cipher::{self, TAG_LEN};
use crate::secret::{KEY_LEN, Secret};
use crate::tenant::TenantKey;

const MAGIC: [u8; 8] = *b"TNDRMNFT";
const VERSION: u32 = 1;

/// Magic, version, length of the body: what the body's tag is also over.
const FRAME_LEN: usize = 16;
const SALT_LEN: usize = 32;
const CHECK_LEN: usize = 16;
/// A manifest's own key, wrapped.
const WRAPPED_LEN: usize = KEY_LEN + TAG_LEN;
/// All that comes before the body.
const HEADER_LEN: usize = FRAME_LEN + SALT_LEN + CHECK_LEN + WRAPPED_LEN;

/// Longest sealed manifest: nobody needs to read more of a file.
pub const MAX_MANIFEST_LEN: usize = HEADER_LEN + MAX_PLAIN_LEN + TAG_LEN;

/// What a tenant's key is used for. The texts are part of the format.
const FOR_CHECK: &str = "tinderbox chunk 1: which tenant's key";
const FOR_MANIFESTS: &str = "tinderbox chunk 1: wrapping of manifests' keys";

/// Why a file is no manifest that this tenant can use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Shorter than any manifest, or of another length than it says; or longer than any.
    #[error("the file has {found} bytes and should have {expected}, at most {MAX_MANIFEST_LEN}")]
    Len {
        /// Bytes there are.
        found: usize,
        /// Bytes there should be.
        expected: usize,
    },
    /// Something else altogether.
    #[error("the file does not begin as a manifest does")]
    Magic,
    /// Written by a newer program, or by one that never was.
    #[error("manifest format version {0}, this program reads version {VERSION}")]
    Version(u32),
    /// Another tenant's.
    #[error("the manifest is sealed with another key")]
    WrongKey,
    /// Damaged, changed by somebody without the key, or the manifest of something else.
    #[error("the manifest is not authentic, or not of what was asked for")]
    Forged,
    /// Authentic, and yet nothing that this program writes.
    #[error("the manifest contradicts itself")]
    Invalid(#[from] InvalidManifest),
    /// The kernel gave no random bytes.
    #[error("there is no randomness for a manifest's key: {0}")]
    Random(getrandom::Error),
    /// The cryptographic library refused what it has to take.
    #[error("the cipher refused a manifest")]
    Cipher,
}

impl Manifest {
    /// Seals it for its tenant. `subject` says what it is the manifest of, in the caller's words: it is opened under these
    /// only, so that one manifest of a tenant cannot be put in another's place.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn seal(&self, tenant: &TenantKey, subject: &[u8]) -> Result<Vec<u8>, ManifestError> {
        let own = Secret::random().map_err(ManifestError::Random)?;
        let salt = Secret::random().map_err(ManifestError::Random)?;
        self.seal_with(tenant, subject, &own, salt.bytes())
    }

    /// With a key and a salt that are used once.
    pub(crate) fn seal_with(
        &self,
        tenant: &TenantKey,
        subject: &[u8],
        own: &Secret,
        salt: &[u8; SALT_LEN],
    ) -> Result<Vec<u8>, ManifestError> {
        let mut body = layout::encode(self);
        let mut file = Vec::with_capacity(HEADER_LEN + body.len() + TAG_LEN);
        file.extend_from_slice(&MAGIC);
        file.extend_from_slice(&VERSION.to_le_bytes());
        file.extend_from_slice(&((body.len() + TAG_LEN) as u32).to_le_bytes());
        cipher::seal(own, &file, &mut body).map_err(|_refused| ManifestError::Cipher)?;
        let mut wrapped = Zeroizing::new(Vec::with_capacity(WRAPPED_LEN));
        wrapped.extend_from_slice(own.bytes());
        cipher::seal(&wrapping_key(tenant, salt), subject, &mut wrapped)
            .map_err(|_refused| ManifestError::Cipher)?;
        file.extend_from_slice(salt);
        file.extend_from_slice(&check(tenant, salt));
        file.extend_from_slice(&wrapped);
        file.extend_from_slice(&body);
        Ok(file)
    }

    /// The manifest of a file that anybody may have written. The caller has read no more of it than [`MAX_MANIFEST_LEN`].
    ///
    /// # Errors
    /// The first reason why it cannot be used.
    pub fn open(file: &[u8], tenant: &TenantKey, subject: &[u8]) -> Result<Self, ManifestError> {
        let (frame, sealed) = check_frame(file)?;
        let Parts { salt, check: found, wrapped, body, plain_len } =
            Parts::of(sealed).ok_or(ManifestError::Len { found: file.len(), expected: HEADER_LEN })?;
        if !bool::from(found.ct_eq(&check(tenant, &salt))) {
            return Err(ManifestError::WrongKey);
        }
        let mut own = Zeroizing::new([0; KEY_LEN]);
        cipher::open(&wrapping_key(tenant, &salt), subject, wrapped, own.as_mut_slice())
            .map_err(|_refused| ManifestError::Forged)?;
        let mut plain = Zeroizing::new(vec![0; plain_len]);
        cipher::open(&Secret::new(*own), frame, body, &mut plain)
            .map_err(|_refused| ManifestError::Forged)?;
        Ok(layout::decode(&plain)?)
    }
}

/// What follows the frame.
struct Parts<'a> {
    salt: [u8; SALT_LEN],
    check: [u8; CHECK_LEN],
    wrapped: &'a [u8],
    body: &'a [u8],
    /// Of the body, without its tag.
    plain_len: usize,
}

impl<'a> Parts<'a> {
    /// None when there are fewer bytes than any manifest has.
    fn of(sealed: &'a [u8]) -> Option<Self> {
        let mut fields = Bytes::new(sealed);
        let (salt, check, wrapped) = (fields.array()?, fields.array()?, fields.take(WRAPPED_LEN)?);
        let body = fields.rest();
        Some(Self { salt, check, wrapped, body, plain_len: body.len().checked_sub(TAG_LEN)? })
    }
}

/// The bytes that say what the file is, and the others, once the file is as long as they say.
fn check_frame(file: &[u8]) -> Result<(&[u8], &[u8]), ManifestError> {
    let (frame, sealed) = file
        .split_at_checked(FRAME_LEN)
        .ok_or(ManifestError::Len { found: file.len(), expected: HEADER_LEN })?;
    let mut fields = Bytes::new(frame);
    if fields.array() != Some(MAGIC) {
        return Err(ManifestError::Magic);
    }
    let version = fields.u32().unwrap_or_default();
    if version != VERSION {
        return Err(ManifestError::Version(version));
    }
    let expected = HEADER_LEN.saturating_add(fields.u32().unwrap_or_default() as usize);
    if file.len() != expected || expected > MAX_MANIFEST_LEN {
        return Err(ManifestError::Len { found: file.len(), expected });
    }
    Ok((frame, sealed))
}

/// Wraps one manifest's own key: no other manifest has this salt.
fn wrapping_key(tenant: &TenantKey, salt: &[u8; SALT_LEN]) -> Secret {
    tenant.0.derive(FOR_MANIFESTS).derive_for(salt)
}

/// Tells readers with another key that theirs is the wrong one, and nobody which manifests are of one tenant.
fn check(tenant: &TenantKey, salt: &[u8; SALT_LEN]) -> [u8; CHECK_LEN] {
    let derived = tenant.0.derive(FOR_CHECK).derive_for(salt);
    let mut check = [0; CHECK_LEN];
    check.iter_mut().zip(derived.bytes()).for_each(|(to, from)| *to = *from);
    check
}
