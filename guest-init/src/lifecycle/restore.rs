//! The part of the state machine around a snapshot.

use guest_protocol::{FunctionError, InitializationType, RestoreFailure, timed_out_message};

use super::{Action, Failure, Lifecycle, Micros, Phase, Process, Refusal, Restored, Resume, Waits};

impl Lifecycle {
    /// Whether a restore error would be taken, before its document is read.
    ///
    /// # Errors
    /// [`Refusal`] when not.
    pub fn admits_restore_error(&self) -> Result<(), Refusal> {
        self.knows_restore()?;
        match &self.phase {
            Phase::Restoring { .. } if self.process == Process::Alive => Ok(()),
            _ => Err(self.refuse("RestoreError")),
        }
    }

    pub(super) fn restore_next(&mut self, now: Micros) -> Result<Vec<Action>, Refusal> {
        self.knows_restore()?;
        match &self.phase {
            _ if self.process != Process::Alive => Err(self.refuse("RestoreReady")),
            Phase::Initializing { began, .. } => {
                self.held = None;
                let duration_us = now.saturating_sub(*began);
                self.phase = Phase::Parked;
                Ok(vec![Action::InitDone { duration_us }])
            }
            // The connection of the first call broke, or its answer was lost.
            Phase::Parked | Phase::Frozen(Waits::RestoreNext) => Ok(vec![]),
            Phase::Restoring { .. } => Ok(vec![Action::AnswerRestore]),
            _ => Err(self.refuse("RestoreReady")),
        }
    }

    pub(super) fn restore_error(
        &mut self,
        now: Micros,
        error: FunctionError,
    ) -> Result<Vec<Action>, Refusal> {
        self.admits_restore_error()?;
        self.process = Process::Dying;
        let mut actions = vec![Action::Kill];
        actions.extend(self.fail(now, Failure::Reported(error)));
        Ok(actions)
    }

    pub(super) fn freeze(&mut self) -> Result<Vec<Action>, Refusal> {
        let waits = match &self.phase {
            Phase::Parked => Waits::RestoreNext,
            Phase::Ready => Waits::InvocationNext,
            _ => return Err(Refusal::Busy),
        };
        if self.process != Process::Alive {
            return Err(Refusal::Busy);
        }
        // What REPORT says of an init belongs to the original, not to its clones.
        self.init_us = None;
        self.phase = Phase::Frozen(waits);
        Ok(vec![Action::Freeze])
    }

    pub(super) fn unique(&mut self, now: Micros, resume: Resume) -> Result<Vec<Action>, Refusal> {
        match &self.phase {
            Phase::Frozen(Waits::RestoreNext) => {
                self.phase = Phase::Restoring { resume, thawed: now };
                Ok(vec![Action::AnswerRestore])
            }
            // Nothing of the runtime's is to be waited for: it has no hooks.
            Phase::Frozen(Waits::InvocationNext) => {
                self.phase = Phase::Ready;
                Ok(vec![self.restore_done(now, resume, now)])
            }
            _ => Err(Refusal::Busy),
        }
    }

    pub(super) fn restore_done(&mut self, now: Micros, resume: Resume, thawed: Micros) -> Action {
        let total_us = duration(now, resume);
        self.restored = Some(Restored { total_us, billed_us: now.saturating_sub(thawed) });
        Action::RestoreDone { duration_us: total_us }
    }

    fn knows_restore(&self) -> Result<(), Refusal> {
        match self.plan.initialization_type {
            InitializationType::SnapStart => Ok(()),
            InitializationType::OnDemand | InitializationType::Provisioned => Err(Refusal::NotSnapStart),
        }
    }
}

pub(super) fn failed(now: Micros, resume: Resume, failure: Failure) -> Action {
    let (error, timed_out) = match failure {
        Failure::Reported(error) => (error, false),
        Failure::Exited(exit) => (exit.error(None), false),
        Failure::OutOfTime => {
            let limit = resume.deadline.saturating_sub(resume.at) / 1000;
            let message = timed_out_message(u32::try_from(limit).unwrap_or(u32::MAX));
            (FunctionError::new("Sandbox.Timedout", &message), true)
        }
    };
    Action::RestoreFailed(RestoreFailure { error, timed_out, duration_us: duration(now, resume) })
}

fn duration(now: Micros, resume: Resume) -> Micros {
    now.saturating_sub(resume.at).saturating_add(resume.elapsed_us)
}
