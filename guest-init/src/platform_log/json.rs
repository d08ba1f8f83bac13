//! The platform's lines of a function whose `LogFormat` is JSON: a document a line, in the shape of AWS's Telemetry API,
//! those that its `SystemLogLevel` lets through.

use guest_protocol::{InitializationType, Outcome, Start, SystemLogLevel};
use serde_json::{Map, Value, json};

use super::{Document, Event, Memory, durations, version, version_arn};
use crate::lifecycle::{Finished, InitStatus, Micros};
use crate::telemetry::{Api, Category, Subscription};

/// How something ended, in AWS's words.
const SUCCESS: &str = "success";
const ERROR: &str = "error";
const TIMEOUT: &str = "timeout";

/// The documents of an event that have at least that level, each on its line.
pub(super) fn lines(event: &Event<'_>, start: &Start, level: SystemLogLevel, now: &str) -> Option<String> {
    let documents = documents(event, start).into_iter().filter(|(own, ..)| *own >= level);
    let lines: String = documents
        .map(|(_, kind, record)| format!("{}\n", json!({ "time": now, "type": kind, "record": record })))
        .collect();
    (!lines.is_empty()).then_some(lines)
}

/// Levels are AWS's ("System log level event mapping").
pub(super) fn documents(event: &Event<'_>, start: &Start) -> Vec<Document> {
    match event {
        Event::InitStart => vec![(SystemLogLevel::Info, "platform.initStart", init_start(start))],
        Event::Extensions(book) => {
            let document = |(name, state, events): (&str, &str, Vec<&str>)| {
                let record = json!({ "name": name, "state": state, "events": events });
                (SystemLogLevel::Info, "platform.extension", record)
            };
            book.states().map(document).collect()
        }
        Event::InitRuntimeDone(failed) => {
            let (status, error) = failed.as_ref().map_or((SUCCESS, None), |(failure, status)| {
                init_failure(&failure.error.error_type, *status)
            });
            let done = init_end(start, status, error);
            vec![(done_level(status), "platform.initRuntimeDone", done.into())]
        }
        Event::InitDone(duration_us) => init_report(start, (SUCCESS, None), *duration_us),
        Event::InitFailed(failure, status) => {
            init_report(start, init_failure(&failure.error.error_type, *status), failure.duration_us)
        }
        Event::RestoreStart => vec![(SystemLogLevel::Info, "platform.restoreStart", which(start).into())],
        Event::RestoreDone(duration_us) => restore_end(SUCCESS, None, *duration_us),
        Event::RestoreFailed(failure) => {
            let (status, error) = match failure.timed_out {
                true => (TIMEOUT, None),
                false => (ERROR, Some(failure.error.error_type.as_str())),
            };
            restore_end(status, error, failure.duration_us)
        }
        // Not AWS's: it has no such executables.
        Event::HookFailed(reason) => {
            let record = json!({ "status": ERROR, "reason": reason });
            vec![(SystemLogLevel::Warn, "platform.restoreHooks", record)]
        }
        Event::Start(request_id) => {
            let record = json!({ "requestId": request_id, "version": start.function_version });
            vec![(SystemLogLevel::Info, "platform.start", record)]
        }
        Event::RuntimeDone(finished, memory) => runtime_done(finished, *memory),
        Event::Finished(finished, memory) => report(finished, *memory),
        Event::Subscribed(name, subscription) => vec![subscribed(name, subscription)],
    }
}

fn subscribed(name: &str, subscription: &Subscription) -> Document {
    let kind = match subscription.api() {
        Api::Telemetry => "platform.telemetrySubscription",
        Api::Logs => "platform.logsSubscription",
    };
    let types: Vec<_> = subscription.categories().map(Category::name).collect();
    (SystemLogLevel::Info, kind, json!({ "name": name, "state": "Subscribed", "types": types }))
}

/// Which runtime and function this is.
fn which(start: &Start) -> Map<String, Value> {
    let mut record = Map::new();
    record.insert("runtimeVersion".into(), version(&start.runtime).into());
    record.insert("runtimeVersionArn".into(), version_arn(start).into());
    record.insert("functionName".into(), start.function_name.as_str().into());
    record.insert("functionVersion".into(), start.function_version.as_str().into());
    record
}

