//! Reads a state file that anybody may have written.
//!
//! ```text
//! length, magic, version, architecture ─► checksum ─► which key ─► tag ─► table of sections ─► one section's type
//!        "not for this program"          "damaged"   "wrong key"  "forged"
//! ```
//!
//! Nothing is allocated but what postcard makes of a section whose length has been checked; the file itself is the
//! caller's, who bounds it by [`MAX_STATE_LEN`] before reading.

use subtle::ConstantTimeEq;

use crate::SavedState;
use crate::error::FormatError;
use crate::key::{Key, Salt, Tag};
use crate::layout::{
    ARCHITECTURE, AT_ARCHITECTURE, AT_CHECKSUM, AT_KEY_CHECK, AT_LEN, AT_SALT, AT_SECTION_INSTANCE,
    AT_SECTION_LEN, AT_SECTION_VERSION, AT_SECTIONS, AT_VERSION, HEADER_LEN, MAGIC, MAX_SECTION_LEN,
    MAX_SECTIONS, MAX_STATE_LEN, SECTION_HEADER_LEN, SECTION_NAME_LEN, TAG_LEN, VERSION, array_at, checksum,
    u16_at, u32_at, u64_at,
};

/// An authentic state file.
#[derive(Debug)]
pub struct StateReader<'a> {
    sections: Vec<Section<'a>>,
}

#[derive(Clone, Copy, Debug)]
struct Section<'a> {
    name: &'a str,
    instance: u32,
    version: u32,
    bytes: &'a [u8],
}

impl<'a> StateReader<'a> {
    /// Checks all of `file`.
    ///
    /// # Errors
    /// The first reason why it cannot be used.
    pub fn open(file: &'a [u8], key: &Key) -> Result<Self, FormatError> {
        check_frame(file)?;
        let salt: Salt = array_at(file, AT_SALT).unwrap_or_default();
        if !same(&array_at(file, AT_KEY_CHECK).unwrap_or_default(), &key.check(&salt)) {
            return Err(FormatError::WrongKey);
        }
        let (content, tag) = file.split_at(file.len() - TAG_LEN);
        let tag: Tag = array_at(tag, 0).unwrap_or_default();
        if !same(&tag, &key.tag_state(&salt, content)) {
            return Err(FormatError::Forged);
        }
        Ok(Self { sections: sections(content)? })
    }

    /// How many sections there are of a name.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.sections.iter().filter(|section| section.name == name).count()
    }

    /// A state.
    ///
    /// # Errors
    /// It is missing, of another version, or its bytes are not its type's, to the last one.
    pub fn get<S: SavedState>(&self, instance: u32) -> Result<S, FormatError> {
        let bytes = self.bytes(S::NAME, instance, S::VERSION)?;
        let failed = |source| FormatError::Decode { name: S::NAME, instance, source };
        match postcard::take_from_bytes(bytes).map_err(failed)? {
            (state, []) => Ok(state),
            _ => Err(failed(postcard::Error::DeserializeBadEncoding)),
        }
    }

    /// A section's bytes.
    ///
    /// # Errors
    /// It is missing or of another version.
    pub fn bytes(&self, name: &'static str, instance: u32, version: u32) -> Result<&'a [u8], FormatError> {
        let found = self.sections.iter().find(|section| (section.name, section.instance) == (name, instance));
        let section = found.ok_or(FormatError::Missing { name, instance })?;
        if section.version != version {
            return Err(FormatError::SectionVersion { name, found: section.version, expected: version });
        }
        Ok(section.bytes)
    }
}

/// Everything that can be said without a key.
fn check_frame(file: &[u8]) -> Result<(), FormatError> {
    let found = file.len() as u64;
    let least = (HEADER_LEN + TAG_LEN) as u64;
    if found > MAX_STATE_LEN {
        return Err(FormatError::Oversized(found));
    }
    if !file.starts_with(&MAGIC) {
        let cut = MAGIC.starts_with(file);
        return Err(if cut { FormatError::Truncated { found, expected: least } } else { FormatError::Magic });
    }
    if found < least {
        return Err(FormatError::Truncated { found, expected: least });
    }
    match u32_at(file, AT_VERSION) {
        VERSION => {}
        other => return Err(FormatError::Version(other)),
    }
    match u16_at(file, AT_ARCHITECTURE) {
        ARCHITECTURE => {}
        found => return Err(FormatError::Architecture { found, expected: ARCHITECTURE }),
    }
    let expected = u64_at(file, AT_LEN);
    if found < expected {
        return Err(FormatError::Truncated { found, expected });
    }
    if found > expected {
        return Err(FormatError::TooLong { found, expected });
    }
    if checksum(file) != u32_at(file, AT_CHECKSUM) {
        return Err(FormatError::Checksum);
    }
    Ok(())
}

fn sections(content: &[u8]) -> Result<Vec<Section<'_>>, FormatError> {
    let count = usize::from(u16_at(content, AT_SECTIONS));
    if count > MAX_SECTIONS {
        return Err(FormatError::SectionBounds { index: MAX_SECTIONS });
    }
    let mut found: Vec<Section<'_>> = Vec::with_capacity(count);
    let mut rest = content.get(HEADER_LEN..).unwrap_or_default();
    for index in 0..count {
        let section;
        (section, rest) = take_section(rest, index)?;
        if found.last().is_some_and(|last| (last.name, last.instance) >= (section.name, section.instance)) {
            return Err(FormatError::SectionOrder {
                name: section.name.to_owned(),
                instance: section.instance,
            });
        }
        found.push(section);
    }
    if rest.is_empty() { Ok(found) } else { Err(FormatError::SectionBounds { index: count }) }
}

fn take_section(bytes: &[u8], index: usize) -> Result<(Section<'_>, &[u8]), FormatError> {
    let bounds = FormatError::SectionBounds { index };
    let (header, rest) = bytes.split_at_checked(SECTION_HEADER_LEN).ok_or(bounds.clone())?;
    let len = u64_at(header, AT_SECTION_LEN);
    let len = usize::try_from(len).ok().filter(|_| len <= MAX_SECTION_LEN).ok_or(bounds.clone())?;
    let (bytes, rest) = rest.split_at_checked(len).ok_or(bounds)?;
    let name = header.get(..SECTION_NAME_LEN).unwrap_or_default();
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    let (name, padding) = name.split_at(end);
    let proper = !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_graphic())
        && padding.iter().all(|&byte| byte == 0);
    let name = std::str::from_utf8(name).ok().filter(|_| proper).ok_or(FormatError::SectionName { index })?;
    let section = Section {
        name,
        instance: u32_at(header, AT_SECTION_INSTANCE),
        version: u32_at(header, AT_SECTION_VERSION),
        bytes,
    };
    Ok((section, rest))
}

/// Takes as long for any two tags.
fn same(ours: &[u8; TAG_LEN], theirs: &[u8; TAG_LEN]) -> bool {
    ours.ct_eq(theirs).into()
}
