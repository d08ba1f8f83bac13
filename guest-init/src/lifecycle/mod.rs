//! What may happen when: the life of a runtime as a pure state machine. Values in, values out; no clock, no process,
//! no socket. [`crate::sandbox`] feeds it events and carries out its actions.
//!
//! ```text
//!                  next                  Invoke               response | error           next
//! Initializing ───────────► Ready ───────────────► Busy ──────────────────► Answered ─────────► Ready
//!   │      ▲                  │ exit                 │ exit, deadline          │ exit, deadline
//!   │ init │ Invoke: init is  ▼                      ▼                         ▼
//!   │ error│ repeated once   Ended                 Ended                     Ended
//!   │ exit │
//!   ▼ time │
//! InitFailed
//! ```
//!
//! An environment that is to be snapshotted is frozen at the end of its init: in `restore/next`, or in the first
//! `invocation/next` of a runtime that does not know that call. It may be frozen in any later `Ready`, too.
//!
//! ```text
//!              restore/next          Freeze          Unique             next
//! Initializing ───────────► Parked ─────────► Frozen ──────► Restoring ──────► Ready
//!                                    ▲   │                       │ restore/error, exit, deadline
//!                            Freeze  │   │ Unique                ▼
//!                                  Ready ◄                     Ended
//! ```
//!
//! Source: the Runtime API's documentation and the behaviour of AWS's runtime interface emulator: a call that the
//! current state does not allow is refused and changes nothing.

mod ending;
mod event;
mod exit;
mod failure;
mod restore;
#[cfg(test)]
mod tests;

use guest_protocol::{Fate, InitFailure, InitializationType, Outcome, ShutdownNeeds};

use ending::Took;
pub use event::{Action, Answer, Event, Finished, InitStatus, Micros, Plan, Refusal, Restored, Resume};
pub use exit::Exit;
use failure::Failure;

/// An invocation that the sandbox has taken.
#[derive(Clone, Debug)]
struct Call {
    request_id: String,
    timeout_ms: u32,
    began: Micros,
}

impl Call {
    fn deadline(&self) -> Micros {
        self.began + u64::from(self.timeout_ms) * 1000
    }
}

#[derive(Clone, Debug)]
enum Phase {
    /// The first init; an invocation that came early waits.
    Initializing {
        began: Micros,
        waiting: Option<Call>,
    },
    /// The first init failed.
    InitFailed,
    /// Init again, on this invocation's time.
    InitializingAgain(Call),
    Ready,
    /// The runtime waits in `restore/next`.
    Parked,
    /// The function stands still; where it waits, says [`Waits`].
    Frozen(Waits),
    /// `restore/next` is answered; the runtime's hooks run.
    Restoring {
        resume: Resume,
        thawed: Micros,
    },
    Busy {
        call: Call,
        delivered: bool,
    },
    Answered {
        call: Call,
        outcome: Outcome,
        ended: Micros,
    },
    Ended,
}

/// The call in which a frozen runtime waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    RestoreNext,
    InvocationNext,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    Alive,
    /// Killed, not yet gone.
    Dying,
    Gone,
}

/// The state machine.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    plan: Plan,
    phase: Phase,
    process: Process,
    /// Duration of the successful first init until an invocation has reported it.
    init_us: Option<Micros>,
    /// The restore until an invocation has reported it.
    restored: Option<Restored>,
    /// Since when the runtime's call waits for extensions.
    held: Option<Micros>,
}

impl Lifecycle {
    /// A sandbox that begins its init now.
    #[must_use]
    pub fn begin(now: Micros, plan: Plan) -> (Self, Vec<Action>) {
        let phase = Phase::Initializing { began: now, waiting: None };
        let begun = Self { plan, phase, process: Process::Alive, init_us: None, restored: None, held: None };
        (begun, vec![Action::Launch])
    }

