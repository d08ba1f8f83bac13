//! One chunk: plaintext in, name, key and body out; and back.
//!
//! ```text
//! plaintext ─► encoded: as it is or compressed, and which ─► key: of the salt and that ─► body: AES-256-GCM ─► name: BLAKE3
//! ```
//!
//! The key is derived from what is encrypted, not from what that was made of: another encoder, whose output differs, has
//! another key, so no key ever encrypts two messages. The name is what makes a body authentic; the tag in it, whose key
//! everybody knows who knows the plaintext, tells damage from a wrong key.

use crate::cipher::{self, TAG_LEN};
use crate::name::ChunkName;
use crate::salt::Salt;
use crate::secret::{KEY_LEN, Secret};
use crate::size::ChunkSize;

/// Longest body: the longest chunk as it is, its encoding and the tag.
pub const MAX_BODY_LEN: usize = ChunkSize::LONGEST.bytes() + 1 + TAG_LEN;

/// Last byte of what is encrypted: how the rest became of the plaintext.
const AS_IT_IS: u8 = 0;
const LZ4: u8 = 1;

/// Compression is kept when it saves an eighth: less is not worth decompressing.
const LEAST_SAVING: usize = 8;

/// The key of one chunk. Who has it and the body has the plaintext.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkKey(Secret);

impl ChunkKey {
    /// The key of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(Secret::new(bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8; KEY_LEN] {
        self.0.bytes()
    }
}

/// What a manifest says of a chunk that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub name: ChunkName,
    /// How it is read.
    pub key: ChunkKey,
}

/// What became of a plaintext.
#[derive(Debug, PartialEq, Eq)]
pub enum Sealed {
    /// Nothing but zeros: not stored.
    Zero,
    /// To be stored under the entry's name.
    Chunk {
        /// For the manifest.
        entry: Entry,
        /// For the store.
        body: Vec<u8>,
    },
}

/// Why a chunk cannot be made, or a body is not the one that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// A chunk has at least a byte and at most [`ChunkSize::LONGEST`].
    #[error("a chunk of {0} bytes, there are none of that length")]
    PlaintextLen(usize),
    /// Longer or shorter than any chunk's body: nothing was read of it.
    #[error("a body of {found} bytes cannot be of a chunk of {plaintext}")]
    BodyLen {
        /// Bytes there are.
        found: usize,
        /// Bytes that the chunk has.
        plaintext: usize,
    },
    /// Damaged, swapped or forged.
    #[error("the body of chunk {expected} is another one's, {found}")]
    Name {
        /// What the manifest names.
        expected: ChunkName,
        /// What the body is called.
        found: ChunkName,
    },
    /// The body is the right one: the manifest's key is not.
    #[error("the key of chunk {0} does not fit its body")]
    Key(ChunkName),
    /// Authentic, and yet nothing that this program writes.
    #[error("chunk {name} cannot be decoded: {problem}")]
    Encoding {
        /// Which.
        name: ChunkName,
        /// Why not.
        problem: &'static str,
    },
    /// The cryptographic library refused what it has to take.
    #[error("the cipher refused a chunk of {0} bytes")]
    Cipher(usize),
}

/// Makes the chunk of `plaintext`. The same plaintext and salt give the same chunk.
///
/// # Errors
/// The length is no chunk's.
pub fn seal(plaintext: &[u8], salt: &Salt) -> Result<Sealed, ChunkError> {
    if plaintext.is_empty() || plaintext.len() > ChunkSize::LONGEST.bytes() {
        return Err(ChunkError::PlaintextLen(plaintext.len()));
    }
    if plaintext.iter().all(|byte| *byte == 0) {
        return Ok(Sealed::Zero);
    }
    seal_encoded(encode(plaintext), salt)
}

/// Encrypts and names what has been encoded.
fn seal_encoded(mut encoded: Vec<u8>, salt: &Salt) -> Result<Sealed, ChunkError> {
    let len = encoded.len();
    let key = salt.key_of(&encoded);
    cipher::seal(&key, &[], &mut encoded).map_err(|_refused| ChunkError::Cipher(len))?;
    Ok(Sealed::Chunk { entry: Entry { name: ChunkName::of(&encoded), key: ChunkKey(key) }, body: encoded })
}

/// The plaintext of the chunk that `entry` names, `len` bytes, from a body that anybody may have written.
///
/// # Errors
/// The body is not that chunk's, or the entry is no chunk's.
pub fn open(entry: &Entry, body: &[u8], len: usize) -> Result<Vec<u8>, ChunkError> {
    if len == 0 || len > ChunkSize::LONGEST.bytes() {
        return Err(ChunkError::PlaintextLen(len));
    }
    let encoded_len = body.len().checked_sub(TAG_LEN).filter(|encoded| (2..=len + 1).contains(encoded));
    let encoded_len = encoded_len.ok_or(ChunkError::BodyLen { found: body.len(), plaintext: len })?;
    let found = ChunkName::of(body);
    if found != entry.name {
        return Err(ChunkError::Name { expected: entry.name, found });
    }
    let mut encoded = vec![0; encoded_len];
    cipher::open(&entry.key.0, &[], body, &mut encoded).map_err(|_refused| ChunkError::Key(entry.name))?;
    decode(encoded, len).map_err(|problem| ChunkError::Encoding { name: entry.name, problem })
}

/// Compressed where it pays; a byte that says so is the last one.
fn encode(plaintext: &[u8]) -> Vec<u8> {
    let room = plaintext.len() - plaintext.len() / LEAST_SAVING;
    let mut encoded = vec![0; lz4_flex::block::get_maximum_output_size(plaintext.len()) + 1];
    match lz4_flex::block::compress_into(plaintext, &mut encoded) {
        Ok(len) if len <= room => {
            encoded.truncate(len);
            encoded.push(LZ4);
        }
        _ => {
            encoded.clear();
            encoded.extend_from_slice(plaintext);
            encoded.push(AS_IT_IS);
        }
    }
    encoded
}

fn decode(mut encoded: Vec<u8>, len: usize) -> Result<Vec<u8>, &'static str> {
    match encoded.pop() {
        Some(AS_IT_IS) if encoded.len() == len => Ok(encoded),
        Some(AS_IT_IS) => Err("it is shorter or longer than the manifest says"),
        Some(LZ4) => {
            let mut plaintext = vec![0; len];
            match lz4_flex::block::decompress_into(&encoded, &mut plaintext) {
                Ok(found) if found == len => Ok(plaintext),
                Ok(_) => Err("it is shorter than the manifest says"),
                Err(_) => Err("it is longer than the manifest says, or no LZ4 block"),
            }
        }
        _ => Err("the encoding is unknown"),
    }
}
