//! Why a file is no snapshot that can be used here.

use crate::layout::{MAX_SECTION_LEN, MAX_SECTIONS, MAX_STATE_LEN, VERSION};

/// A file that is refused, with the first reason found: checks go from the outside in, so that damage is told apart from
/// another version, another key and forgery.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Shorter than its own header says, or than any snapshot.
    #[error("the file is cut off: it has {found} bytes and should have {expected}")]
    Truncated {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// Longer than its own header says.
    #[error("the file has {found} bytes and should have {expected}")]
    TooLong {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// Larger than any snapshot's state.
    #[error("a state file of {0} bytes, at most {MAX_STATE_LEN} are read")]
    Oversized(u64),
    /// Something else altogether.
    #[error("the file does not begin as a snapshot does")]
    Magic,
    /// Written by a newer program, or by one that never was.
    #[error("snapshot format version {0}, this program reads version {VERSION}")]
    Version(u32),
    /// For another kind of processor.
    #[error("the snapshot is for machine type {found}, this program runs {expected} (ELF numbers)")]
    Architecture {
        /// In the file.
        found: u16,
        /// Ours.
        expected: u16,
    },
    /// Bits changed by accident.
    #[error("the file is damaged: its checksum does not fit its content")]
    Checksum,
    /// Written under another key.
    #[error("the snapshot was made with another key")]
    WrongKey,
    /// Bits changed on purpose.
    #[error("the snapshot is not authentic: somebody without the key changed it")]
    Forged,
    /// The table of sections contradicts itself.
    #[error("section {index} does not fit the file")]
    SectionBounds {
        /// Position among the sections.
        index: usize,
    },
    /// A section's name is none.
    #[error("section {index} has no proper name")]
    SectionName {
        /// Position among the sections.
        index: usize,
    },
    /// Sections are kept in order of name and number, each once.
    #[error("section {name} {instance} is out of order")]
    SectionOrder {
        /// Its name.
        name: String,
        /// Its number.
        instance: u32,
    },
    /// A section that must be there.
    #[error("section {name} {instance} is missing")]
    Missing {
        /// Its name.
        name: &'static str,
        /// Its number.
        instance: u32,
    },
    /// A section of another shape.
    #[error("section {name} has version {found}, this program reads version {expected}")]
    SectionVersion {
        /// Its name.
        name: &'static str,
        /// In the file.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// A section whose bytes are not its type's.
    #[error("section {name} {instance} cannot be decoded: {source}")]
    Decode {
        /// Its name.
        name: &'static str,
        /// Its number.
        instance: u32,
        /// Why not.
        source: postcard::Error,
    },
    /// A state that cannot be written: nothing that this program saves is one.
    #[error("section {name} cannot be encoded: {source}")]
    Encode {
        /// Its name.
        name: &'static str,
        /// Why not.
        source: postcard::Error,
    },
    /// More sections, or a longer one, than the format holds.
    #[error("section {name} does not fit: at most {MAX_SECTIONS} sections of {MAX_SECTION_LEN} bytes")]
    TooMuch {
        /// Its name.
        name: &'static str,
    },
    /// The index of pages contradicts itself or the machine.
    #[error("the index of pages is not valid: {0}")]
    Index(&'static str),
    /// A prefetch content that is none, or not this snapshot's.
    #[error("the prefetch content is of no use: {0}")]
    Prefetch(&'static str),
}