fn init_start(start: &Start) -> Value {
    let mut record = which(start);
    record.insert("initializationType".into(), initialization_type(start).into());
    record.insert("phase".into(), "init".into());
    record.into()
}

fn initialization_type(start: &Start) -> &'static str {
    match start.initialization_type {
        InitializationType::OnDemand => "on-demand",
        InitializationType::SnapStart => "snap-start",
        InitializationType::Provisioned => "provisioned-concurrency",
    }
}

fn init_failure(error_type: &str, status: InitStatus) -> (&'static str, Option<&str>) {
    match status {
        InitStatus::Timeout => (TIMEOUT, None),
        InitStatus::Error => (ERROR, Some(error_type)),
    }
}

fn init_end(start: &Start, status: &str, error: Option<&str>) -> Map<String, Value> {
    let mut done = outcome(status, error);
    done.insert("initializationType".into(), initialization_type(start).into());
    done.insert("phase".into(), "init".into());
    done
}

fn init_report(start: &Start, (status, error): (&str, Option<&str>), duration_us: Micros) -> Vec<Document> {
    let mut report = init_end(start, status, error);
    report.insert("metrics".into(), json!({ "durationMs": milliseconds(duration_us) }));
    let level = match (status, start.initialization_type) {
        (SUCCESS, InitializationType::OnDemand) => SystemLogLevel::Debug,
        (SUCCESS, InitializationType::SnapStart | InitializationType::Provisioned) => SystemLogLevel::Info,
        _ => SystemLogLevel::Warn,
    };
    vec![(level, "platform.initReport", report.into())]
}

fn restore_end(status: &str, error: Option<&str>, duration_us: Micros) -> Vec<Document> {
    let done = outcome(status, error);
    let mut report = done.clone();
    report.insert("metrics".into(), json!({ "durationMs": milliseconds(duration_us) }));
    vec![
        (done_level(status), "platform.restoreRuntimeDone", done.into()),
        (report_level(status), "platform.restoreReport", report.into()),
    ]
}

fn end_of(finished: &Finished, memory: Memory) -> (&'static str, Option<&str>) {
    match &finished.outcome {
        Outcome::Succeeded => (SUCCESS, None),
        Outcome::Failed(error) => (ERROR, Some(error.error_type.as_str())),
        Outcome::TimedOut => (TIMEOUT, None),
        Outcome::Exited(_) if memory.exhausted => (ERROR, Some("Runtime.OutOfMemory")),
        Outcome::Exited(error) => (ERROR, Some(error.error_type.as_str())),
    }
}

fn runtime_done(finished: &Finished, memory: Memory) -> Vec<Document> {
    let (status, error) = end_of(finished, memory);
    let mut done = outcome(status, error);
    done.insert("requestId".into(), finished.request_id.as_str().into());
    done.insert("metrics".into(), json!({ "durationMs": milliseconds(finished.runtime_us) }));
    vec![(done_level(status), "platform.runtimeDone", done.into())]
}

fn report(finished: &Finished, memory: Memory) -> Vec<Document> {
    let (status, error) = end_of(finished, memory);
    let (duration_us, billed_us) = durations(finished);
    let mut report = outcome(status, error);
    report.insert("requestId".into(), finished.request_id.as_str().into());
    let mut metrics = json!({
        "durationMs": milliseconds(duration_us),
        "billedDurationMs": billed_us.div_ceil(1000),
        "memorySizeMB": memory.size_mib,
        "maxMemoryUsedMB": memory.used_mib,
    });
    if let Some(init_us) = finished.init_us {
        metrics["initDurationMs"] = milliseconds(init_us).into();
    }
    if let Some(restored) = finished.restored {
        metrics["restoreDurationMs"] = milliseconds(restored.total_us).into();
        metrics["billedRestoreDurationMs"] = restored.billed_us.div_ceil(1000).into();
    }
    report.insert("metrics".into(), metrics);
    vec![(report_level(status), "platform.report", report.into())]
}

fn outcome(status: &str, error: Option<&str>) -> Map<String, Value> {
    let mut record = Map::new();
    record.insert("status".into(), status.into());
    if let Some(error) = error {
        record.insert("errorType".into(), error.into());
    }
    record
}

