//! What is not to serve any more, because something about its function has changed or the node goes down.

use super::{Action, Pool, State, Tenure};
use crate::{functions::model::FunctionId, invoke::Retired, sandbox::VersionKey};

impl Pool {
    /// Something of the function changed or is gone: what exists of that serves no new request.
    pub(crate) fn retire(&mut self, function: &FunctionId, what: Retired<'_>) -> Vec<Action> {
        let matches = |key: &VersionKey| {
            key.function == *function
                && match what {
                    Retired::Function | Retired::Sandboxes => true,
                    Retired::Version(version) => key.version == version,
                    Retired::Deployment(replaced) => key.deployment_id == replaced,
                }
        };
        if what != Retired::Sandboxes {
            self.forget(matches);
        }
        self.retire_where(matches)
    }

    /// The node is going down: as [`Self::retire`], for every function.
    pub(crate) fn retire_all(&mut self) -> Vec<Action> {
        self.forget(|_| true);
        self.retire_where(|_| true)
    }

    fn retire_where(&mut self, matches: impl Fn(&VersionKey) -> bool) -> Vec<Action> {
        for queued in self.queue.iter_mut().filter(|queued| matches(&queued.demand.key)) {
            queued.tenure = Tenure::Retired;
        }
        let mut unused = Vec::new();
        for (id, entry) in self.entries.iter_mut().filter(|(_, entry)| matches(&entry.demand.key)) {
            entry.tenure = Tenure::Retired;
            if matches!(entry.state, State::Idle { .. } | State::Spare | State::Preparing { .. }) {
                unused.push(*id);
            }
        }
        self.stop_all(unused)
    }
}
