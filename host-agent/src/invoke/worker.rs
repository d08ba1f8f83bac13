//! The task that owns one sandbox, from its first event to its last trace.
//!
//! It alone talks to the guest, so one event at a time is not a rule to keep but a fact. The pool hears of every
//! change before the request that caused it is answered: a client that has its answer finds the sandbox idle.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot, watch};

use super::{Invocation, messages, node::Shared};
use crate::sandbox::{
    SandboxId,
    boot::Sandbox,
    describe,
    error::SandboxError,
    guest::{Lost, ReplyResult},
};

/// An event and a stop at most: the pool hands over one event at a time.
const COMMANDS: usize = 2;

/// What the pool's side asks of a worker.
#[derive(Debug)]
pub(super) enum Command {
    /// Run an event.
    Run(Run),
    /// End the sandbox.
    Stop,
}

/// An event and where its end is told.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) invocation: Arc<Invocation>,
    pub(super) end: oneshot::Sender<RunEnd>,
}

/// How an event ended.
#[derive(Debug)]
pub(super) enum RunEnd {
    /// The guest said.
    Replied { result: ReplyResult, log_tail: Vec<u8>, run: Duration },
    /// The sandbox was lost before it had the event.
    Undelivered(String),
    /// The sandbox was lost with the event.
    Lost { log_tail: Vec<u8>, run: Duration },
    /// The node went down first.
    ShutDown,
}

/// A worker's mailbox.
pub(super) type Commands = mpsc::Sender<Command>;

/// Whether a sandbox goes on after an event.
enum Next {
    Wait,
    Destroy(Option<SandboxError>),
}

/// What happens to a sandbox that has no event.
enum Event {
    /// By the pool; `None`: it is time to end.
    Told(Option<Command>),
    /// By the guest or its machine.
    Unusable(SandboxError),
}

struct Worker {
    id: SandboxId,
    shared: Arc<Shared>,
    sandbox: Sandbox,
    forced: watch::Receiver<bool>,
}

/// Starts the task of a sandbox that is ready for its first event.
pub(super) fn start(id: SandboxId, sandbox: Sandbox, shared: &Arc<Shared>) -> Commands {
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let worker = Worker { id, sandbox, forced: shared.forced(), shared: Arc::clone(shared) };
    tokio::spawn(worker.work(inbox));
    commands
}

impl Worker {
    async fn work(mut self, mut inbox: mpsc::Receiver<Command>) {
        let reason = loop {
            let event = tokio::select! {
                biased;
                _ = self.forced.wait_for(|forced| *forced) => Event::Told(None),
                command = inbox.recv() => Event::Told(command),
                error = self.sandbox.idle() => Event::Unusable(error),
            };
            match event {
                Event::Told(Some(Command::Run(run))) => match self.run(run).await {
                    Next::Wait => {}
                    Next::Destroy(error) => break error,
                },
                Event::Told(Some(Command::Stop) | None) => break None,
                Event::Unusable(error) => break Some(error),
            }
        };
        let Self { id, shared, sandbox, .. } = self;
        shared.stopping(id);
        // An event that was handed over meanwhile goes back before the time it takes to end a process.
        inbox.close();
        while let Some(command) = inbox.recv().await {
            if let Command::Run(Run { end, .. }) = command {
                let problem =
                    reason.as_ref().map_or_else(|| "its sandbox was stopped".into(), |error| describe(error));
                drop(end.send(RunEnd::Undelivered(problem)));
            }
        }
        match reason {
            Some(error) => sandbox.destroy_because(&error).await,
            None => sandbox.destroy().await,
        }
        shared.ended(id);
    }

    async fn run(&mut self, Run { invocation, end }: Run) -> Next {
        let began = Instant::now();
        let running =
            self.sandbox.invoke(messages::invoke(&invocation), &invocation.payload, invocation.sink.as_ref());
        let result = tokio::select! {
            result = running => result,
            _ = self.forced.wait_for(|forced| *forced) => {
                drop(end.send(RunEnd::ShutDown));
                return Next::Destroy(None);
            }
        };
        let run = began.elapsed();
        if let Ok(None) = result {
            let timeout_ms = messages::timeout_ms(&invocation.function);
            self.sandbox.logs().timed_out(&invocation.request_id, timeout_ms);
        }
        let log_tail = self.sandbox.logs().end_invocation();
        let (answer, next) = match result {
            Ok(Some(reply)) => {
                let next = if reply.reusable { Next::Wait } else { Next::Destroy(None) };
                (RunEnd::Replied { result: reply.result, log_tail, run }, next)
            }
            Ok(None) => {
                tracing::warn!(id = %self.id, request = invocation.request_id, "a guest did not end a late event");
                (RunEnd::Replied { result: ReplyResult::TimedOut, log_tail, run }, Next::Destroy(None))
            }
            Err(Lost::Before(error)) => {
                (RunEnd::Undelivered(describe(&error)), Next::Destroy(Some(error.into())))
            }
            Err(Lost::After(error)) => (RunEnd::Lost { log_tail, run }, Next::Destroy(Some(error.into()))),
        };
        match next {
            Next::Wait => self.shared.released(self.id),
            Next::Destroy(_) => self.shared.stopping(self.id),
        }
        // Nobody may be listening: an invocation runs to its end without its client.
        drop(end.send(answer));
        match next {
            Next::Wait => match self.sandbox.report_working_set().await {
                Ok(_) => Next::Wait,
                Err(error) => {
                    self.shared.stopping(self.id);
                    Next::Destroy(Some(error))
                }
            },
            destroy @ Next::Destroy(_) => destroy,
        }
    }
}
