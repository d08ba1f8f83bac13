//! What is said of an event that has come to its end: the record that a destination is given, the message that a dead-letter queue
//! is given, and what the node itself shows. Shapes are AWS's, as recorded.
//!
//! Payloads are put in as they came: both are bytes of others, of whatever depth, and nobody here reads them.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::DateTime;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    policy::Failure,
    record::{Event, MAX_PAYLOAD_LEN, Parcel},
};

/// Longest message of an error in a dead letter: AWS's.
const MAX_MESSAGE_LEN: usize = 1024;

/// How much of an event is shown of a dead one.
const MAX_SHOWN_LEN: usize = 1024;

/// How it ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// Well.
    Success,
    /// It was given up.
    Failed(Failure),
}

/// The function's last answer.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) payload: Bytes,
    pub(super) function_error: Option<&'static str>,
    pub(super) executed_version: String,
}

/// An event's end.
#[derive(Clone, Debug)]
pub(super) struct Report<'a> {
    pub(super) event: &'a Event,
    /// The function's ARN with version or alias.
    pub(super) function_arn: String,
    pub(super) end: End,
    /// None: the function was not run.
    pub(super) said: Option<&'a Said>,
    pub(super) now_ms: u64,
}

impl Report<'_> {
    fn condition(&self) -> &'static str {
        match self.end {
            End::Success => "Success",
            End::Failed(failure) => failure.condition(),
        }
    }

    /// The record for a destination, on one line. Payloads with which it would be longer than a payload may be are left out: the
    /// answer first, the event if that is not enough.
    pub(super) fn record(&self) -> Vec<u8> {
        let request = as_json(&self.event.payload);
        // An answer may be three times as long: it is not copied to find that out.
        let answer = self.said.map(|said| &said.payload).filter(|answer| answer.len() <= MAX_PAYLOAD_LEN);
        let response = answer.map(|answer| as_json(answer));
        let choices = [(Some(&request), response.as_ref()), (Some(&request), None), (None, None)];
        let written = choices.into_iter().map(|(request, response)| self.write(request, response));
        let mut written = written.inspect(|record| {
            if record.len() > MAX_PAYLOAD_LEN {
                tracing::warn!(request = self.event.request_id, "a payload is too long for a destination");
            }
        });
        // The last one is no longer than an envelope.
        written.find(|record| record.len() <= MAX_PAYLOAD_LEN).unwrap_or_default()
    }

    fn write(&self, request: Option<&String>, response: Option<&String>) -> Vec<u8> {
        let context = json!({
            "requestId": self.event.request_id,
            "functionArn": self.function_arn,
            "condition": self.condition(),
            "approximateInvokeCount": self.event.calls,
        });
        let timestamp = Value::from(time(self.now_ms));
        let mut text = format!(r#"{{"version":"1.0","timestamp":{timestamp},"requestContext":{context}"#);
        if let Some(request) = request {
            text += &format!(r#","requestPayload":{request}"#);
        }
        if let Some(said) = self.said {
            let mut context = json!({ "statusCode": 200, "executedVersion": said.executed_version });
            if let Some(error) = said.function_error {
                context["functionError"] = error.into();
            }
            text += &format!(r#","responseContext":{context}"#);
        }
        if let Some(response) = response {
            text += &format!(r#","responsePayload":{response}"#);
        }
        (text + "}").into_bytes()
    }

    /// What went wrong, as a dead letter says it: name, type, and value.
    fn attributes(&self) -> [(&'static str, &'static str, String); 3] {
        let message = self.said.map_or_else(|| self.condition().to_owned(), |said| error_in(said).1);
        let code = if self.said.is_some() { "200" } else { "429" };
        [
            ("RequestID", "String", self.event.request_id.clone()),
            ("ErrorCode", "Number", code.to_owned()),
            ("ErrorMessage", "String", message),
        ]
    }

    /// The message for a dead-letter topic, as a webhook that is subscribed to it has it: what SNS posts, but for what SNS signs.
    pub(super) fn notification(&self, topic: &str, id: &str) -> Vec<u8> {
        let attributes = self.attributes();
        let attributes =
            attributes.map(|(name, kind, value)| (name, json!({ "Type": kind, "Value": value })));
        let mut notification = json!({
            "Type": "Notification",
            "MessageId": id,
            "TopicArn": topic,
            "Message": String::from_utf8_lossy(&self.event.payload),
            "Timestamp": time(self.now_ms),
            "MessageAttributes": attributes.into_iter().collect::<BTreeMap<_, _>>(),
        });
        let whole = notification.to_string();
        if whole.len() <= MAX_PAYLOAD_LEN {
            return whole.into_bytes();
        }
        tracing::warn!(request = self.event.request_id, "an event is too long for a dead letter");
        notification["Message"] = "".into();
        notification.to_string().into_bytes()
    }

    /// The message for a dead-letter queue, on one line: the event, and what went wrong beside it.
    pub(super) fn dead_letter(&self) -> Vec<u8> {
        let attributes = self.attributes();
        let attributes =
            attributes.map(|(name, kind, value)| (name, json!({ "DataType": kind, "StringValue": value })));
        let attributes = json!(attributes.into_iter().collect::<BTreeMap<_, _>>());
        let body = as_json(&self.event.payload);
        let whole = format!(r#"{{"Body":{body},"MessageAttributes":{attributes}}}"#);
        if whole.len() <= MAX_PAYLOAD_LEN {
            return whole.into_bytes();
        }
        tracing::warn!(request = self.event.request_id, "an event is too long for a dead letter");
        format!(r#"{{"MessageAttributes":{attributes}}}"#).into_bytes()
    }

    /// What the node shows of a dead event.
    pub(super) fn shown(&self) -> Value {
        let payload = String::from_utf8_lossy(&self.event.payload);
        let error = self.said.map(error_in);
        json!({
            "RequestId": self.event.request_id,
            "FunctionArn": self.function_arn,
            "Condition": self.condition(),
            "InvokeCount": self.event.calls,
            "AcceptedAt": time(self.event.accepted_ms),
            "DiedAt": time(self.now_ms),
            "ErrorType": error.as_ref().map(|(kind, _)| kind),
            "ErrorMessage": error.as_ref().map(|(_, message)| message),
            "PayloadLength": self.event.payload.len(),
            "Payload": cut(&payload, MAX_SHOWN_LEN),
        })
    }
}

/// What the node shows of a record that its destination will not have.
pub(super) fn shown_lost(parcel: &Parcel, function_arn: String, problem: &str, now_ms: u64) -> Value {
    json!({
        "RequestId": parcel.request_id,
        "FunctionArn": function_arn,
        "Condition": "DestinationFailed",
        "InvokeCount": parcel.calls,
        "AcceptedAt": time(parcel.since_ms),
        "DiedAt": time(now_ms),
        "ErrorType": parcel.destination,
        "ErrorMessage": cut(problem, MAX_MESSAGE_LEN),
        "PayloadLength": parcel.record.len(),
        "Payload": cut(&String::from_utf8_lossy(&parcel.record), MAX_SHOWN_LEN),
    })
}

/// What is read of an answer. The rest of it is passed over, whatever it would take as values.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ErrorDocument {
    error_type: Option<String>,
    error_message: Option<String>,
}

/// `errorType` and `errorMessage`, as far as the answer has them.
fn error_in(said: &Said) -> (String, String) {
    let document: ErrorDocument = serde_json::from_slice(&said.payload).unwrap_or_default();
    let text = |text: Option<String>| cut(&text.unwrap_or_default(), MAX_MESSAGE_LEN).to_owned();
    (text(document.error_type), text(document.error_message))
}

fn cut(text: &str, len: usize) -> &str {
    &text[..text.floor_char_boundary(len)]
}

/// Some bytes as a JSON document on one line. In JSON, ends of lines are nothing but space.
fn as_json(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok() {
        text.replace(['\n', '\r'], " ")
    } else {
        Value::from(text).to_string()
    }
}

fn time(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(DateTime::from_timestamp_millis).unwrap_or_default();
    time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::{super::record::tests::event, *};

    fn said(payload: &str) -> Said {
        Said {
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            function_error: Some("Unhandled"),
            executed_version: "$LATEST".into(),
        }
    }

    fn report<'a>(event: &'a Event, said: Option<&'a Said>) -> Report<'a> {
        let end = End::Failed(Failure::RetriesExhausted);
        Report { event, function_arn: "arn:f:$LATEST".into(), end, said, now_ms: 1_764_000_000_123 }
    }

    fn parse(line: &[u8]) -> Value {
        assert!(!line.contains(&b'\n'), "one line");
        serde_json::from_slice(line).unwrap()
    }

    #[test]
    fn a_record_has_the_members_that_were_recorded() {
        let (mut event, said) = (event("f", "{\"a\":\n1}"), said(r#"{"errorMessage":"no","errorType":"E"}"#));
        event.calls = 3;
        let record = parse(&report(&event, Some(&said)).record());
        assert_eq!(
            record,
            json!({
                "version": "1.0",
                "timestamp": "2025-11-24T16:00:00.123Z",
                "requestContext": {
                    "requestId": "r",
                    "functionArn": "arn:f:$LATEST",
                    "condition": "RetriesExhausted",
                    "approximateInvokeCount": 3,
                },
                "requestPayload": { "a": 1 },
                "responseContext": {
                    "statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled",
                },
                "responsePayload": { "errorMessage": "no", "errorType": "E" },
            })
        );
        let letter = parse(&report(&event, Some(&said)).dead_letter());
        assert_eq!(letter["Body"], json!({ "a": 1 }));
        let attributes = &letter["MessageAttributes"];
        assert_eq!(attributes["ErrorMessage"], json!({ "DataType": "String", "StringValue": "no" }));
        assert_eq!(attributes["ErrorCode"], json!({ "DataType": "Number", "StringValue": "200" }));
        let notification = parse(&report(&event, Some(&said)).notification("arn:t", "id"));
        assert_eq!(
            notification,
            json!({
                "Type": "Notification",
                "MessageId": "id",
                "TopicArn": "arn:t",
                "Message": "{\"a\":\n1}",
                "Timestamp": "2025-11-24T16:00:00.123Z",
                "MessageAttributes": {
                    "RequestID": { "Type": "String", "Value": "r" },
                    "ErrorCode": { "Type": "Number", "Value": "200" },
                    "ErrorMessage": { "Type": "String", "Value": "no" },
                },
            })
        );
    }

    #[test]
    fn whatever_a_function_answers_is_one_line_of_json() {
        let event = event("f", "{}");
        for answer in ["no json", "", "\"a\nb\"", "{\"a\":\r\n\"b\"}", "\u{0}", "{\"errorType\":{}}", "[1]"] {
            let said = said(answer);
            assert!(
                parse(&report(&event, Some(&said)).record()).get("responsePayload").is_some(),
                "{answer:?}"
            );
            assert_eq!(error_in(&said), (String::new(), String::new()));
        }
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let said = said(&deep);
        assert!(report(&event, Some(&said)).record().len() > deep.len());
    }

    #[test]
    fn what_is_too_long_for_a_destination_is_left_out() {
        let half = format!("\"{}\"", "x".repeat(MAX_PAYLOAD_LEN / 2));
        let (event, said) = (event("f", &half), said(&half));
        let record = parse(&report(&event, Some(&said)).record());
        assert!(record.get("requestPayload").is_some() && record.get("responsePayload").is_none());
        assert_eq!(record["responseContext"]["statusCode"], 200);
        let long = format!("\"{}\"", "x".repeat(MAX_PAYLOAD_LEN - 2));
        let whole = super::super::record::tests::event("f", &long);
        assert!(parse(&report(&whole, None).record()).get("requestPayload").is_none());
        assert!(parse(&report(&whole, None).dead_letter()).get("Body").is_none());
        // Each quotation mark is escaped in a string.
        let quotes =
            super::super::record::tests::event("f", &format!("\"{}\"", "\\\"".repeat(MAX_PAYLOAD_LEN / 3)));
        let notification = report(&quotes, None).notification("arn:t", "id");
        assert!(notification.len() < MAX_PAYLOAD_LEN);
        assert_eq!(parse(&notification)["Message"], "");
        let shown = report(&whole, None).shown();
        assert_eq!(shown["Payload"].as_str().unwrap().len(), MAX_SHOWN_LEN);
        assert_eq!(shown["PayloadLength"], MAX_PAYLOAD_LEN);
    }
}