    /// When to come back with [`Event::Deadline`]; never when nothing is under way.
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        match &self.phase {
            Phase::Initializing { began, .. } => Some(began + self.plan.init_timeout_us),
            Phase::Restoring { resume, .. } => Some(resume.deadline),
            Phase::InitializingAgain(call) | Phase::Busy { call, .. } | Phase::Answered { call, .. } => {
                Some(call.deadline())
            }
            Phase::InitFailed | Phase::Ready | Phase::Parked | Phase::Frozen(_) | Phase::Ended => None,
        }
    }

    /// Whether nothing can be asked of the sandbox any more.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// Whether what was under way has failed, and extensions are to be told.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        matches!(self.phase, Phase::Ended | Phase::InitFailed)
    }

    /// Whether the runtime's next call ends an init or an invocation, for which extensions are waited for.
    #[must_use]
    pub fn awaits_next(&self) -> bool {
        let awaits = matches!(
            self.phase,
            Phase::Initializing { .. } | Phase::InitializingAgain(_) | Phase::Answered { .. }
        );
        awaits && self.process == Process::Alive
    }

    /// Whether the runtime is being initialised.
    #[must_use]
    pub fn is_initializing(&self) -> bool {
        matches!(self.phase, Phase::Initializing { .. } | Phase::InitializingAgain(_))
    }

    /// Whether the function stands still.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        matches!(self.phase, Phase::Frozen(_))
    }

    /// Whether an answer to this invocation would be taken, before its document is read.
    ///
    /// # Errors
    /// [`Refusal`] when not.
    pub fn admits_answer(&self, request_id: &str) -> Result<(), Refusal> {
        match &self.phase {
            Phase::Busy { call, .. } if call.request_id != request_id => Err(Refusal::InvalidRequestId),
            Phase::Busy { delivered: true, .. } if self.process == Process::Alive => Ok(()),
            _ => Err(self.refuse("InvocationResponse")),
        }
    }

    /// Whether an init error would be taken, before its document is read.
    ///
    /// # Errors
    /// [`Refusal`] when not.
    pub fn admits_init_error(&self) -> Result<(), Refusal> {
        match &self.phase {
            Phase::Initializing { .. } | Phase::InitializingAgain(_) if self.process == Process::Alive => {
                Ok(())
            }
            _ => Err(self.refuse("InitError")),
        }
    }

    /// Takes an event and says what to do, in order.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn step(&mut self, now: Micros, event: Event) -> Result<Vec<Action>, Refusal> {
        match event {
            Event::Invoke { request_id, timeout_ms } => {
                self.invoke(now, Call { request_id, timeout_ms, began: now })
            }
            Event::Next => self.next(now),
            Event::Held => Ok(self.hold(now)),
            Event::Undelivered => {
                if let Phase::Busy { delivered, .. } = &mut self.phase {
                    *delivered = false;
                }
                Ok(vec![])
            }
            Event::Answer { request_id, answer } => self.answer(now, &request_id, answer),
            Event::InitError(error) => {
                self.admits_init_error()?;
                self.process = Process::Dying;
                let mut actions = vec![Action::Kill];
                actions.extend(self.fail(now, Failure::Reported(error)));
                Ok(actions)
            }
            Event::RestoreNext => self.restore_next(now),
            Event::RestoreError(error) => self.restore_error(now, error),
            Event::Freeze => self.freeze(),
            Event::Unique(resume) => self.unique(now, resume),
            Event::Exited(exit) => {
                let was = self.process;
                self.process = Process::Gone;
                // A process that was killed has been accounted for; only a repeated init may wait for its end.
                match (&self.phase, was) {
                    (Phase::InitializingAgain(_), Process::Dying) => {
                        self.process = Process::Alive;
                        Ok(vec![Action::Launch])
                    }
                    (_, Process::Alive) => Ok(self.fail(now, Failure::Exited(exit))),
                    _ => Ok(vec![]),
                }
            }
            Event::ExtensionFailed(error) => {
                let mut actions = self.kill();
                actions.extend(self.fail(now, Failure::Reported(error)));
                Ok(actions)
            }
            Event::Deadline => {
                if self.deadline().is_none_or(|deadline| now < deadline) {
                    return Ok(vec![]);
                }
                let mut actions = self.kill();
                actions.extend(self.fail(now, Failure::OutOfTime));
                Ok(actions)
            }
        }
    }

    fn invoke(&mut self, now: Micros, call: Call) -> Result<Vec<Action>, Refusal> {
        let begin = Action::Begin { request_id: call.request_id.clone() };
        match &mut self.phase {
            Phase::Initializing { waiting: waiting @ None, .. }
                if self.plan.initialization_type == InitializationType::OnDemand =>
            {
                *waiting = Some(call);
                Ok(vec![])
            }
            Phase::InitFailed => Ok(self.init_again(now, call)),
            Phase::Ready => {
                self.phase = Phase::Busy { call, delivered: true };
                Ok(vec![begin, Action::Deliver])
            }
            _ => Err(Refusal::Busy),
        }
    }

    fn init_again(&mut self, now: Micros, call: Call) -> Vec<Action> {
        let mut actions = vec![Action::Begin { request_id: call.request_id.clone() }];
        self.phase = Phase::InitializingAgain(Call { began: now, ..call });
        if self.process == Process::Gone {
            self.process = Process::Alive;
            actions.push(Action::Launch);
        }
        actions
    }

    fn next(&mut self, now: Micros) -> Result<Vec<Action>, Refusal> {
        if self.process != Process::Alive {
            return Err(self.refuse("Ready"));
        }
        match std::mem::replace(&mut self.phase, Phase::Ready) {
            Phase::Initializing { began, waiting } => {
                self.held = None;
                let duration_us = now.saturating_sub(began);
                // Nobody waited for an init ahead of time: it is told of by itself, and no invocation has it.
                let ahead = self.plan.initialization_type == InitializationType::Provisioned;
                self.init_us = (!ahead).then_some(duration_us);
                let mut actions = vec![Action::InitDone { duration_us }];
                if let Some(call) = waiting {
                    actions.push(Action::Begin { request_id: call.request_id.clone() });
                    actions.push(Action::Deliver);
                    self.phase = Phase::Busy { call: Call { began: now, ..call }, delivered: true };
                }
                Ok(actions)
            }
            Phase::Restoring { resume, thawed } => Ok(vec![self.restore_done(now, resume, thawed)]),
            // It was sent before the freeze and read after it.
            phase @ Phase::Frozen(Waits::InvocationNext) => {
                self.phase = phase;
                Ok(vec![])
            }
            Phase::InitializingAgain(call) | Phase::Busy { call, delivered: false } => {
                self.held = None;
                self.phase = Phase::Busy { call, delivered: true };
                Ok(vec![Action::Deliver])
            }
            Phase::Ready => Ok(vec![]),
            Phase::Answered { call, outcome, ended } => {
                let took =
                    Took { runtime_us: ended.saturating_sub(call.began), behind_us: self.held_for(now) };
                Ok(vec![Action::Finish(self.finish(&call, outcome, Fate::Reusable, took))])
            }
            phase => {
                self.phase = phase;
                Err(self.refuse("Ready"))
            }
        }
    }

    /// Whatever was under way has failed.
    fn fail(&mut self, now: Micros, failure: Failure) -> Vec<Action> {
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Initializing { began, waiting } => {
                let duration_us = now.saturating_sub(began);
                let (error, status) = failure.in_init(self.plan.init_timeout_us);
                self.held = None;
                self.phase = Phase::InitFailed;
                let mut actions = vec![Action::InitFailed(
                    InitFailure { error, duration_us, shutdown: ShutdownNeeds::None },
                    status,
                )];
                if let Some(call) = waiting {
                    actions.extend(self.init_again(now, call));
                }
                actions
            }
            Phase::InitializingAgain(call) | Phase::Busy { call, .. } => {
                self.held = None;
                let outcome = failure.in_invocation(&call.request_id);
                let took = Took { runtime_us: now.saturating_sub(call.began), behind_us: 0 };
                vec![Action::Finish(self.finish(&call, outcome, Fate::Ended, took))]
            }
            Phase::Answered { call, outcome, ended } => {
                let outcome = match failure {
                    Failure::OutOfTime => Outcome::TimedOut,
                    Failure::Exited(_) | Failure::Reported(_) => outcome,
                };
                let took =
                    Took { runtime_us: ended.saturating_sub(call.began), behind_us: self.held_for(now) };
                vec![Action::Finish(self.finish(&call, outcome, Fate::Ended, took))]
            }
            Phase::Ready | Phase::Parked | Phase::Frozen(_) => match failure {
                Failure::Exited(exit) => vec![Action::End(exit.error(None))],
                Failure::Reported(error) => vec![Action::End(error)],
                Failure::OutOfTime => vec![],
            },
            Phase::Restoring { resume, .. } => vec![restore::failed(now, resume, failure)],
            Phase::InitFailed => {
                self.phase = Phase::InitFailed;
                vec![]
            }
            Phase::Ended => vec![],
        }
    }

    fn kill(&mut self) -> Vec<Action> {
        if self.process != Process::Alive {
            return vec![];
        }
        self.process = Process::Dying;
        vec![Action::Kill]
    }

    /// The refusal of a call, with the emulator's names of the states.
    fn refuse(&self, to: &'static str) -> Refusal {
        let from = match &self.phase {
            Phase::Initializing { .. } | Phase::InitializingAgain(_) => "Started",
            Phase::InitFailed | Phase::Ended => "InitError",
            Phase::Ready => "Ready",
            Phase::Parked | Phase::Frozen(_) => "RestoreReady",
            Phase::Restoring { .. } => "Restoring",
            Phase::Busy { .. } => "Running",
            Phase::Answered { .. } => "ResponseSent",
        };
        Refusal::InvalidTransition { from, to }
    }
}
