//! How an entry's value is laid out on disk: a checksum over everything behind it, then revisions, lease and value.
//!
//! redb checksums its pages, but verifies them only while it repairs; a value that was damaged in place would be read
//! back as if it were good. Used by the redb backend alone.
//!
//! ```text
//! 0        8         16          24       32
//! │checksum│ created │ modified  │ lease  │ value …
//! ```

use sha2::{Digest as _, Sha256};

use crate::{Entry, LeaseId, MAX_VALUE_LEN, Revision};

const WORD: usize = 8;
const HEADER_LEN: usize = 4 * WORD;

/// The bytes of an entry's record. The key is part of what is summed, so that a record cannot move to another key.
pub(crate) fn encode(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + entry.value.len());
    bytes.extend_from_slice(&[0; WORD]);
    bytes.extend_from_slice(&entry.created.to_le_bytes());
    bytes.extend_from_slice(&entry.modified.to_le_bytes());
    bytes.extend_from_slice(&entry.lease.unwrap_or(0).to_le_bytes());
    bytes.extend_from_slice(&entry.value);
    let sum = checksum(&entry.key, &bytes[WORD..]);
    bytes[..WORD].copy_from_slice(&sum);
    bytes
}

/// The entry that a record holds, or what is wrong with it.
pub(crate) fn decode(key: &[u8], bytes: &[u8]) -> Result<Entry, String> {
    let name = || String::from_utf8_lossy(key).into_owned();
    let Some((header, value)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Err(format!("record of `{}` has {} bytes", name(), bytes.len()));
    };
    if value.len() > MAX_VALUE_LEN {
        return Err(format!("value of `{}` has {} bytes", name(), value.len()));
    }
    if header[..WORD] != checksum(key, &bytes[WORD..]) {
        return Err(format!("checksum of `{}` does not match", name()));
    }
    let [_, created, modified, lease] = words(header);
    let lease: Option<LeaseId> = (lease != 0).then_some(lease);
    Ok(Entry { key: key.to_vec(), value: value.to_vec(), created, modified, lease })
}

fn words(header: &[u8; HEADER_LEN]) -> [Revision; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(header.as_chunks::<WORD>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

fn checksum(key: &[u8], rest: &[u8]) -> [u8; WORD] {
    let mut hash = Sha256::new();
    hash.update(key.len().to_le_bytes());
    hash.update(key);
    hash.update(rest);
    let mut sum = [0; WORD];
    sum.copy_from_slice(&hash.finalize()[..WORD]);
    sum
}
