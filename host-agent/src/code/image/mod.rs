//! An uploaded OCI archive, verified and flattened into a tar that mkfs.erofs takes: one root file system out of its layers.
//!
//! ```text
//!  archive ─ layout ─► manifest, settings, layers (each by its digest)
//!                        └─ layer ─► entries ─ tree ─► paths ─► tar, with the content of files from the layers again
//! ```
//!
//! The archive is hostile: every document and layer is compared with the digest that names it before anything of it counts, nothing that
//! is declared is believed, and all that it can make this process hold has a bound. Layers are read twice, once for what they make of
//! each other and once for the bytes of files, so that nothing is unpacked that a later layer takes away. Runs inside the first confined
//! helper (`code::confined`) only. What comes out is the same for the same layers: no times, and of extended attributes
//! a program's own (`docs/adr/0035-container-images.md`).

mod attributes;
pub(crate) mod documents;
mod layer;
mod layout;
mod readers;
mod tree;

use std::{
    collections::BTreeMap,
    io::{Read, Seek, Write},
};

use serde::{Deserialize, Serialize};
use tar::{EntryType, Header};

use self::{
    attributes::{Attributes, RECORD},
    layer::Layer,
    tree::{Node, Position, Tree, TreePath, What},
};

/// Most bytes that the layers of an image may have unpacked, together: Lambda's limit.
pub(crate) const MAX_IMAGE_LEN: u64 = 10 * 1024 * 1024 * 1024;

/// Headers and padding of one entry of the tar at most, in bytes, without names: its own, those of a long name and a long target,
/// padding of all three.
const ENTRY_OVERHEAD: u64 = 6 * 512;

/// Why an archive is no image of a function. Said by the helper in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum ImageRefusal {
    /// More than [`MAX_IMAGE_LEN`] bytes.
    #[error("the layers unpack to more than {MAX_IMAGE_LEN} bytes")]
    TooLarge,
    /// The node's disk has no room for it.
    #[error("the image takes {len} bytes where {room} are left")]
    NoRoom {
        /// What it takes.
        len: u64,
        /// What there is.
        room: u64,
    },
    /// Nothing for a machine like this one.
    #[error("the archive holds no image for linux/amd64")]
    Platform,
    /// Something that was named by its digest is not what it should be.
    #[error("{0} is not what its digest says")]
    Digest(String),
    /// No OCI archive, damaged, or with something that no image may have.
    #[error("{0}")]
    Unusable(String),
}

/// Why there is no tar.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FlattenError {
    /// The archive is at fault.
    #[error(transparent)]
    Refused(#[from] ImageRefusal),
    /// The tar could not be written.
    #[error("cannot write the tar")]
    Write(#[source] std::io::Error),
}

/// What an image is, beside its files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Description {
    /// SHA-256 of the manifest, lower-case hexadecimal: the image's name for good.
    pub(crate) digest: String,
    /// Bytes of configuration and layers as they are stored.
    pub(crate) size: u64,
    /// Bytes of the layers unpacked.
    pub(crate) unpacked: u64,
    /// How it is run.
    pub(crate) run: RunSettings,
}

/// How an image is run, as it says itself. Its user is not among that: functions have the platform's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunSettings {
    /// `ENTRYPOINT`.
    pub(crate) entry_point: Vec<String>,
    /// `CMD`.
    pub(crate) command: Vec<String>,
    /// `WORKDIR`; `/` if it says none.
    pub(crate) working_directory: String,
    /// `ENV`, in its order.
    pub(crate) environment: Vec<(String, String)>,
}

/// Flattens the image of an archive into a tar of at most `room` bytes.
///
/// # Errors
/// [`FlattenError::Refused`] says what is wrong with the archive.
pub(crate) fn flatten(
    mut archive: impl Read + Seek,
    room: u64,
    tar: impl Write,
) -> Result<Description, FlattenError> {
    let image = layout::read(&mut archive)?;
    let (mut tree, mut left, mut files) = (Tree::default(), MAX_IMAGE_LEN, Files::new());
    for (index, layer) in image.layers.iter().enumerate() {
        tree.begin(index);
        left = layer.survey(&mut archive, left, &mut tree, &mut files, index)?;
    }
    let nodes = tree.finish()?;
    let len = tar_len(&nodes, &files);
    if len > room {
        return Err(ImageRefusal::NoRoom { len, room }.into());
    }
    let mut tar = tar::Builder::new(tar);
    write_image(&mut archive, &image.layers, nodes, &mut tar)?;
    tar.into_inner().and_then(|mut tar| tar.flush()).map_err(FlattenError::Write)?;
    Ok(Description { unpacked: MAX_IMAGE_LEN - left, ..image.description })
}

/// Lengths of all files that layers have.
type Files = BTreeMap<Position, u64>;

