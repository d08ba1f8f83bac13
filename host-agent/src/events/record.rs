//! What is kept of an event: a head that is JSON, and bytes as they came. A checksum is over all of it, for the store below
//! verifies its pages only when it repairs them.
//!
//! ```text
//! 0        8          12
//! │checksum│head's len│ head … │ payload …
//! ```

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::lineage::Lineage;
use crate::functions::model::FunctionId;

/// Longest payload: of an event that a client sends (1 MiB), or of a record about one, which has it and an answer in it.
pub(crate) const MAX_PAYLOAD_LEN: usize = 2 * 1024 * 1024;

/// Longest head: a client context of 3,583 bytes may be six times as long when it is escaped.
const MAX_HEAD_LEN: usize = 64 * 1024;

const CHECKSUM_LEN: usize = 8;
const PREFIX_LEN: usize = CHECKSUM_LEN + 4;

/// Longest record.
pub(super) const MAX_RECORD_LEN: usize = PREFIX_LEN + MAX_HEAD_LEN + MAX_PAYLOAD_LEN;

/// Why bytes are no record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// It is longer or shorter than any.
    #[error("a record of {0} bytes")]
    Length(usize),
    /// It is not what was written.
    #[error("the record's checksum does not match")]
    Checksum,
    /// Its head says nothing that this version knows.
    #[error("the record's head")]
    Head(#[from] serde_json::Error),
}

/// An asynchronous call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// Whom it is for.
    pub(crate) function: FunctionId,
    /// Which function of that name.
    pub(crate) incarnation: String,
    /// Version or alias, as the caller named it.
    pub(crate) qualifier: Option<String>,
    /// The same at each attempt.
    pub(crate) request_id: String,
    /// JSON text.
    pub(crate) client_context: Option<String>,
    /// `X-Amzn-Trace-Id`.
    pub(crate) trace_id: Option<String>,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub(crate) accepted_ms: u64,
    /// How often the function has run with it, and failed.
    pub(crate) calls: u32,
    /// How often the node could not run the function with it.
    pub(crate) failures: u32,
    /// Of the events that came before it, each the cause of the next.
    #[serde(default)]
    pub(crate) lineage: Lineage,
    /// A JSON document.
    #[serde(skip)]
    pub(crate) payload: Bytes,
}

/// What a queue is still to be given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// The queue's ARN.
    pub(crate) queue: String,
    /// The event's.
    pub(crate) request_id: String,
    /// Since when it waits, in milliseconds since the Unix epoch.
    pub(crate) since_ms: u64,
    /// How often the queue did not take it.
    pub(crate) failures: u32,
    /// The line, without its end.
    #[serde(skip)]
    pub(crate) line: Bytes,
}

/// What a bucket or a webhook is still to be given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Parcel {
    /// Its ARN.
    pub(crate) destination: String,
    /// Whose event it was.
    pub(crate) function: FunctionId,
    /// The event's.
    pub(crate) request_id: String,
    /// By which the destination knows it, the same at each attempt.
    pub(crate) id: String,
    /// How often the function had run with the event.
    pub(crate) calls: u32,
    /// Since when it waits, in milliseconds since the Unix epoch.
    pub(crate) since_ms: u64,
    /// How often it was not taken.
    pub(crate) failures: u32,
    /// Whether the record is a topic's message with all around it, which a dead letter is, or a record alone.
    #[serde(default)]
    pub(crate) is_notification: bool,
    /// A JSON document.
    #[serde(skip)]
    pub(crate) record: Bytes,
}

/// What waits in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Item {
    /// A function is to be called.
    Call(Event),
    /// A queue is to be told how that went.
    Outcome(Outcome),
    /// A bucket or a webhook is.
    Parcel(Parcel),
}

