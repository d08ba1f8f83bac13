//! Code of functions and layers as zips: a folder's is made here and is the same bytes whenever the folder is the same.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Cursor, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    rc::Rc,
};

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};
use zip::{
    CompressionMethod, DateTime,
    write::{SimpleFileOptions, ZipWriter},
};

/// Longest zip that a request carries, bytes: Lambda's.
const MAX_ZIP_LEN: u64 = 52_428_800;

/// Longest content of one: Lambda's.
const MAX_CONTENT_LEN: u64 = 262_144_000;

/// Most files and folders: what a node takes.
const MAX_ENTRIES: usize = 100_000;

/// Deepest folder in a folder.
const MAX_DEPTH: usize = 64;

/// A zip.
pub(crate) struct Package {
    pub(crate) zip: Vec<u8>,
    /// Base64 of its SHA-256, as Lambda tells it.
    pub(crate) sha256: String,
}

/// What a function's code or a layer's content is made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// A folder, or a file that is a zip.
    Path(PathBuf),
    /// One file with that text.
    Inline { name: &'static str, text: String },
}

/// Packages that were made, so that what is compared is what is sent.
#[derive(Default)]
pub(crate) struct Packages(BTreeMap<Source, Rc<Package>>);

impl Packages {
    /// The package of a source.
    ///
    /// # Errors
    /// It cannot be read, is larger than Lambda takes, or holds what no package has.
    pub(crate) fn of(&mut self, source: &Source) -> Result<Rc<Package>> {
        if let Some(package) = self.0.get(source) {
            return Ok(Rc::clone(package));
        }
        let zip = match source {
            Source::Inline { name, text } => {
                let entry = Entry { name: (*name).to_owned(), mode: 0o644, from: From::Text(text) };
                pack(&[entry]).context("pack inline code")?
            }
            Source::Path(path) => at(path).with_context(|| format!("cannot pack {}", path.display()))?,
        };
        ensure!(zip.len() as u64 <= MAX_ZIP_LEN, "{source:?} is a zip of more than {MAX_ZIP_LEN} bytes");
        let sha256 = BASE64_STANDARD.encode(Sha256::digest(&zip));
        let package = Rc::new(Package { zip, sha256 });
        self.0.insert(source.clone(), Rc::clone(&package));
        Ok(package)
    }
}

/// A file as it is, a folder as a zip.
fn at(path: &Path) -> Result<Vec<u8>> {
    if !fs::metadata(path)?.is_dir() {
        let mut zip = Vec::new();
        File::open(path)?.take(MAX_ZIP_LEN + 1).read_to_end(&mut zip)?;
        return Ok(zip);
    }
    let mut entries = Vec::new();
    list(path, "", 0, &mut entries)?;
    ensure!(!entries.is_empty(), "the folder is empty");
    pack(&entries)
}

enum From<'a> {
    File(PathBuf),
    Link(PathBuf),
    Text(&'a str),
}

struct Entry<'a> {
    /// Path in the zip.
    name: String,
    mode: u32,
    from: From<'a>,
}

/// Files and links below a folder, in the order of their names. Folders are implied by what is in them.
fn list(folder: &Path, prefix: &str, depth: usize, entries: &mut Vec<Entry<'_>>) -> Result<()> {
    ensure!(depth < MAX_DEPTH, "folders are nested deeper than {MAX_DEPTH}");
    let mut found: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    found.sort_by_key(fs::DirEntry::file_name);
    for entry in found {
        ensure!(entries.len() < MAX_ENTRIES, "there are more than {MAX_ENTRIES} files");
        let name = entry.file_name();
        let name = name.to_str().with_context(|| format!("{} is no text", entry.path().display()))?;
        let name = format!("{prefix}{name}");
        let kind = entry.file_type()?;
        if kind.is_dir() {
            list(&entry.path(), &format!("{name}/"), depth + 1, entries)?;
        } else if kind.is_symlink() {
            entries.push(Entry { name, mode: 0o777, from: From::Link(fs::read_link(entry.path())?) });
        } else if kind.is_file() {
            let mode = entry.metadata()?.permissions().mode() & 0o777;
            entries.push(Entry { name, mode, from: From::File(entry.path()) });
        } else {
            bail!("{} is neither a file nor a folder nor a link", entry.path().display());
        }
    }
    Ok(())
}

