//! What is told, and how each version of the two interfaces writes it. Pure.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::Category;

/// How events are written: by which interface, in which of its versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Schema {
    /// Telemetry API: every line is a string.
    Telemetry,
    /// From its second version on a function's line that is a JSON object is one.
    TelemetryOfObjects,
    /// Logs API, …
    Logs,
    /// … from its second version on with `platform.runtimeDone`.
    LogsOfRuntime,
}

/// Platform's documents that are in the log and not in AWS's interface: a client may refuse a whole delivery for one.
const OURS: &str = "platform.restoreHooks";

/// Something to tell.
#[derive(Debug)]
pub(super) enum Event {
    Platform { kind: &'static str, record: Value },
    Line { category: Category, text: String, is_object: bool },
}

impl Event {
    /// A line that a process printed; one that is a JSON object may be told as that.
    pub(super) fn line(category: Category, text: &[u8], objects: bool) -> Self {
        let text = String::from_utf8_lossy(text).into_owned();
        let is_object = objects && serde_json::from_str::<Map<String, Value>>(&text).is_ok();
        Self::Line { category, text, is_object }
    }

    pub(super) fn category(&self) -> Category {
        match self {
            Self::Platform { .. } => Category::Platform,
            Self::Line { category, .. } => *category,
        }
    }

    /// What it counts where it is kept.
    pub(super) fn len(&self) -> usize {
        /// A platform's document is shorter; the rest is what keeping one takes.
        const DOCUMENT: usize = 1024;
        match self {
            Self::Platform { .. } => DOCUMENT,
            Self::Line { text, .. } => text.len() + size_of::<Self>(),
        }
    }
}

/// One event in each schema that was asked for.
pub(super) struct Renderings<'a> {
    event: &'a Event,
    at: &'a str,
    done: Vec<(Schema, Vec<Bytes>)>,
}

impl<'a> Renderings<'a> {
    /// Of an event at that time.
    pub(super) fn of(event: &'a Event, at: &'a str) -> Self {
        Self { event, at, done: Vec::new() }
    }

    /// The documents that it is, none or some. Who has them shares them.
    pub(super) fn get(&mut self, schema: Schema) -> Vec<Bytes> {
        if let Some((_, known)) = self.done.iter().find(|(known, _)| *known == schema) {
            return known.clone();
        }
        let rendered = render(self.event, self.at, schema);
        self.done.push((schema, rendered.clone()));
        rendered
    }
}

fn render(event: &Event, at: &str, schema: Schema) -> Vec<Bytes> {
    match event {
        Event::Line { category, text, is_object } => {
            let record = match (is_object, schema) {
                // It was read as one JSON object, so it ends where it seems to.
                (true, Schema::TelemetryOfObjects) => text.clone(),
                _ => Value::from(text.as_str()).to_string(),
            };
            vec![written(at, category.name(), &record)]
        }
        Event::Platform { kind, .. } if *kind == OURS => vec![],
        Event::Platform { kind, record } => match schema {
            Schema::Telemetry | Schema::TelemetryOfObjects => vec![document(at, kind, record)],
            Schema::Logs | Schema::LogsOfRuntime => of_logs(at, kind, record, schema),
        },
    }
}

/// The older interface has fewer documents with fewer members, and one more at the end of an invocation.
fn of_logs(at: &str, kind: &str, record: &Value, schema: Schema) -> Vec<Bytes> {
    let id = || record["requestId"].clone();
    match kind {
        "platform.start" => {
            let record = json!({ "requestId": id(), "version": record["version"] });
            vec![document(at, kind, &record)]
        }
        "platform.runtimeDone" if schema == Schema::LogsOfRuntime => {
            let status =
                if record["status"] == "error" { "failure".into() } else { record["status"].clone() };
            vec![document(at, kind, &json!({ "requestId": id(), "status": status }))]
        }
        "platform.report" => vec![
            document(at, "platform.end", &json!({ "requestId": id() })),
            document(at, kind, &json!({ "requestId": id(), "metrics": record["metrics"] })),
        ],
        "platform.extension" | "platform.logsSubscription" => vec![document(at, kind, record)],
        _ => vec![],
    }
}

/// A document of the platform.
pub(super) fn document(at: &str, kind: &str, record: &Value) -> Bytes {
    written(at, kind, &record.to_string())
}

/// `at` and `kind` are this program's words; `record` is JSON.
fn written(at: &str, kind: &str, record: &str) -> Bytes {
    format!(r#"{{"time":"{at}","type":"{kind}","record":{record}}}"#).into()
}