impl Item {
    /// Its bytes on the disk.
    ///
    /// # Errors
    /// When it is longer than what is read back.
    pub(super) fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let head = serde_json::to_vec(self)?;
        let payload = match self {
            Self::Call(event) => &event.payload,
            Self::Outcome(outcome) => &outcome.line,
            Self::Parcel(parcel) => &parcel.record,
        };
        if head.len() > MAX_HEAD_LEN || payload.len() > MAX_PAYLOAD_LEN {
            return Err(RecordError::Length(head.len() + payload.len()));
        }
        let mut bytes = Vec::with_capacity(PREFIX_LEN + head.len() + payload.len());
        bytes.extend_from_slice(&[0; CHECKSUM_LEN]);
        // At most MAX_HEAD_LEN.
        bytes.extend_from_slice(&(head.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(payload);
        let sum = checksum(&bytes[CHECKSUM_LEN..]);
        bytes[..CHECKSUM_LEN].copy_from_slice(&sum);
        Ok(bytes)
    }

    /// What some bytes hold.
    ///
    /// # Errors
    /// When they are not what [`Self::encode`] made.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD_LEN {
            return Err(RecordError::Length(bytes.len()));
        }
        let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_LEN>() else {
            return Err(RecordError::Length(bytes.len()));
        };
        if prefix[..CHECKSUM_LEN] != checksum(&bytes[CHECKSUM_LEN..]) {
            return Err(RecordError::Checksum);
        }
        let head_len = prefix[CHECKSUM_LEN..].iter().rev().fold(0, |len, byte| len << 8 | usize::from(*byte));
        let Some((head, payload)) = rest.split_at_checked(head_len) else {
            return Err(RecordError::Length(bytes.len()));
        };
        let mut item: Self = serde_json::from_slice(head)?;
        let payload = Bytes::copy_from_slice(payload);
        match &mut item {
            Self::Call(event) => event.payload = payload,
            Self::Outcome(outcome) => outcome.line = payload,
            Self::Parcel(parcel) => parcel.record = payload,
        }
        Ok(item)
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut sum = [0; CHECKSUM_LEN];
    sum.copy_from_slice(&Sha256::digest(bytes)[..CHECKSUM_LEN]);
    sum
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::events) fn event(name: &str, payload: &str) -> Event {
        Event {
            function: FunctionId { region: "us-east-1".into(), name: name.into() },
            incarnation: "i".into(),
            qualifier: None,
            request_id: "r".into(),
            client_context: None,
            trace_id: None,
            accepted_ms: 1,
            calls: 0,
            failures: 0,
            lineage: Lineage::default(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
        }
    }

    pub(in crate::events) fn parcel(destination: &str, record: &str) -> Parcel {
        Parcel {
            destination: destination.into(),
            function: event("f", "").function,
            request_id: "r".into(),
            id: "8f0c1d8e-0000-4000-8000-000000000000".into(),
            calls: 1,
            since_ms: 1_764_000_000_123,
            failures: 0,
            is_notification: false,
            record: Bytes::copy_from_slice(record.as_bytes()),
        }
    }

    #[test]
    fn what_is_read_back_is_what_was_written() {
        let outcome = Outcome {
            queue: "q".into(),
            request_id: "r".into(),
            since_ms: 2,
            failures: 1,
            line: "{}".into(),
        };
        let parcel = Item::Parcel(parcel("arn:aws:s3:::b", "{}"));
        for item in [Item::Call(event("f", "{\"a\": 1}")), Item::Outcome(outcome), parcel] {
            assert_eq!(Item::decode(&item.encode().unwrap()).unwrap(), item);
        }
        let long = "x".repeat(MAX_PAYLOAD_LEN + 1);
        assert!(matches!(Item::Call(event("f", &long)).encode(), Err(RecordError::Length(_))));
    }

    #[test]
    fn no_bit_is_changed_unseen() {
        let bytes = Item::Call(event("f", "{}")).encode().unwrap();
        for at in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert!(Item::decode(&changed).is_err(), "bit {at}");
        }
        for len in 0..bytes.len() {
            assert!(Item::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
    }
}
