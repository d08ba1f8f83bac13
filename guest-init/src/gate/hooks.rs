//! Which executables run after a resume: those in `restore.d`, the image's first, then the layers', then those in the
//! function's code, each folder in the order of the names. How they are run is [`crate::process`]'s.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// Where they are, in the function's view. The last one comes with the function's zip, so a guest that is no function's yet
/// has none there.
pub const FOLDERS: &[&str] =
    &["/etc/tinderbox/restore.d", "/opt/tinderbox/restore.d", "/var/task/tinderbox/restore.d"];

/// Most executables of one folder: they stand between a request and its answer.
const MAX_HOOKS: usize = 16;

/// What hooks are told, and their limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookPlan {
    /// `TINDERBOX_GENERATION`, in hexadecimal.
    pub generation: [u8; 16],
    /// `TINDERBOX_INSTANCE_ID`.
    pub instance_id: String,
    /// Of all together.
    pub limit: Duration,
}

impl HookPlan {
    /// The environment of a hook.
    #[must_use]
    pub fn environment(&self) -> Vec<CString> {
        let generation = u128::from_be_bytes(self.generation);
        let variables = [
            "PATH=/var/lang/bin:/usr/local/bin:/usr/bin:/bin:/opt/bin".to_owned(),
            "LANG=C.UTF-8".to_owned(),
            format!("TINDERBOX_GENERATION={generation:032x}"),
            format!("TINDERBOX_INSTANCE_ID={}", self.instance_id),
        ];
        variables.into_iter().filter_map(|variable| CString::new(variable).ok()).collect()
    }
}

/// One executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Its path in the function's view.
    pub path: CString,
}

/// Why a guest cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// A folder holds too much.
    #[error("{0} holds more than {MAX_HOOKS} executables")]
    TooMany(&'static str),
    /// A folder cannot be listed.
    #[error("list {0}")]
    List(&'static str, #[source] io::Error),
    /// A hook could not be started.
    #[error("start {path}")]
    Start {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A hook said that it failed, or was killed.
    #[error("{path} ended with {status}")]
    Failed {
        /// Which.
        path: String,
        /// How.
        status: String,
    },
    /// Time was up.
    #[error("{path} was not done within {} ms", limit.as_millis())]
    Late {
        /// The one that ran.
        path: String,
        /// Limit of all of them.
        limit: Duration,
    },
}

/// The executables of the function's view at `root`, in order. A folder that is not there holds none.
///
/// # Errors
/// [`HookError::TooMany`], [`HookError::List`].
pub fn find(root: &Path) -> Result<Vec<Hook>, HookError> {
    let mut hooks = Vec::new();
    for &folder in FOLDERS {
        let mut names = Vec::new();
        let entries = match std::fs::read_dir(root.join(folder.trim_start_matches('/'))) {
            // Code may well hold a file, or a program, whose name is `tinderbox`.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                continue;
            }
            entries => entries.map_err(|error| HookError::List(folder, error))?,
        };
        for entry in entries {
            let entry = entry.map_err(|error| HookError::List(folder, error))?;
            // Links are not followed: they lead elsewhere here than in the function's view.
            let program = entry
                .path()
                .symlink_metadata()
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
            if program {
                names.push(entry.file_name());
            }
            if names.len() > MAX_HOOKS {
                return Err(HookError::TooMany(folder));
            }
        }
        names.sort();
        hooks.extend(names.iter().filter_map(|name| {
            let path = [folder.as_bytes(), b"/", name.as_bytes()].concat();
            Some(Hook { path: CString::new(path).ok()? })
        }));
    }
    Ok(hooks)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    fn put(root: &Path, path: &str, mode: u32) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn found(root: &Path) -> Vec<String> {
        find(root).unwrap().iter().map(|hook| hook.path.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_images_hooks_come_first_and_the_codes_last_and_each_folder_in_order() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(found(root.path()), [""; 0]);
        for (path, mode) in [
            ("var/task/tinderbox/restore.d/00-c", 0o755),
            ("opt/tinderbox/restore.d/10-b", 0o755),
            ("opt/tinderbox/restore.d/05-a", 0o755),
            ("etc/tinderbox/restore.d/90-z", 0o755),
            ("etc/tinderbox/restore.d/README", 0o644),
        ] {
            put(root.path(), path, mode);
        }
        let expected = [
            "/etc/tinderbox/restore.d/90-z",
            "/opt/tinderbox/restore.d/05-a",
            "/opt/tinderbox/restore.d/10-b",
            "/var/task/tinderbox/restore.d/00-c",
        ];
        assert_eq!(found(root.path()), expected);
    }

    #[test]
    fn code_may_hold_a_file_of_our_name() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "var/task/tinderbox", 0o755);
        assert_eq!(found(root.path()), [""; 0]);
    }

    #[test]
    fn a_flood_of_hooks_is_refused() {
        let root = tempfile::tempdir().unwrap();
        for n in 0..=MAX_HOOKS {
            put(root.path(), &format!("opt/tinderbox/restore.d/{n}"), 0o755);
        }
        assert!(matches!(find(root.path()), Err(HookError::TooMany(_))));
    }
}
