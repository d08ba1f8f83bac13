//! One layer of an image: its entries, decompressed and verified on the way.
//!
//! A layer is a tar, plain or compressed by gzip or zstd (OCI image specification, "Image Layer Filesystem Changeset"). What it is
//! called by is the digest of its bytes as stored; what the image's configuration knows it by is the digest of the tar. Both are
//! compared when all of it has been read, and nothing of the archive counts before that.

use std::io::{BufReader, Read, Seek, SeekFrom, Take};

use tar::{Archive, Entry, EntryType};

use super::{
    Files, FlattenError, ImageRefusal, MAX_IMAGE_LEN,
    attributes::{Attributed, Attributes, Found},
    readers::{Bounded, Compression, Decoder, Exhausted, Hashed},
    refuse,
    tree::{Node, Position, Tree, What, split},
};

/// What the name of a whiteout begins with.
const WHITEOUT: &[u8] = b".wh.";

/// Of a folder whose content below is hidden.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What else begins like this is a union file system's own.
const INTERNAL: &[u8] = b".wh..wh.";

/// Permission bits. Set-id bits stay: where the image is mounted they mean nothing.
const MODE_MASK: u32 = 0o7777;

/// Largest user or group: ids are 32 bits wide, and the last is none.
const MAX_ID: u64 = u32::MAX as u64 - 1;

/// Where a layer is in the archive, and what it has to be.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) compression: Compression,
    /// SHA-256 of its bytes as stored, lower-case hexadecimal.
    pub(super) digest: String,
    /// The same of the tar.
    pub(super) diff_id: String,
}

/// What is done with a file: with its number, length and content.
pub(super) type EachFile<'a> = dyn FnMut(usize, u64, &mut dyn Read) -> Result<(), FlattenError> + 'a;

/// A tar that is read; how much is left of what it may be.
type LayerTar<'a, A> = Archive<Attributed<Bounded<Hashed<Decoder<BufReader<Hashed<Take<&'a mut A>>>>>>>>;

impl Layer {
    /// Reads it for the first time: verifies it, and has the tree know its entries. Returns what is left of `left` bytes.
    pub(super) fn survey<A: Read + Seek>(
        &self,
        archive: &mut A,
        left: u64,
        tree: &mut Tree,
        files: &mut Files,
        index: usize,
    ) -> Result<u64, ImageRefusal> {
        let (mut tar, found) = self.open(archive, left)?;
        let mut lens = 0u64;
        for (number, entry) in tar.entries().map_err(damaged)?.enumerate() {
            let mut entry = entry.map_err(damaged)?;
            let len = entry.size();
            let attributes = found.take();
            if apply(tree, &mut entry, (index, number), attributes)? == Applied::File {
                lens = lens
                    .checked_add(len)
                    .filter(|lens| *lens <= MAX_IMAGE_LEN)
                    .ok_or(ImageRefusal::TooLarge)?;
                files.insert((index, number), len);
            }
        }
        let mut rest = tar.into_inner().into_inner();
        // Archive and decoder stop at the end of what they want; the digests are of everything.
        std::io::copy(&mut rest, &mut std::io::sink()).map_err(damaged)?;
        let (unpacked, left) = rest.into_parts();
        let (decoder, unpacked) = unpacked.into_parts();
        let mut stored = decoder.into_inner();
        std::io::copy(&mut stored, &mut std::io::sink()).map_err(damaged)?;
        let (_, stored) = stored.into_inner().into_parts();
        for (actual, named) in [(stored, &self.digest), (unpacked, &self.diff_id)] {
            if actual != *named {
                return Err(ImageRefusal::Digest(format!("layer sha256:{named}")));
            }
        }
        Ok(left)
    }

    /// Reads it again, after it was verified: `each` is given every file's number, length and content.
    pub(super) fn each_file<A: Read + Seek>(
        &self,
        archive: &mut A,
        each: &mut EachFile<'_>,
    ) -> Result<(), FlattenError> {
        let (mut tar, _) = self.open(archive, MAX_IMAGE_LEN)?;
        for (number, entry) in tar.entries().map_err(damaged)?.enumerate() {
            let mut entry = entry.map_err(damaged)?;
            if is_file(entry.header().entry_type()) {
                let len = entry.size();
                each(number, len, &mut entry)?;
            }
        }
        Ok(())
    }

    fn open<'a, A: Read + Seek>(
        &self,
        archive: &'a mut A,
        left: u64,
    ) -> Result<(LayerTar<'a, A>, Found), ImageRefusal> {
        archive.seek(SeekFrom::Start(self.offset)).map_err(damaged)?;
        let stored = BufReader::new(Hashed::new(archive.take(self.len)));
        let unpacked = Hashed::new(Decoder::new(stored, self.compression));
        let (tar, found) = Attributed::new(Bounded::new(unpacked, left));
        Ok((Archive::new(tar), found))
    }
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Applied {
    File,
    Other,
}

