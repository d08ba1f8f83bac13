//! The checkout as data: every text file that git tracks or would track, so that checks need no I/O.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Text files by their path from the top of the checkout. Files that are not UTF-8 are absent.
#[derive(Debug, Default)]
pub(super) struct Tree {
    files: BTreeMap<PathBuf, String>,
    others: Vec<PathBuf>,
}

impl Tree {
    /// Reads what git lists, ignored files left out. A file that is listed but deleted in the work tree is skipped.
    pub(super) fn of_checkout(root: &Path) -> Result<Self> {
        let output = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .context("start git ls-files")?;
        if !output.status.success() {
            bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let listing = String::from_utf8(output.stdout).context("git lists a path that is not UTF-8")?;
        let mut tree = Self::default();
        for path in listing.split('\0').filter(|path| !path.is_empty()) {
            let full = root.join(path);
            if !full.is_file() {
                continue;
            }
            let bytes = std::fs::read(&full).with_context(|| format!("read {path}"))?;
            match String::from_utf8(bytes) {
                Ok(text) => drop(tree.files.insert(PathBuf::from(path), text)),
                Err(_) => tree.others.push(PathBuf::from(path)),
            }
        }
        Ok(tree)
    }

    /// A tree of exactly these files, for tests.
    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
        Self { files, others: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.files.len() + self.others.len()
    }

    pub(super) fn text(&self, path: &Path) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// Whether `path` is a file, or a folder with at least one file in it.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.files.keys().chain(&self.others).any(|file| file.starts_with(path))
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.files.iter().map(|(path, text)| (path.as_path(), text.as_str()))
    }

    pub(super) fn rust(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.files().filter(|(path, _)| path.extension().is_some_and(|extension| extension == "rs"))
    }
}
