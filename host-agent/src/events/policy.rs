//! What happens to an event after an attempt, as AWS has it: values in, values out.
//!
//! The function's errors are tried again as often as configured, after one and then two minutes; errors of the node until the event
//! is too old, after a second and then twice as long each time. Being throttled is no attempt (`schedule`).

use crate::functions::attached::EventInvoke;

/// How long an event is tried when nobody says otherwise: AWS's six hours.
pub(crate) const MAX_AGE_S: u64 = 21_600;

/// How often the function is tried again when nobody says otherwise.
const MAX_RETRIES: u32 = 2;

/// After the function's first error, and after any later one.
const RETRY_MS: [u64; 2] = [60_000, 120_000];

/// After the node's first error, and at most.
const MIN_BACKOFF_MS: u64 = 1000;
const MAX_BACKOFF_MS: u64 = 300_000;

/// Why an event is given up: `condition` of the record about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The function failed as often as it may.
    RetriesExhausted,
    /// It is too old, or would be.
    EventAgeExceeded,
    /// The function may not run at all.
    ZeroReservedConcurrency,
    /// Too many events came before it, each the cause of the next.
    RecursiveLoop,
}

impl Failure {
    /// AWS's word, where there is one.
    pub(crate) fn condition(self) -> &'static str {
        match self {
            Self::RetriesExhausted => "RetriesExhausted",
            Self::EventAgeExceeded => "EventAgeExceeded",
            Self::ZeroReservedConcurrency => "ZeroReservedConcurrency",
            // None is documented.
            Self::RecursiveLoop => "RecursiveLoop",
        }
    }
}

/// What is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Oldest that an event may be when it is delivered.
    max_age_ms: u64,
    /// Retries after errors of the function.
    max_retries: u32,
}

impl Rules {
    /// As somebody said, and AWS where nobody did.
    pub(crate) fn of(config: Option<&EventInvoke>) -> Self {
        let age = config.and_then(|config| config.max_age_s).and_then(|age| u64::try_from(age).ok());
        let retries = config.and_then(|config| config.max_retries).and_then(|most| u32::try_from(most).ok());
        Self { max_age_ms: age.unwrap_or(MAX_AGE_S) * 1000, max_retries: retries.unwrap_or(MAX_RETRIES) }
    }

    /// Whether an event is too old to be delivered.
    pub(crate) fn is_over(&self, accepted_ms: u64, now_ms: u64) -> bool {
        now_ms > accepted_ms.saturating_add(self.max_age_ms)
    }

    /// When an event is tried again with which the function has failed so many times.
    ///
    /// # Errors
    /// Why it is not.
    pub(crate) fn after_error(&self, accepted_ms: u64, now_ms: u64, calls: u32) -> Result<u64, Failure> {
        if calls > self.max_retries {
            return Err(Failure::RetriesExhausted);
        }
        let wait = RETRY_MS[usize::from(calls > 1)];
        self.in_time(accepted_ms, now_ms + wait)
    }

    /// When an event is tried again which the node could not deliver so many times in a row.
    ///
    /// # Errors
    /// Why it is not.
    pub(crate) fn after_failure(&self, accepted_ms: u64, now_ms: u64, failures: u32) -> Result<u64, Failure> {
        self.in_time(accepted_ms, now_ms + backoff_ms(failures))
    }

    fn in_time(&self, accepted_ms: u64, at_ms: u64) -> Result<u64, Failure> {
        let last_ms = accepted_ms.saturating_add(self.max_age_ms);
        if at_ms >= last_ms { Err(Failure::EventAgeExceeded) } else { Ok(at_ms) }
    }
}

/// The wait after so many failures in a row.
pub(crate) fn backoff_ms(failures: u32) -> u64 {
    let doublings = failures.saturating_sub(1).min(MAX_BACKOFF_MS.ilog2());
    (MIN_BACKOFF_MS << doublings).min(MAX_BACKOFF_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(max_age_s: Option<i64>, max_retries: Option<i64>) -> Rules {
        Rules::of(Some(&EventInvoke { max_age_s, max_retries, ..EventInvoke::default() }))
    }

    #[test]
    fn an_error_is_tried_again_after_one_and_two_minutes() {
        let usual = Rules::of(None);
        assert_eq!(usual.after_error(0, 5, 1), Ok(60_005));
        assert_eq!(usual.after_error(0, 60_010, 2), Ok(180_010));
        assert_eq!(usual.after_error(0, 180_020, 3), Err(Failure::RetriesExhausted));
        assert_eq!(rules(None, Some(0)).after_error(0, 5, 1), Err(Failure::RetriesExhausted));
    }

    #[test]
    fn a_retry_that_would_come_too_late_is_none() {
        // As recorded: 60 s are too few for the first retry, 90 s for the second.
        assert_eq!(rules(Some(60), None).after_error(0, 0, 1), Err(Failure::EventAgeExceeded));
        assert_eq!(rules(Some(90), None).after_error(0, 1, 1), Ok(60_001));
        assert_eq!(rules(Some(90), None).after_error(0, 60_002, 2), Err(Failure::EventAgeExceeded));
        assert!(rules(Some(60), None).is_over(0, 60_001) && !rules(Some(60), None).is_over(0, 60_000));
    }

    #[test]
    fn the_nodes_failures_wait_from_a_second_to_five_minutes() {
        let waits: Vec<_> = (1..=11).map(backoff_ms).collect();
        assert_eq!(&waits[..4], [1000, 2000, 4000, 8000]);
        assert_eq!((waits[8], waits[9], waits[10]), (256_000, 300_000, 300_000));
        assert_eq!(backoff_ms(u32::MAX), 300_000);
        assert_eq!(Rules::of(None).after_failure(0, 21_599_500, 1), Err(Failure::EventAgeExceeded));
    }
}
