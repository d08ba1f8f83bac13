//! The guest's initial RAM disk: guest-init as `/init` and the folders it mounts on, as a cpio archive. Not
//! compressed: the guest would pay for it on every boot, the host reads the file once.

use crate::cpio::{Entry, archive};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::Path;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::Cmd;
    use crate::cpio::ALIGN;

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
