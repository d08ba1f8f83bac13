//! The course of one invocation: a sandbox, the event, the answer; once more if the sandbox was lost before it had
//! the event.

use std::{
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use guest_protocol::FunctionError;
use tokio::{sync::oneshot, time::timeout};

use super::{
    Answer, Invocation, InvokeError, Timing, messages,
    node::{Grant, Shared},
    worker::{self, Command, Commands, Run, RunEnd},
};
use crate::sandbox::{
    SandboxId,
    boot::{Sandbox, SandboxError},
    describe,
    guest::ReplyResult,
};

/// A sandbox that is lost before it has the event costs the caller one more try, not two: what fails twice in a row
/// is not bad luck.
const ATTEMPTS: usize = 2;

/// What an invoker is told that a function failed, whatever failed: Lambda's managed runtimes know no other word.
const UNHANDLED: &str = "Unhandled";

/// How one attempt ended.
enum Attempt {
    Answered(Answer),
    Failed(InvokeError),
    /// The event was not handed over.
    Undelivered(String),
}

/// Runs an invocation to its end.
pub(super) async fn run(shared: Arc<Shared>, invocation: Invocation) -> Result<Answer, InvokeError> {
    let invocation = Arc::new(invocation);
    let mut last_problem = String::new();
    for attempt in 1..=ATTEMPTS {
        match try_once(&shared, &invocation).await {
            Attempt::Answered(answer) => return Ok(answer),
            Attempt::Failed(error) => return Err(error),
            Attempt::Undelivered(problem) => {
                let request = &invocation.request_id;
                tracing::warn!(
                    request,
                    attempt,
                    problem,
                    "an event's sandbox was lost before it had the event"
                );
                last_problem = problem;
            }
        }
    }
    Err(InvokeError::Node(format!("{ATTEMPTS} sandboxes were lost, the last because: {last_problem}")))
}

async fn try_once(shared: &Arc<Shared>, invocation: &Arc<Invocation>) -> Attempt {
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
        Grant::Cold(id) => match start(shared, id, invocation, &mut timing).await {
            Ok(commands) => commands,
            Err(attempt) => return attempt,
        },
    };
    let (end, ended) = oneshot::channel();
    let command = Command::Run(Run { invocation: Arc::clone(invocation), end });
    if commands.send(command).await.is_err() {
        return Attempt::Undelivered("its sandbox had just ended".into());
    }
    match ended.await {
        Ok(end) => finish(end, invocation, timing),
        // The worker's task is gone without a word: it may have run the event.
        Err(_) => Attempt::Answered(lost(invocation, timing, Vec::new())),
    }
}

/// Starts a sandbox and gives it to a worker. Whatever fails, the pool has the sandbox's memory back.
async fn start(
    shared: &Arc<Shared>,
    id: SandboxId,
    invocation: &Invocation,
    timing: &mut Timing,
) -> Result<Commands, Attempt> {
    let mut forced = shared.forced();
    let started = tokio::select! {
        biased;
        _ = forced.wait_for(|forced| *forced) => None,
        started = bring_up(shared, id, invocation, timing) => Some(started),
    };
    match started {
        Some(Ok(sandbox)) => {
            let commands = worker::start(id, sandbox, shared);
            shared.started(id, commands.clone());
            Ok(commands)
        }
        Some(Err(error)) => {
            shared.ended(id);
            Err(failed_start(id, &error))
        }
        None => {
            shared.ended(id);
            Err(Attempt::Failed(InvokeError::ShuttingDown))
        }
    }
}

async fn bring_up(
    shared: &Shared,
    id: SandboxId,
    invocation: &Invocation,
    timing: &mut Timing,
) -> Result<Sandbox, SandboxError> {
    let (mut sandbox, boot) = shared.host.boot(id, &messages::spec(invocation)).await?;
    (timing.place, timing.boot) = (Some(boot.place), Some(boot.boot));
    let moment = match moment(shared) {
        Ok(moment) => moment,
        Err(error) => {
            sandbox.destroy().await;
            return Err(error.into());
        }
    };
    let began = Instant::now();
    let initialised = {
        let mut init = std::pin::pin!(sandbox.init(messages::start(&invocation.function, moment)));
        // An init that computes deserves its start slot; one that takes this long mostly waits for something.
        match timeout(shared.settings.init_slot(), &mut init).await {
            Ok(done) => done,
            Err(_) => {
                shared.slot_used(id);
                init.await
            }
        }
    };
    timing.init = Some(began.elapsed());
    match initialised {
        Ok(()) => Ok(sandbox),
        Err(error) => {
            sandbox.destroy_because(&error).await;
            Err(error)
        }
    }
}

/// What a guest needs from the host at the moment of its start.
fn moment(shared: &Shared) -> std::io::Result<messages::Moment> {
    let mut entropy = [0; 32];
    getrandom::fill(&mut entropy)?;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(messages::Moment {
        wall_clock_unix_ns: u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX),
        entropy,
        date: chrono::Utc::now().format("%Y/%m/%d").to_string(),
        stream_id: uuid::Uuid::new_v4().simple().to_string(),
        init_timeout: shared.settings.init_timeout,
    })
}

fn failed_start(id: SandboxId, error: &SandboxError) -> Attempt {
    let problem = describe(error);
    if error.is_loss() {
        return Attempt::Undelivered(problem);
    }
    tracing::error!(%id, problem, "a sandbox could not be started");
    Attempt::Failed(match error {
        SandboxError::Runtime { .. } => InvokeError::InvalidRuntime(problem),
        SandboxError::Code { .. } => InvokeError::InvalidCode(problem),
        _ => InvokeError::Node(problem),
    })
}

fn finish(end: RunEnd, invocation: &Invocation, mut timing: Timing) -> Attempt {
    match end {
        RunEnd::Replied { result, log_tail, run } => {
            timing.run = Some(run);
            let request_id = &invocation.request_id;
            let (payload, function_error) = match result {
                ReplyResult::Response(payload) => (payload, None),
                ReplyResult::Error(error) => (error.payload, Some(UNHANDLED)),
                ReplyResult::TimedOut => {
                    let timeout_ms = messages::timeout_ms(&invocation.function);
                    (FunctionError::timed_out(request_id, timeout_ms).payload, Some(UNHANDLED))
                }
            };
            Attempt::Answered(answer(invocation, timing, payload, function_error, log_tail))
        }
        RunEnd::Undelivered(problem) => Attempt::Undelivered(problem),
        RunEnd::Lost { log_tail, run } => {
            timing.run = Some(run);
            Attempt::Answered(lost(invocation, timing, log_tail))
        }
        RunEnd::ShutDown => Attempt::Failed(InvokeError::ShuttingDown),
    }
}

/// The sandbox went down with the event. Whether the function ran to its end is unknown, so it is not run again; the
/// invoker is told what Lambda says of a runtime that vanished.
fn lost(invocation: &Invocation, timing: Timing, log_tail: Vec<u8>) -> Answer {
    let message = "Runtime exited without providing a reason";
    let error = FunctionError::of_request(&invocation.request_id, "Runtime.ExitError", message);
    answer(invocation, timing, error.payload, Some(UNHANDLED), log_tail)
}

fn answer(
    invocation: &Invocation,
    timing: Timing,
    payload: Vec<u8>,
    function_error: Option<&'static str>,
    log_tail: Vec<u8>,
) -> Answer {
    Answer {
        payload: payload.into(),
        function_error,
        log_tail: invocation.log_tail.then(|| log_tail.into()),
        executed_version: invocation.function.version.clone(),
        timing,
    }
}
