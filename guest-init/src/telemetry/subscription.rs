//! What an extension subscribes to, read from its document. Pure; the document is the customer's.

use std::time::Duration;

use hyper::Uri;
use serde_json::Value;

use super::buffer::Bounds;
use super::event::Schema;

/// Hosts that a destination may name: both are the guest itself, as on Lambda.
const HOSTS: &[&str] = &["sandbox.localdomain", "sandbox"];

/// The Runtime API's port, which is no destination.
const RESERVED_PORT: u16 = 9001;

/// Longest path of a destination.
const MAX_PATH_LEN: usize = 1024;

/// Lambda's bounds: least and most.
const BYTES: (u64, u64) = (262_144, 1_048_576);
const ITEMS: (u64, u64) = (1_000, 10_000);
const TIMEOUT_MS: (u64, u64) = (25, 30_000);

const DEFAULT_TIMEOUT_MS: u64 = 1_000;

/// Which of the two interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `PUT /2022-07-01/telemetry`.
    Telemetry,
    /// `PUT /2020-08-15/logs`, which came before it.
    Logs,
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// The platform's own.
    Platform,
    /// Lines of the function.
    Function,
    /// Lines of external extensions.
    Extension,
}

impl Category {
    /// As documents have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Function => "function",
            Self::Extension => "extension",
        }
    }

    /// As the log has it.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Platform => "Platform",
            Self::Function => "Function",
            Self::Extension => "Extension",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Platform, Self::Function, Self::Extension].into_iter().find(|kind| kind.name() == name)
    }
}

/// Where events are delivered: on this port of the guest's loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// As requests with a JSON array.
    Http {
        /// The port.
        port: u16,
        /// Path and query.
        path: String,
        /// How they are sent.
        method: Method,
    },
    /// As JSON lines.
    Tcp {
        /// The port.
        port: u16,
    },
}

/// How a delivery is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// As ever.
    Post,
    /// The Logs API lets a subscriber choose it.
    Put,
}

/// A subscription that may be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    api: Api,
    schema: Schema,
    categories: Vec<Category>,
    bounds: Bounds,
    destination: Destination,
}

/// What is wrong with a document, AWS's way: all of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Invalid(Vec<String>);

impl Subscription {
    /// Reads one.
    ///
    /// # Errors
    /// [`Invalid`].
    pub fn parse(api: Api, document: &[u8]) -> Result<Self, Invalid> {
        let Ok(Value::Object(document)) = serde_json::from_slice(document) else {
            return Err(Invalid(vec!["the request body is not a JSON object".to_owned()]));
        };
        let document = Value::Object(document);
        let mut wrong = Vec::new();
        let mut note = |part: &Result<(), String>| wrong.extend(part.as_ref().err().cloned());
        let schema = schema(api, &document["schemaVersion"]);
        let destination = destination(api, &document["destination"]);
        let categories = categories(&document["types"]);
        let bounds = bounds(api, &document["buffering"]);
        note(&schema.as_ref().map(drop).map_err(Clone::clone));
        note(&destination.as_ref().map(drop).map_err(Clone::clone));
        note(&categories.as_ref().map(drop).map_err(Clone::clone));
        note(&bounds.as_ref().map(drop).map_err(Clone::clone));
        match (schema, destination, categories, bounds) {
            (Ok(schema), Ok(destination), Ok(categories), Ok(bounds)) => {
                Ok(Self { api, schema, categories, bounds, destination })
            }
            _ => Err(Invalid(wrong)),
        }
    }

    /// By which interface it came.
    #[must_use]
    pub fn api(&self) -> Api {
        self.api
    }

    /// The kinds of events that it wants.
    pub fn categories(&self) -> impl Iterator<Item = Category> {
        self.categories.iter().copied()
    }

