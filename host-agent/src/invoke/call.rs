//! The course of one invocation: a sandbox, the event, the answer; again if the sandbox was lost before it had the
//! event, as often as `sandbox::way` says.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use guest_protocol::{FunctionError, RestoreFailure};
use tokio::sync::oneshot;

use super::{
    Answer, Invocation, InvokeError, Throttle, Timing,
    concurrency::Slot,
    error_text,
    memory::Handout,
    messages,
    node::{Grant, Shared},
    runtimes,
    start::{self, Blueprint, StartError},
    worker::{self, Command, Commands, Run, RunEnd},
};
use crate::sandbox::{SandboxId, describe, error::SandboxError, guest::ReplyResult, way::Losses};

/// What an invoker is told that a function failed, whatever failed: Lambda's managed runtimes know no other word.
const UNHANDLED: &str = "Unhandled";

/// How one attempt ended.
enum Attempt {
    Answered(Box<Answer>),
    Failed(InvokeError),
    /// The event was not handed over.
    Undelivered(Lost, String),
}

/// What a request lost that has to be placed again.
#[derive(Clone, Copy, Debug)]
enum Lost {
    Clone,
    Runtime,
    Other,
}

/// Runs an invocation to its end.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut invocation: Invocation,
    slot: Option<&Arc<Slot>>,
) -> Result<Answer, InvokeError> {
    let event = Arc::new(Handout::new(std::mem::take(&mut invocation.payload)));
    let invocation = Arc::new(invocation);
    let mut losses = Losses::default();
    loop {
        match try_once(&shared, (&invocation, &event), slot, losses).await {
            Attempt::Answered(answer) => return Ok(*answer),
            Attempt::Failed(error) => return Err(error),
            Attempt::Undelivered(lost, problem) => {
                let request = &invocation.request_id;
                tracing::warn!(
                    request,
                    ?lost,
                    problem,
                    "an event's sandbox was lost before it had the event"
                );
                match lost {
                    Lost::Clone => losses.clones += 1,
                    Lost::Runtime => losses.runtimes += 1,
                    Lost::Other => losses.others += 1,
                }
                if losses.are_too_many() {
                    let lost = losses.clones + losses.runtimes + losses.others;
                    return Err(InvokeError::Node(format!(
                        "{lost} sandboxes were lost, the last because: {problem}"
                    )));
                }
            }
        }
    }
}

async fn try_once(
    shared: &Arc<Shared>,
    (invocation, event): (&Arc<Invocation>, &Arc<Handout>),
    slot: Option<&Arc<Slot>>,
    losses: Losses,
) -> Attempt {
    // Before anybody makes room for what will not run.
    if let Err(error) = start::check_runtime(shared, &invocation.function).await {
        return Attempt::Failed(InvokeError::InvalidRuntime(describe(&error)));
    }
    let mut timing = Timing::default();
    let asked = Instant::now();
    let grant = match shared.place(messages::demand(&invocation.function)).await {
        Ok((grant, queue)) => {
            timing.queue = queue;
            grant
        }
        Err(error) => return Attempt::Failed(error),
    };
    let commands = match grant {
        Grant::Warm(commands) => {
            timing.place = Some(asked.elapsed().saturating_sub(timing.queue.unwrap_or_default()));
            commands
        }
        Grant::Cold(id) => match start(shared, id, invocation, losses, &mut timing).await {
            Ok(commands) => commands,
            Err(attempt) => return attempt,
        },
    };
    let (end, ended) = oneshot::channel();
    let (own, event) = (Arc::clone(invocation), Arc::clone(event));
    let command = Command::Run(Run { invocation: own, event, slot: slot.cloned(), end });
    if commands.send(command).await.is_err() {
        return Attempt::Undelivered(Lost::Other, "its sandbox had just ended".into());
    }
    let ended = ended.await;
    // It ran an init: with a snapshot of its runtime the next one's begins sooner.
    if timing.init.is_some() {
        runtimes::beside(shared, &invocation.function);
    }
    match ended {
        Ok(end) => finish(end, invocation, timing),
        // The worker's task is gone without a word: it may have run the event.
        Err(_) => Attempt::Answered(lost(invocation, timing, Vec::new())),
    }
}

