//! What a chunk is called: the BLAKE3 hash of its body. It is no secret, and 64 lower-case hexadecimal digits where people and
//! file systems see it.

use std::fmt;
use std::str::FromStr;

/// Length of a name.
pub(crate) const NAME_LEN: usize = 32;

/// The name of one chunk's body, and of no other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkName([u8; NAME_LEN]);

/// A text that is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a chunk's name is 64 lower-case hexadecimal digits")]
pub struct NameError;

impl ChunkName {
    /// The name of `body`.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        Self(*blake3::hash(body).as_bytes())
    }

    /// As a manifest has it.
    pub(crate) fn from_bytes(bytes: [u8; NAME_LEN]) -> Self {
        Self(bytes)
    }

    /// The hash itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; NAME_LEN] {
        &self.0
    }
}

impl fmt::Display for ChunkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChunkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkName({self})")
    }
}

impl FromStr for ChunkName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let mut name = [0; NAME_LEN];
        if pairs.len() != NAME_LEN || !rest.is_empty() {
            return Err(NameError);
        }
        for (byte, [high, low]) in name.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Self(name))
    }
}

/// Upper case is refused: one name has one spelling, or a directory would hold a chunk twice.
fn digit(character: u8) -> Result<u8, NameError> {
    match character {
        b'0'..=b'9' => Ok(character - b'0'),
        b'a'..=b'f' => Ok(character - b'a' + 10),
        _ => Err(NameError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling() {
        let name = ChunkName::of(b"body");
        let text = name.to_string();
        assert_eq!(text.parse(), Ok(name));
        let others =
            [&text[1..], &format!("{text}0"), &text.to_uppercase(), &text.replace('a', "/"), "", "é"];
        for other in others {
            assert_eq!(other.parse::<ChunkName>(), Err(NameError), "{other}");
        }
    }
}
