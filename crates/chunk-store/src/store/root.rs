//! A root: a sealed manifest and, in the open, the names that it needs kept. Whoever collects garbage has no tenant's key.
//!
//! A root that cannot be read stops a collection, so it ends with a hash of itself: a damaged one is never taken for one
//! that needs less.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::bytes::{HASH_LEN, checked, open_checked};
use crate::manifest::MAX_MANIFEST_LEN;
use crate::name::{ChunkName, NAME_LEN};
use crate::size::MAX_CHUNKS;

const MAGIC: [u8; 8] = *b"TNDRROOT";
const VERSION: u32 = 1;
/// Magic, version, number of names.
const HEADER_LEN: usize = 16;

/// Longest root: a manifest of all the chunks that there can be, and their names.
pub(super) const MAX_ROOT_LEN: usize =
    HEADER_LEN + MAX_CHUNKS as usize * NAME_LEN + MAX_MANIFEST_LEN + HASH_LEN;

/// Longest label, in characters.
const MAX_LABEL_LEN: usize = 64;

/// What a root is called: 1 to 64 lower-case letters, digits and hyphens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

/// A text that is no label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a root's label is 1 to {MAX_LABEL_LEN} lower-case letters, digits and hyphens")]
pub struct LabelError;

impl Label {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let proper = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = (1..=MAX_LABEL_LEN).contains(&text.len()) && text.bytes().all(proper);
        if fits { Ok(Self(text.to_owned())) } else { Err(LabelError) }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is in a root's file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Root<'a> {
    pub(super) names: BTreeSet<ChunkName>,
    pub(super) manifest: &'a [u8],
}

impl<'a> Root<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let len = size_of::<u32>() + self.names.len() * NAME_LEN + self.manifest.len();
        checked(MAGIC, VERSION, len, |file| {
            // A manifest has at most 2^20 chunks.
            file.extend_from_slice(&(self.names.len() as u32).to_le_bytes());
            self.names.iter().for_each(|name| file.extend_from_slice(name.as_bytes()));
            file.extend_from_slice(self.manifest);
        })
    }

    /// None when it is not what was written.
    pub(super) fn decode(file: &'a [u8]) -> Option<Self> {
        let mut fields = open_checked(file, MAGIC, VERSION)?;
        let count = fields.u32()? as usize;
        let names = fields.take(count.checked_mul(NAME_LEN)?)?.as_chunks().0;
        let names = names.iter().map(|name| ChunkName::from_bytes(*name)).collect();
        Some(Self { names, manifest: fields.rest() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_root_counts() {
        let names = [b"one", b"two"].map(|body| ChunkName::of(body)).into();
        let root = Root { names, manifest: b"sealed" };
        let file = root.encode();
        assert_eq!(Root::decode(&file), Some(root));
        for at in 0..file.len() {
            for change in [1 << (at % 8), 0xff] {
                let mut changed = file.clone();
                changed[at] ^= change;
                assert_eq!(Root::decode(&changed), None, "byte {at}");
            }
            assert_eq!(Root::decode(&file[..at]), None, "cut to {at} bytes");
        }
    }

    #[test]
    fn a_label_is_no_path() {
        assert_eq!("a-1".parse::<Label>().map(|label| label.to_string()), Ok("a-1".to_owned()));
        for text in ["", ".", "..", "a/b", "A", "ä", "a.part", &"a".repeat(65)] {
            assert_eq!(text.parse::<Label>(), Err(LabelError), "{text}");
        }
    }
}
