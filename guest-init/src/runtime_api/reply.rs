//! What the Runtime API answers: statuses and documents as AWS's runtime interface emulator gives them.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

use super::{CallError, Delivery};
use crate::lifecycle::Refusal;

/// An invocation for the runtime.
pub(super) fn delivery(delivery: &Delivery) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(delivery.event.clone()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in &delivery.headers {
        if let Ok(value) = HeaderValue::from_bytes(&printable(value)) {
            headers.insert(*name, value);
        }
    }
    response
}

/// The call was taken.
pub(super) fn accepted() -> Response<Full<Bytes>> {
    json(StatusCode::ACCEPTED, r#"{"status":"OK"}"#.into())
}

/// The runtime has been resumed.
pub(super) fn restored() -> Response<Full<Bytes>> {
    Response::new(Full::default())
}

/// A document that is there.
pub(super) fn document(text: String) -> Response<Full<Bytes>> {
    json(StatusCode::OK, text)
}

/// No such call.
pub(super) fn not_found() -> Response<Full<Bytes>> {
    error(StatusCode::NOT_FOUND, "ResourceNotFound", "404 page not found")
}

/// The call was not taken.
pub(super) fn refused(refusal: CallError) -> Response<Full<Bytes>> {
    let (status, error_type) = match &refusal {
        CallError::Refused(Refusal::NotSnapStart) => return not_found(),
        CallError::Refused(Refusal::InvalidTransition { .. } | Refusal::Busy) => {
            (StatusCode::FORBIDDEN, "InvalidStateTransition")
        }
        CallError::Refused(Refusal::InvalidRequestId) => (StatusCode::BAD_REQUEST, "InvalidRequestID"),
        CallError::TooLong | CallError::StreamTooLong => {
            (StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge")
        }
        CallError::Body(_) => (StatusCode::BAD_REQUEST, "InvalidRequest"),
        CallError::Closed => (StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError"),
    };
    error(status, error_type, &refusal.to_string())
}

/// A document that says what is wrong.
pub(super) fn error(status: StatusCode, error_type: &str, message: &str) -> Response<Full<Bytes>> {
    let document = serde_json::json!({ "errorMessage": message, "errorType": error_type });
    json(status, document.to_string())
}

fn json(status: StatusCode, document: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(document.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A header's value may hold no control characters. The client context is JSON text, where a space means the same as
/// a line break between members.
fn printable(value: &str) -> Vec<u8> {
    value.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }).collect()
}