fn is_file(kind: EntryType) -> bool {
    matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse)
}

/// Has the tree know an entry.
fn apply(
    tree: &mut Tree,
    entry: &mut Entry<'_, impl Read>,
    position: Position,
    attributes: Attributes,
) -> Result<Applied, ImageRefusal> {
    let (path, kind) = (entry.path_bytes().into_owned(), entry.header().entry_type());
    if matches!(kind, EntryType::XGlobalHeader) {
        return Ok(Applied::Other);
    }
    refuse_pax_sparse(entry, &path)?;
    if let Some((folder, name)) = split(&path)?
        && let Some(hidden) = name.strip_prefix(WHITEOUT)
    {
        if name == OPAQUE {
            tree.hide_content(&folder)?;
        } else if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(refuse(&path, "hides nothing that can be"));
        } else if !name.starts_with(INTERNAL) {
            tree.hide(&[folder.as_slice(), b"/", hidden].concat())?;
        }
        return Ok(Applied::Other);
    }
    let link = || entry.link_name_bytes().map(|target| target.into_owned());
    let what = match kind {
        EntryType::Directory => What::Dir,
        // As in tars that know no type of folders.
        kind if is_file(kind) && path.ends_with(b"/") => What::Dir,
        kind if is_file(kind) => What::File(position),
        EntryType::Symlink => What::Link(checked_target(&path, link())?),
        EntryType::Link => {
            let target = link().ok_or_else(|| refuse(&path, "is a link to nowhere"))?;
            tree.put_hard_link(&path, &target)?;
            return Ok(Applied::Other);
        }
        // Devices: `/dev` is the platform's, and a device elsewhere would be none where the image is mounted. Pipes: nobody
        // could write to one.
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            tree.leave_out(&path)?;
            return Ok(Applied::Other);
        }
        _ => return Err(refuse(&path, "is of a type that no layer has")),
    };
    let is_file = matches!(what, What::File(_));
    tree.put(&path, Node { attributes, ..node(entry, what, &path)? })?;
    Ok(if is_file { Applied::File } else { Applied::Other })
}

/// The tar crate knows GNU tar's own format of sparse files; in the newer one the file would be its map.
fn refuse_pax_sparse(entry: &mut Entry<'_, impl Read>, path: &[u8]) -> Result<(), ImageRefusal> {
    let Some(extensions) = entry.pax_extensions().map_err(damaged)? else { return Ok(()) };
    for extension in extensions {
        if extension.map_err(damaged)?.key_bytes().starts_with(b"GNU.sparse.") {
            return Err(refuse(path, "is a sparse file in a format that is not read"));
        }
    }
    Ok(())
}

fn node(entry: &Entry<'_, impl Read>, what: What, path: &[u8]) -> Result<Node, ImageRefusal> {
    let header = entry.header();
    let fields = header.as_old();
    let mode = number(&fields.mode, header.mode().map(u64::from));
    let mode = mode.and_then(|mode| u32::try_from(mode).ok());
    let mode = mode.ok_or_else(|| refuse(path, "has a mode that cannot be"))? & MODE_MASK;
    let id = |field: &[u8], id| {
        let id = number(field, id).filter(|id| *id <= MAX_ID);
        id.ok_or_else(|| refuse(path, "has an owner that cannot be"))
    };
    let (uid, gid) = (id(&fields.uid, header.uid())?, id(&fields.gid, header.gid())?);
    Ok(Node { what, mode, uid, gid, attributes: Attributes::new() })
}

/// A field of a header. What was left empty is nothing, as other readers of tars have it.
fn number(field: &[u8], read: std::io::Result<u64>) -> Option<u64> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Some(0) } else { read.ok() }
}

/// Where a link leads only the guest sees, which has nothing else than the image: it may be anywhere, but it has to be a path.
fn checked_target(path: &[u8], target: Option<Vec<u8>>) -> Result<Vec<u8>, ImageRefusal> {
    let fits = |target: &Vec<u8>| !target.is_empty() && target.len() < 4096 && !target.contains(&0);
    target.filter(fits).ok_or_else(|| refuse(path, "is a link to nowhere"))
}

fn damaged(error: std::io::Error) -> ImageRefusal {
    match error.get_ref() {
        Some(inner) if inner.is::<Exhausted>() => ImageRefusal::TooLarge,
        _ => ImageRefusal::Unusable(format!("a layer cannot be read: {error}")),
    }
}
