//! The states of sandboxes, and sums over them, so that no request costs a scan of all.

use std::{collections::HashMap, sync::Arc, time::Instant};

use crate::sandbox::VersionKey;

/// A sandbox's place in its life. `Starting` keeps whether it still counts against `Limits::max_starting`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Starting {
        holds_slot: bool,
    },
    /// As `Starting`, for nobody yet: it is to wait, ready.
    Preparing {
        holds_slot: bool,
    },
    Busy,
    Idle {
        since: Instant,
    },
    /// Serves nobody: something is made in it that can as well be made later.
    Spare,
    Stopping,
}

/// Sums over `entries`, kept so that a warm request costs no scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Memory of sandboxes that are neither gone nor going.
    pub(super) live_mib: u64,
    /// Memory of sandboxes that are going away.
    pub(super) stopping_mib: u64,
    /// Memory promised to queued requests, and to what is to be prepared.
    pub(super) queued_mib: u64,
    /// Sandboxes that count against `max_starting`.
    pub(super) slots: usize,
    /// Sandboxes that are starting or busy: each serves one request.
    pub(super) serving: usize,
}

impl Tally {
    /// A sandbox is in that state from now on.
    pub(super) fn add(&mut self, state: State, mib: u64) {
        match state {
            State::Stopping => self.stopping_mib += mib,
            _ => self.live_mib += mib,
        }
        self.slots += usize::from(holds_slot(state));
        self.serving += usize::from(matches!(state, State::Starting { .. } | State::Busy));
    }

    /// A sandbox is no longer in that state.
    pub(super) fn remove(&mut self, state: State, mib: u64) {
        match state {
            State::Stopping => self.stopping_mib -= mib,
            _ => self.live_mib -= mib,
        }
        self.slots -= usize::from(holds_slot(state));
        self.serving -= usize::from(matches!(state, State::Starting { .. } | State::Busy));
    }
}

/// Sandboxes that are on their way, by version. No zeros.
#[derive(Debug, Default)]
pub(super) struct OnTheWay(HashMap<Arc<VersionKey>, usize>);

impl OnTheWay {
    pub(super) fn of(&self, key: &VersionKey) -> usize {
        self.0.get(key).copied().unwrap_or_default()
    }

    /// A sandbox is in that state from now on.
    pub(super) fn add(&mut self, state: State, key: &Arc<VersionKey>) {
        if is_on_the_way(state) {
            *self.0.entry(Arc::clone(key)).or_default() += 1;
        }
    }

    /// A sandbox is no longer in that state.
    pub(super) fn remove(&mut self, state: State, key: &VersionKey) {
        if !is_on_the_way(state) {
            return;
        }
        let Some(count) = self.0.get_mut(key) else { return };
        *count -= 1;
        if *count == 0 {
            self.0.remove(key);
        }
    }
}

fn is_on_the_way(state: State) -> bool {
    matches!(state, State::Starting { .. } | State::Preparing { .. })
}

fn holds_slot(state: State) -> bool {
    matches!(state, State::Starting { holds_slot: true } | State::Preparing { holds_slot: true })
}