fn done_level(status: &str) -> SystemLogLevel {
    if status == SUCCESS { SystemLogLevel::Debug } else { SystemLogLevel::Warn }
}

fn report_level(status: &str) -> SystemLogLevel {
    if status == SUCCESS { SystemLogLevel::Info } else { SystemLogLevel::Warn }
}

/// To the hundredth, as the text has it; a float holds those of any duration that occurs.
#[expect(clippy::cast_precision_loss, reason = "hundredths of milliseconds stay far below 2^52")]
fn milliseconds(us: Micros) -> f64 {
    ((us + 5) / 10) as f64 / 100.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use guest_protocol::{Fate, FunctionError, LogFormat};

    use super::*;
    use crate::sandbox::tests::start;

    fn said(event: &Event<'_>, level: SystemLogLevel) -> Vec<Value> {
        let start = Start { log_format: LogFormat::Json(level), ..start() };
        let lines = event.lines(&start, Duration::from_secs(1_767_225_600)).unwrap_or_default();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn kinds(event: &Event<'_>, level: SystemLogLevel) -> Vec<String> {
        said(event, level).iter().map(|line| line["type"].as_str().unwrap().to_owned()).collect()
    }

    fn finished(outcome: Outcome) -> Finished {
        Finished {
            request_id: "id-1".into(),
            outcome,
            fate: Fate::Reusable,
            duration_us: 1_234_561,
            runtime_us: 1_234_561,
            init_us: Some(100_000),
            restored: None,
            timeout_ms: 3000,
        }
    }

    const MEMORY: Memory = Memory { size_mib: 128, used_mib: 31, exhausted: false };

    #[test]
    fn a_report_has_awss_members() {
        let finished = finished(Outcome::Succeeded);
        let said = said(&Event::Finished(&finished, MEMORY), SystemLogLevel::Info);
        let metrics = json!({
            "durationMs": 1234.56, "billedDurationMs": 1335, "memorySizeMB": 128, "maxMemoryUsedMB": 31,
            "initDurationMs": 100.0,
        });
        let record = json!({ "requestId": "id-1", "status": "success", "metrics": metrics });
        let time = "2026-01-01T00:00:00.000Z";
        assert_eq!(said, [json!({ "time": time, "type": "platform.report", "record": record })]);
    }

    #[test]
    fn levels_let_through_what_awss_table_says() {
        let done = finished(Outcome::Succeeded);
        let late = finished(Outcome::TimedOut);
        let runtime = |finished| Event::RuntimeDone(finished, MEMORY);
        let report = |finished| Event::Finished(finished, MEMORY);
        assert_eq!(kinds(&runtime(&done), SystemLogLevel::Debug), ["platform.runtimeDone"]);
        assert!(kinds(&runtime(&done), SystemLogLevel::Info).is_empty());
        assert_eq!(kinds(&report(&done), SystemLogLevel::Info), ["platform.report"]);
        assert!(kinds(&report(&done), SystemLogLevel::Warn).is_empty());
        assert_eq!(kinds(&runtime(&late), SystemLogLevel::Warn), ["platform.runtimeDone"]);
        assert_eq!(kinds(&report(&late), SystemLogLevel::Warn), ["platform.report"]);
        assert_eq!(kinds(&Event::Start("id-1"), SystemLogLevel::Info), ["platform.start"]);
        assert!(kinds(&Event::Start("id-1"), SystemLogLevel::Warn).is_empty());
        assert!(kinds(&Event::InitDone(1), SystemLogLevel::Info).is_empty());
        assert_eq!(kinds(&Event::InitStart, SystemLogLevel::Info), ["platform.initStart"]);
    }

    #[test]
    fn a_failure_names_its_error() {
        let finished = finished(Outcome::Exited(FunctionError::new("Runtime.ExitError", "m")));
        let event = Event::Finished(&finished, Memory { exhausted: true, ..MEMORY });
        let said = said(&event, SystemLogLevel::Warn);
        assert_eq!(said[0]["record"]["errorType"], "Runtime.OutOfMemory");
        assert_eq!(said[0]["record"]["status"], "error");
    }
}
