//! From a response that is being streamed to the answer of a URL's client.

use std::io;

use axum::{
    body::Body,
    http::{HeaderValue, header::CONTENT_TYPE},
    response::Response,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::{
    prelude::{HTTP_INTEGRATION, Prelude},
    refusal::Refusal,
};
use crate::api::streaming::{Next, Streaming};

/// The answer, whose body comes while the function makes it.
pub(super) async fn answer(content_type: &str, mut streaming: Streaming) -> Result<Response, Refusal> {
    if content_type != HTTP_INTEGRATION {
        let mut response = Response::new(body(Bytes::new(), streaming));
        // It is a header's value: guest-init had it from one. Whatever a guest says instead is left out.
        if let Ok(content_type) = HeaderValue::from_str(content_type) {
            response.headers_mut().insert(CONTENT_TYPE, content_type);
        }
        return Ok(response);
    }
    let mut prelude = Prelude::default();
    loop {
        match streaming.next().await {
            Next::Piece(piece) => {
                if let Some((head, first)) = prelude.take(&piece)? {
                    return Ok(head.map(|_| body(first, streaming)));
                }
            }
            Next::End(Err(error)) => return Err(error.into()),
            // It failed, or its prelude has no end.
            Next::End(Ok(_)) => return Err(Refusal::Failed),
        }
    }
}

/// The body: its first bytes and all that follow. A function that fails midway breaks the connection off, for nothing else tells a
/// client that what it has is not whole.
fn body(first: Bytes, streaming: Streaming) -> Body {
    let rest = stream::unfold(Some(streaming), |streaming| async {
        let mut streaming = streaming?;
        match streaming.next().await {
            Next::Piece(piece) => Some((Ok(piece), Some(streaming))),
            Next::End(Ok(answer)) if answer.function_error.is_none() => None,
            Next::End(_) => Some((Err(io::Error::other("the function failed midway")), None)),
        }
    });
    let first = (!first.is_empty()).then_some(Ok(first));
    Body::from_stream(stream::iter(first).chain(rest))
}
