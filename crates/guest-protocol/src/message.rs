//! The messages. Plain data; times in microseconds or milliseconds as the field's name says.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    Credentials, FreezeReport, GateReport, InitializationType, RestoreFailure, RestoreReport, ResumeHello,
    Unique,
};

/// From the agent to guest-init.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostMessage {
    /// Which function this sandbox runs. Sent once, after [`GuestMessage::Hello`].
    Start(Start),
    /// An invocation begins; `event_len` bytes follow as [`HostMessage::Body`].
    Invoke(Invoke),
    /// The next bytes of the event.
    Body(BodyChunk),
    /// Let the function's processes end as [`ShutdownNeeds`] says, and answer [`GuestMessage::ShutDown`]. Before Start: power off.
    Shutdown(ShutdownReason),
    /// Let the function stand still for a snapshot: after [`GuestMessage::InitDone`] with no invocation under way, or
    /// instead of the Start that follows the resume (a runtime's snapshot).
    Freeze,
    /// Become another guest than the one that was frozen. Answers [`GuestMessage::Resumed`]; or, on the old connection,
    /// lets the frozen original go on.
    MakeUnique(Unique),
}

/// From guest-init to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestMessage {
    /// First message on the connection.
    Hello(Hello),
    /// Bytes that the function wrote, or a line of the platform. All output of an invocation precedes its `Done`.
    Log(LogChunk),
    /// The runtime has asked for its first invocation or, in [`InitializationType::SnapStart`], for `restore/next`.
    InitDone(InitReport),
    /// The runtime reported an init error, exited or ran out of time before its first invocation. Its processes are
    /// gone. The sandbox takes exactly one Invoke more, at which init is repeated under the function's timeout.
    InitFailed(InitFailure),
    /// The runtime began to answer; the body follows as [`GuestMessage::Body`].
    Response(ResponseHead),
    /// The next bytes of the response.
    Body(BodyChunk),
    /// The function's answer is this error; [`Outcome::Failed`] follows without its document.
    Failed(FunctionError),
    /// The invocation has ended, whatever its outcome; [`InvocationReport::fate`] says whether another may follow.
    Done(InvocationReport),
    /// The runtime's process ended while no invocation ran. The sandbox takes none any more; one that crosses this
    /// message on the wire has not been run and may be given to another sandbox.
    Ended(FunctionError),
    /// Answer to [`HostMessage::Shutdown`], and the last message: what the function's processes wrote precedes it.
    ShutDown,
    /// Answer to [`HostMessage::Freeze`]: nothing of the function's runs, and nothing follows on this connection. The
    /// guest keeps it open, because its breaking is how the guest learns of a resume: so must the agent until the
    /// machine is paused.
    Frozen(FreezeReport),
    /// First message of a resumed guest, on a new connection.
    Resumed(ResumeHello),
    /// The guest is unique, and the function thawed.
    Unique(GateReport),
    /// The guest is not unique and never will be: destroy it. Nothing of the function's has run.
    GateFailed(GateReport),
    /// The runtime has been restored and asks for invocations.
    RestoreDone(RestoreReport),
    /// The runtime could not be restored: destroy the guest.
    RestoreFailed(RestoreFailure),
}

/// guest-init is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Must equal [`crate::PROTOCOL_VERSION`].
    pub protocol_version: u32,
    /// Guest kernel release, as `uname -r` prints it.
    pub kernel_release: String,
    /// Time from kernel start to PID 1's first instruction, µs of guest monotonic clock.
    pub kernel_boot_us: u64,
    /// Time from PID 1's first instruction to this message, µs.
    pub guest_init_us: u64,
}

