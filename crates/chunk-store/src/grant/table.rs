//! The table of a content: for each chunk its key, and the place of its copy. Fixed lengths, so that one entry can be read or
//! written by itself.
//!
//! ```text
//!  0  magic "TNDRGRNT"   12  kind, binary logarithm of a chunk's length, two zeros
//!  8  version u32        16  length of the content u64, zeros up to 32, hash of bytes 0 to 32
//! 64  entries of 64 bytes, one a chunk: key 32 (zeros: it comes with the answer), tag 16, place u64 (all ones: nowhere), length of
//!     the copy u64, not zero where there is none; all zeros: a chunk of zeros
//! ```

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, PermissionsExt};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use zeroize::Zeroizing;

use crate::bytes::Bytes;
use crate::cipher::TAG_LEN;
use crate::handed::for_reading;
use crate::local::LocalKey;
use crate::manifest::{Content, Kind};
use crate::secret::{KEY_LEN, Secret};
use crate::size::ChunkSize;

const MAGIC: &[u8; 8] = b"TNDRGRNT";
const VERSION: u32 = 1;
pub(super) const HEADER_LEN: usize = 64;
pub(super) const ENTRY_LEN: usize = 64;
/// What the hash covers of the header.
const FIELDS_LEN: usize = 32;
/// Where the part of an entry begins that changes.
const AT_TAG: usize = KEY_LEN;
const NOWHERE: u64 = u64::MAX;
/// A key that has not been derived. Nobody ever derives this one.
const NO_KEY: [u8; KEY_LEN] = [0; KEY_LEN];
/// Length of a copy that is nowhere.
const UNKNOWN: u64 = 1;
/// Entries that are written at once, 256 KiB.
const BATCH: usize = 4096;

/// Where a copy is, and its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Offset in the file of slots, bytes.
    pub at: u64,
    /// Bytes of the copy: those of the chunk but for the zeros at its end.
    pub len: u32,
    /// Its tag.
    pub tag: [u8; TAG_LEN],
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Shared memory.
    #[error("keep a table in shared memory")]
    Memory(#[from] io::Error),
    /// The content has no such chunk.
    #[error("the content has no chunk {0}")]
    NoChunk(u32),
    /// Another program's, or damaged.
    #[error("this is no table: {0}")]
    Invalid(&'static str),
}

/// What is known of one chunk of the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// None as long as nobody has asked.
    pub(super) key: Option<LocalKey>,
    pub(super) place: Option<Place>,
}

/// As it stands in a table.
type Entry = Zeroizing<[u8; ENTRY_LEN]>;

/// The agent's end of a table.
#[derive(Debug)]
pub struct Table {
    file: File,
    chunks: u32,
}

impl Table {
    /// A table of a content, of each of whose chunks `known` says in order what is known; nothing of those that are zeros.
    ///
    /// # Errors
    /// There is no memory for it, or another number of chunks.
    pub fn new(
        content: Content,
        known: impl Iterator<Item = Option<(LocalKey, Option<Place>)>>,
    ) -> Result<Self, TableError> {
        Self::of(
            content,
            known.map(|known| known.map(|(key, place)| encode(&Known { key: Some(key), place }))),
        )
    }

    fn of(content: Content, entries: impl Iterator<Item = Option<Entry>>) -> Result<Self, TableError> {
        let chunks = content.chunk_size.count(content.len).ok_or(TableError::Invalid("too long"))?;
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create(c"chunks", flags).map_err(io::Error::from)?);
        file.set_len((HEADER_LEN + chunks as usize * ENTRY_LEN) as u64)?;
        file.write_all_at(&head(content), 0)?;
        let mut batch = Zeroizing::new(Vec::with_capacity(BATCH * ENTRY_LEN));
        let mut entries = entries.fuse();
        for first in (0..chunks).step_by(BATCH) {
            batch.clear();
            let len = BATCH.min((chunks - first) as usize) * ENTRY_LEN;
            for entry in entries.by_ref().take(BATCH.min((chunks - first) as usize)) {
                batch.extend_from_slice(entry.as_deref().unwrap_or(&[0; ENTRY_LEN]));
            }
            if batch.len() < len {
                return Err(TableError::Invalid("it has fewer chunks than its content"));
            }
            // Zeros stay a hole.
            if batch.iter().any(|byte| *byte != 0) {
                file.write_all_at(&batch, entry_at(first))?;
            }
        }
        if entries.next().is_some() {
            return Err(TableError::Invalid("it has more chunks than its content"));
        }
        // Whoever is given a descriptor cannot make one of it that writes.
        file.set_permissions(Permissions::from_mode(0o400))?;
        let seals = SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(io::Error::from)?;
        Ok(Self { file, chunks })
    }

    /// A table of a content of which it is known only which chunks are stored, in order: each is asked for. A long content is open
    /// at once like this.
    ///
    /// # Errors
    /// There is no memory for it, or another number of chunks.
    pub fn unknown(content: Content, stored: impl Iterator<Item = bool>) -> Result<Self, TableError> {
        let unasked = encode(&Known { key: None, place: None });
        Self::of(content, stored.map(|stored| stored.then(|| unasked.clone())))
    }

    /// A descriptor to hand out: of the same memory, for reading only.
    ///
    /// # Errors
    /// There is none to be had.
    pub fn handed(&self) -> io::Result<OwnedFd> {
        for_reading(&self.file)
    }

    /// From here on it is known how a chunk is read, and where its copy is if there is one.
    ///
    /// # Errors
    /// There is no such chunk.
    pub fn set(&self, index: u32, key: LocalKey, place: Option<Place>) -> Result<(), TableError> {
        if index >= self.chunks {
            return Err(TableError::NoChunk(index));
        }
        let entry = encode(&Known { key: Some(key), place });
        Ok(self.file.write_all_at(entry.as_slice(), entry_at(index))?)
    }

    /// From here on the copy of a chunk whose key is known is there. Whoever reads the entry at the same moment has half of it, which opens nothing.
    ///
    /// # Errors
    /// There is no such chunk.
    pub fn set_place(&self, index: u32, place: Place) -> Result<(), TableError> {
        if index >= self.chunks {
            return Err(TableError::NoChunk(index));
        }
        let (at, len) = (place.at.to_le_bytes(), u64::from(place.len).to_le_bytes());
        let changed = [place.tag.as_slice(), &at, &len].concat();
        Ok(self.file.write_all_at(&changed, entry_at(index) + AT_TAG as u64)?)
    }
}