/// Starts a sandbox and gives it to a worker. Whatever fails, the pool has the sandbox's memory back.
async fn start(
    shared: &Arc<Shared>,
    id: SandboxId,
    invocation: &Arc<Invocation>,
    losses: Losses,
    timing: &mut Timing,
) -> Result<Commands, Attempt> {
    let mut forced = shared.forced();
    let blueprint = Blueprint::for_invocation(invocation);
    let started = tokio::select! {
        biased;
        _ = forced.wait_for(|forced| *forced) => None,
        started = start::bring_up(shared, id, &blueprint, losses, timing) => Some(started),
    };
    let error = match started {
        Some(Ok(sandbox)) => {
            let commands = worker::start(id, sandbox, shared);
            shared.started(id, commands.clone());
            return Ok(commands);
        }
        Some(Err(error)) => error,
        None => {
            shared.ended(id);
            return Err(Attempt::Failed(InvokeError::ShuttingDown));
        }
    };
    shared.ended(id);
    Err(match error {
        StartError::Restore(failure) => Attempt::Failed(failed_restore(&failure)),
        StartError::Clone(error) => Attempt::Undelivered(Lost::Clone, describe(&error)),
        StartError::Runtime(error) => Attempt::Undelivered(Lost::Runtime, describe(&error)),
        StartError::Boot(error) if error.is_full_disk() => {
            tracing::warn!(%id, "a sandbox could not be started: {}", describe(&error));
            shared.ease_disk(u64::from(invocation.function.ephemeral_storage_mib) << 20);
            Attempt::Failed(InvokeError::Throttled(Throttle::Disk))
        }
        StartError::Boot(error) => failed_boot(id, &error),
    })
}

fn failed_boot(id: SandboxId, error: &SandboxError) -> Attempt {
    let problem = describe(error);
    if error.is_loss() {
        return Attempt::Undelivered(Lost::Other, problem);
    }
    tracing::error!(%id, problem, "a sandbox could not be started");
    Attempt::Failed(match error {
        SandboxError::Runtime(_) | SandboxError::OtherRuntime { .. } | SandboxError::UnknownRuntime(_) => {
            InvokeError::InvalidRuntime(problem)
        }
        SandboxError::Code(_) => InvokeError::InvalidCode(problem),
        _ => InvokeError::Node(problem),
    })
}

/// The function's own hooks are to blame: another clone of it would fare no better.
fn failed_restore(failure: &RestoreFailure) -> InvokeError {
    if failure.timed_out {
        InvokeError::RestoreTimeout
    } else {
        InvokeError::Restore(error_text(&failure.error))
    }
}

fn finish(end: RunEnd, invocation: &Invocation, mut timing: Timing) -> Attempt {
    match end {
        RunEnd::Replied { result, log_tail, run } => {
            timing.run = Some(run);
            let request_id = &invocation.request_id;
            let (payload, function_error) = match result {
                ReplyResult::Response(payload) => (payload, None),
                ReplyResult::Streamed => (Bytes::new(), None),
                ReplyResult::Error(document) => (document, Some(UNHANDLED)),
                ReplyResult::Unkept => return Attempt::Failed(InvokeError::NoAnswerMemory),
                ReplyResult::TimedOut => {
                    let timeout_ms = messages::timeout_ms(&invocation.function);
                    (FunctionError::timed_out(request_id, timeout_ms).payload.into(), Some(UNHANDLED))
                }
            };
            Attempt::Answered(answer(invocation, timing, payload, function_error, log_tail))
        }
        RunEnd::Undelivered(problem) => Attempt::Undelivered(Lost::Other, problem),
        RunEnd::Lost { log_tail, run } => {
            timing.run = Some(run);
            Attempt::Answered(lost(invocation, timing, log_tail))
        }
        RunEnd::ShutDown => Attempt::Failed(InvokeError::ShuttingDown),
    }
}

/// The sandbox went down with the event. Whether the function ran to its end is unknown, so it is not run again; the
/// invoker is told what Lambda says of a runtime that vanished.
fn lost(invocation: &Invocation, timing: Timing, log_tail: Vec<u8>) -> Box<Answer> {
    let message = "Runtime exited without providing a reason";
    let error = FunctionError::of_request(&invocation.request_id, "Runtime.ExitError", message);
    answer(invocation, timing, error.payload.into(), Some(UNHANDLED), log_tail)
}

fn answer(
    invocation: &Invocation,
    timing: Timing,
    payload: Bytes,
    function_error: Option<&'static str>,
    log_tail: Vec<u8>,
) -> Box<Answer> {
    Box::new(Answer {
        payload,
        function_error,
        log_tail: invocation.log_tail.then(|| log_tail.into()),
        executed_version: invocation.function.version.clone(),
        timing,
    })
}
