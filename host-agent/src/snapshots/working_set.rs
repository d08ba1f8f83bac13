//! What clones of a snapshot touch first, learned from the first of them and kept beside the snapshot's files, so that the
//! others have it before they ask.
//!
//! What is told of a runtime's snapshot, which all tenants share, ends before the clone is told whose it is. It is a list of
//! numbers: whoever could forge it, a clone that has broken out of its VMM among them, makes other clones of the same
//! snapshot slower, and nothing else.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use vmm_api::{MAX_WORKING_SET, WorkingSet};

/// Clones that are listened to. What the first one touches by chance is fetched for all; what the fifth one lacks is chance.
const TEACHERS: usize = 4;

/// Name of the file in a snapshot's directory.
pub(super) const FILE: &str = "working-set";

/// It is moved into place whole.
const NEW_FILE: &str = "working-set.new";

/// Longest file: the numbers with commas.
const MAX_FILE_LEN: u64 = 16 * MAX_WORKING_SET as u64;

/// What is known of a snapshot's working set.
#[derive(Debug, Default)]
pub(super) struct Learned {
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    working_set: WorkingSet,
    teachers: usize,
}

impl Learned {
    /// What was kept in a snapshot's directory. Nothing, if it cannot be read: it is learned again.
    pub(super) fn read(dir: &Path) -> Self {
        match read(&dir.join(FILE)) {
            Ok(working_set) => Self { state: Mutex::new(State { working_set, teachers: TEACHERS }) },
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!("a working set in {} is of no use: {error}", dir.display());
                }
                Self::default()
            }
        }
    }

    /// The chunks so far.
    pub(super) fn working_set(&self) -> WorkingSet {
        self.with(|state| state.working_set.clone())
    }

    /// Whether a clone has something to say.
    pub(super) fn is_learning(&self) -> bool {
        self.with(|state| state.teachers < TEACHERS)
    }

    /// Appends what a clone had to wait for, and says what is to be kept; nothing once enough is known.
    pub(super) fn learn(&self, faulted: &WorkingSet) -> Option<WorkingSet> {
        self.with(|state| {
            if state.teachers == TEACHERS {
                return None;
            }
            state.teachers += 1;
            let known: HashSet<u32> = state.working_set.0.iter().copied().collect();
            let room = MAX_WORKING_SET - state.working_set.0.len();
            let new = faulted.0.iter().copied().filter(|chunk| !known.contains(chunk));
            state.working_set.0.extend(new.take(room));
            Some(state.working_set.clone())
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Keeps a working set in a snapshot's directory, if that is still there.
pub(super) fn keep(dir: PathBuf, working_set: &WorkingSet) {
    let write = || {
        let text = serde_json::to_vec(working_set).map_err(io::Error::other)?;
        fs::write(dir.join(NEW_FILE), text)?;
        fs::rename(dir.join(NEW_FILE), dir.join(FILE))
    };
    match write() {
        // Deleted meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!("a working set is not kept in {}: {error}", dir.display()),
        Ok(()) => {}
    }
}

fn read(path: &Path) -> io::Result<WorkingSet> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_LEN).read_to_end(&mut bytes)?;
    let mut working_set: WorkingSet = serde_json::from_slice(&bytes)?;
    working_set.0.truncate(MAX_WORKING_SET);
    Ok(working_set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_clones_teach_and_the_list_is_bounded() {
        let learned = Learned::default();
        assert!(learned.is_learning());
        assert_eq!(learned.learn(&WorkingSet(vec![7, 3])), Some(WorkingSet(vec![7, 3])));
        assert_eq!(learned.learn(&WorkingSet(vec![3, 9])), Some(WorkingSet(vec![7, 3, 9])));
        let many = WorkingSet((0..2 * MAX_WORKING_SET as u32).collect());
        assert_eq!(learned.learn(&many).expect("learns").0.len(), MAX_WORKING_SET);
        assert!(learned.learn(&WorkingSet::default()).is_some());
        assert!(!learned.is_learning());
        assert_eq!(learned.learn(&WorkingSet(vec![1])), None);
    }

    #[test]
    fn it_survives_a_restart_and_a_file_of_nonsense_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(Learned::read(dir.path()).is_learning());
        keep(dir.path().to_owned(), &WorkingSet(vec![5, 1]));
        let learned = Learned::read(dir.path());
        assert_eq!((learned.working_set(), learned.is_learning()), (WorkingSet(vec![5, 1]), false));
        fs::write(dir.path().join(FILE), "[1, -2]").expect("write");
        assert_eq!(Learned::read(dir.path()).working_set(), WorkingSet::default());
        keep(dir.path().join("gone"), &WorkingSet(vec![5]));
    }
}
