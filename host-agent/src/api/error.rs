//! Every error that a client can be answered: AWS's name, HTTP status, wording. Nothing else in the agent knows a status
//! code or an error's name.
//!
//! Wire: status, header `x-amzn-errortype`, body `{"Type": …, "message": …}`; a few errors spell the member `Message`
//! (botocore's service model says which). Recorded answers of AWS win over the model, the model over documentation.

mod identity;
mod invoke;
mod logs;
mod objects;

pub(crate) use logs::JSON_1_1;

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value};

/// Header that names the error.
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// What a throttled client is told to wait, in seconds: an invocation's typical length.
const RETRY_AFTER_S: u32 = 1;

/// Whose fault: the member `Type` of most errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    User,
    Server,
    /// The front end's own errors have no such member.
    Unsaid,
}

/// How an error's name goes to the wire.
#[derive(Debug, PartialEq, Eq)]
struct Kind {
    name: &'static str,
    status: StatusCode,
    message_member: &'static str,
    fault: Fault,
}

macro_rules! kinds {
    ($($constant:ident = $name:literal, $status:ident, $member:literal, $fault:ident;)*) => {
        $(const $constant: Kind = Kind {
            name: $name,
            status: StatusCode::$status,
            message_member: $member,
            fault: Fault::$fault,
        };)*
    };
}

kinds! {
    ACCESS_DENIED = "AccessDeniedException", FORBIDDEN, "Message", Unsaid;
    CODE_STORAGE = "CodeStorageExceededException", BAD_REQUEST, "message", User;
    INCOMPLETE_SIGNATURE = "IncompleteSignatureException", FORBIDDEN, "message", Unsaid;
    INVALID_CONCURRENCY = "InvalidParameterValueException", BAD_REQUEST, "message", Unsaid;
    INVALID_PARAMETER = "InvalidParameterValueException", BAD_REQUEST, "message", User;
    INVALID_REQUEST_CONTENT = "InvalidRequestContentException", BAD_REQUEST, "message", User;
    INVALID_RUNTIME = "InvalidRuntimeException", BAD_GATEWAY, "Message", User;
    INVALID_SIGNATURE = "InvalidSignatureException", FORBIDDEN, "message", Unsaid;
    INVALID_ZIP = "InvalidZipFileException", BAD_GATEWAY, "Message", User;
    LOGS_PARAMETER = "InvalidParameterException", BAD_REQUEST, "message", Unsaid;
    MISSING_TOKEN = "MissingAuthenticationTokenException", FORBIDDEN, "message", Unsaid;
    NOT_IMPLEMENTED = "NotImplementedException", NOT_IMPLEMENTED, "message", Server;
    OPERATION_ABORTED = "OperationAbortedException", BAD_REQUEST, "message", Unsaid;
    POLICY_LENGTH = "PolicyLengthExceededException", BAD_REQUEST, "message", User;
    NO_PROVISION = "ProvisionedConcurrencyConfigNotFoundException", NOT_FOUND, "message", User;
    PRECONDITION = "PreconditionFailedException", PRECONDITION_FAILED, "message", User;
    REQUEST_TIMEOUT = "RequestTimeoutException", REQUEST_TIMEOUT, "message", Unsaid;
    SERIALIZATION = "SerializationException", BAD_REQUEST, "message", User;
    SERVICE = "ServiceException", INTERNAL_SERVER_ERROR, "Message", Server;
    THROTTLED = "TooManyRequestsException", TOO_MANY_REQUESTS, "message", User;
    TOO_LARGE = "RequestTooLargeException", PAYLOAD_TOO_LARGE, "message", User;
    UNAVAILABLE = "ServiceUnavailableException", SERVICE_UNAVAILABLE, "Message", Server;
    UNKNOWN_OPERATION = "UnknownOperationException", NOT_FOUND, "message", Unsaid;
    UNRECOGNIZED_CLIENT = "UnrecognizedClientException", FORBIDDEN, "message", Unsaid;
    VALIDATION = "ValidationException", BAD_REQUEST, "message", Unsaid;
    RESOURCE_EXISTS = "ResourceAlreadyExistsException", BAD_REQUEST, "message", Unsaid;
    RESOURCE_CONFLICT = "ResourceConflictException", CONFLICT, "message", User;
    SNAP_START = "SnapStartException", BAD_REQUEST, "Message", User;
    SNAP_START_NOT_READY = "SnapStartNotReadyException", CONFLICT, "Message", User;
    SNAP_START_TIMEOUT = "SnapStartTimeoutException", REQUEST_TIMEOUT, "Message", User;
    RESOURCE_NOT_FOUND = "ResourceNotFoundException", NOT_FOUND, "Message", User;
}

