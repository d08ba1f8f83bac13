//! Messages to bytes and back: one JSON document a packet. No I/O; see `client` for the descriptors beside a packet.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::MAX_PACKET_LEN;

/// A message that does not fit in a packet.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// A value that JSON cannot say (a path that is not UTF-8).
    #[error("encode a control message")]
    Json(#[from] serde_json::Error),
    /// Longer than [`MAX_PACKET_LEN`].
    #[error("control message of {0} bytes, at most {MAX_PACKET_LEN} fit in a packet")]
    TooLong(usize),
}

/// Bytes that are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    /// Path of the field that is wrong (`configure.drives[1].id`); absent when the bytes are no JSON at all.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
}

/// A message's packet.
///
/// # Errors
/// The message is longer than [`MAX_PACKET_LEN`] or holds a path that is not UTF-8.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, EncodeError> {
    let packet = serde_json::to_vec(message)?;
    if packet.len() > MAX_PACKET_LEN {
        return Err(EncodeError::TooLong(packet.len()));
    }
    Ok(packet)
}

/// The message in a packet.
///
/// # Errors
/// Names the field that is wrong.
pub fn decode<T: DeserializeOwned>(packet: &[u8]) -> Result<T, DecodeError> {
    let mut json = serde_json::Deserializer::from_slice(packet);
    let message = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        DecodeError { field: (path != ".").then_some(path), message: error.into_inner().to_string() }
    })?;
    json.end().map_err(|error| DecodeError { field: None, message: error.to_string() })?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MachineConfig, Request, Response};

    #[test]
    fn requests_survive_the_wire() {
        for request in [Request::Start, Request::Pause, Request::Metrics] {
            let packet = encode(&request).expect("encodes");
            assert_eq!(decode::<Request>(&packet).expect("decodes"), request);
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        let text = br#"{"vcpu_count":1,"mem_size_mib":128,"kernel":{"fd":0},"drives":[{"id":"a","source":{"fd":"x"},"access":"read_only"}]}"#;
        let error = decode::<MachineConfig>(text).expect_err("a string is no descriptor");
        assert_eq!(error.field.as_deref(), Some("drives[0].source.fd"));
    }

    #[test]
    fn trailing_bytes_and_garbage_are_refused() {
        assert!(decode::<Request>(br#""start" "stop""#).is_err());
        assert!(decode::<Response>(b"\xff\x00").is_err());
    }
}
