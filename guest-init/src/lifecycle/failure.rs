//! Why what was under way failed, and Lambda's words for it in each phase.

use guest_protocol::{FunctionError, Outcome, timed_out_message};

use super::{Exit, InitStatus, Micros};

/// Why what was under way failed.
pub(super) enum Failure {
    Reported(FunctionError),
    Exited(Exit),
    OutOfTime,
}

impl Failure {
    pub(super) fn in_init(self, init_timeout_us: Micros) -> (FunctionError, InitStatus) {
        match self {
            Self::Reported(error) => (error, InitStatus::Error),
            Self::Exited(exit) => (exit.error(None), InitStatus::Error),
            Self::OutOfTime => {
                let timeout_ms = u32::try_from(init_timeout_us / 1000).unwrap_or(u32::MAX);
                let message = timed_out_message(timeout_ms);
                (FunctionError::new("Sandbox.Timedout", &message), InitStatus::Timeout)
            }
        }
    }

    pub(super) fn in_invocation(self, request_id: &str) -> Outcome {
        match self {
            Self::Reported(error) => Outcome::Failed(error),
            Self::Exited(exit) => Outcome::Exited(exit.error(Some(request_id))),
            Self::OutOfTime => Outcome::TimedOut,
        }
    }
}

pub(super) fn response_too_large() -> FunctionError {
    let limit = guest_protocol::MAX_RESPONSE_LEN;
    let message = format!("Response payload size exceeded maximum allowed payload size ({limit} bytes).");
    FunctionError::new("Function.ResponseSizeTooLarge", &message)
}
