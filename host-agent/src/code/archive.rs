//! An uploaded zip, checked entry by entry and rewritten as a tar that mkfs.erofs takes. Several as one: `code::merge`.
//!
//! The zip is hostile: nothing it declares is believed, what it holds is counted while it is read. Runs inside the
//! first confined helper (`code::confined`) only. What comes out is the same for the same zip: no times, no owners.

use std::{
    collections::BTreeMap,
    io::{Read, Seek, Write},
};

use serde::{Deserialize, Serialize};
use tar::{EntryType, Header};
use zip::{CompressionMethod, ZipArchive, result::ZipError};

/// Most bytes that a function's code may have unpacked: Lambda's limit.
pub(crate) const MAX_UNZIPPED_LEN: u64 = 262_144_000;

/// Most entries. Lambda names no limit; packages of 250 MB have tens of thousands of files, and every entry costs the
/// helper's memory and an inode.
pub(crate) const MAX_ENTRIES: usize = 100_000;

/// Longest path in bytes, as Linux limits it.
const MAX_PATH_LEN: usize = 4096;

/// Longest name of one file in bytes, as Linux limits it.
const MAX_NAME_LEN: usize = 255;

const TYPE_MASK: u32 = 0o170_000;
const TYPE_DIR: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_LINK: u32 = 0o120_000;

/// Why a zip is no function's code. Said by the helper in JSON, turned into AWS's wording by `code`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refusal {
    /// No entries.
    #[error("the zip is empty")]
    Empty,
    /// More than [`MAX_UNZIPPED_LEN`] bytes.
    #[error("the zip unpacks to more than {MAX_UNZIPPED_LEN} bytes")]
    TooLarge,
    /// Code and layers are within that each for itself, and have so many bytes together.
    #[error("code and layers unpack to {0} bytes, more than {MAX_UNZIPPED_LEN}")]
    TooLargeTogether(u64),
    /// Not a zip, damaged, or with an entry that no function's code may have.
    #[error("{0}")]
    Unusable(String),
}

/// Why there is no tar.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RepackError {
    /// The zip is at fault.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The tar could not be written.
    #[error("cannot write the tar")]
    Write(#[source] std::io::Error),
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Dir,
    File,
    Link,
}

/// One path of the tree that the zip makes.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) kind: Kind,
    mode: Option<u32>,
    /// Position in the zip; `None` for a directory that only its children name.
    pub(super) index: Option<usize>,
}

/// Every path of the tree; a directory sorts before what is in it.
pub(super) type Plan = BTreeMap<String, Planned>;

/// A zip whose directory has been read and found good.
pub(super) struct Opened<R> {
    archive: ZipArchive<R>,
    pub(super) plan: Plan,
    /// Bytes of all files together, as declared; [`Exact`] holds them to that.
    pub(super) len: u64,
}

impl<R: Read + Seek> Opened<R> {
    /// Reads a zip's directory.
    pub(super) fn read(zip: R) -> Result<Self, Refusal> {
        let archive = ZipArchive::new(zip).map_err(unusable)?;
        let (plan, len) = plan(&archive)?;
        Ok(Self { archive, plan, len })
    }

    /// Writes what was planned of `path` as `name`.
    pub(super) fn write(
        &mut self,
        tar: &mut tar::Builder<impl Write>,
        name: &str,
        path: &str,
        planned: &Planned,
    ) -> Result<(), RepackError> {
        let mode = permissions(planned.mode, planned.kind);
        let Some(index) = planned.index.filter(|_| planned.kind != Kind::Dir) else {
            return append(tar, name, EntryType::Directory, mode, 0, std::io::empty());
        };
        let mut file = self.archive.by_index(index).map_err(unusable)?;
        if planned.kind == Kind::Link {
            return append_link(tar, name, path, &mut file);
        }
        let len = file.size();
        let mut exact = Exact { from: &mut file, left: len, refused: None };
        let written = append(tar, name, EntryType::Regular, mode, len, &mut exact);
        match exact.refused {
            Some(problem) => Err(refuse(path, problem).into()),
            None => written,
        }
    }
}