/// What the tar takes at most.
fn tar_len(nodes: &BTreeMap<TreePath, Node>, files: &Files) -> u64 {
    let mut firsts: BTreeMap<Position, usize> = BTreeMap::new();
    let len = nodes.iter().map(|(path, node)| {
        let content = match &node.what {
            What::Dir | What::Empty => 0,
            What::Link(target) => target.len() as u64,
            What::File(position) => match firsts.get(position) {
                // A hard link, whose target is the first path.
                Some(first) => *first as u64,
                None => {
                    firsts.insert(*position, path.len());
                    files.get(position).copied().unwrap_or(0)
                }
            },
        };
        ENTRY_OVERHEAD + path.len() as u64 + content + records_len(&node.attributes)
    });
    len.sum()
}

/// What the records of attributes take at most: a header of their own, padding, and beside each its length, the beginning of its name and
/// two characters.
fn records_len(attributes: &Attributes) -> u64 {
    let records =
        attributes.iter().map(|(name, value)| (RECORD.len() + name.len() + value.len()) as u64 + 16);
    if attributes.is_empty() { 0 } else { 1024 + records.sum::<u64>() }
}

/// Folders and links first, then files in the order of the layers, then their further names.
fn write_image(
    archive: &mut (impl Read + Seek),
    layers: &[Layer],
    nodes: BTreeMap<TreePath, Node>,
    tar: &mut tar::Builder<impl Write>,
) -> Result<(), FlattenError> {
    let mut files: BTreeMap<Position, Vec<(TreePath, Node)>> = BTreeMap::new();
    for (path, node) in nodes {
        match &node.what {
            What::Dir => append(tar, &path, EntryType::Directory, &node, 0, std::io::empty())?,
            What::Empty => append(tar, &path, EntryType::Regular, &node, 0, std::io::empty())?,
            What::Link(target) => append_link(tar, &path, EntryType::Symlink, &node, target)?,
            What::File(position) => files.entry(*position).or_default().push((path, node)),
        }
    }
    for (index, layer) in layers.iter().enumerate() {
        let of_layer = files.range((index, 0)..(index + 1, 0));
        let wanted: BTreeMap<usize, &(TreePath, Node)> =
            of_layer.filter_map(|((_, entry), names)| Some((*entry, names.first()?))).collect();
        if wanted.is_empty() {
            continue;
        }
        layer.each_file(archive, &mut |entry, len, content| {
            let Some((path, node)) = wanted.get(&entry) else { return Ok(()) };
            append(tar, path, EntryType::Regular, node, len, content)
        })?;
    }
    for names in files.values() {
        let Some(((first, _), others)) = names.split_first() else { continue };
        for (path, node) in others {
            append_link(tar, path, EntryType::Link, node, first)?;
        }
    }
    Ok(())
}

fn append(
    tar: &mut tar::Builder<impl Write>,
    path: &[u8],
    kind: EntryType,
    node: &Node,
    len: u64,
    content: impl Read,
) -> Result<(), FlattenError> {
    append_attributes(tar, node)?;
    tar.append_data(&mut header(kind, node, len), os(path), content).map_err(FlattenError::Write)
}

fn append_link(
    tar: &mut tar::Builder<impl Write>,
    path: &[u8],
    kind: EntryType,
    node: &Node,
    target: &[u8],
) -> Result<(), FlattenError> {
    // A further name of a file has those of the first one.
    if kind == EntryType::Symlink {
        append_attributes(tar, node)?;
    }
    tar.append_link(&mut header(kind, node, 0), os(path), os(target)).map_err(FlattenError::Write)
}

/// For the entry that comes next.
fn append_attributes(tar: &mut tar::Builder<impl Write>, node: &Node) -> Result<(), FlattenError> {
    let keys: Vec<_> =
        node.attributes.iter().map(|(name, value)| (format!("{RECORD}{name}"), value)).collect();
    let records = keys.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
    tar.append_pax_extensions(records).map_err(FlattenError::Write)
}

fn header(kind: EntryType, node: &Node, len: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(node.mode);
    header.set_size(len);
    header.set_mtime(0);
    header.set_uid(node.uid);
    header.set_gid(node.gid);
    header
}

fn os(path: &[u8]) -> &std::path::Path {
    use std::os::unix::ffi::OsStrExt as _;
    std::ffi::OsStr::from_bytes(path).as_ref()
}

/// Refuses an entry.
fn refuse(path: &[u8], problem: &str) -> ImageRefusal {
    // A path is the image's: cut, so that no line of a log grows without bound.
    let path = String::from_utf8_lossy(path);
    ImageRefusal::Unusable(format!("entry `{}` {problem}", path.escape_debug().take(200).collect::<String>()))
}

#[cfg(test)]
pub(crate) mod tests;
