//! The boundary between the API and whatever runs functions: what an invocation is, what its answer is, how it fails.
//!
//! The API hands over values that were checked (size, qualifier, state) and turns answers and errors into HTTP; nothing
//! here knows HTTP. The pool implements [`Invoker`]; tests implement it with a closure.

use std::{future::Future, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;

use crate::{
    config::Config,
    functions::model::{FunctionConfig, FunctionId},
    sandbox::policy::Limits,
};

mod call;
mod messages;
mod node;
mod settings;
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
}

/// A code image on the node's disk.
#[derive(Debug)]
pub(crate) struct CodeImage {
    /// erofs image to attach as the `code` drive.
    pub(crate) path: PathBuf,
}

/// What the function answered. A function that fails is an answer too.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// The response, or the error document when `function_error` is set.
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
    /// Waiting for room on the node.
    pub(crate) queue: Option<Duration>,
    /// Choosing a sandbox.
    pub(crate) place: Option<Duration>,
    /// From spawning the VMM to guest-init's hello.
    pub(crate) boot: Option<Duration>,
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
    /// The runtime's image is missing or the guest could not start from it.
    #[error("the runtime could not be started: {0}")]
    InvalidRuntime(String),
    /// The code image could not be opened or mounted.
    #[error("the code could not be used: {0}")]
    InvalidCode(String),
    /// The node failed: a sandbox could not be made, or died under the function in a way that is not the function's.
    #[error("the node could not run the invocation: {0}")]
    Node(String),
    /// The node is being shut down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// Which limit an invocation met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Throttle {
    /// The account's concurrency, which on one node is its memory.
    #[error("concurrent invocation limit exceeded")]
    Concurrency,
}

/// A future that borrows the invoker.
pub(crate) type InvokeFuture<'a> = Pin<Box<dyn Future<Output = Result<Answer, InvokeError>> + Send + 'a>>;

/// Runs functions.
pub(crate) trait Invoker: Send + Sync {
    /// Runs one invocation to its end. Dropping the future (the client went away) must not leave a sandbox behind in
    /// an unknown state.
    fn invoke(&self, invocation: Invocation) -> InvokeFuture<'_>;

    /// The function was updated or deleted: idle sandboxes of it with another `deployment_id` than `current` (all of
    /// them when `None`) are of no use. Must not block.
    fn retire(&self, function: &FunctionId, current: Option<&str>);

    /// Stops taking invocations, lets running ones end within their own limits, ends every sandbox.
    fn shutdown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// The invoker of this node.
///
/// # Errors
/// When the node lacks what sandboxes need.
pub(crate) fn start(config: &Config) -> anyhow::Result<Arc<dyn Invoker>> {
    settings::raise_open_files()?;
    let settings = settings::Settings::for_node(config)?;
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
    fn invoke(&self, invocation: Invocation) -> InvokeFuture<'_> {
        // A task of its own: the invocation runs to its end when the caller is dropped.
        let call = tokio::spawn(call::run(Arc::clone(&self.shared), invocation));
        Box::pin(async {
            call.await
                .unwrap_or_else(|error| Err(InvokeError::Node(format!("the invocation's task: {error}"))))
        })
    }

    fn retire(&self, function: &FunctionId, current: Option<&str>) {
        self.shared.retire(function, current);
    }

    fn shutdown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.shared.shutdown())
    }
}