/// Rewrites `zip` as a tar.
///
/// # Errors
/// [`RepackError::Refused`] says what is wrong with the zip.
pub(crate) fn repack(zip: impl Read + Seek, tar: impl Write) -> Result<(), RepackError> {
    let mut zip = Opened::read(zip)?;
    let mut tar = tar::Builder::new(tar);
    for (path, planned) in std::mem::take(&mut zip.plan) {
        zip.write(&mut tar, &path, &path, &planned)?;
    }
    finish(tar)
}

/// Ends a tar.
pub(super) fn finish(tar: tar::Builder<impl Write>) -> Result<(), RepackError> {
    tar.into_inner().and_then(|mut tar| tar.flush()).map_err(RepackError::Write)
}

/// Adds a directory that no zip has.
pub(super) fn append_dir(tar: &mut tar::Builder<impl Write>, path: &str) -> Result<(), RepackError> {
    append(tar, path, EntryType::Directory, permissions(None, Kind::Dir), 0, std::io::empty())
}

/// Decides what the tree will be, and how long its files are together, from the zip's directory alone.
fn plan<R: Read + Seek>(archive: &ZipArchive<R>) -> Result<(Plan, u64), Refusal> {
    if archive.is_empty() {
        return Err(Refusal::Empty);
    }
    if archive.len() > MAX_ENTRIES {
        return Err(Refusal::Unusable(format!("{} entries are more than {MAX_ENTRIES}", archive.len())));
    }
    if archive.has_duplicate_names() {
        return Err(Refusal::Unusable("two entries have one name".into()));
    }
    let mut plan = Plan::new();
    let mut left = MAX_UNZIPPED_LEN;
    for index in 0..archive.len() {
        let entry = archive.by_index_data(index).map_err(unusable)?;
        let name = entry.name().map_err(unusable)?;
        if entry.encrypted() {
            return Err(refuse(&name, "is encrypted"));
        }
        if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
            return Err(refuse(&name, "is compressed by another method than deflate"));
        }
        let mode = entry.unix_mode();
        let kind = kind(&name, mode)?;
        let path = checked_path(&name)?;
        if kind == Kind::File {
            left = left.checked_sub(entry.size()).ok_or(Refusal::TooLarge)?;
        }
        if path.is_empty() {
            // `./` is the root itself, which the image has anyway.
            if kind == Kind::Dir {
                continue;
            }
            return Err(refuse(&name, "has no name"));
        }
        insert(&mut plan, path, Planned { kind, mode, index: Some(index) })?;
    }
    if plan.is_empty() { Err(Refusal::Empty) } else { Ok((plan, MAX_UNZIPPED_LEN - left)) }
}

fn kind(name: &str, mode: Option<u32>) -> Result<Kind, Refusal> {
    match mode.unwrap_or(0) & TYPE_MASK {
        _ if name.ends_with('/') => Ok(Kind::Dir),
        TYPE_DIR => Ok(Kind::Dir),
        TYPE_FILE | 0 => Ok(Kind::File),
        TYPE_LINK => Ok(Kind::Link),
        _ => Err(refuse(name, "is a special file")),
    }
}

/// The path without `.` and empty parts.
fn checked_path(name: &str) -> Result<String, Refusal> {
    if name.starts_with('/') {
        return Err(refuse(name, "is absolute"));
    }
    if name.contains('\0') {
        return Err(refuse(name, "has a NUL in it"));
    }
    let mut path = String::with_capacity(name.len());
    for part in name.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            return Err(refuse(name, "leads out of the package"));
        }
        if part.len() > MAX_NAME_LEN {
            return Err(refuse(name, "has a name longer than 255 bytes"));
        }
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(part);
    }
    if path.len() >= MAX_PATH_LEN { Err(refuse(name, "is longer than 4095 bytes")) } else { Ok(path) }
}

/// Adds a path and the directories that it implies.
fn insert(plan: &mut Plan, path: String, planned: Planned) -> Result<(), Refusal> {
    for (at, _) in path.match_indices('/') {
        let parent = &path[..at];
        match plan.get(parent) {
            Some(parent) if parent.kind == Kind::Dir => {}
            Some(_) => return Err(refuse(&path, "is inside something that is no directory")),
            None => {
                let implied = Planned { kind: Kind::Dir, mode: None, index: None };
                plan.insert(parent.to_owned(), implied);
            }
        }
        // Every implied directory is an inode too.
        if plan.len() > MAX_ENTRIES {
            return Err(Refusal::Unusable(format!("the entries make more than {MAX_ENTRIES} paths")));
        }
    }
    match plan.get(&path) {
        None => {}
        Some(there) if there.kind == Kind::Dir && there.index.is_none() && planned.kind == Kind::Dir => {}
        Some(_) => return Err(refuse(&path, "is in the package twice")),
    }
    plan.insert(path, planned);
    Ok(())
}

