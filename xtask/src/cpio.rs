//! Writes the "newc" cpio format of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst: what an
//! initial RAM disk is made of. Equal input gives equal bytes; everything belongs to root and has no time.

use anyhow::{Context as _, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

const MAGIC: &[u8] = b"070701";
const TRAILER: &str = "TRAILER!!!";
/// Headers and contents start at multiples of this.
pub(crate) const ALIGN: usize = 4;

/// One member of an archive.
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a str,
    /// Type and permissions, as in `stat`.
    pub(crate) mode: u32,
    /// Major and minor number of a device node.
    pub(crate) device: (u32, u32),
    pub(crate) content: &'a [u8],
}

/// The archive of these members, in this order.
pub(crate) fn archive(entries: &[Entry<'_>]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let trailer = Entry { name: TRAILER, mode: 0, device: (0, 0), content: &[] };
    for (index, entry) in entries.iter().chain([&trailer]).enumerate() {
        append(&mut out, u32::try_from(index)?, entry)?;
    }
    Ok(out)
}

fn append(out: &mut Vec<u8>, inode: u32, entry: &Entry<'_>) -> Result<()> {
    let size =
        u32::try_from(entry.content.len()).with_context(|| format!("{} is too big for cpio", entry.name))?;
    let name_size = u32::try_from(entry.name.len() + 1)?;
    let (major, minor) = entry.device;
    // inode, mode, uid, gid, links, mtime, size, device of the file system (2), device of the node (2), name, checksum
    let fields = [inode, entry.mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
    out.extend_from_slice(MAGIC);
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(entry.name.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(entry.content);
    pad(out);
    Ok(())
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(ALIGN), 0);
}

/// The archive of a folder's files and folders.
pub(crate) fn of_tree(root: &Path) -> Result<Vec<u8>> {
    let mut members = Vec::new();
    collect(root, "", &mut members)?;
    let entries: Vec<Entry<'_>> = members
        .iter()
        .map(|(name, mode, content)| Entry { name, mode: *mode, device: (0, 0), content })
        .collect();
    archive(&entries)
}

fn collect(folder: &Path, prefix: &str, members: &mut Vec<(String, u32, Vec<u8>)>) -> Result<()> {
    let what = || format!("read {}", folder.display());
    let entries: std::io::Result<Vec<_>> = fs::read_dir(folder).with_context(what)?.collect();
    let mut entries = entries.with_context(what)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let meta = fs::metadata(entry.path()).with_context(what)?;
        if meta.is_dir() {
            members.push((name.clone(), 0o040_755, Vec::new()));
            collect(&entry.path(), &format!("{name}/"), members)?;
        } else {
            let mode = if meta.permissions().mode() & 0o111 != 0 { 0o100_755 } else { 0o100_644 };
            members.push((name, mode, fs::read(entry.path()).with_context(what)?));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::Cmd;

    #[test]
    fn a_tree_keeps_names_and_execute_bits() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("usr/lib")).unwrap();
        fs::write(tree.join("usr/lib/data"), "odd size").unwrap();
        fs::write(tree.join("usr/lib/program"), "").unwrap();
        fs::set_permissions(tree.join("usr/lib/program"), fs::Permissions::from_mode(0o700)).unwrap();
        let archive = dir.path().join("tree.cpio");
        fs::write(&archive, of_tree(&tree).unwrap()).unwrap();
        let list =
            Cmd::new("cpio").args(["--list", "--verbose", "--quiet", "-F"]).arg(&archive).read().unwrap();
        let shown: Vec<(&str, &str)> =
            list.lines().map(|line| (&line[..10], line.split_whitespace().last().unwrap())).collect();
        let expected = [
            ("drwxr-xr-x", "usr"),
            ("drwxr-xr-x", "usr/lib"),
            ("-rw-r--r--", "usr/lib/data"),
            ("-rwxr-xr-x", "usr/lib/program"),
        ];
        assert_eq!(shown, expected);
    }
}
