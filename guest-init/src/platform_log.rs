//! The lines that the platform itself writes into a function's log, byte for byte as Lambda's, because users grep and
//! parse them: text here, JSON documents in `json`. Pure.

mod json;

use std::time::Duration;

use guest_protocol::{
    FunctionError, GateReport, InitFailure, InitializationType, LogFormat, Outcome, RestoreFailure, Start,
    StepOutcome, SystemLogLevel, timed_out_message,
};
use serde_json::Value;

use crate::extensions::Extensions;
use crate::gate;
use crate::lifecycle::{Finished, InitStatus, Micros, Restored};
use crate::telemetry::{Api, Category, Subscription};

/// What the platform has to say.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The init begins.
    InitStart,
    /// The extensions that there are when the init ends.
    Extensions(&'a Extensions),
    /// The runtime has been initialised, or has failed for this reason.
    InitRuntimeDone(Option<(&'a InitFailure, InitStatus)>),
    /// The init has ended, after so many µs.
    InitDone(Micros),
    /// The init has failed.
    InitFailed(&'a InitFailure, InitStatus),
    /// A clone is unique and is being restored.
    RestoreStart,
    /// A clone is restored, after so many µs.
    RestoreDone(Micros),
    /// A clone could not be restored.
    RestoreFailed(&'a RestoreFailure),
    /// Why an executable in `restore.d` was the end of a clone.
    HookFailed(&'a str),
    /// An invocation with this id begins.
    Start(&'a str),
    /// The runtime is done with an invocation.
    RuntimeDone(&'a Finished, Memory),
    /// An invocation has ended.
    Finished(&'a Finished, Memory),
    /// An extension has subscribed.
    Subscribed(&'a str, &'a Subscription),
}

/// One document: its level, its type, what it says.
pub type Document = (SystemLogLevel, &'static str, Value);

impl Event<'_> {
    /// Its lines in the log of the function that `start` names, `now` after the Unix epoch; none when the function's
    /// settings want none.
    #[must_use]
    pub fn lines(&self, start: &Start, now: Duration) -> Option<String> {
        let at = timestamp(now);
        match start.log_format {
            LogFormat::Text => self.text(start, &at),
            LogFormat::Json(level) => json::lines(self, start, level, &at),
        }
    }

    /// What it is in the shape of AWS's Telemetry API.
    #[must_use]
    pub fn documents(&self, start: &Start) -> Vec<Document> {
        json::documents(self, start)
    }

    fn text(&self, start: &Start, now: &str) -> Option<String> {
        let line = match self {
            Self::InitStart => init_start(start),
            Self::Extensions(book) => {
                let line = |(name, state, events): (&str, &str, Vec<&str>)| {
                    format!("EXTENSION\tName: {name}\tState: {state}\tEvents: [{}]\n", events.join(", "))
                };
                let lines: String = book.states().map(line).collect();
                return (!lines.is_empty()).then_some(lines);
            }
            Self::InitRuntimeDone(_) | Self::RuntimeDone(..) => return None,
            Self::InitDone(_) if start.initialization_type == InitializationType::OnDemand => return None,
            Self::InitDone(duration_us) => init_report_ahead(*duration_us),
            Self::InitFailed(failure, status) => init_report(failure, *status),
            Self::RestoreStart => restore_start(start),
            Self::RestoreDone(duration_us) => restore_report(*duration_us),
            Self::RestoreFailed(failure) => restore_report_of_failure(failure),
            // Lambda has no such executables and no such line: without it a function whose hook fails is only slow.
            Self::HookFailed(reason) => format!("RESTORE_HOOKS Status: error\tReason: {reason}\n"),
            Self::Start(request_id) => {
                format!("START RequestId: {request_id} Version: {}\n", start.function_version)
            }
            Self::Finished(finished, memory) => {
                cause(finished, now).unwrap_or_default() + &end_and_report(finished, *memory)
            }
            Self::Subscribed(name, subscription) => subscribed(name, subscription),
        };
        Some(line)
    }
}

/// `TELEMETRY …`, `LOGS …`.
fn subscribed(name: &str, subscription: &Subscription) -> String {
    let api = match subscription.api() {
        Api::Telemetry => "TELEMETRY",
        Api::Logs => "LOGS",
    };
    let types: Vec<_> = subscription.categories().map(Category::title).collect();
    format!("{api}\tName: {name}\tState: Subscribed\tTypes: [{}]\n", types.join(", "))
}

/// `INIT_START …`: with the runtime that this is, whatever the function's variables say.
fn init_start(start: &Start) -> String {
    format!("INIT_START {}", runtime_version(start))
}

/// `RESTORE_START …`.
fn restore_start(start: &Start) -> String {
    format!("RESTORE_START {}", runtime_version(start))
}

fn runtime_version(start: &Start) -> String {
    let (version, arn) = (version(&start.runtime), version_arn(start));
    format!("Runtime Version: {version}\tRuntime Version ARN: {arn}\n")
}

/// As the API says it of the function.
fn version_arn(start: &Start) -> String {
    format!("arn:aws:lambda:{}::runtime:{}", start.region, start.runtime_version)
}

fn version(runtime: &str) -> String {
    // `python3.13` → `python:3.13.v1`, `nodejs20.x` → `nodejs:20.v1`.
    let runtime = runtime.strip_suffix(".x").unwrap_or(runtime);
    if runtime.starts_with("provided") {
        return format!("{}.v1", runtime.replacen('.', ":", 1));
    }
    match runtime.find(|c: char| c.is_ascii_digit()) {
        Some(at) => format!("{}:{}.v1", &runtime[..at], &runtime[at..]),
        None => format!("{runtime}.v1"),
    }
}

/// `INIT_REPORT …` of a failed init.
fn init_report(failure: &InitFailure, status: InitStatus) -> String {
    let duration = milliseconds(failure.duration_us);
    match status {
        InitStatus::Timeout => {
            format!("INIT_REPORT Init Duration: {duration} ms\tPhase: init\tStatus: timeout\n")
        }
        InitStatus::Error => format!(
            "INIT_REPORT Init Duration: {duration} ms\tPhase: init\tStatus: error\tError Type: {}\n",
            failure.error.error_type
        ),
    }
}

/// `INIT_REPORT …` of an init that nobody waits for: no REPORT will tell of it.
fn init_report_ahead(duration_us: Micros) -> String {
    format!("INIT_REPORT Init Duration: {} ms\n", milliseconds(duration_us))
}

/// `RESTORE_REPORT …`.
fn restore_report(duration_us: Micros) -> String {
    format!("RESTORE_REPORT Restore Duration: {} ms\n", milliseconds(duration_us))
}

/// `RESTORE_REPORT …` of a failed restore.
fn restore_report_of_failure(failure: &RestoreFailure) -> String {
    let duration = milliseconds(failure.duration_us);
    let status = if failure.timed_out {
        "timeout".to_owned()
    } else {
        format!("error\tError Type: {}", failure.error.error_type)
    };
    format!("RESTORE_REPORT Restore Duration: {duration} ms\tStatus: {status}\n")
}

/// Why an executable in `restore.d` was the end of this clone; `None` when it was something else.
#[must_use]
pub fn failed_restore_d(report: &GateReport) -> Option<&str> {
    report.steps.iter().find_map(|step| match &step.outcome {
        StepOutcome::Failed(reason) if step.name == gate::HOOKS => Some(reason.as_str()),
        _ => None,
    })
}

/// What stands before END when the platform ended the invocation; `now` is RFC 3339 with milliseconds.
fn cause(finished: &Finished, now: &str) -> Option<String> {
    let id = &finished.request_id;
    match &finished.outcome {
        Outcome::Succeeded | Outcome::Failed(_) => None,
        Outcome::TimedOut => Some(format!("{now} {id} {}\n\n", timed_out_message(finished.timeout_ms))),
        Outcome::Exited(error) => Some(format!("{}\n{}\n", error_message(error), error.error_type)),
    }
}

/// What an invocation took and what of that is billed, with what came before it, µs. One that runs out of time is
/// billed and reported for the time that it had.
fn durations(finished: &Finished) -> (Micros, Micros) {
    let limit_us = Micros::from(finished.timeout_ms) * 1000;
    let duration_us = if finished.outcome == Outcome::TimedOut { limit_us } else { finished.duration_us };
    let before_us =
        finished.init_us.unwrap_or(0) + finished.restored.map_or(0, |restored| restored.billed_us);
    (duration_us, duration_us + before_us)
}

/// `END …` and `REPORT …`.
fn end_and_report(finished: &Finished, memory: Memory) -> String {
    let id = &finished.request_id;
    let (duration_us, billed_us) = durations(finished);
    let mut line = format!(
        "END RequestId: {id}\nREPORT RequestId: {id}\tDuration: {} ms\tBilled Duration: {} ms\t\
         Memory Size: {} MB\tMax Memory Used: {} MB\t",
        milliseconds(duration_us),
        billed_us.div_ceil(1000),
        memory.size_mib,
        memory.used_mib,
    );
    if let Some(init_us) = finished.init_us {
        line.push_str(&format!("Init Duration: {} ms\t", milliseconds(init_us)));
    }
    if let Some(Restored { total_us, billed_us }) = finished.restored {
        line.push_str(&format!(
            "Restore Duration: {} ms\tBilled Restore Duration: {} ms\t",
            milliseconds(total_us),
            billed_us.div_ceil(1000)
        ));
    }
    match &finished.outcome {
        Outcome::TimedOut => line.push_str("Status: timeout"),
        Outcome::Exited(_) if memory.exhausted => {
            line.push_str("Status: error\tError Type: Runtime.OutOfMemory");
        }
        Outcome::Exited(error) => {
            line.push_str(&format!("Status: error\tError Type: {}", error.error_type));
        }
        Outcome::Succeeded | Outcome::Failed(_) => {}
    }
    line.push('\n');
    line
}

/// What REPORT says of memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// The function's setting.
    pub size_mib: u32,
    /// Peak of its cgroup.
    pub used_mib: u32,
    /// Whether the kernel killed for want of it.
    pub exhausted: bool,
}

fn milliseconds(us: Micros) -> String {
    let hundredths = (us + 5) / 10;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

fn error_message(error: &FunctionError) -> String {
    serde_json::from_slice::<serde_json::Value>(&error.payload)
        .ok()
        .and_then(|document| document.get("errorMessage")?.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// A wall clock time as Lambda's log lines have it: `2026-01-31T23:59:59.123Z`.
pub(crate) fn timestamp(since_unix_epoch: Duration) -> String {
    let seconds = since_unix_epoch.as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let millis = since_unix_epoch.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month and day of a day since 1970-01-01 in the proleptic Gregorian calendar, counted from 1 March of year 0
/// in eras of 400 years (146,097 days), so that the leap day is the last of a year.
fn civil_date(days_since_epoch: u64) -> (u64, u64, u64) {
    const DAYS_TO_EPOCH: u64 = 719_468;
    const DAYS_IN_ERA: u64 = 146_097;
    let days = days_since_epoch + DAYS_TO_EPOCH;
    let (era, of_era) = (days / DAYS_IN_ERA, days % DAYS_IN_ERA);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use guest_protocol::Fate;

    use super::*;
    use crate::sandbox::tests::start;

    fn finished(outcome: Outcome, init_us: Option<Micros>) -> Finished {
        Finished {
            request_id: "id-1".into(),
            outcome,
            fate: Fate::Reusable,
            duration_us: 1_234_561,
            runtime_us: 1_234_561,
            init_us,
            restored: None,
            timeout_ms: 3000,
        }
    }

    const MEMORY: Memory = Memory { size_mib: 128, used_mib: 31, exhausted: false };

    #[test]
    fn a_report_has_lambdas_shape() {
        assert_eq!(
            end_and_report(&finished(Outcome::Succeeded, Some(100_000)), MEMORY),
            "END RequestId: id-1\nREPORT RequestId: id-1\tDuration: 1234.56 ms\tBilled Duration: 1335 ms\t\
             Memory Size: 128 MB\tMax Memory Used: 31 MB\tInit Duration: 100.00 ms\t\n"
        );
    }

    #[test]
    fn a_timeout_is_reported_with_its_cause_and_status() {
        let finished = finished(Outcome::TimedOut, None);
        assert_eq!(
            cause(&finished, "2026-01-01T00:00:00.000Z").unwrap(),
            "2026-01-01T00:00:00.000Z id-1 Task timed out after 3.00 seconds\n\n"
        );
        let report = end_and_report(&finished, MEMORY);
        assert!(report.contains("\tDuration: 3000.00 ms\tBilled Duration: 3000 ms\t"), "{report}");
        assert!(report.ends_with("\tStatus: timeout\n"), "{report}");
    }

    #[test]
    fn a_restore_is_reported_and_its_hooks_are_billed() {
        let restored = Some(Restored { total_us: 415_570, billed_us: 178_200 });
        let finished = Finished { restored, ..finished(Outcome::Succeeded, None) };
        let report = end_and_report(&finished, MEMORY);
        let end = "\tRestore Duration: 415.57 ms\tBilled Restore Duration: 179 ms\t\n";
        assert!(report.ends_with(end), "{report}");
        assert!(report.contains("\tBilled Duration: 1413 ms\t"), "{report}");
        assert!(!report.contains("Init Duration"), "{report}");
    }

    #[test]
    fn a_failed_restore_says_why() {
        let failure = |timed_out| RestoreFailure {
            error: FunctionError::new("Runtime.ExitError", "m"),
            timed_out,
            duration_us: 1_236_040,
        };
        assert_eq!(
            restore_report_of_failure(&failure(true)),
            "RESTORE_REPORT Restore Duration: 1236.04 ms\tStatus: timeout\n"
        );
        assert_eq!(
            restore_report_of_failure(&failure(false)),
            "RESTORE_REPORT Restore Duration: 1236.04 ms\tStatus: error\tError Type: Runtime.ExitError\n"
        );
    }

    #[test]
    fn an_exit_names_its_error() {
        let error = crate::lifecycle::Exit::Signal(9).error(Some("id-1"));
        let finished = finished(Outcome::Exited(error), None);
        assert_eq!(
            cause(&finished, "").unwrap(),
            "RequestId: id-1 Error: Runtime exited with error: signal: killed\nRuntime.ExitError\n"
        );
        assert!(
            end_and_report(&finished, MEMORY).ends_with("Status: error\tError Type: Runtime.ExitError\n")
        );
    }

    #[test]
    fn timestamps_know_the_calendar() {
        let check = |seconds, text: &str| assert_eq!(timestamp(Duration::from_secs(seconds)), text);
        check(0, "1970-01-01T00:00:00.000Z");
        check(951_782_400, "2000-02-29T00:00:00.000Z");
        check(1_709_251_199, "2024-02-29T23:59:59.000Z");
        check(1_767_225_600, "2026-01-01T00:00:00.000Z");
        check(4_107_542_400, "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn init_start_names_the_runtime() {
        let names = [
            ("python3.13", "python:3.13"),
            ("provided.al2023", "provided:al2023"),
            ("nodejs20.x", "nodejs:20"),
            ("java21", "java:21"),
            ("container", "container"),
        ];
        for (runtime, version) in names {
            let (runtime, region) = (runtime.into(), "eu-west-1".into());
            let start = Start { runtime, region, ..start() };
            let arn = "arn:aws:lambda:eu-west-1::runtime:0123";
            let expected = format!("Runtime Version: {version}.v1\tRuntime Version ARN: {arn}\n");
            assert_eq!(init_start(&start), format!("INIT_START {expected}"));
            assert_eq!(restore_start(&start), format!("RESTORE_START {expected}"));
        }
    }
}