    pub(super) fn schema(&self) -> Schema {
        self.schema
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Where it wants them.
    #[must_use]
    pub fn destination(&self) -> &Destination {
        &self.destination
    }
}

fn schema(api: Api, version: &Value) -> Result<Schema, String> {
    match (api, version.as_str()) {
        (Api::Telemetry, Some("2022-07-01")) => Ok(Schema::Telemetry),
        (Api::Telemetry, Some("2022-12-13" | "2025-01-29")) => Ok(Schema::TelemetryOfObjects),
        (Api::Logs, Some("2020-08-15")) => Ok(Schema::Logs),
        (Api::Logs, None) if version.is_null() => Ok(Schema::Logs),
        (Api::Logs, Some("2021-03-18")) => Ok(Schema::LogsOfRuntime),
        (Api::Telemetry, None) if version.is_null() => Err("schemaVersion is not provided".to_owned()),
        _ => Err("schemaVersion is not supported".to_owned()),
    }
}

fn destination(api: Api, destination: &Value) -> Result<Destination, String> {
    let text = |member: &str| destination[member].as_str();
    match text("protocol") {
        Some("HTTP") => {
            let (port, path) = uri("http", text("URI").ok_or("URI is not provided")?)?;
            let method = match (api, text("method")) {
                (Api::Logs, Some("PUT")) => Method::Put,
                (Api::Logs, Some("POST") | None) | (Api::Telemetry, _) => Method::Post,
                (Api::Logs, Some(_)) => return Err("method should be one of [POST PUT]".to_owned()),
            };
            Ok(Destination::Http { port, path, method })
        }
        Some("TCP") => {
            let port = match (&destination["port"], text("URI")) {
                (Value::Null, Some(named)) => uri("tcp", named)?.0,
                (port, _) => {
                    let port = port.as_u64().and_then(|port| u16::try_from(port).ok());
                    usable(port.ok_or("port is not provided")?)?
                }
            };
            Ok(Destination::Tcp { port })
        }
        Some(_) => Err("protocol should be one of [HTTP TCP]".to_owned()),
        None => Err("destination protocol is not provided".to_owned()),
    }
}

/// Port, path and query of a URI that names the guest.
fn uri(scheme: &str, text: &str) -> Result<(u16, String), String> {
    let uri: Uri = text.parse().map_err(|_| "URI is not valid")?;
    if uri.scheme_str() != Some(scheme) {
        return Err(format!("URI scheme should be {scheme}"));
    }
    if !HOSTS.contains(&uri.host().unwrap_or_default()) {
        return Err(format!("URI host should be {}", HOSTS[0]));
    }
    let port = usable(uri.port_u16().ok_or("URI port is not provided")?)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    if path.len() > MAX_PATH_LEN {
        return Err(format!("URI path should be no longer than {MAX_PATH_LEN}"));
    }
    Ok((port, path.to_owned()))
}

fn usable(port: u16) -> Result<u16, String> {
    if port == 0 || port == RESERVED_PORT {
        return Err(format!("port {port} is not allowed"));
    }
    Ok(port)
}

fn categories(types: &Value) -> Result<Vec<Category>, String> {
    let types = types.as_array().map(Vec::as_slice).unwrap_or_default();
    if types.is_empty() {
        return Err("types should not be empty".to_owned());
    }
    let mut wanted = Vec::new();
    for name in types {
        let category = name.as_str().and_then(Category::parse);
        let category = category.ok_or("types should be any of [platform function extension]")?;
        if !wanted.contains(&category) {
            wanted.push(category);
        }
    }
    Ok(wanted)
}

fn bounds(api: Api, buffering: &Value) -> Result<Bounds, String> {
    let default_items = match api {
        Api::Telemetry => ITEMS.0,
        Api::Logs => ITEMS.1,
    };
    let max_bytes = within(buffering, "maxBytes", BYTES, BYTES.0)?;
    let max_items = within(buffering, "maxItems", ITEMS, default_items)?;
    let timeout_ms = within(buffering, "timeoutMs", TIMEOUT_MS, DEFAULT_TIMEOUT_MS)?;
    let count = |value| usize::try_from(value).unwrap_or(usize::MAX);
    Ok(Bounds {
        max_bytes: count(max_bytes),
        max_items: count(max_items),
        timeout: Duration::from_millis(timeout_ms),
    })
}

fn within(buffering: &Value, member: &str, (least, most): (u64, u64), default: u64) -> Result<u64, String> {
    match &buffering[member] {
        Value::Null => Ok(default),
        value => {
            let value = value.as_u64().filter(|value| (least..=most).contains(value));
            value.ok_or_else(|| format!("{member} should be between {least} and {most}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(api: Api, change: impl FnOnce(&mut Value)) -> Result<Subscription, String> {
        let mut document = json!({
            "schemaVersion": "2022-12-13",
            "destination": { "protocol": "HTTP", "URI": "http://sandbox.localdomain:8080/a?b" },
            "types": ["platform", "function", "platform"],
            "buffering": { "maxItems": 2000, "maxBytes": 300_000, "timeoutMs": 25 },
        });
        change(&mut document);
        Subscription::parse(api, document.to_string().as_bytes()).map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn a_whole_document_is_taken_as_it_is() {
        let subscription = parse(Api::Telemetry, |_| {}).unwrap();
        assert_eq!(subscription.schema, Schema::TelemetryOfObjects);
        assert_eq!(subscription.categories, [Category::Platform, Category::Function]);
        let (port, path, method) = (8080, "/a?b".to_owned(), Method::Post);
        assert_eq!(subscription.destination, Destination::Http { port, path, method });
        let timeout = Duration::from_millis(25);
        assert_eq!(subscription.bounds, Bounds { max_bytes: 300_000, max_items: 2000, timeout });
    }

    #[test]
    fn what_is_left_out_is_as_on_lambda() {
        let bounds = |api, version: &str| {
            let parsed = parse(api, |document| {
                document["schemaVersion"] = version.into();
                document["buffering"] = Value::Null;
            });
            parsed.unwrap().bounds
        };
        let timeout = Duration::from_millis(1000);
        let least = Bounds { max_bytes: 262_144, max_items: 1000, timeout };
        assert_eq!(bounds(Api::Telemetry, "2022-07-01"), least);
        assert_eq!(bounds(Api::Logs, "2021-03-18"), Bounds { max_items: 10_000, ..least });
    }

    #[test]
    fn everything_that_is_wrong_is_said() {
        let check = |change: &dyn Fn(&mut Value), expected: &str| {
            assert_eq!(parse(Api::Telemetry, |document| change(document)).unwrap_err(), expected);
        };
        let uri = |uri: &'static str| move |document: &mut Value| document["destination"]["URI"] = uri.into();
        check(
            &|document| {
                uri("http://sandbox.localdomain")(document);
                document["types"] = json!([]);
            },
            "URI port is not provided; types should not be empty",
        );
        check(&uri("http://example.com:80"), "URI host should be sandbox.localdomain");
        check(&uri("https://sandbox:80"), "URI scheme should be http");
        check(&uri("http://sandbox:9001"), "port 9001 is not allowed");
        check(&uri("no uri"), "URI is not valid");
        check(
            &|document| document["types"] = json!(["all"]),
            "types should be any of [platform function extension]",
        );
        check(&|document| document["schemaVersion"] = "1".into(), "schemaVersion is not supported");
        for (member, value, range) in [
            ("maxBytes", 262_143, "262144 and 1048576"),
            ("maxItems", 10_001, "1000 and 10000"),
            ("timeoutMs", 24, "25 and 30000"),
        ] {
            let expected = format!("{member} should be between {range}");
            check(&|document| document["buffering"][member] = value.into(), &expected);
        }
        check(&|document| *document = json!([]), "the request body is not a JSON object");
    }

    #[test]
    fn the_logs_api_has_a_port_and_a_method() {
        let destination = |destination: Value| {
            parse(Api::Logs, |document| {
                document["schemaVersion"] = Value::Null;
                document["destination"] = destination;
            })
        };
        let tcp = destination(json!({ "protocol": "TCP", "port": 8081 })).unwrap();
        assert_eq!(tcp.destination, Destination::Tcp { port: 8081 });
        let put = json!({ "protocol": "HTTP", "URI": "http://sandbox:8080", "method": "PUT" });
        let (port, path, method) = (8080, "/".to_owned(), Method::Put);
        assert_eq!(destination(put).unwrap().destination, Destination::Http { port, path, method });
    }
}
