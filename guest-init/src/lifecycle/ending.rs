//! How an invocation ends: its answer first, its runtime next, its extensions last, if it has some.

use guest_protocol::{Fate, FunctionError, Outcome};

use super::failure::response_too_large;
use super::{Action, Answer, Call, Finished, Lifecycle, Micros, Phase, Refusal};

/// The time of an invocation.
pub(super) struct Took {
    pub(super) runtime_us: Micros,
    /// What extensions took when the runtime was done.
    pub(super) behind_us: Micros,
}

/// An invocation whose answer is this error.
fn failed(error: FunctionError) -> (Outcome, Vec<Action>) {
    (Outcome::Failed(error.clone()), vec![Action::SendError(error)])
}

impl Lifecycle {
    pub(super) fn answer(
        &mut self,
        now: Micros,
        request_id: &str,
        answer: Answer,
    ) -> Result<Vec<Action>, Refusal> {
        self.admits_answer(request_id)?;
        let Phase::Busy { call, .. } = &self.phase else { return Err(self.refuse("InvocationResponse")) };
        let call = call.clone();
        let (outcome, actions) = match answer {
            Answer::Response => (Outcome::Succeeded, vec![Action::SendResponse]),
            Answer::TooLarge => failed(response_too_large()),
            Answer::Error(error) => failed(error),
        };
        self.phase = Phase::Answered { call, outcome, ended: now };
        Ok(actions)
    }

    /// The runtime is done with what has begun, and extensions are not.
    pub(super) fn hold(&mut self, now: Micros) -> Vec<Action> {
        if self.held.is_some() || !self.awaits_next() {
            return vec![];
        }
        self.held = Some(now);
        match &self.phase {
            Phase::Answered { call, outcome, ended } => {
                let runtime_us = ended.saturating_sub(call.began);
                vec![Action::RuntimeDone(Finished {
                    request_id: call.request_id.clone(),
                    outcome: outcome.clone(),
                    fate: Fate::Reusable,
                    duration_us: runtime_us,
                    runtime_us,
                    init_us: None,
                    restored: None,
                    timeout_ms: call.timeout_ms,
                })]
            }
            Phase::Initializing { .. } => vec![Action::InitRuntimeDone],
            _ => vec![],
        }
    }

    /// How long the runtime's call has waited for extensions; from here on it does not.
    pub(super) fn held_for(&mut self, now: Micros) -> Micros {
        self.held.take().map_or(0, |held| now.saturating_sub(held))
    }

    pub(super) fn finish(&mut self, call: &Call, outcome: Outcome, fate: Fate, took: Took) -> Finished {
        Finished {
            request_id: call.request_id.clone(),
            outcome,
            fate,
            duration_us: took.runtime_us + took.behind_us,
            runtime_us: took.runtime_us,
            init_us: self.init_us.take(),
            restored: self.restored.take(),
            timeout_ms: call.timeout_ms,
        }
    }
}