/// An answer that refuses a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    kind: &'static Kind,
    message: String,
    /// Member `Reason` of a throttling.
    reason: Option<&'static str>,
}

impl ApiError {
    fn new(kind: &'static Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), reason: None }
    }

    /// Name on the wire.
    pub(crate) fn name(&self) -> &'static str {
        self.kind.name
    }

    /// Wording on the wire, for tests.
    #[cfg(test)]
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Status and words, for those who are told them in another shape: clients of functions' URLs.
    pub(crate) fn said(self) -> (StatusCode, String) {
        (self.kind.status, self.message)
    }

    /// Constraints of AWS's model that a request violates.
    pub(crate) fn validation(violations: &[String]) -> Self {
        Self::new(&VALIDATION, violations_message(violations))
    }

    /// A violated constraint that AWS reports under the service's own name.
    pub(crate) fn invalid_parameter_violation(violation: String) -> Self {
        Self::new(&INVALID_PARAMETER, violations_message(&[violation]))
    }

    /// A value that the service refuses.
    pub(crate) fn invalid_parameter(message: impl Into<String>) -> Self {
        Self::new(&INVALID_PARAMETER, message)
    }

    /// Concurrency that the function or the account does not have, of which AWS does not say whose fault it is.
    pub(crate) fn invalid_concurrency(message: impl Into<String>) -> Self {
        Self::new(&INVALID_CONCURRENCY, message)
    }

    /// A request that asks for nothing, in AWS's words.
    pub(crate) fn unprocessable() -> Self {
        Self::new(&INVALID_PARAMETER, "An error occurred and the request cannot be processed.")
    }

    /// A member that this node does not support, refused rather than ignored.
    pub(crate) fn unsupported_parameter(member: &str) -> Self {
        Self::new(&INVALID_PARAMETER, format!("{member} is not supported by this Tinderbox node."))
    }

    /// The body of a request is no JSON, or its members have other types than the model's.
    pub(crate) fn serialization(problem: &serde_json::Error) -> Self {
        Self::new(&SERIALIZATION, format!("Could not parse request body into json: {problem}"))
    }

    /// An invocation's event is no JSON.
    pub(crate) fn invalid_event(problem: impl std::fmt::Display) -> Self {
        Self::new(&INVALID_REQUEST_CONTENT, format!("Could not parse request body into json: {problem}"))
    }

    /// Something else about the content of a request is wrong.
    pub(crate) fn invalid_content(message: impl Into<String>) -> Self {
        Self::new(&INVALID_REQUEST_CONTENT, message)
    }

    /// The body is longer than the operation takes.
    pub(crate) fn too_large(limit: usize, operation: &str) -> Self {
        Self::new(
            &TOO_LARGE,
            format!("Request must be smaller than {limit} bytes for the {operation} operation"),
        )
    }

    /// The node's disk has no room for more code.
    pub(crate) fn code_storage_exceeded() -> Self {
        Self::new(
            &CODE_STORAGE,
            "Code storage limit exceeded: this Tinderbox node's disk has no room for the code.",
        )
    }

    /// The body did not arrive.
    pub(crate) fn body_timeout() -> Self {
        Self::new(&REQUEST_TIMEOUT, "The request body did not arrive in time.")
    }

    /// Bodies of others have all the memory that there is for them.
    pub(crate) fn no_memory() -> Self {
        Self::new(&UNAVAILABLE, "This Tinderbox node has no memory for the request body now.")
    }

    /// Answers of others have all the memory that there is for them; the function has run.
    pub(crate) fn no_answer_memory() -> Self {
        Self::new(&UNAVAILABLE, "This Tinderbox node has no memory for the function's answer now.")
    }

    /// The body ended early or was malformed.
    pub(crate) fn body_broken() -> Self {
        Self::new(&INVALID_REQUEST_CONTENT, "The request body could not be read.")
    }

    /// No such function, version or alias.
    pub(crate) fn function_not_found(arn: &str) -> Self {
        Self::new(&RESOURCE_NOT_FOUND, format!("Function not found: {arn}"))
    }

    /// No such thing at all.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(&RESOURCE_NOT_FOUND, message)
    }

    /// The ARN names another region than the request was signed for.
    pub(crate) fn other_region(named: &str, signed: &str) -> Self {
        let message = format!("Functions from '{named}' are not reachable in this region ('{signed}')");
        Self::new(&RESOURCE_NOT_FOUND, message)
    }

    /// The name is taken.
    pub(crate) fn function_exists(name: &str) -> Self {
        Self::new(&RESOURCE_CONFLICT, format!("Function already exist: {name}"))
    }

    /// The alias's name is taken.
    pub(crate) fn alias_exists(arn: &str) -> Self {
        Self::new(&RESOURCE_CONFLICT, format!("Alias already exists: {arn}"))
    }

    /// The version has provisioned concurrency by another name.
    pub(crate) fn provisioned_twice(message: &str) -> Self {
        Self::new(&RESOURCE_CONFLICT, message)
    }

    /// Nothing is provisioned.
    pub(crate) fn no_provision() -> Self {
        Self::new(&NO_PROVISION, "No Provisioned Concurrency Config found for this function")
    }

    /// The function, or the alias, has a URL.
    pub(crate) fn url_exists(arn: &str) -> Self {
        let message = format!(
            "Failed to create function url config for [functionArn = {arn}]. Error message:  FunctionUrlConfig exists \
             for this Lambda function"
        );
        Self::new(&RESOURCE_CONFLICT, message)
    }

    /// Aliases name the version that shall be deleted.
    pub(crate) fn version_in_use(aliases: &[String]) -> Self {
        let message = format!(
            "Unable to delete version because the following aliases reference it: [{}]",
            aliases.join(", ")
        );
        Self::new(&RESOURCE_CONFLICT, message)
    }

    /// The version's snapshot is being made.
    pub(crate) fn snapshot_not_ready() -> Self {
        let message = "Lambda is initializing your function. It will be ready to invoke once your function state becomes \
                       ACTIVE.";
        Self::new(&SNAP_START_NOT_READY, message)
    }

    /// The version could not be initialised for its snapshot, or not be restored from it.
    pub(crate) fn snapshot_failed(problem: impl Into<String>) -> Self {
        Self::new(&SNAP_START, problem)
    }

    /// Another change of the function got in between, again and again.
    pub(crate) fn update_in_progress(arn: &str) -> Self {
        let message = format!(
            "The operation cannot be performed at this time. An update is in progress for resource: {arn}"
        );
        Self::new(&RESOURCE_CONFLICT, message)
    }

    /// Something is not what the request says.
    pub(crate) fn precondition(message: impl Into<String>) -> Self {
        Self::new(&PRECONDITION, message)
    }

    /// `RevisionId` is not the function's.
    pub(crate) fn stale_revision() -> Self {
        let message = "The Revision Id provided does not match the latest Revision Id. Call the \
                       GetFunction/GetAlias API to retrieve the latest Revision Id";
        Self::new(&PRECONDITION, message)
    }

    /// `RevisionId` is not the policy's, which AWS says that operation shows.
    pub(crate) fn stale_policy(operation: &str) -> Self {
        let message = format!(
            "The Revision Id provided does not match the latest Revision Id. Call the {operation} API to retrieve the \
             latest Revision Id"
        );
        Self::new(&PRECONDITION, message)
    }

    /// The statement's name is taken.
    pub(crate) fn statement_exists(sid: &str) -> Self {
        let message = format!(
            "The statement id ({sid}) provided already exists. Please provide a new statement id, or remove the \
             existing statement."
        );
        Self::new(&RESOURCE_CONFLICT, message)
    }

    /// The policy would be longer than policies may be.
    pub(crate) fn policy_too_long(len: usize, max: usize) -> Self {
        let message = format!("The final policy size ({len}) is bigger than the limit ({max}).");
        Self::new(&POLICY_LENGTH, message)
    }

    /// An operation of Lambda's that this node does not have.
    pub(crate) fn not_implemented(operation: &str) -> Self {
        Self::new(&NOT_IMPLEMENTED, format!("{operation} is not supported on this node."))
    }

    /// No operation of Lambda's.
    pub(crate) fn unknown_operation() -> Self {
        Self::new(&UNKNOWN_OPERATION, "The requested operation is not recognized by the service.")
    }

    /// No room for another asynchronous event.
    pub(crate) fn events_full() -> Self {
        let message = "This Tinderbox node's queue of asynchronous events is full.";
        Self { reason: Some("CallerRateLimitExceeded"), ..Self::new(&THROTTLED, message) }
    }

    /// The registry does not let the node have an image, in AWS's words.
    pub(crate) fn image_denied() -> Self {
        let message = "Lambda does not have permission to access the ECR image. Check the ECR permissions.";
        Self::new(&INVALID_PARAMETER, message)
    }

    /// What a registry has under an image's name is none, in AWS's words.
    pub(crate) fn unsuitable_image(uri: &str) -> Self {
        let message = format!(
            "The image manifest, config or layer media type for the source image {uri} is not supported."
        );
        Self::new(&INVALID_PARAMETER, message)
    }

    /// The registry of an image does not answer.
    pub(crate) fn registry_unavailable() -> Self {
        let message = "The image's registry cannot be reached now. The node's log has the details.";
        Self::new(&UNAVAILABLE, message)
    }

    /// As many images are pulled, or wait to be, as there may be.
    pub(crate) fn pulls_full() -> Self {
        let message = "This Tinderbox node waits for as many images as it may.";
        Self { reason: Some("CallerRateLimitExceeded"), ..Self::new(&THROTTLED, message) }
    }

    /// The function waits for its image, or has none: it is in that state.
    pub(crate) fn wrong_state(state: &str) -> Self {
        let message = format!(
            "The operation cannot be performed at this time. The function is currently in the following state: {state}"
        );
        Self::new(&RESOURCE_CONFLICT, message)
    }

    /// The node could not do what its operator asked for.
    pub(crate) fn upkeep(problem: impl Into<String>) -> Self {
        Self::new(&SERVICE, problem)
    }

    /// The node failed; details are in its log.
    pub(crate) fn internal() -> Self {
        Self::new(&SERVICE, "An internal error occurred. The node's log has the details.")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = Map::new();
        match self.kind.fault {
            Fault::User => drop(body.insert("Type".into(), "User".into())),
            Fault::Server => drop(body.insert("Type".into(), "Server".into())),
            Fault::Unsaid => {}
        }
        if let Some(reason) = self.reason {
            body.insert("Reason".into(), reason.into());
        }
        body.insert(self.kind.message_member.into(), self.message.into());
        let mut response = (self.kind.status, Json(Value::Object(body))).into_response();
        response.headers_mut().insert(ERROR_TYPE, HeaderValue::from_static(self.kind.name));
        if self.kind == &THROTTLED {
            response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_S.into());
        }
        response
    }
}

fn violations_message(violations: &[String]) -> String {
    let errors = if violations.len() == 1 { "error" } else { "errors" };
    format!("{} validation {errors} detected: {}", violations.len(), violations.join("; "))
}
