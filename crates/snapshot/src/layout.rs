//! The state file's fixed parts: offsets, sizes, bounds. `docs/snapshot-format.md` has the picture.

/// First bytes of every state file.
pub(crate) const MAGIC: [u8; 8] = *b"TNDRSNAP";

/// Version of the format; raised when a reader of the one before would misunderstand it.
pub const VERSION: u32 = 1;

/// `EM_X86_64` of the ELF specification.
#[cfg(target_arch = "x86_64")]
pub(crate) const ARCHITECTURE: u16 = 62;

/// Longest state file. 10.25 GiB without a single page of zeros need 4.6 MiB of index; vCPUs and devices are under
/// 20 KiB each.
pub const MAX_STATE_LEN: u64 = 32 << 20;

/// Longest section: the index of pages, with room.
pub const MAX_SECTION_LEN: u64 = 24 << 20;

/// Most sections: 16 vCPUs, ten devices with two each, and a handful for the machine.
pub const MAX_SECTIONS: usize = 64;

/// Offsets of the header's fields.
pub(crate) const AT_VERSION: usize = 8;
pub(crate) const AT_ARCHITECTURE: usize = 12;
pub(crate) const AT_SECTIONS: usize = 14;
pub(crate) const AT_LEN: usize = 16;
pub(crate) const AT_CHECKSUM: usize = 24;
pub(crate) const AT_SALT: usize = 32;
pub(crate) const AT_KEY_CHECK: usize = 48;
/// The header; sections follow.
pub(crate) const HEADER_LEN: usize = 64;

/// Name, zero-padded.
pub(crate) const SECTION_NAME_LEN: usize = 24;
/// Offsets in a section's header.
pub(crate) const AT_SECTION_INSTANCE: usize = 24;
pub(crate) const AT_SECTION_VERSION: usize = 28;
pub(crate) const AT_SECTION_LEN: usize = 32;
/// A section's header; its bytes follow.
pub(crate) const SECTION_HEADER_LEN: usize = 40;

/// The tag over all that is before it ends the file.
pub(crate) const TAG_LEN: usize = 16;

/// CRC-32 over everything but itself and the tag.
pub(crate) fn checksum(file: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(file.get(..AT_CHECKSUM).unwrap_or_default());
    let end = file.len().saturating_sub(TAG_LEN);
    hasher.update(file.get(AT_CHECKSUM + 4..end).unwrap_or_default());
    hasher.finalize()
}

/// Little-endian numbers at an offset; zero past the end, which callers have excluded.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    array_at(bytes, at).map_or(0, u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    array_at(bytes, at).map_or(0, u32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    array_at(bytes, at).map_or(0, u64::from_le_bytes)
}

pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
