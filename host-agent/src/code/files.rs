//! Directories and files of the code store.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
};

use super::CodeError;

/// A build's directory, removed with everything in it when the build ends, however it ends.
pub(super) struct BuildDir(PathBuf);

impl BuildDir {
    /// A new one below `builds`.
    pub(super) fn create(builds: &Path) -> Result<Self, CodeError> {
        let dir = Self(builds.join(uuid::Uuid::new_v4().to_string()));
        std::fs::create_dir(&dir.0).map_err(file("create", &dir.0))?;
        Ok(dir)
    }
}

impl Deref for BuildDir {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for BuildDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("a build's directory is left until the next start: {error}");
        }
    }
}

/// Removes whole images, which an older agent kept beside the zips and the snapshots. Nothing else: a directory of that name may be
/// somebody's.
pub(super) fn remove_images(dir: &Path) -> Result<(), CodeError> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let path = entry.map_err(file("list", dir))?.path();
        if path.extension().is_some_and(|extension| extension == "erofs") {
            std::fs::remove_file(&path).map_err(file("remove", &path))?;
        }
    }
    // One that has something else in it stays.
    drop(std::fs::remove_dir(dir));
    Ok(())
}

/// Removes what the object store had staged under `NAME#NUMBER` when the agent was killed.
pub(super) fn remove_staged(dir: &Path) -> Result<(), CodeError> {
    for entry in std::fs::read_dir(dir).map_err(file("list", dir))? {
        let path = entry.map_err(file("list", dir))?.path();
        if path.to_string_lossy().contains('#') {
            std::fs::remove_file(&path).map_err(file("remove", &path))?;
        }
    }
    Ok(())
}

/// Makes the directory's entries durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), CodeError> {
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(file("sync", dir))
}

/// Where a zip is in the object store.
pub(super) fn object(sha256: &str) -> object_store::path::Path {
    object_store::path::Path::from(format!("{sha256}.zip"))
}

/// What an error of a file becomes.
pub(super) fn file(attempted: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CodeError {
    let path = path.to_owned();
    move |source| CodeError::File { attempted, path, source }
}
