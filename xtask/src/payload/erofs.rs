//! Whether the files of an erofs image begin where chunks do. Reads as much of the format as that takes (the kernel's
//! `fs/erofs/erofs_fs.h`), of images that we made ourselves.

use anyhow::{Context as _, Result, bail, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Where every file begins; what an image is cut into (`docs/chunk-format.md`).
const CHUNK_LEN: u64 = 64 * 1024;

const SUPERBLOCK_AT: u64 = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;
/// Inodes are on multiples of this.
const SLOT_LEN: u64 = 32;
/// Blocks in a row and nothing else; the same, with what does not fill a block behind the inode.
const PLAIN: u16 = 0;
const INLINE: u16 = 2;
const DIRENT_LEN: usize = 12;
const TYPE_MASK: u16 = 0o170_000;
const DIRECTORY: u16 = 0o040_000;
const REGULAR: u16 = 0o100_000;
/// A directory is read into memory: far more than any has.
const MAX_DIRECTORY_LEN: u64 = 1 << 28;

/// Fails when a file's data is anywhere else than from a multiple of [`CHUNK_LEN`] on.
pub(crate) fn check_aligned(image: &Path) -> Result<()> {
    let what = || format!("see whether {} is aligned", image.display());
    let file = File::open(image).with_context(what)?;
    let image = Image::open(file).with_context(what)?;
    let mut left = vec![(image.root, String::new())];
    while let Some((number, path)) = left.pop() {
        let inode = image.inode(number).with_context(what)?;
        match inode.mode & TYPE_MASK {
            DIRECTORY => {
                let entries = image.entries(&inode).with_context(what)?;
                left.extend(entries.into_iter().map(|(number, name)| (number, format!("{path}/{name}"))));
            }
            REGULAR if inode.len > 0 => {
                let at = inode.block << image.block_bits;
                ensure!(inode.layout == PLAIN, "{path} has its end among metadata");
                ensure!(at.is_multiple_of(CHUNK_LEN), "{path} begins at {at}, within a chunk");
            }
            _ => {}
        }
    }
    Ok(())
}

struct Image {
    file: File,
    block_bits: u8,
    /// Where inode 0 would be, bytes.
    inodes_at: u64,
    root: u64,
}

struct Inode {
    mode: u16,
    layout: u16,
    len: u64,
    /// The first one of its data.
    block: u64,
    /// What does not fill a block, if the layout is [`INLINE`].
    tail_at: u64,
}

impl Image {
    fn open(file: File) -> Result<Image> {
        let superblock = read(&file, SUPERBLOCK_AT, 128)?;
        ensure!(number(&superblock, 0, 4)? == u64::from(MAGIC), "this is no erofs");
        let block_bits = u8::try_from(number(&superblock, 12, 1)?)?;
        ensure!((9..=16).contains(&block_bits), "blocks of 2^{block_bits} bytes");
        let inodes_at = number(&superblock, 40, 4)? << block_bits;
        Ok(Image { file, block_bits, inodes_at, root: number(&superblock, 14, 2)? })
    }

    fn inode(&self, which: u64) -> Result<Inode> {
        let at = self.inodes_at + which * SLOT_LEN;
        let bytes = read(&self.file, at, 64)?;
        let format = number(&bytes, 0, 2)?;
        let is_long = format & 1 == 1;
        ensure!(
            number(&bytes, 2, 2)? == 0,
            "inode {which} has extended attributes, which images are made without"
        );
        Ok(Inode {
            mode: u16::try_from(number(&bytes, 4, 2)?)?,
            layout: u16::try_from(format >> 1 & 7)?,
            len: number(&bytes, 8, if is_long { 8 } else { 4 })?,
            block: number(&bytes, 16, 4)?,
            tail_at: at + if is_long { 64 } else { 32 },
        })
    }

    /// Inodes and names of what is in a directory, but itself and its parent.
    fn entries(&self, directory: &Inode) -> Result<Vec<(u64, String)>> {
        let mut entries = Vec::new();
        for block in self.content(directory)?.chunks(1 << self.block_bits) {
            let offset = |index: usize| number(block, index * DIRENT_LEN + 8, 2);
            let count = usize::try_from(offset(0)?)? / DIRENT_LEN;
            for index in 0..count {
                let from = usize::try_from(offset(index)?)?;
                let to = if index + 1 < count { usize::try_from(offset(index + 1)?)? } else { block.len() };
                let name = block.get(from..to).context("a name outside of its block")?;
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                if !matches!(name, b"." | b"..") {
                    let name = String::from_utf8_lossy(name).into_owned();
                    entries.push((number(block, index * DIRENT_LEN, 8)?, name));
                }
            }
        }
        Ok(entries)
    }

    fn content(&self, inode: &Inode) -> Result<Vec<u8>> {
        ensure!(inode.len <= MAX_DIRECTORY_LEN, "a directory of {} bytes", inode.len);
        let data_at = inode.block << self.block_bits;
        let tail = match inode.layout {
            PLAIN => 0,
            INLINE => inode.len % (1 << self.block_bits),
            other => bail!("a directory of layout {other}"),
        };
        let mut content = read(&self.file, data_at, inode.len - tail)?;
        content.extend(read(&self.file, inode.tail_at, tail)?);
        Ok(content)
    }
}

fn read(file: &File, at: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len)?];
    // The last inode may end with the file, before the longest one would.
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + filled as u64).context("read the image")? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(bytes)
}

