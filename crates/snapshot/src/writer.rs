//! Builds a state file in memory: sections in, sealed bytes out.

use std::collections::BTreeMap;

use crate::SavedState;
use crate::error::FormatError;
use crate::key::{Key, Salt};
use crate::layout::{
    ARCHITECTURE, AT_ARCHITECTURE, AT_CHECKSUM, AT_KEY_CHECK, AT_LEN, AT_SALT, AT_SECTION_INSTANCE,
    AT_SECTION_LEN, AT_SECTION_VERSION, AT_SECTIONS, AT_VERSION, HEADER_LEN, MAGIC, MAX_SECTION_LEN,
    MAX_SECTIONS, SECTION_HEADER_LEN, SECTION_NAME_LEN, TAG_LEN, VERSION, array_at, checksum,
};

/// A state file being put together. Sections may be added in any order; they are written in theirs.
#[derive(Debug, Default)]
pub struct StateWriter {
    /// By name and number: version and bytes.
    sections: BTreeMap<(&'static str, u32), (u32, Vec<u8>)>,
}

impl StateWriter {
    /// An empty file.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a state; `instance` tells several of one name apart.
    ///
    /// # Errors
    /// The format has no room for it.
    pub fn add<S: SavedState>(&mut self, instance: u32, state: &S) -> Result<(), FormatError> {
        let bytes =
            postcard::to_allocvec(state).map_err(|source| FormatError::Encode { name: S::NAME, source })?;
        self.add_bytes(S::NAME, instance, S::VERSION, bytes)
    }

    /// Adds a section that is not encoded here.
    ///
    /// # Errors
    /// The format has no room for it.
    pub fn add_bytes(
        &mut self,
        name: &'static str,
        instance: u32,
        version: u32,
        bytes: Vec<u8>,
    ) -> Result<(), FormatError> {
        let fits = self.sections.len() < MAX_SECTIONS
            && bytes.len() as u64 <= MAX_SECTION_LEN
            && (1..=SECTION_NAME_LEN).contains(&name.len());
        if !fits {
            return Err(FormatError::TooMuch { name });
        }
        self.sections.insert((name, instance), (version, bytes));
        Ok(())
    }

    /// The file's bytes.
    #[must_use]
    pub fn finish(self, key: &Key, salt: &Salt) -> Vec<u8> {
        let body: usize = self.sections.values().map(|(_, bytes)| SECTION_HEADER_LEN + bytes.len()).sum();
        let len = HEADER_LEN + body + TAG_LEN;
        let mut file = Vec::with_capacity(len);
        file.resize(HEADER_LEN, 0);
        put(&mut file, 0, &MAGIC);
        put(&mut file, AT_VERSION, &VERSION.to_le_bytes());
        put(&mut file, AT_ARCHITECTURE, &ARCHITECTURE.to_le_bytes());
        put(&mut file, AT_SECTIONS, &(self.sections.len() as u16).to_le_bytes());
        put(&mut file, AT_SALT, salt);
        for ((name, instance), (version, bytes)) in self.sections {
            let mut header = [0; SECTION_HEADER_LEN];
            put(&mut header, 0, name.as_bytes());
            put(&mut header, AT_SECTION_INSTANCE, &instance.to_le_bytes());
            put(&mut header, AT_SECTION_VERSION, &version.to_le_bytes());
            put(&mut header, AT_SECTION_LEN, &(bytes.len() as u64).to_le_bytes());
            file.extend_from_slice(&header);
            file.extend_from_slice(&bytes);
        }
        file.resize(len, 0);
        seal(&mut file, key);
        file
    }
}

/// Fills in what a file's header and end say of the file itself: length, key check, checksum, tag. The last bytes are the
/// tag's room. A file shorter than header and tag stays as it is.
///
/// Tests of readers use this on files that no writer makes: what is behind the tag must hold without it.
pub fn seal(file: &mut [u8], key: &Key) {
    let (len, Some(salt)) = (file.len(), array_at(file, AT_SALT)) else { return };
    let Some(end) = len.checked_sub(TAG_LEN).filter(|end| *end >= HEADER_LEN) else { return };
    put(file, AT_LEN, &(len as u64).to_le_bytes());
    put(file, AT_KEY_CHECK, &key.check(&salt));
    let sum = checksum(file);
    put(file, AT_CHECKSUM, &sum.to_le_bytes());
    let tag = key.tag_state(&salt, file.get(..end).unwrap_or_default());
    put(file, end, &tag);
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = file.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}
