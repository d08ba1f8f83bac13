//! Reads request bodies within their bound.

use bytes::{Bytes, BytesMut};
use guest_protocol::MAX_RESPONSE_LEN;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::HeaderMap;

/// A request's body.
pub(super) enum Document {
    /// All of it.
    Whole(Bytes),
    /// More than [`MAX_RESPONSE_LEN`]; nothing was kept.
    TooLong,
}

/// Reads a body to its end, and the headers behind it, if any: hyper bounds those. What is beyond the limit is read and dropped, so that the client, which reads the answer
/// only after it has sent everything, gets to see the refusal; the invocation's deadline bounds how long.
pub(super) async fn read(mut body: Incoming) -> Result<(Document, HeaderMap), hyper::Error> {
    let mut kept = Some(BytesMut::new());
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        let data = match frame?.into_data() {
            Ok(data) => data,
            Err(other) => {
                trailers.extend(other.into_trailers().unwrap_or_default());
                continue;
            }
        };
        kept = kept.filter(|kept| kept.len() + data.len() <= MAX_RESPONSE_LEN);
        if let Some(kept) = &mut kept {
            kept.extend_from_slice(&data);
        }
    }
    let document = kept.map_or(Document::TooLong, |kept| Document::Whole(kept.freeze()));
    Ok((document, trailers))
}
