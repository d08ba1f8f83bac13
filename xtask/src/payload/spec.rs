//! `image/runtimes/<name>/runtime.toml`: what the image of one runtime is made of. Only the description; [`super::rootfs`]
//! carries it out.

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};

/// One runtime's description.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    /// Debian packages; their dependencies come along.
    pub(crate) packages: Vec<String>,
    pub(crate) python: Option<Python>,
    /// A program of the image with its arguments that must end well there.
    #[serde(default)]
    pub(crate) probe: Vec<String>,
    pub(crate) java: Option<Java>,
    pub(crate) files: Files,
}

/// Packages from PyPI.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Python {
    /// The interpreter inside the image.
    pub(crate) interpreter: String,
    /// Its version, as wheels name it: "3.13".
    pub(crate) version: String,
    /// The folder of the image that they go to, flat.
    pub(crate) target: String,
    /// A file beside the description: pinned versions with hashes.
    pub(crate) requirements: PathBuf,
    /// Folders to byte-compile.
    pub(crate) compile: Vec<String>,
    /// Modules that must be importable inside the image.
    pub(crate) imports: Vec<String>,
}

/// What a program makes of a JDK, inside the image.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Java {
    /// The JDK, one of the packages.
    pub(crate) jdk: String,
    /// Folders beside the description that the program finds beside each other.
    pub(crate) folders: Vec<PathBuf>,
    /// A file in one of them that is run as a source; told of the JDK and the folder in which `folders` are.
    pub(crate) program: PathBuf,
    /// Files and folders to leave out when it has run; `*` at the end stands for anything.
    pub(crate) remove: Vec<String>,
}

/// Files that come from no package, and those that are not wanted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Files {
    /// Folders below `image/runtimes`, copied over the root in this order.
    pub(crate) overlays: Vec<PathBuf>,
    /// Folders to exist, mode 0755.
    pub(crate) directories: Vec<String>,
    /// Folders to exist, mode 1777.
    pub(crate) sticky: Vec<String>,
    /// Overlay files that are programs.
    pub(crate) executable: Vec<String>,
    /// Files and folders to leave out; `*` at the end stands for anything.
    pub(crate) remove: Vec<String>,
}

impl Spec {
    /// Reads the description in the folder `dir`.
    pub(crate) fn read(dir: &Path) -> Result<Spec> {
        let path = dir.join("runtime.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let spec: Spec = toml::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
        spec.check().with_context(|| format!("check {}", path.display()))?;
        Ok(spec)
    }

    /// Paths are meant inside the image: absolute, and without a way out of it.
    fn check(&self) -> Result<()> {
        let files = &self.files;
        let python = self.python.iter().flat_map(|python| python.compile.iter().chain([&python.target]));
        let java = self.java.iter().flat_map(|java| java.remove.iter().chain([&java.jdk]));
        let lists = [&files.directories, &files.sticky, &files.executable, &files.remove];
        for path in lists.into_iter().flatten().chain(python).chain(java) {
            let inside = path.starts_with('/') && path.len() > 1 && !path.split('/').any(|part| part == "..");
            ensure!(inside, "{path} is no absolute path inside the image");
        }
        Ok(())
    }
}

/// The place of an image path below a folder of ours.
pub(crate) fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptions_in_the_tree_are_valid() {
        let runtimes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/runtimes");
        for name in super::super::runtime::NAMES {
            Spec::read(&runtimes.join(name)).unwrap();
        }
    }

    #[test]
    fn a_path_out_of_the_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["/../etc", "relative", "/"] {
            let lists = "overlays = []\ndirectories = []\nsticky = []\nexecutable = []";
            let text = format!("packages = []\n[files]\n{lists}\nremove = [\"{bad}\"]\n");
            fs::write(dir.path().join("runtime.toml"), text).unwrap();
            assert!(Spec::read(dir.path()).is_err(), "{bad}");
        }
    }
}