fn pack(entries: &[Entry<'_>]) -> Result<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let mut left = MAX_CONTENT_LEN;
    for Entry { name, mode, from } in entries {
        // Zips know no time before 1980: this is the first.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(DateTime::default())
            .unix_permissions(*mode);
        let content = match from {
            From::Link(target) => {
                let target = target.to_str().with_context(|| format!("{name} leads to what is no text"))?;
                zip.add_symlink(name.as_str(), target, options)?;
                continue;
            }
            From::Text(text) => text.as_bytes().to_vec(),
            From::File(path) => {
                let mut content = Vec::new();
                let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
                file.take(left + 1)
                    .read_to_end(&mut content)
                    .with_context(|| format!("read {}", path.display()))?;
                content
            }
        };
        let len = content.len() as u64;
        left =
            left.checked_sub(len).with_context(|| format!("it holds more than {MAX_CONTENT_LEN} bytes"))?;
        zip.start_file(name.as_str(), options)?;
        zip.write_all(&content)?;
    }
    Ok(zip.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    use std::{fs::FileTimes, os::unix::fs::symlink, time::SystemTime};

    use zip::ZipArchive;

    use super::*;

    fn package(path: &Path) -> Result<Rc<Package>> {
        Packages::default().of(&Source::Path(path.to_owned()))
    }

    fn folder(files: &[(&str, &str, u32)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text, mode) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        folder
    }

    #[test]
    fn equal_folders_are_equal_packages() {
        let files = [("b/c.py", "c", 0o644), ("a.py", "a", 0o644), ("bootstrap", "#!", 0o755)];
        let (one, other) = (folder(&files), folder(&[files[2], files[1], files[0]]));
        let old = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
        File::open(other.path().join("a.py")).unwrap().set_times(old).unwrap();
        let (one, other) = (package(one.path()).unwrap(), package(other.path()).unwrap());
        assert_eq!(one.sha256, other.sha256);
        let changed = folder(&[("b/c.py", "d", 0o644), files[1], files[2]]);
        assert_ne!(package(changed.path()).unwrap().sha256, one.sha256);
        let mut zip = ZipArchive::new(Cursor::new(&one.zip)).unwrap();
        let names: Vec<_> = (0..zip.len())
            .map(|index| {
                zip.by_index(index)
                    .map(|entry| (entry.name().unwrap().to_string(), entry.unix_mode()))
                    .unwrap()
            })
            .collect();
        let expected = [("a.py", 0o100_644), ("b/c.py", 0o100_644), ("bootstrap", 0o100_755)];
        assert_eq!(names, expected.map(|(name, mode)| (name.to_owned(), Some(mode))));
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = folder(&[("a.py", "a", 0o644)]);
        symlink("a.py", folder.path().join("b.py")).unwrap();
        symlink("..", folder.path().join("up")).unwrap();
        let package = package(folder.path()).unwrap();
        let mut zip = ZipArchive::new(Cursor::new(&package.zip)).unwrap();
        assert_eq!(zip.len(), 3);
        assert_eq!(zip.by_index(1).unwrap().unix_mode().map(|mode| mode & 0o170_000), Some(0o120_000));
    }

    #[test]
    fn a_zip_is_sent_as_it_is_and_what_is_no_package_is_named() {
        let files = folder(&[("code.zip", "PK", 0o644)]);
        assert_eq!(package(&files.path().join("code.zip")).unwrap().zip, b"PK");
        let empty = tempfile::tempdir().unwrap();
        assert!(format!("{:#}", package(empty.path()).err().unwrap()).contains("the folder is empty"));
        let missing = package(&files.path().join("none")).err().unwrap();
        assert!(format!("{missing:#}").contains("cannot pack"), "{missing:#}");
    }

    #[test]
    fn inline_code_is_one_file() {
        let source = Source::Inline { name: "index.py", text: "x = 1".into() };
        let package = Packages::default().of(&source).unwrap();
        let mut zip = ZipArchive::new(Cursor::new(&package.zip)).unwrap();
        assert_eq!(zip.len(), 1);
        assert_eq!(zip.by_index(0).unwrap().name().unwrap(), "index.py");
    }
}
