//! The boundary between the API and whatever runs functions: what an invocation is, what its answer is, how it fails.
//!
//! The API hands over values that were checked (size, qualifier, state) and turns answers and errors into HTTP; nothing
//! here knows HTTP. The pool implements [`Invoker`]; tests implement it with a closure.

use std::{collections::HashSet, future::Future, pin::Pin, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use chunk_store::Label;
use guest_protocol::FunctionError;
use tokio::sync::mpsc;

use self::memory::Answers;
use crate::{
    chunks::Chunks,
    config::Config,
    disk::Disk,
    functions::model::{FunctionConfig, FunctionId},
    logs::LogStore,
    network::Network,
    sandbox::policy::Limits,
};

pub(crate) use crate::sandbox::{
    guest::Part,
    policy::{Failed, Lack},
};

mod ahead;
mod call;
pub(crate) mod concurrency;
pub(crate) mod memory;
pub(crate) mod messages;
mod node;
mod prepare;
pub(crate) mod rate;
mod rehearsal;
mod runtimes;
mod settings;
mod start;
#[cfg(test)]
mod tests;
mod worker;

/// One call of a function.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    /// Settings to run with; an update during the invocation does not change them.
    pub(crate) function: Arc<FunctionConfig>,
    /// The function's code. The image stays in place while this handle lives.
    pub(crate) code: Arc<CodeImage>,
    /// ARN as the caller named it, with the qualifier when one was given: `Lambda-Runtime-Invoked-Function-Arn`.
    pub(crate) invoked_arn: String,
    /// UUID, also in `x-amzn-requestid` and the log lines.
    pub(crate) request_id: String,
    /// The event, at most `guest_protocol::MAX_BODY_LEN` bytes, a JSON document.
    pub(crate) payload: Bytes,
    /// Decoded `X-Amz-Client-Context`: JSON text.
    pub(crate) client_context: Option<String>,
    /// `X-Amzn-Trace-Id` of the request.
    pub(crate) trace_id: Option<String>,
    /// Whether the answer shall carry the last 4 KiB of log.
    pub(crate) log_tail: bool,
    /// The right to be in flight, given back when the sandbox is free again, whoever waits for it.
    pub(crate) slot: Option<Arc<concurrency::Slot>>,
    /// Where the response goes while the function makes it, if somebody wants it so and the runtime streams. The function waits
    /// while it is full; when nobody is at its other end any more, what comes is dropped.
    pub(crate) sink: Option<mpsc::Sender<Part>>,
    /// What its answer has its memory of.
    pub(crate) answers: Answers,
}

/// A code image among the node's contents.
#[derive(Debug)]
pub(crate) struct CodeImage {
    /// What the erofs image to attach as the `code` drive is published as.
    pub(crate) label: Label,
}

/// What the function answered. A function that fails is an answer too.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// The response if it was not streamed, or the error document when `function_error` is set.
    pub(crate) payload: Bytes,
    /// `Unhandled` (or `Handled`) when the function failed: `X-Amz-Function-Error`.
    pub(crate) function_error: Option<&'static str>,
    /// Last 4 KiB of log when the invocation asked for it, not yet base64.
    pub(crate) log_tail: Option<Bytes>,
    /// `X-Amz-Executed-Version`.
    pub(crate) executed_version: String,
    /// Where the time went.
    pub(crate) timing: Timing,
}

/// Parts of an invocation's time; absent when the part did not happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timing {
    /// How the sandbox came to be, in a word of `sandbox::way`; absent for a warm one.
    pub(crate) way: Option<&'static str>,
    /// Waiting for room on the node.
    pub(crate) queue: Option<Duration>,
    /// Choosing a sandbox.
    pub(crate) place: Option<Duration>,
    /// From spawning the VMM to guest-init's hello.
    pub(crate) boot: Option<Duration>,
    /// Loading a snapshot, until the clone's vCPUs run.
    pub(crate) load: Option<Duration>,
    /// From there until the clone is unique.
    pub(crate) unique: Option<Duration>,
    /// Part of `unique`: the steps of the gate, by the guest's clock.
    pub(crate) gate: Option<Duration>,
    /// From there, through the runtime's hooks, until it asks for an event.
    pub(crate) hooks: Option<Duration>,
    /// From telling guest-init what to run to the runtime's first request.
    pub(crate) init: Option<Duration>,
    /// From handing over the event to the end of the answer.
    pub(crate) run: Option<Duration>,
}

