//! What the client of an invocation is told that did not come to an answer.

use super::{
    ApiError, INVALID_PARAMETER, INVALID_RUNTIME, INVALID_ZIP, SNAP_START_TIMEOUT, THROTTLED, UNAVAILABLE,
};
use crate::invoke::{InvokeError, Throttle};

impl From<InvokeError> for ApiError {
    fn from(error: InvokeError) -> Self {
        match error {
            InvokeError::Throttled(throttle) => {
                let (reason, message) = match throttle {
                    Throttle::Concurrency => ("ConcurrentInvocationLimitExceeded", "Rate Exceeded."),
                    Throttle::Reserved => {
                        ("ReservedFunctionConcurrentInvocationLimitExceeded", "Rate Exceeded.")
                    }
                    Throttle::Rate => ("FunctionInvocationRateLimitExceeded", "Rate Exceeded."),
                    Throttle::ReservedRate => {
                        ("ReservedFunctionInvocationRateLimitExceeded", "Rate Exceeded.")
                    }
                    Throttle::Disk => (
                        "ConcurrentInvocationLimitExceeded",
                        "This Tinderbox node's disk has no room for another function's ephemeral storage.",
                    ),
                };
                Self { reason: Some(reason), ..Self::new(&THROTTLED, message) }
            }
            // Not a throttling: clients would try again, in vain.
            InvokeError::LargerThanNode { largest_mib } => Self::new(
                &INVALID_PARAMETER,
                format!(
                    "The function's MemorySize is too large for this Tinderbox node: it can run functions of up to \
                     {largest_mib} MB."
                ),
            ),
            InvokeError::InvalidRuntime(problem) => {
                Self::new(&INVALID_RUNTIME, format!("The runtime could not be started: {problem}"))
            }
            InvokeError::InvalidCode(problem) => {
                Self::new(&INVALID_ZIP, format!("The function's code could not be used: {problem}"))
            }
            InvokeError::Node(problem) => {
                tracing::error!("an invocation was lost: {problem}");
                Self::internal()
            }
            InvokeError::NoAnswerMemory => Self::no_answer_memory(),
            InvokeError::Restore(problem) => Self::snapshot_failed(problem),
            InvokeError::RestoreTimeout => Self::new(
                &SNAP_START_TIMEOUT,
                "Lambda couldn't restore the snapshot within the timeout limit.",
            ),
            InvokeError::ShuttingDown => Self::new(&UNAVAILABLE, "The node is shutting down."),
        }
    }
}
