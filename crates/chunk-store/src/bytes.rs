//! Reading what anybody may have written: numbers are little-endian, and nothing is past the end.

/// Length of the hash that [`checked`] ends a file with.
pub(crate) const HASH_LEN: usize = 32;

/// A file whose reader is to see any change of it: magic, version, what `content` appends, which has `len` bytes, and a hash of that.
pub(crate) fn checked(
    magic: [u8; 8],
    version: u32,
    len: usize,
    content: impl FnOnce(&mut Vec<u8>),
) -> Vec<u8> {
    let mut file = Vec::with_capacity(magic.len() + size_of_val(&version) + len + HASH_LEN);
    file.extend_from_slice(&magic);
    file.extend_from_slice(&version.to_le_bytes());
    content(&mut file);
    let hash = blake3::hash(&file);
    file.extend_from_slice(hash.as_bytes());
    file
}

/// The content of a [`checked`] file; none when it is not what was written.
pub(crate) fn open_checked(file: &[u8], magic: [u8; 8], version: u32) -> Option<Bytes<'_>> {
    let (content, hash) = file.split_last_chunk::<HASH_LEN>()?;
    let mut fields = Bytes::new(content);
    let is_whole = blake3::hash(content) == *hash;
    (is_whole && fields.array() == Some(magic) && fields.u32() == Some(version)).then_some(fields)
}

/// A reader that only goes forward.
pub(crate) struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `len` bytes; none, and nothing is consumed, when there are fewer.
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// All that is left.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }
}
