//! What clones of a snapshot touch, told by the first of them, so that the others have it before they run.
//!
//! What is told of a runtime's snapshot, which all tenants share, ends before the clone is told whose it is. It is a list of
//! numbers: whoever could forge it, a clone that has broken out of its VMM among them, makes other clones of the same
//! snapshot slower, and nothing else.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use vmm_api::{MAX_WORKING_SET, WorkingSet};

/// Clones that are listened to. What the first one touches by chance is fetched for all; what the fifth one lacks is chance.
const TEACHERS: usize = 4;

// All that they can tell has room in a prefetch file.
const _: () = assert!(TEACHERS * MAX_WORKING_SET <= snapshot::MAX_PREFETCH_PAGES);

/// What is known of a snapshot's pages.
#[derive(Debug, Default)]
pub(super) struct Lessons(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// In the order in which they were told.
    pages: Vec<u32>,
    /// Lessons that are over or under way.
    begun: usize,
}

impl Lessons {
    /// Of a snapshot that has learned all that it is going to.
    pub(super) fn over() -> Self {
        Self(Mutex::new(State { pages: Vec::new(), begun: TEACHERS }))
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

    /// Appends what a clone had to wait for; whether there was anything new.
    pub(super) fn learn(&self, faulted: &WorkingSet) -> bool {
        self.with(|state| {
            let mut known: HashSet<u32> = state.pages.iter().copied().collect();
            let before = state.pages.len();
            let told = faulted.0.iter().copied().take(MAX_WORKING_SET);
            state.pages.extend(told.filter(|page| known.insert(*page)));
            state.pages.len() > before
        })
    }

    /// All that is known, in the order in which it was told.
    pub(super) fn pages(&self) -> Vec<u32> {
        self.with(|state| state.pages.clone())
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_clones_teach_and_what_they_tell_is_bounded() {
        let lessons = Lessons::default();
        assert!(lessons.begin() && lessons.learn(&WorkingSet(vec![7, 3, 7])));
        assert_eq!(lessons.pages(), [7, 3]);
        assert!(
            lessons.begin() && !lessons.learn(&WorkingSet(vec![3])) && lessons.learn(&WorkingSet(vec![3, 9]))
        );
        assert_eq!(lessons.pages(), [7, 3, 9]);
        let many = WorkingSet((100..100 + 2 * MAX_WORKING_SET as u32).collect());
        assert!(lessons.begin() && lessons.learn(&many));
        assert_eq!(lessons.pages().len(), 3 + MAX_WORKING_SET);
        assert!(lessons.begin() && !lessons.begin());
        lessons.give_back();
        assert!(lessons.begin() && !lessons.begin());
        assert!(!Lessons::over().begin());
    }
}
