//! Runs steps one after the other and keeps the record: name, time, outcome.

use std::error::Error;
use std::time::Duration;

use guest_protocol::{GateStep, StepOutcome};
use tokio::time::{Instant, timeout_at};

use crate::describe::describe;

/// Whether this build has the steps that make a clone another one.
const GATED: bool = !cfg!(feature = "ungated");

/// No step follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopped;

/// The record so far.
pub(super) struct Steps {
    deadline: Instant,
    done: Vec<GateStep>,
}

impl Steps {
    /// All steps together may take `limit` from `began` on.
    pub(super) fn begin(began: Instant, limit: Duration) -> Self {
        Self { deadline: began + limit, done: Vec::new() }
    }

    pub(super) fn into_steps(self) -> Vec<GateStep> {
        self.done
    }

    /// A step that is quick or cannot be interrupted; one that ends behind the deadline has failed all the same.
    pub(super) fn run<E: Error>(
        &mut self,
        name: &str,
        step: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), Stopped> {
        let began = Instant::now();
        let outcome = step().map(|()| StepOutcome::Done).map_err(|error| describe(&error));
        self.record(name, began, outcome)
    }

    /// A step that an `ungated` build leaves out.
    pub(super) fn run_gated<E: Error>(
        &mut self,
        name: &str,
        step: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), Stopped> {
        if GATED {
            return self.run(name, step);
        }
        self.skip(name);
        Ok(())
    }

    /// A step that waits.
    pub(super) async fn run_async<E: Error>(
        &mut self,
        name: &str,
        step: impl Future<Output = Result<(), E>>,
    ) -> Result<(), Stopped> {
        let counted = async { step.await.map(|()| 1) };
        self.run_counted(name, counted).await
    }

    /// A step that waits, and that may find nothing to do.
    pub(super) async fn run_counted<E: Error>(
        &mut self,
        name: &str,
        step: impl Future<Output = Result<usize, E>>,
    ) -> Result<(), Stopped> {
        let began = Instant::now();
        let outcome = match timeout_at(self.deadline, step).await {
            Ok(Ok(0)) => Ok(StepOutcome::Skipped),
            Ok(Ok(_)) => Ok(StepOutcome::Done),
            Ok(Err(error)) => Err(describe(&error)),
            Err(_) => Err("it took too long".to_owned()),
        };
        self.record(name, began, outcome)
    }

    /// A step with nothing to do.
    pub(super) fn skip(&mut self, name: &str) {
        self.done.push(GateStep { name: name.to_owned(), duration_us: 0, outcome: StepOutcome::Skipped });
    }

    fn record(
        &mut self,
        name: &str,
        began: Instant,
        outcome: Result<StepOutcome, String>,
    ) -> Result<(), Stopped> {
        let late = Instant::now() > self.deadline;
        let outcome = match outcome {
            Ok(_) if late => StepOutcome::Failed("it ended too late".to_owned()),
            Ok(outcome) => outcome,
            Err(reason) => StepOutcome::Failed(reason),
        };
        let stopped = matches!(outcome, StepOutcome::Failed(_));
        let duration_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.done.push(GateStep { name: name.to_owned(), duration_us, outcome });
        if stopped { Err(Stopped) } else { Ok(()) }
    }
}
