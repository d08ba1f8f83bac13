//! The task that owns one sandbox, from its first event to its last trace.
//!
//! It alone talks to the guest, so one event at a time is not a rule to keep but a fact. The pool hears of every
//! change before the request that caused it is answered: a client that has its answer finds the sandbox idle, unless
//! extensions are still at work in it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use guest_protocol::ShutdownReason;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Invocation, concurrency::Slot, memory::Handout, messages, node::Shared};
use crate::sandbox::{
    SandboxId, describe,
    error::SandboxError,
    guest::{Lost, ReplyResult},
    life::Sandbox,
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
    pub(super) event: Arc<Handout>,
    /// Held as long as the sandbox is not free, which may be longer than the answer takes.
    pub(super) slot: Option<Arc<Slot>>,
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
    Destroy(End),
}

/// How a sandbox ends.
enum End {
    /// Its extensions are told why.
    Told(ShutdownReason),
    /// At once: the node has no time for it, or the guest does not listen.
    AtOnce,
    /// It was lost.
    Lost(SandboxError),
}

/// What happens to a sandbox that has no event.
enum Event {
    /// By the pool; `None`: it is time to end.
    Told(Option<Command>),
    /// There is no time left.
    Forced,
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
        let last = loop {
            let event = tokio::select! {
                biased;
                _ = self.forced.wait_for(|forced| *forced) => Event::Forced,
                command = inbox.recv() => Event::Told(command),
                error = self.sandbox.idle() => Event::Unusable(error),
            };
            match event {
                Event::Told(Some(Command::Run(run))) => match self.run(run).await {
                    Next::Wait => {}
                    Next::Destroy(end) => break end,
                },
                Event::Told(Some(Command::Stop) | None) => break End::Told(ShutdownReason::Spindown),
                Event::Forced => break End::AtOnce,
                Event::Unusable(error) => break End::Lost(error),
            }
        };
        let Self { id, shared, mut sandbox, mut forced } = self;
        shared.stopping(id);
        // An event that was handed over meanwhile goes back before the time it takes to end a process.
        inbox.close();
        while let Some(command) = inbox.recv().await {
            if let Command::Run(Run { end, .. }) = command {
                let problem = match &last {
                    End::Lost(error) => describe(error),
                    End::Told(_) | End::AtOnce => "its sandbox was stopped".into(),
                };
                drop(end.send(RunEnd::Undelivered(problem)));
            }
        }
        match last {
            End::Lost(error) => sandbox.destroy_because(&error).await,
            End::AtOnce => sandbox.destroy().await,
            End::Told(reason) => {
                tokio::select! {
                    () = sandbox.shut_down(reason) => {}
                    _ = forced.wait_for(|forced| *forced) => {}
                }
                sandbox.destroy().await;
            }
        }
        shared.ended(id);
    }

    async fn run(&mut self, Run { invocation, event, slot, end }: Run) -> Next {
        let began = Instant::now();
        // A tail of the log has the line that says what the invocation took, which depends on its extensions.
        let tells = self.sandbox.has_extensions() && !invocation.log_tail;
        let mut end = Some(end);
        let tell = |result| match end.take_if(|_| tells) {
            Some(end) => {
                let log_tail = Vec::new();
                drop(end.send(RunEnd::Replied { result, log_tail, run: began.elapsed() }));
                None
            }
            None => Some(result),
        };
        let outlets = (&invocation.answers, invocation.sink.as_ref(), tell);
        let running = self.sandbox.invoke(messages::invoke(&invocation, event.len()), &event, outlets);
        let result = tokio::select! {
            result = running => result,
            _ = self.forced.wait_for(|forced| *forced) => {
                drop(end.map(|end| end.send(RunEnd::ShutDown)));
                return Next::Destroy(End::AtOnce);
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
                let next = reply.end.map_or(Next::Wait, |reason| Next::Destroy(End::Told(reason)));
                (reply.result.map(|result| RunEnd::Replied { result, log_tail, run }), next)
            }
            Ok(None) => {
                tracing::warn!(id = %self.id, request = invocation.request_id, "a guest did not end a late event");
                let late = RunEnd::Replied { result: ReplyResult::TimedOut, log_tail, run };
                (Some(late), Next::Destroy(End::AtOnce))
            }
            Err(Lost::Before(error)) => {
                (Some(RunEnd::Undelivered(describe(&error))), Next::Destroy(End::Lost(error.into())))
            }
            Err(Lost::After(error)) => {
                (Some(RunEnd::Lost { log_tail, run }), Next::Destroy(End::Lost(error.into())))
            }
        };
        match next {
            Next::Wait => self.shared.released(self.id),
            Next::Destroy(_) => self.shared.stopping(self.id),
        }
        // Before anybody knows of the end: whoever does may invoke again.
        drop(slot);
        // Nobody may be listening: an invocation runs to its end without its client.
        if let Some((end, answer)) = end.zip(answer) {
            drop(end.send(answer));
        }
        match next {
            Next::Wait => match self.sandbox.report_working_set().await {
                Ok(_) => Next::Wait,
                Err(error) => {
                    self.shared.stopping(self.id);
                    Next::Destroy(End::Lost(error))
                }
            },
            destroy @ Next::Destroy(_) => destroy,
        }
    }
}