/// Identity and settings of the function, and what the guest needs from the host before user code runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Function name, without account or qualifier.
    pub function_name: String,
    /// Twelve digits: whose function it is.
    pub account_id: String,
    /// `$LATEST` or a version number.
    pub function_version: String,
    /// Identifier of the runtime whose image this is. The function may have asked for another one.
    pub runtime: String,
    /// What tells this image from every other one of the runtime: SHA-256, lower-case hexadecimal.
    pub runtime_version: String,
    /// `_HANDLER`.
    pub handler: String,
    /// Memory of the function's cgroup and `AWS_LAMBDA_FUNCTION_MEMORY_SIZE`, MiB.
    pub memory_mib: u32,
    /// Limit of one init, ms; then [`GuestMessage::InitFailed`].
    pub init_timeout_ms: u32,
    /// The function's timeout, ms. Also the limit of an init that is repeated at the first invocation.
    pub timeout_ms: u32,
    /// `AWS_REGION` and `AWS_DEFAULT_REGION`.
    pub region: String,
    /// `AWS_LAMBDA_LOG_GROUP_NAME`.
    pub log_group: String,
    /// `AWS_LAMBDA_LOG_STREAM_NAME`.
    pub log_stream: String,
    /// Wall clock at sending, nanoseconds since the Unix epoch.
    pub wall_clock_unix_ns: u64,
    /// Fresh bytes from the host's `getrandom`, credited to the guest kernel.
    pub entropy: [u8; 32],
    /// The customer's variables, already checked against the reserved names.
    pub environment: Vec<(String, String)>,
    /// Variables that the platform sets for the function; no credentials.
    pub platform_environment: Vec<(String, String)>,
    /// Credentials of the function's role: in its environment, or behind the endpoint when it is to be snapshotted.
    pub credentials: Option<Credentials>,
    /// How this environment comes to be.
    pub initialization_type: InitializationType,
    /// What the drive `code` holds.
    pub code: CodeLayout,
    /// How the container image is run that the drive `runtime` holds, with [`CodeLayout::Root`].
    pub container: Option<Container>,
    /// How the platform's own log lines look.
    pub log_format: LogFormat,
}

/// How the platform's own log lines look, as the function's `LoggingConfig` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// `START …`, `REPORT …`.
    Text,
    /// JSON documents (`platform.start`, `platform.report`), those of this level and above.
    Json(SystemLogLevel),
}

/// Levels of the platform's log lines, the most talkative first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SystemLogLevel {
    /// Everything.
    Debug,
    /// The usual.
    Info,
    /// Failures alone.
    Warn,
}

/// What is in the image of a function's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CodeLayout {
    /// `/var/task`.
    Alone,
    /// Folders for `/var/task` ([`crate::TASK_FOLDER`]) and for `/opt` ([`crate::LAYERS_FOLDER`]).
    WithLayers,
    /// Nothing to mount: the code is a container image, which is the root already.
    Root,
}

/// How a container image is run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Program and arguments; a program without a slash is looked for in `PATH`.
    pub arguments: Vec<String>,
    /// Where it is run.
    pub working_directory: String,
    /// The image's own variables, which all others win over.
    pub environment: Vec<(String, String)>,
}

/// Head of an invocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoke {
    /// `Lambda-Runtime-Aws-Request-Id`, a UUID.
    pub request_id: String,
    /// Time the function may take from now, ms. guest-init computes the deadline on its own clock.
    pub timeout_ms: u32,
    /// `Lambda-Runtime-Invoked-Function-Arn`.
    pub invoked_function_arn: String,
    /// `Lambda-Runtime-Trace-Id`.
    pub trace_id: String,
    /// `Lambda-Runtime-Client-Context`: the decoded JSON text.
    pub client_context: Option<String>,
    /// `Lambda-Runtime-Cognito-Identity`.
    pub cognito_identity: Option<String>,
    /// Length of the event in bytes, at most [`crate::MAX_BODY_LEN`].
    pub event_len: u32,
    /// How the response is wanted. A runtime that does not stream is free to answer as ever.
    pub response_mode: ResponseMode,
}

/// When a response's body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResponseMode {
    /// When it is whole; at most [`crate::MAX_RESPONSE_LEN`] bytes.
    Buffered,
    /// As it comes; at most [`crate::MAX_STREAM_LEN`] bytes.
    Streamed,
}

