//! Content hashes: the key of a cached artefact is the hash of everything it was made from.

use anyhow::{Context as _, Result};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// 128 bits of the SHA-256: plenty against accidents, and short enough for a path.
const KEY_BYTES: usize = 16;
const CHUNK_BYTES: usize = 1 << 16;

/// Collects what an artefact depends on. Every part carries a label and a length, so no two lists of parts collide.
pub(crate) struct Inputs {
    hasher: Sha256,
}

impl Inputs {
    /// `recipe` names the artefact and the version of the code that makes it, such as `"kernel 3"`.
    pub(crate) fn new(recipe: &str) -> Inputs {
        let mut inputs = Inputs { hasher: Sha256::new() };
        inputs.part("recipe", recipe.as_bytes());
        inputs
    }

    pub(crate) fn text(self, label: &str, value: &str) -> Inputs {
        self.bytes(label, value.as_bytes())
    }

    pub(crate) fn bytes(mut self, label: &str, value: &[u8]) -> Inputs {
        self.part(label, value);
        self
    }

    /// The content of one file.
    pub(crate) fn file(mut self, path: &Path) -> Result<Inputs> {
        let digest = file_sha256(path)?;
        self.part("file", digest.as_bytes());
        Ok(self)
    }

    /// A folder with everything below it: names, contents, symlink targets and execute bits; not times, not owners.
    pub(crate) fn tree(mut self, path: &Path) -> Result<Inputs> {
        self.walk(path, "")?;
        Ok(self)
    }

    /// The key, in hexadecimal.
    pub(crate) fn key(self) -> String {
        hex(&self.hasher.finalize()[..KEY_BYTES])
    }

    fn walk(&mut self, path: &Path, relative: &str) -> Result<()> {
        let what = || format!("hash {}", path.display());
        let meta = fs::symlink_metadata(path).with_context(what)?;
        if meta.is_dir() {
            self.part("dir", relative.as_bytes());
            let entries: std::io::Result<Vec<_>> = fs::read_dir(path).with_context(what)?.collect();
            let mut names: Vec<_> = entries.with_context(what)?.into_iter().map(|e| e.file_name()).collect();
            names.sort();
            for name in names {
                let below = format!("{relative}/{}", name.to_string_lossy());
                self.walk(&path.join(&name), &below)?;
            }
        } else if meta.is_symlink() {
            self.part("link", relative.as_bytes());
            self.part("target", fs::read_link(path).with_context(what)?.as_os_str().as_encoded_bytes());
        } else {
            let kind = if meta.permissions().mode() & 0o111 != 0 { "program" } else { "data" };
            self.part(kind, relative.as_bytes());
            self.part("content", file_sha256(path)?.as_bytes());
        }
        Ok(())
    }

    fn part(&mut self, label: &str, value: &[u8]) {
        for bytes in [label.as_bytes(), value] {
            self.hasher.update((bytes.len() as u64).to_le_bytes());
            self.hasher.update(bytes);
        }
    }
}

/// The SHA-256 of a file's content, in hexadecimal.
pub(crate) fn file_sha256(path: &Path) -> Result<String> {
    let what = || format!("hash {}", path.display());
    let mut file = fs::File::open(path).with_context(what)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let n = file.read(&mut chunk).with_context(what)?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&chunk[..n]);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(dir: &Path) -> String {
        Inputs::new("t").tree(dir).unwrap().key()
    }

    #[test]
    fn a_tree_changes_with_content_name_mode_and_link_but_not_with_place() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [a.path(), b.path()] {
            fs::create_dir(dir.join("sub")).unwrap();
            fs::write(dir.join("sub/file"), "x").unwrap();
            std::os::unix::fs::symlink("file", dir.join("sub/link")).unwrap();
        }
        let before = key_of(a.path());
        assert_eq!(before, key_of(b.path()));
        fs::write(b.path().join("sub/file"), "y").unwrap();
        let content = key_of(b.path());
        assert_ne!(before, content);
        fs::set_permissions(b.path().join("sub/file"), fs::Permissions::from_mode(0o755)).unwrap();
        let mode = key_of(b.path());
        assert_ne!(content, mode);
        fs::rename(b.path().join("sub/file"), b.path().join("sub/other")).unwrap();
        assert_ne!(mode, key_of(b.path()));
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let one = Inputs::new("t").text("a", "bc").key();
        let other = Inputs::new("t").text("ab", "c").key();
        assert_ne!(one, other);
    }
}
