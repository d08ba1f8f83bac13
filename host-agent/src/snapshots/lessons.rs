//! What clones of a snapshot touch, told by the first of them, so that the others have it before they run.
//!
//! What is told of a runtime's snapshot, which all tenants share, ends before the clone is told whose it is. It is a list of
//! numbers: whoever could forge it, a clone that has broken out of its VMM among them, makes other clones of the same
//! snapshot slower, and nothing else.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, PoisonError},
};

use vmm_api::{MAX_DRIVE_CHUNKS, MAX_WORKING_SET, WorkingSet};

/// Clones that are listened to. What the first one touches by chance is fetched for all; what the fifth one lacks is chance.
const TEACHERS: usize = 4;

// All that they can tell has room in a prefetch content.
const _: () = assert!(TEACHERS * MAX_WORKING_SET <= snapshot::MAX_PREFETCH_PAGES);

/// Drives that are listened to: the VMM has no more.
const MAX_DRIVES: usize = 8;

/// What of a lesson was new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Learned {
    pub(super) pages: bool,
    pub(super) drives: bool,
}

/// What is known of a snapshot's pages.
#[derive(Debug, Default)]
pub(super) struct Lessons(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// In the order in which they were told.
    pages: Vec<u32>,
    /// Chunks of drives, likewise.
    drives: BTreeMap<String, Vec<u32>>,
    /// Lessons that are over or under way.
    begun: usize,
}

impl Lessons {
    /// Of a snapshot that has learned all that it is going to.
    pub(super) fn over() -> Self {
        Self(Mutex::new(State { begun: TEACHERS, ..State::default() }))
    }

    /// Whether a clone that is made now is to teach; then [`Self::learn`] or [`Self::give_back`] is to follow.
    pub(super) fn begin(&self) -> bool {
        self.with(|state| {
            let wanted = state.begun < TEACHERS;
            state.begun += usize::from(wanted);
            wanted
        })
    }

    /// A clone that was to teach came to nothing: another one is to.
    pub(super) fn give_back(&self) {
        self.with(|state| state.begun = state.begun.saturating_sub(1));
    }

    /// Appends what a clone had to wait for.
    pub(super) fn learn(&self, told: &WorkingSet) -> Learned {
        self.with(|state| {
            let pages = merge(&mut state.pages, &told.pages, MAX_WORKING_SET);
            let mut drives = false;
            for (drive, chunks) in told.drives.iter().take(MAX_DRIVES) {
                let known = state.drives.entry(drive.clone()).or_default();
                drives |= merge(known, chunks, MAX_DRIVE_CHUNKS);
            }
            Learned { pages, drives }
        })
    }

    /// Takes up what was told to an agent before this one.
    pub(super) fn recall(&self, drives: BTreeMap<String, Vec<u32>>) {
        self.with(|state| state.drives = drives);
    }

    /// Chunks of a drive that clones read, in the order in which they were told.
    pub(super) fn chunks_of(&self, drive: &str) -> Vec<u32> {
        self.with(|state| state.drives.get(drive).cloned().unwrap_or_default())
    }

    /// Chunks of all drives.
    pub(super) fn drives(&self) -> BTreeMap<String, Vec<u32>> {
        self.with(|state| state.drives.clone())
    }

    /// All that is known, in the order in which it was told.
    pub(super) fn pages(&self) -> Vec<u32> {
        self.with(|state| state.pages.clone())
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Appends what is new of the first `max` numbers; whether there is anything.
fn merge(known: &mut Vec<u32>, told: &[u32], max: usize) -> bool {
    let mut seen: HashSet<u32> = known.iter().copied().collect();
    let before = known.len();
    known.extend(told.iter().copied().take(max).filter(|number| seen.insert(*number)));
    known.len() > before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_clones_teach_and_what_they_tell_is_bounded() {
        let lessons = Lessons::default();
        let learn = |pages: &[u32]| {
            lessons.learn(&WorkingSet { pages: pages.to_vec(), ..WorkingSet::default() }).pages
        };
        assert!(lessons.begin() && learn(&[7, 3, 7]));
        assert_eq!(lessons.pages(), [7, 3]);
        assert!(lessons.begin() && !learn(&[3]) && learn(&[3, 9]));
        assert_eq!(lessons.pages(), [7, 3, 9]);
        let many: Vec<u32> = (100..100 + 2 * MAX_WORKING_SET as u32).collect();
        assert!(lessons.begin() && learn(&many));
        assert_eq!(lessons.pages().len(), 3 + MAX_WORKING_SET);
        assert!(lessons.begin() && !lessons.begin());
        lessons.give_back();
        assert!(lessons.begin() && !lessons.begin());
        assert!(!Lessons::over().begin());
    }

    #[test]
    fn chunks_of_drives_are_told_too() {
        let lessons = Lessons::default();
        let told =
            |chunks: Vec<u32>| WorkingSet { pages: vec![], drives: [("code".to_owned(), chunks)].into() };
        assert_eq!(lessons.learn(&told(vec![4, 1])), Learned { pages: false, drives: true });
        assert_eq!(lessons.learn(&told(vec![1, 4])), Learned { pages: false, drives: false });
        lessons.learn(&told((0..2 * MAX_DRIVE_CHUNKS as u32).collect()));
        assert_eq!((lessons.chunks_of("code")[..2].to_vec(), lessons.chunks_of("x")), (vec![4, 1], vec![]));
        assert_eq!(lessons.chunks_of("code").len(), MAX_DRIVE_CHUNKS);
    }
}
