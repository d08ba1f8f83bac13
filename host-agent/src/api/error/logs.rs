//! What a client of the logs is told that gets no answer: CloudWatch Logs speaks AWS's JSON 1.1, in which every error of a client's is
//! a 400 whose name is a member of the body.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use serde_json::json;

use super::{
    ApiError, LOGS_PARAMETER, OPERATION_ABORTED, RESOURCE_EXISTS, RESOURCE_NOT_FOUND, UNAVAILABLE,
    UNKNOWN_OPERATION, VALIDATION,
};
use crate::{logs::LogsError, sandbox::describe};

/// Media type of the protocol.
pub(crate) const JSON_1_1: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.1");

impl ApiError {
    /// A value that CloudWatch Logs refuses.
    pub(crate) fn logs_parameter(message: impl Into<String>) -> Self {
        Self::new(&LOGS_PARAMETER, message)
    }

    /// A member that this node does nothing with.
    pub(crate) fn unsupported_in_logs(member: &str) -> Self {
        Self::logs_parameter(format!("{member} is not supported by this Tinderbox node."))
    }

    /// No such operation of CloudWatch Logs' on this node.
    pub(crate) fn unknown_logs_operation(name: &str) -> Self {
        Self::new(&UNKNOWN_OPERATION, format!("{name} is not supported on this node."))
    }

    /// The error as CloudWatch Logs answers it, which calls violated constraints by another name.
    pub(crate) fn into_json_1_1(self) -> Response {
        let status =
            if self.kind.status.is_client_error() { StatusCode::BAD_REQUEST } else { self.kind.status };
        let name = if self.kind == &VALIDATION { LOGS_PARAMETER.name } else { self.kind.name };
        let body = json!({ "__type": name, "message": self.message });
        let mut response = (status, Json(body)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, JSON_1_1);
        response
    }
}

impl From<LogsError> for ApiError {
    fn from(error: LogsError) -> Self {
        match error {
            LogsError::NoGroup => Self::new(&RESOURCE_NOT_FOUND, "The specified log group does not exist."),
            LogsError::NoStream => Self::new(&RESOURCE_NOT_FOUND, "The specified log stream does not exist."),
            LogsError::GroupExists => Self::new(&RESOURCE_EXISTS, "The specified log group already exists"),
            LogsError::TooManyDeleted | LogsError::TooManyGroups => {
                Self::new(&OPERATION_ABORTED, error.to_string())
            }
            LogsError::Disk(_) | LogsError::Io(_) => {
                tracing::error!("a question about logs was not answered: {}", describe(&error));
                Self::new(&UNAVAILABLE, "The service cannot complete the request.")
            }
        }
    }
}
