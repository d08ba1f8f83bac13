//! AWS's event stream encoding (`application/vnd.amazon.eventstream`), as far as an answer needs it: messages with headers that are
//! strings. Pure.
//!
//! ```text
//! length of all │ length of headers │ CRC-32 of these two │ headers │ payload │ CRC-32 of all before
//!      u32      │        u32        │         u32         │         │         │        u32            big-endian
//! header: length of name u8, name, type 7 u8, length of value u16, value
//! ```
//!
//! Of our own: `aws-smithy-eventstream` brings a parser and the runtime of an SDK for what is forty lines here.

use bytes::{BufMut as _, Bytes, BytesMut};

/// Type of a header whose value is text.
const STRING: u8 = 7;

/// What is around headers and payload, in bytes.
const FRAME_LEN: usize = 16;

/// An event of this name, whose payload is of that content type.
pub(super) fn event(name: &str, content_type: &str, payload: &[u8]) -> Bytes {
    let headers = [(":event-type", name), (":content-type", content_type), (":message-type", "event")];
    message(&headers, payload)
}

/// Names, values and payloads are ours and of bounded length: a piece of a response, or a document of an answer.
fn message(headers: &[(&str, &str)], payload: &[u8]) -> Bytes {
    let headers_len: usize = headers.iter().map(|(name, value)| 1 + name.len() + 3 + value.len()).sum();
    let len = FRAME_LEN + headers_len + payload.len();
    let mut bytes = BytesMut::with_capacity(len);
    bytes.put_u32(len as u32);
    bytes.put_u32(headers_len as u32);
    bytes.put_u32(crc32fast::hash(&bytes));
    for (name, value) in headers {
        bytes.put_u8(name.len() as u8);
        bytes.put_slice(name.as_bytes());
        bytes.put_u8(STRING);
        bytes.put_u16(value.len() as u16);
        bytes.put_slice(value.as_bytes());
    }
    bytes.put_slice(payload);
    bytes.put_u32(crc32fast::hash(&bytes));
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published with AWS's SDKs (botocore's and aws-c-event-stream's tests).
    #[test]
    fn messages_are_the_published_ones() {
        let document = br#"{'foo':'bar'}"#;
        for (headers, payload, expected) in [
            (&[][..], &b""[..], &b"\x00\x00\x00\x10\x00\x00\x00\x00\x05\xc2H\xeb}\x98\xc8\xff"[..]),
            (&[], document, b"\x00\x00\x00\x1d\x00\x00\x00\x00\xfdR\x8cZ{'foo':'bar'}\xc3e96"),
            (
                &[("content-type", "application/json")],
                document,
                b"\x00\x00\x00=\x00\x00\x00 \x07\xfd\x83\x96\x0ccontent-type\x07\x00\x10application/json{'foo':'bar'}\x8d\x9c\x08\xb1",
            ),
        ] {
            assert_eq!(&message(headers, payload)[..], expected);
        }
    }
}
