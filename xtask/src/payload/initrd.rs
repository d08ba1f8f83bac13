//! The guest's initial RAM disk: guest-init as `/init` and the folders it mounts on, in the "newc" cpio format of the
//! kernel's Documentation/driver-api/early-userspace/buffer-format.rst. Equal input gives equal bytes. Not compressed:
//! the guest would pay for it on every boot, the host reads the file once.

use anyhow::{Context as _, Result};
use std::fs;
use std::path::Path;

const MAGIC: &[u8] = b"070701";
const TRAILER: &str = "TRAILER!!!";
/// Headers and contents start at multiples of this.
const ALIGN: usize = 4;

/// Mount points; the rest guest-init makes itself.
const FOLDERS: &[&str] = &["dev", "function", "proc", "sys"];

/// Opened by the kernel as standard input and output of `/init`, before anything can be mounted.
const CONSOLE: Entry<'static> = Entry { name: "dev/console", mode: 0o020_600, device: (5, 1), content: &[] };

/// The archive with this guest-init.
pub(crate) fn with(guest_init: &Path) -> Result<Vec<u8>> {
    let program = fs::read(guest_init).with_context(|| format!("read {}", guest_init.display()))?;
    let folders = FOLDERS.iter().map(|name| Entry { name, mode: 0o040_755, device: (0, 0), content: &[] });
    let init = Entry { name: "init", mode: 0o100_755, device: (0, 0), content: &program };
    archive(&folders.chain([CONSOLE, init]).collect::<Vec<_>>())
}

struct Entry<'a> {
    name: &'a str,
    mode: u32,
    /// Major and minor number of a device node.
    device: (u32, u32),
    content: &'a [u8],
}

fn archive(entries: &[Entry<'_>]) -> Result<Vec<u8>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::Cmd;

    #[test]
    fn cpio_itself_reads_what_we_write() {
        let dir = tempfile::tempdir().unwrap();
        let (program, archive) = (dir.path().join("program"), dir.path().join("initrd.cpio"));
        fs::write(&program, "odd size").unwrap();
        let bytes = with(&program).unwrap();
        fs::write(&archive, &bytes).unwrap();
        assert_eq!(bytes.len() % ALIGN, 0);
        let list = Cmd::new("cpio")
            .args(["--list", "--verbose", "--quiet", "--numeric-uid-gid", "-F"])
            .arg(&archive)
            .read()
            .unwrap();
        let names: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().last()).collect();
        assert_eq!(names, ["dev", "function", "proc", "sys", "dev/console", "init"]);
        assert!(list.lines().any(|line| line.starts_with("crw-------") && line.contains("5,   1")), "{list}");
        assert!(list.lines().any(|line| line.starts_with("-rwxr-xr-x") && line.contains(" 8 ")), "{list}");
        assert_eq!(bytes, with(&program).unwrap());
    }
}
