//! Why there is no code where a request says that it is in a bucket, in AWS's words where it has any.

use super::{ACCESS_DENIED, ApiError, INVALID_PARAMETER, UNAVAILABLE};

impl ApiError {
    /// There is no such bucket for this node.
    pub(crate) fn no_bucket() -> Self {
        Self::of_object("NoSuchBucket", "The specified bucket does not exist")
    }

    /// It has no such object.
    pub(crate) fn no_object() -> Self {
        Self::of_object("NoSuchKey", "The specified key does not exist.")
    }

    /// Nor in that version.
    pub(crate) fn no_object_version() -> Self {
        Self::of_object("NoSuchVersion", "The specified version does not exist.")
    }

    /// The node itself may not read it.
    pub(crate) fn object_denied(bucket: &str, key: &str) -> Self {
        let message = format!(
            "Your access has been denied by S3, please make sure your request credentials have permission to GetObject for \
             {bucket}/{key}. S3 Error Code: AccessDenied. S3 Error Message: Access Denied"
        );
        Self::new(&ACCESS_DENIED, message)
    }

    /// It is longer than any zip that may be uploaded.
    pub(crate) fn object_too_large(limit: u64) -> Self {
        let message =
            format!("Code in a bucket must not be larger than {limit} bytes on this Tinderbox node.");
        Self::new(&INVALID_PARAMETER, message)
    }

    /// Its service does not answer, or not in time.
    pub(crate) fn bucket_unavailable() -> Self {
        let message = "The code's bucket cannot be read now. The node's log has the details.";
        Self::new(&UNAVAILABLE, message)
    }

    fn of_object(code: &str, message: &str) -> Self {
        let message =
            format!("Error occurred while GetObject. S3 Error Code: {code}. S3 Error Message: {message}");
        Self::new(&INVALID_PARAMETER, message)
    }
}
