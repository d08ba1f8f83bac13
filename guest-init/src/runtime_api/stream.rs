//! A response that goes to the agent while the runtime writes it.
//!
//! A task of its own: hyper drops a call whose connection breaks, and somebody has to say then that the response is not whole.

use guest_protocol::{FunctionError, MAX_CHUNK_LEN, MAX_STREAM_LEN};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use tokio::sync::mpsc;

use super::{Call, CallError, ask, error_behind};
use crate::lifecycle::Answer;

/// Passes a body on, piece by piece: the next is read when the agent's queue has taken the one before. Whatever ends it, the
/// invocation is answered.
pub(super) async fn relay(
    calls: mpsc::Sender<Call>,
    request_id: String,
    content_type: String,
    body: Incoming,
) -> Result<(), CallError> {
    let begin = |reply| Call::Begin { request_id: request_id.clone(), content_type, reply };
    ask(&calls, begin).await?;
    let (answer, taken) = match pieces(&calls, &request_id, body).await {
        Ok(trailers) => (error_behind(&trailers).map_or(Answer::Response, Answer::Error), Ok(())),
        Err(error @ CallError::StreamTooLong) => {
            let error_type = "Function.ResponseSizeTooLarge";
            (Answer::Error(FunctionError::new(error_type, &error.to_string())), Err(error))
        }
        Err(error @ CallError::Body(_)) => {
            let message = "The response ended before it was whole.";
            (Answer::Error(FunctionError::new("Runtime.TruncatedResponse", message)), Err(error))
        }
        Err(error) => return Err(error),
    };
    let (content_type, document) = Default::default();
    ask(&calls, |reply| Call::Answer { request_id, answer, content_type, document, reply }).await?;
    taken
}

/// All pieces; what stands behind them.
async fn pieces(
    calls: &mpsc::Sender<Call>,
    request_id: &str,
    mut body: Incoming,
) -> Result<HeaderMap, CallError> {
    let (mut trailers, mut len) = (HeaderMap::new(), 0);
    while let Some(frame) = body.frame().await {
        let mut data = match frame?.into_data() {
            Ok(data) => data,
            Err(other) => {
                trailers.extend(other.into_trailers().unwrap_or_default());
                continue;
            }
        };
        len += data.len();
        if len > MAX_STREAM_LEN {
            return Err(CallError::StreamTooLong);
        }
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(MAX_CHUNK_LEN));
            let request_id = request_id.to_owned();
            ask(calls, |reply| Call::Piece { request_id, piece, reply }).await?;
        }
    }
    Ok(trailers)
}