/// The mode in the image: the zip's, plus what the function's user needs to read it. Owner's execute goes to everyone;
/// no set-id bits.
fn permissions(mode: Option<u32>, kind: Kind) -> u32 {
    let mode = mode.unwrap_or(0o644) & 0o777;
    match kind {
        Kind::Dir => mode | 0o555 | 0o200,
        Kind::Link => 0o777,
        Kind::File if mode & 0o111 != 0 => mode | 0o555,
        Kind::File => mode | 0o444,
    }
}

fn append(
    tar: &mut tar::Builder<impl Write>,
    path: &str,
    kind: EntryType,
    mode: u32,
    len: u64,
    content: impl Read,
) -> Result<(), RepackError> {
    let mut header = header(kind, mode, len);
    tar.append_data(&mut header, path, content).map_err(RepackError::Write)
}

fn append_link(
    tar: &mut tar::Builder<impl Write>,
    name: &str,
    path: &str,
    file: &mut impl Read,
) -> Result<(), RepackError> {
    let mut target = String::new();
    let read = file.take(MAX_PATH_LEN as u64).read_to_string(&mut target);
    read.map_err(|_| refuse(path, "is a link whose target cannot be read"))?;
    check_target(path, &target)?;
    let mut header = header(EntryType::Symlink, permissions(None, Kind::Link), 0);
    tar.append_link(&mut header, name, &target).map_err(RepackError::Write)
}

/// A link stays inside when it climbs at most to the root and climbs only at its start: its own directory is a real
/// one, and every link that it passes is checked the same way.
fn check_target(path: &str, target: &str) -> Result<(), Refusal> {
    if target.is_empty() || target.len() >= MAX_PATH_LEN || target.contains('\0') {
        return Err(refuse(path, "is a link to nowhere"));
    }
    if target.starts_with('/') {
        return Err(refuse(path, "is a link out of the package"));
    }
    let mut depth = path.matches('/').count();
    let mut climbing = true;
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if climbing && depth > 0 => depth -= 1,
            ".." => return Err(refuse(path, "is a link out of the package")),
            _ => climbing = false,
        }
    }
    Ok(())
}

/// A header without times and owners: the same zip makes the same image.
fn header(kind: EntryType, mode: u32, len: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(len);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// A reader that yields exactly as many bytes as were declared, or remembers why it cannot.
struct Exact<'a, R> {
    from: &'a mut R,
    left: u64,
    refused: Option<&'static str>,
}

impl<R: Read> Read for Exact<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut refuse = |problem| {
            self.refused = Some(problem);
            std::io::Error::new(std::io::ErrorKind::InvalidData, problem)
        };
        if self.left == 0 {
            // Reading to the end is also what makes the checksum be compared.
            return match self.from.read(&mut [0]) {
                Ok(0) => Ok(0),
                Ok(_) => Err(refuse("is longer than declared")),
                Err(_) => Err(refuse("is damaged")),
            };
        }
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        match self.from.read(&mut buffer[..want]) {
            Ok(0) if want > 0 => Err(refuse("is shorter than declared")),
            Ok(len) => {
                self.left -= len as u64;
                Ok(len)
            }
            Err(_) => Err(refuse("is damaged")),
        }
    }
}

/// Refuses an entry.
fn refuse(path: &str, problem: &str) -> Refusal {
    // A path is the client's: cut, so that no line of a log grows without bound.
    Refusal::Unusable(format!("entry `{}` {problem}", path.escape_debug().take(200).collect::<String>()))
}

fn unusable(error: ZipError) -> Refusal {
    Refusal::Unusable(format!("not a usable zip: {error}"))
}

#[cfg(test)]
#[path = "archive_tests.rs"]
pub(super) mod tests;