/// A piece of an event or a response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyChunk {
    /// At most [`crate::MAX_CHUNK_LEN`] bytes; empty only when `last`.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
    /// No piece follows.
    pub last: bool,
}

/// Who wrote a piece of log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogSource {
    /// The function's standard output or standard error.
    Function,
    /// guest-init: START, END, REPORT and their kin.
    Platform,
}

/// A piece of log, not necessarily a whole line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogChunk {
    /// Who wrote it.
    pub source: LogSource,
    /// At most [`crate::MAX_CHUNK_LEN`] bytes, not necessarily UTF-8.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// A finished init.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitReport {
    /// From starting the runtime's process to its first `invocation/next`, µs.
    pub duration_us: u64,
    /// What the sandbox needs at its end.
    pub shutdown: ShutdownNeeds,
}

/// Why a sandbox ends, as its extensions are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShutdownReason {
    /// It is not needed any more.
    Spindown,
    /// An invocation took too long.
    Timeout,
    /// An invocation or the runtime failed.
    Failure,
}

/// What a sandbox that has been initialised needs at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShutdownNeeds {
    /// Nobody is told.
    #[default]
    None,
    /// The runtime, which has extensions inside, is sent a signal.
    Internal,
    /// The runtime is, and then the external extensions are told.
    External,
}

impl ShutdownNeeds {
    /// How long it may take: Lambda's limits.
    #[must_use]
    pub const fn budget(self) -> Duration {
        match self {
            Self::None => Duration::ZERO,
            Self::Internal => Duration::from_millis(500),
            Self::External => Duration::from_millis(2000),
        }
    }
}

/// A failed init.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitFailure {
    /// What the invoker is told, as Lambda words it.
    pub error: FunctionError,
    /// From starting the runtime's process to the failure, µs.
    pub duration_us: u64,
    /// What the sandbox needs at its end. Extensions are told of this failure without being asked for it.
    pub shutdown: ShutdownNeeds,
}

/// An error payload as the invoker sees it: the runtime's own JSON, or one that guest-init wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionError {
    /// `Lambda-Runtime-Function-Error-Type`, or the platform's (`Runtime.ExitError`, `Sandbox.Timedout`).
    pub error_type: String,
    /// JSON document to answer with, at most [`crate::MAX_RESPONSE_LEN`] bytes.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
}

/// The runtime began to answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseHead {
    /// Of the invocation that is answered.
    pub request_id: String,
    /// As the runtime sent it; `application/json` when it did not.
    pub content_type: String,
    /// [`ResponseMode::Streamed`] only if that was asked for.
    pub mode: ResponseMode,
}

/// How an invocation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// `Response` and its whole body were sent. Sent bodies count in this case only.
    Succeeded,
    /// The function answered with an error, and its document was sent ([`GuestMessage::Failed`]); or an extension failed
    /// before there was an answer, and the document is here.
    Failed(FunctionError),
    /// The deadline passed; the function's processes were killed. An answer that was sent before stands.
    TimedOut,
    /// The runtime's process ended; carries the payload to answer with.
    Exited(FunctionError),
}

/// An ended invocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvocationReport {
    /// Of the invocation that ended.
    pub request_id: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether the sandbox takes another invocation. A runtime that answers and then exits has
    /// [`Outcome::Succeeded`] and [`Fate::Ended`].
    pub fate: Fate,
    /// From handing the event to the runtime to the end of its answer, and what extensions took behind the runtime, µs.
    pub duration_us: u64,
    /// Peak memory of the function's cgroup, MiB.
    pub max_memory_used_mib: u32,
    /// What the sandbox needs at its end: after an init that was repeated, nothing else tells.
    pub shutdown: ShutdownNeeds,
}

/// What becomes of a sandbox after an invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// The runtime waits for the next invocation.
    Reusable,
    /// Its processes are gone: destroy it.
    Ended,
}
