//! What the client of a URL is told when its function has no answer: a status and a word, without the API's names, and nothing
//! that tells a URL that is not there from one that is not theirs.

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{answer::Malformed, event::TooLong};
use crate::{
    api::{ApiError, gate::MAX_EVENT_LEN},
    invoke::InvokeError,
};

/// Header that names the error, where AWS has one: of who may not call.
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// What a throttled client is told to wait, in seconds.
const RETRY_AFTER_S: u32 = 1;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Refusal {
    /// No URL, or nobody who may use it.
    Forbidden,
    /// The function failed, its answer makes none, or the node lost it.
    Failed,
    /// The function has as many calls as it may have.
    Throttled,
    /// The node is going down.
    ShuttingDown,
    /// The request's body was not taken.
    Request(ApiError),
}

impl From<InvokeError> for Refusal {
    fn from(error: InvokeError) -> Self {
        match error {
            InvokeError::Throttled(_) => Self::Throttled,
            InvokeError::ShuttingDown => Self::ShuttingDown,
            error => {
                tracing::error!("a call of a URL was lost: {error}");
                Self::Failed
            }
        }
    }
}

impl From<Malformed> for Refusal {
    fn from(problem: Malformed) -> Self {
        tracing::debug!("a function's answer makes none of its URL's: {problem}");
        Self::Failed
    }
}

impl From<TooLong> for Refusal {
    fn from(TooLong: TooLong) -> Self {
        Self::Request(ApiError::too_large(MAX_EVENT_LEN, "InvokeFunction"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (throttled, forbidden) = (matches!(self, Self::Throttled), matches!(self, Self::Forbidden));
        let (status, message) = match self {
            Self::Forbidden => (StatusCode::FORBIDDEN, "Forbidden".into()),
            Self::Failed => (StatusCode::BAD_GATEWAY, "Internal Server Error".into()),
            Self::Throttled => (StatusCode::TOO_MANY_REQUESTS, "Rate Exceeded.".into()),
            Self::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable".into()),
            Self::Request(error) => error.said(),
        };
        let mut response = (status, Json(json!({ "Message": message }))).into_response();
        if forbidden {
            response.headers_mut().insert(ERROR_TYPE, HeaderValue::from_static("AccessDeniedException"));
        }
        if throttled {
            response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_S.into());
        }
        response
    }
}