/// A number of `len` bytes, the least first.
fn number(bytes: &[u8], at: usize, len: usize) -> Result<u64> {
    let bytes = bytes.get(at..at + len).context("the image is cut off")?;
    Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const BLOCK: usize = 4096;
    const FILE_NUMBER: u64 = 8;

    /// An image of one file of 5,000 bytes: its root is behind the superblock, its inodes are in block 0.
    fn image(layout: u16, block: u32) -> tempfile::NamedTempFile {
        let mut bytes = vec![0; 2 * BLOCK];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(1024, &MAGIC.to_le_bytes());
        put(1024 + 12, &[12]);
        put(1024 + 14, &64_u16.to_le_bytes());
        let names = [(64, "."), (64, ".."), (FILE_NUMBER, "app.py")];
        let inodes = [(64, DIRECTORY, INLINE, 36 + 9, 0), (FILE_NUMBER, REGULAR, layout, 5000, block)];
        for (number, kind, layout, len, block) in inodes {
            let at = usize::try_from(number * SLOT_LEN).unwrap();
            put(at, &(layout << 1).to_le_bytes());
            put(at + 4, &kind.to_le_bytes());
            put(at + 8, &u32::to_le_bytes(len));
            put(at + 16, &u32::to_le_bytes(block));
        }
        let (dirents, mut name_at) = (64 * 32 + 32, 36_u16);
        for (index, (number, name)) in names.into_iter().enumerate() {
            put(dirents + index * DIRENT_LEN, &u64::to_le_bytes(number));
            put(dirents + index * DIRENT_LEN + 8, &name_at.to_le_bytes());
            put(dirents + usize::from(name_at), name.as_bytes());
            name_at += u16::try_from(name.len()).unwrap();
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn a_file_that_begins_with_a_chunk_is_aligned() {
        check_aligned(image(PLAIN, 16).path()).unwrap();
    }

    #[test]
    fn a_file_within_a_chunk_is_found_and_so_is_an_end_among_metadata() {
        for (layout, block, problem) in [
            (PLAIN, 20, "/app.py begins at 81920, within a chunk"),
            (INLINE, 16, "/app.py has its end among metadata"),
        ] {
            let error = check_aligned(image(layout, block).path()).unwrap_err();
            assert_eq!(error.to_string(), problem);
        }
    }

    #[test]
    fn what_is_no_image_is_no_aligned_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "no image").unwrap();
        assert!(check_aligned(file.path()).is_err());
    }
}