/// Why an invocation was not carried out. The function did not run, or the node lost it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvokeError {
    /// No room: the node's memory or the function's concurrency is used up.
    #[error("no sandbox could be given to the invocation: {0}")]
    Throttled(Throttle),
    /// The function's memory is more than the node has for sandboxes altogether.
    #[error(
        "the function needs more memory than the {largest_mib} MiB that a function can have on this node"
    )]
    LargerThanNode {
        /// The most that a function can have here.
        largest_mib: u64,
    },
    /// The runtime's image is missing or the guest could not start from it.
    #[error("the runtime could not be started: {0}")]
    InvalidRuntime(String),
    /// The code image could not be opened or mounted.
    #[error("the code could not be used: {0}")]
    InvalidCode(String),
    /// The node failed: a sandbox could not be made, or died under the function in a way that is not the function's.
    #[error("the node could not run the invocation: {0}")]
    Node(String),
    /// A resumed function could not be made ready: its hooks failed.
    #[error("the function could not be restored: {0}")]
    Restore(String),
    /// A resumed function was not ready in time.
    #[error("the function was not restored in time")]
    RestoreTimeout,
    /// The function ran, and there was no memory for its answer: other clients read theirs too slowly.
    #[error("the node had no memory for the function's answer")]
    NoAnswerMemory,
    /// The node is being shut down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// AWS's `StateReasonCode` of a version that the node failed: lost machines, no room.
pub(crate) const NODE_FAILED: &str = "InternalError";

/// Why a version cannot be resumed from a snapshot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    /// Its function could not be initialised.
    #[error("{}", error_text(.0))]
    Init(FunctionError),
    /// The node could not make or keep a snapshot.
    #[error("the node could not make a snapshot: {0}")]
    Node(String),
    /// The version is gone, or has changed.
    #[error("the version is not what it was")]
    Superseded,
    /// The node is being shut down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

impl PrepareError {
    /// AWS's `StateReasonCode`.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Init(error) if error.error_type == INIT_TIMEOUT => "FunctionError.InitTimeout",
            Self::Init(_) => "FunctionError.RuntimeInitError",
            _ => NODE_FAILED,
        }
    }
}

/// `error_type` of an init that took too long.
const INIT_TIMEOUT: &str = "Sandbox.Timedout";

/// `Runtime.ImportModuleError: Unable to import module 'app'`: what a client is told about a failed init or
/// restore.
fn error_text(error: &FunctionError) -> String {
    let document: Option<serde_json::Value> = serde_json::from_slice(&error.payload).ok();
    let message = document.as_ref().and_then(|document| document["errorMessage"].as_str());
    match message {
        Some(message) => format!("{}: {message}", error.error_type),
        None => error.error_type.clone(),
    }
}

/// What of a function is no longer what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retired<'a> {
    /// What had this `deployment_id`: `$LATEST` is another one now.
    Deployment(&'a str),
    /// A version: it was deleted.
    Version(&'a str),
    /// All of it: it was deleted.
    Function,
    /// Its sandboxes alone: what they may do has changed, and not what they are made from.
    Sandboxes,
}

/// Which limit an invocation met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Throttle {
    /// The account's concurrency, which on one node is its memory.
    #[error("concurrent invocation limit exceeded")]
    Concurrency,
    /// What the function has reserved.
    #[error("the function's reserved concurrency is used up")]
    Reserved,
    /// How often a function that has reserved nothing may be called, or how fast any may grow.
    #[error("the function is called too often, or grows too fast")]
    Rate,
    /// How often a function may be called that has reserved concurrency.
    #[error("the function is called too often for what it has reserved")]
    ReservedRate,
    /// The node's disk, which has to have room for all that a function may write to its /tmp.
    #[error("the disk has no room for another sandbox")]
    Disk,
}

/// A future that borrows the invoker.
pub(crate) type InvokeFuture<'a> = Pin<Box<dyn Future<Output = Result<Answer, InvokeError>> + Send + 'a>>;

/// A future that borrows the invoker.
pub(crate) type PrepareFuture<'a> = Pin<Box<dyn Future<Output = Result<(), PrepareError>> + Send + 'a>>;

/// A future that borrows the invoker.
pub(crate) type VersionFuture<'a> = Pin<Box<dyn Future<Output = Option<String>> + Send + 'a>>;

/// Sandboxes of a version that are to be ready before anybody invokes it.
#[derive(Clone, Debug)]
pub(crate) struct Provision {
    /// The version.
    pub(crate) function: Arc<FunctionConfig>,
    /// Its code.
    pub(crate) code: Arc<CodeImage>,
    /// How many.
    pub(crate) count: u32,
}

