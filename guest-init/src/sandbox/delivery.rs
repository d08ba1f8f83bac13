//! What an invocation looks like to the runtime. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use guest_protocol::Invoke;

/// The headers of an invocation that was accepted at this time.
pub(super) fn headers(invoke: &Invoke, accepted: SystemTime) -> Vec<(&'static str, String)> {
    let deadline = accepted + Duration::from_millis(invoke.timeout_ms.into());
    let deadline_ms = deadline.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut headers = vec![
        ("lambda-runtime-aws-request-id", invoke.request_id.clone()),
        ("lambda-runtime-deadline-ms", deadline_ms.to_string()),
        ("lambda-runtime-invoked-function-arn", invoke.invoked_function_arn.clone()),
        ("lambda-runtime-trace-id", invoke.trace_id.clone()),
    ];
    let optional = [
        ("lambda-runtime-client-context", &invoke.client_context),
        ("lambda-runtime-cognito-identity", &invoke.cognito_identity),
    ];
    headers.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
    headers
}