pub(super) fn entry_at(index: u32) -> u64 {
    HEADER_LEN as u64 + u64::from(index) * ENTRY_LEN as u64
}

fn head(content: Content) -> [u8; HEADER_LEN] {
    let mut head = [0; HEADER_LEN];
    let parts: [(usize, &[u8]); 4] = [
        (0, MAGIC),
        (8, &VERSION.to_le_bytes()),
        (12, &[content.kind as u8, content.chunk_size.log2()]),
        (16, &content.len.to_le_bytes()),
    ];
    for (at, bytes) in parts {
        for (to, from) in head.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }
    let (fields, hash) = head.split_at_mut(FIELDS_LEN);
    hash.copy_from_slice(blake3::hash(fields).as_bytes());
    head
}

/// What a table is of: kind, length, length of a chunk.
pub(super) fn decode_head(head: &[u8; HEADER_LEN]) -> Result<(Kind, u64, ChunkSize), TableError> {
    let mut bytes = Bytes::new(head);
    let cut = || TableError::Invalid("it is cut off");
    if bytes.array().ok_or_else(cut)? != *MAGIC || bytes.u32() != Some(VERSION) {
        return Err(TableError::Invalid("another format"));
    }
    let [kind, log2, 0, 0] = bytes.array().ok_or_else(cut)? else {
        return Err(TableError::Invalid("bits are set that mean nothing"));
    };
    let kind = Kind::from_u8(kind).ok_or(TableError::Invalid("a kind of content that is unknown"))?;
    let size = ChunkSize::from_log2(log2).ok_or(TableError::Invalid("chunks of a length that is unknown"))?;
    let len = bytes.u64().ok_or_else(cut)?;
    let (fields, hash) = head.split_at(FIELDS_LEN);
    if blake3::hash(fields) != *hash {
        return Err(TableError::Invalid("its header is damaged"));
    }
    if size.count(len).is_none() {
        return Err(TableError::Invalid("too long"));
    }
    Ok((kind, len, size))
}

fn encode(known: &Known) -> Entry {
    let mut entry = Zeroizing::new([0; ENTRY_LEN]);
    let nowhere = (NOWHERE, UNKNOWN, [0; TAG_LEN]);
    let (at, len, tag) = known.place.map_or(nowhere, |place| (place.at, place.len.into(), place.tag));
    let (at, len) = (at.to_le_bytes(), len.to_le_bytes());
    let key = known.key.as_ref().map_or(&NO_KEY, LocalKey::bytes);
    // Piece by piece: byte by byte it was most of what opening a long content took.
    let mut rest = entry.as_mut_slice();
    for part in [key.as_slice(), &tag, &at, &len] {
        let (front, behind) = rest.split_at_mut(part.len());
        front.copy_from_slice(part);
        rest = behind;
    }
    entry
}

/// What an entry says; nothing of a chunk of zeros.
pub(super) fn decode(entry: &[u8; ENTRY_LEN]) -> Result<Option<Known>, TableError> {
    if *entry == [0; ENTRY_LEN] {
        return Ok(None);
    }
    let mut bytes = Bytes::new(entry);
    match (bytes.array(), bytes.array(), bytes.u64(), bytes.u64()) {
        (Some(key), Some(tag), Some(at), Some(len @ 1..)) => {
            // One that is too long is nowhere: what is there does not open.
            let len = u32::try_from(len).ok().filter(|_| at != NOWHERE);
            let place = len.map(|len| Place { at, len, tag });
            let key = (key != NO_KEY).then(|| LocalKey::new(Secret::new(key)));
            Ok(Some(Known { key, place }))
        }
        _ => Err(TableError::Invalid("an entry says neither that its chunk is stored nor that it is zeros")),
    }
}