/// How that stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Provided {
    /// How many there are, initialised, whether or not they serve.
    pub(crate) ready: u32,
    /// Why there are no more, when that has a reason.
    pub(crate) lack: Option<Lack>,
}

/// Runs functions.
pub(crate) trait Invoker: Send + Sync {
    /// Runs one invocation to its end. Dropping the future (the client went away) must not leave a sandbox behind in
    /// an unknown state.
    fn invoke(&self, invocation: Invocation) -> InvokeFuture<'_>;

    /// Makes sure that a version can be resumed: initialises it once and snapshots it, unless there is a snapshot that
    /// is current. Dropping the future does not undo what it has begun.
    fn prepare(&self, function: Arc<FunctionConfig>, code: Arc<CodeImage>) -> PrepareFuture<'_>;

    /// Keeps so many sandboxes of these versions of a function ready, and none of its others. Must not block.
    fn provide(&self, function: &FunctionId, wanted: Vec<Provision>);

    /// How what is kept ready of a version stands.
    fn provided(&self, function: &FunctionConfig) -> Provided;

    /// The version that the node has of what serves a runtime's functions, as `functions::runtime_management` has it, for as long as the
    /// agent runs; `None` when the image is missing or cannot be read.
    fn runtime_version(&self, runtime: &str) -> VersionFuture<'_>;

    /// Part of a function was updated or deleted: idle sandboxes and snapshots of it are of no use. Must not block.
    fn retire(&self, function: &FunctionId, what: Retired<'_>);

    /// Deletes snapshots of all versions but those with these `deployment_id`s. Must not block.
    fn keep(&self, deployments: HashSet<String>);

    /// Stops taking invocations, lets running ones end within their own limits, ends every sandbox.
    fn shutdown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// The invoker of this node.
///
/// # Errors
/// When the node lacks what sandboxes need.
pub(crate) fn start(
    config: &Config,
    kept: (Arc<Disk>, Arc<Chunks>, Arc<LogStore>),
    network: Arc<Network>,
) -> anyhow::Result<Arc<dyn Invoker>> {
    settings::raise_open_files()?;
    let settings = settings::Settings::for_node(config, kept, network)?;
    let Limits { memory_mib, max_starting, .. } = settings.limits;
    tracing::info!(memory_mib, max_starting, "sandboxes have their room");
    let shared = node::Shared::new(settings).context("prepare to start sandboxes")?;
    Ok(Arc::new(NodeInvoker { shared }))
}

/// Runs functions in microVMs of this node.
struct NodeInvoker {
    shared: Arc<node::Shared>,
}

impl Invoker for NodeInvoker {
    fn invoke(&self, mut invocation: Invocation) -> InvokeFuture<'_> {
        let (shared, slot) = (Arc::clone(&self.shared), invocation.slot.take());
        // A task of its own: the invocation runs to its end when the caller is dropped.
        let call = tokio::spawn(async move {
            let ended = call::run(shared, invocation, slot.as_ref()).await;
            // Before anybody knows of the end: whoever does may invoke again.
            drop(slot);
            ended
        });
        Box::pin(async {
            call.await
                .unwrap_or_else(|error| Err(InvokeError::Node(format!("the invocation's task: {error}"))))
        })
    }

    fn prepare(&self, function: Arc<FunctionConfig>, code: Arc<CodeImage>) -> PrepareFuture<'_> {
        // A task of its own: what was begun comes to its end when the caller is dropped.
        let prepared = tokio::spawn(prepare::version(&self.shared, function, code));
        Box::pin(async {
            prepared.await.unwrap_or_else(|error| Err(PrepareError::Node(format!("the task: {error}"))))
        })
    }

    fn provide(&self, function: &FunctionId, wanted: Vec<Provision>) {
        self.shared.provide(function, wanted);
    }

    fn provided(&self, function: &FunctionConfig) -> Provided {
        self.shared.provided(function)
    }

    fn runtime_version(&self, runtime: &str) -> VersionFuture<'_> {
        let image = self.shared.image_of(runtime).to_owned();
        Box::pin(async move {
            match self.shared.making.runtime(&image).await {
                Ok(version) => Some(version),
                Err(error) => {
                    tracing::warn!(image, "the version of a runtime is not known: {error}");
                    None
                }
            }
        })
    }

    fn retire(&self, function: &FunctionId, what: Retired<'_>) {
        self.shared.retire(function, what);
    }

    fn keep(&self, deployments: HashSet<String>) {
        self.shared.snapshots.keep(&deployments);
    }

    fn shutdown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.shared.shutdown())
    }
}
