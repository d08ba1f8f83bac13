//! Who somebody is, and what they may do: errors of signatures, keys and policies, in AWS's words.

use super::{
    ACCESS_DENIED, ApiError, INCOMPLETE_SIGNATURE, INVALID_SIGNATURE, MISSING_TOKEN, UNRECOGNIZED_CLIENT,
};

impl ApiError {
    /// The ARN names another account.
    pub(crate) fn other_account(account_id: &str, action: &str, arn: &str) -> Self {
        let message = format!(
            "User: arn:aws:iam::{account_id}:root is not authorized to perform: lambda:{action} on resource: {arn} \
             because no resource-based policy allows the lambda:{action} action"
        );
        Self::new(&ACCESS_DENIED, message)
    }

    /// Nothing allows it.
    pub(crate) fn access_denied(user_arn: &str, action: &str, resource: &str) -> Self {
        let message = format!(
            "User: {user_arn} is not authorized to perform: {action} on resource: {resource} because no identity-based \
             policy allows the {action} action"
        );
        Self::new(&ACCESS_DENIED, message)
    }

    /// A policy denies it.
    pub(crate) fn explicitly_denied(user_arn: &str, action: &str, resource: &str) -> Self {
        let message = format!(
            "User: {user_arn} is not authorized to perform: {action} on resource: {resource} with an explicit deny in an \
             identity-based policy"
        );
        Self::new(&ACCESS_DENIED, message)
    }

    /// No credentials at all.
    pub(crate) fn missing_token() -> Self {
        Self::new(&MISSING_TOKEN, "Missing Authentication Token")
    }

    /// Credentials that cannot be read.
    pub(crate) fn incomplete_signature(message: impl Into<String>) -> Self {
        Self::new(&INCOMPLETE_SIGNATURE, message)
    }

    /// An access key that the node does not know.
    pub(crate) fn unrecognized_client() -> Self {
        Self::new(&UNRECOGNIZED_CLIENT, "The security token included in the request is invalid.")
    }

    /// A signature that is not the request's.
    pub(crate) fn wrong_signature() -> Self {
        let message = "The request signature we calculated does not match the signature you provided. Check your \
                       AWS Secret Access Key and signing method. Consult the service documentation for details.";
        Self::new(&INVALID_SIGNATURE, message)
    }

    /// A signature from another time.
    pub(crate) fn signature_time(message: impl Into<String>) -> Self {
        Self::new(&INVALID_SIGNATURE, message)
    }
}
