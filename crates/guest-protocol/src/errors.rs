//! The error documents that the platform itself writes, in Lambda's words. Used by guest-init, and by host-agent for
//! the sandboxes that can no longer speak for themselves.

use crate::FunctionError;

impl FunctionError {
    /// `{"errorType":…,"errorMessage":…}` with the message as it is.
    #[must_use]
    pub fn new(error_type: &str, message: &str) -> Self {
        let document = serde_json::json!({ "errorType": error_type, "errorMessage": message });
        Self { error_type: error_type.to_owned(), payload: document.to_string().into_bytes() }
    }

    /// The same with the message `RequestId: ID Error: MESSAGE`.
    #[must_use]
    pub fn of_request(request_id: &str, error_type: &str, message: &str) -> Self {
        Self::new(error_type, &format!("RequestId: {request_id} Error: {message}"))
    }

    /// What the invoker is told when the function's time is up.
    #[must_use]
    pub fn timed_out(request_id: &str, timeout_ms: u32) -> Self {
        let message = timed_out_message(timeout_ms);
        Self::of_request(request_id, "Sandbox.Timedout", &message)
    }
}

/// `Task timed out after 3.00 seconds`.
#[must_use]
pub fn timed_out_message(timeout_ms: u32) -> String {
    format!("Task timed out after {}.{:02} seconds", timeout_ms / 1000, timeout_ms % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_reads_as_lambda_words_it() {
        let error = FunctionError::timed_out("7f-1", 3000);
        let document: serde_json::Value = serde_json::from_slice(&error.payload).unwrap();
        assert_eq!(document["errorType"], "Sandbox.Timedout");
        assert_eq!(document["errorMessage"], "RequestId: 7f-1 Error: Task timed out after 3.00 seconds");
    }

    #[test]
    fn hundredths_are_padded_and_cut() {
        assert_eq!(timed_out_message(61_059), "Task timed out after 61.05 seconds");
    }
}
