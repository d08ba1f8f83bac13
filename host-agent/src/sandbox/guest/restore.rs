//! The agent's side of what happens around a snapshot: freeze before it, gate and restore after it.

use guest_protocol::{
    FreezeReport, GateReport, GateStep, GuestMessage, HostMessage, PROTOCOL_VERSION, RestoreFailure,
    RestoreReport, StepOutcome, Unique, encode,
};
use tokio::io::AsyncWriteExt as _;

use super::{Breach, Guest, GuestError};
use crate::sandbox::{logs::Logs, packet::PacketSocket};

/// Most steps of a report that are looked at: the gate has about ten.
const MAX_STEPS: usize = 64;

/// Characters of a guest's own words that are repeated: ours are shorter.
const MAX_WORDS: usize = 200;

/// How a restore ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Restored {
    /// The runtime asks for invocations.
    Done(RestoreReport),
    /// Its hooks failed, or were late: there is no use in trying again.
    Failed(RestoreFailure),
}

impl Guest {
    /// Has the function stand still. The guest says nothing more; its connection is to be kept until the machine is
    /// paused.
    pub(crate) async fn freeze(&mut self, logs: &mut Logs) -> Result<FreezeReport, GuestError> {
        self.outgoing.write_all(&encode(&HostMessage::Freeze)?).await?;
        loop {
            match self.incoming.next().await? {
                GuestMessage::Log(chunk) => logs.write(&chunk),
                GuestMessage::Ended(error) => return Err(GuestError::Ended(error)),
                GuestMessage::Frozen(report) => return Ok(report),
                other => return Err(Breach::unexpected(&other, "freezing").into()),
            }
        }
    }

    /// Takes the new connection of a resumed guest, which must have been resumed with `counter`. Every guest of ours has a
    /// VMClock page: one that reads no counter there does not know whether it is a clone.
    pub(crate) async fn resumed(broker: &PacketSocket, counter: u64) -> Result<Self, GuestError> {
        let mut guest = Self::connected(broker).await?;
        match guest.incoming.next().await? {
            GuestMessage::Resumed(hello) if hello.protocol_version != PROTOCOL_VERSION => {
                Err(GuestError::Version(hello.protocol_version))
            }
            GuestMessage::Resumed(hello) => match hello.generation_counter {
                Some(found) if found == counter => Ok(guest),
                found => Err(GuestError::Generation { given: counter, found }),
            },
            other => Err(Breach::unexpected(&other, "resuming").into()),
        }
    }

    /// Makes the guest unique. After this the function runs again.
    pub(crate) async fn make_unique(
        &mut self,
        unique: Unique,
        logs: &mut Logs,
    ) -> Result<GateReport, GuestError> {
        self.outgoing.write_all(&encode(&HostMessage::MakeUnique(unique))?).await?;
        loop {
            match self.incoming.next().await? {
                GuestMessage::Log(chunk) => logs.write(&chunk),
                GuestMessage::Unique(report) => {
                    return match failed_step(&report) {
                        None => Ok(report),
                        Some(problem) => Err(GuestError::Gate(problem)),
                    };
                }
                GuestMessage::GateFailed(report) => {
                    return Err(GuestError::Gate(
                        failed_step(&report).unwrap_or_else(|| "it does not say why".into()),
                    ));
                }
                other => return Err(Breach::unexpected(&other, "becoming unique").into()),
            }
        }
    }

    /// Waits until the runtime of a unique guest asks for invocations.
    pub(crate) async fn restored(&mut self, logs: &mut Logs) -> Result<Restored, GuestError> {
        loop {
            match self.incoming.next().await? {
                GuestMessage::Log(chunk) => logs.write(&chunk),
                GuestMessage::RestoreDone(report) => {
                    self.shutdown_needs = report.shutdown;
                    return Ok(Restored::Done(report));
                }
                GuestMessage::RestoreFailed(failure) => return Ok(Restored::Failed(failure)),
                other => return Err(Breach::unexpected(&other, "restoring").into()),
            }
        }
    }
}

/// The step that failed, and why. A guest that says it is unique and reports a failure is not believed.
fn failed_step(report: &GateReport) -> Option<String> {
    report.steps.iter().take(MAX_STEPS).find_map(|step| match &step.outcome {
        StepOutcome::Failed(problem) => Some(format!("{}: {}", words(&step.name), words(problem))),
        StepOutcome::Done | StepOutcome::Skipped => None,
    })
}

/// `entropy 12, hooks skipped`: what a guest says of its steps, µs, on one line.
pub(crate) fn told(steps: &[GateStep]) -> String {
    let one = |GateStep { name, duration_us, outcome }: &GateStep| {
        let name = words(name);
        match outcome {
            StepOutcome::Done => format!("{name} {duration_us}"),
            StepOutcome::Skipped => format!("{name} skipped"),
            StepOutcome::Failed(why) => format!("{name} failed ({}) after {duration_us}", words(why)),
        }
    };
    steps.iter().take(MAX_STEPS).map(one).collect::<Vec<_>>().join(", ")
}

/// What a guest wrote, as far as it is repeated: it may be anything, and of any length.
fn words(text: &str) -> String {
    text.chars().take(MAX_WORDS).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, outcome: StepOutcome) -> GateStep {
        GateStep { name: name.into(), duration_us: 12, outcome }
    }

    #[test]
    fn steps_are_told_on_one_line_whatever_a_guest_calls_them() {
        let failed = StepOutcome::Failed("exit\n9".into());
        let steps =
            [step("entropy", StepOutcome::Done), step("a\nb", StepOutcome::Skipped), step("hooks", failed)];
        assert_eq!(told(&steps), "entropy 12, a b skipped, hooks failed (exit 9) after 12");
    }

    #[test]
    fn a_guest_that_tells_more_is_cut_short() {
        let long = "\u{1f525}".repeat(1 << 18);
        let steps = vec![step(&long, StepOutcome::Failed(long.clone())); 1000];
        let most = MAX_STEPS * (2 * MAX_WORDS * "\u{1f525}".len() + 40);
        assert!(told(&steps).len() < most);
        let failed = failed_step(&GateReport { steps, duration_us: 0 }).unwrap();
        assert!(failed.len() < most / MAX_STEPS);
    }
}
