//! One function's life in this guest: takes the agent's requests, the runtime's calls, its exit and the clock, lets
//! [`crate::lifecycle`] decide, and does what it says. The only task that holds state; everything reaches it through
//! queues.

mod connections;
mod delivery;
mod extensions;
mod launcher;
mod reports;
mod response;
mod resume;
#[cfg(test)]
pub(crate) mod tests;

use std::future::pending;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use guest_protocol::{GuestMessage, Invoke, Start};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::boot::seed;
use crate::control::{ControlError, Request};
use crate::environment::Environment;
use crate::gate::Machine;
use crate::lifecycle::{Action, Answer, Event, Exit, Lifecycle, Micros, Plan, Refusal};
use crate::output::Output;
use crate::platform_log;
use crate::runtime_api::{Call, Delivery, Reply, TOKEN_LEN};
use crate::telemetry::{Category, Telemetry};
pub(crate) use connections::is_broken;
pub use connections::{Connections, SandboxError};
use extensions::{Companions, told};
pub use launcher::{LaunchError, Launched, Launcher};

/// Runs the function that `start` names until the agent sends Shutdown or goes.
///
/// # Errors
/// [`SandboxError`] when it ends otherwise.
pub async fn run<L: Launcher + Machine>(
    start: Start,
    launcher: L,
    connections: Connections,
) -> Result<(), SandboxError> {
    let token = match &start.credentials {
        Some(credentials) => {
            let random = seed::random::<TOKEN_LEN>().map_err(SandboxError::Random)?;
            Some(connections.credentials.open(credentials.clone(), random))
        }
        None => None,
    };
    let environment = Environment::of(&start, &connections.runtime_api, token.as_deref());
    let origin = Instant::now();
    let init_timeout_us = Micros::from(start.init_timeout_ms) * 1000;
    let plan = Plan { init_timeout_us, initialization_type: start.initialization_type };
    let (lifecycle, actions) = Lifecycle::begin(0, plan);
    let telemetry = Telemetry::new(start.log_format);
    let mut sandbox = Sandbox {
        start,
        environment,
        origin,
        lifecycle,
        launcher,
        connections,
        runtime: None,
        waiter: None,
        restore_waiter: None,
        resumed_at: None,
        invocation: None,
        response: None,
        is_streaming: false,
        answered: false,
        companions: Companions::default(),
        telemetry,
    };
    sandbox.log(platform_log::Event::InitStart).await?;
    sandbox.carry_out(actions).await?;
    sandbox.serve().await
}

/// A started runtime.
struct Runtime {
    exit: oneshot::Receiver<Exit>,
    output: Output,
    /// Whether it could still write when it was given the invocation.
    output_was_open: bool,
}

struct Sandbox<L> {
    start: Start,
    environment: Environment,
    /// Zero of the lifecycle's clock.
    origin: Instant,
    lifecycle: Lifecycle,
    launcher: L,
    connections: Connections,
    runtime: Option<Runtime>,
    /// The runtime's pending `next`.
    waiter: Option<Reply<Delivery>>,
    /// The runtime's pending `restore/next`.
    restore_waiter: Option<Reply<()>>,
    /// When this guest learned that it is a clone, until it is unique.
    resumed_at: Option<Instant>,
    /// The invocation under way.
    invocation: Option<(Invoke, Bytes, SystemTime)>,
    /// Its response, until the lifecycle has taken it.
    response: Option<(String, Bytes)>,
    /// A response has begun that comes in pieces.
    is_streaming: bool,
    /// The agent has the invocation's error.
    answered: bool,
    companions: Companions,
    telemetry: Telemetry,
}

/// What [`Sandbox::serve`] woke up for.
enum Wake {
    Request(Option<Result<Request, ControlError>>),
    Call(Call),
    Exited(Exit),
    ExtensionExited(String, Exit),
    Deadline,
}

impl<L: Launcher + Machine> Sandbox<L> {
    async fn serve(&mut self) -> Result<(), SandboxError> {
        loop {
            match self.wait().await {
                Wake::Request(request) if self.lifecycle.is_frozen() && is_broken(request.as_ref()) => {
                    self.resumed().await?;
                }
                Wake::Request(None) => return Err(SandboxError::AgentGone),
                Wake::Request(Some(Ok(Request::Shutdown(reason)))) => {
                    self.shut_down(reason).await?;
                    self.tell(GuestMessage::ShutDown).await?;
                    // The agent destroys this guest; until then nothing happens in it.
                    return pending().await;
                }
                Wake::Request(Some(request)) => self.request(request?).await?,
                Wake::Call(call) => self.call(call).await?,
                Wake::Exited(exit) => self.exited(exit).await?,
                Wake::ExtensionExited(name, exit) => self.extension_exited(&name, exit).await?,
                Wake::Deadline => {
                    self.happened(Event::Deadline).await?;
                }
            }
        }
    }

    async fn wait(&mut self) -> Wake {
        let deadline = self.lifecycle.deadline().map(|us| self.origin + Duration::from_micros(us));
        let timer = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        let exit = async {
            match &mut self.runtime {
                // A launcher that forgets to tell has lost the process: as good as killed.
                Some(runtime) => (&mut runtime.exit).await.unwrap_or(Exit::Signal(libc::SIGKILL)),
                None => pending().await,
            }
        };
        // In this order: an answer that is already here is not lost to an exit or a deadline behind it.
        tokio::select! {
            biased;
            request = self.connections.requests.recv() => Wake::Request(request),
            Some(call) = self.connections.calls.recv() => Wake::Call(call),
            exit = exit => Wake::Exited(exit),
            (name, exit) = self.companions.exited() => Wake::ExtensionExited(name, exit),
            () = timer => Wake::Deadline,
        }
    }

    async fn request(&mut self, request: Request) -> Result<(), SandboxError> {
        match request {
            Request::Invoke(invoke, event) => {
                let happened =
                    Event::Invoke { request_id: invoke.request_id.clone(), timeout_ms: invoke.timeout_ms };
                let now = self.now();
                let actions = match self.lifecycle.step(now, happened) {
                    Ok(actions) => actions,
                    // It crossed the message that said so: the agent knows that it was not run.
                    Err(Refusal::Busy) if self.lifecycle.is_ended() => return Ok(()),
                    Err(refusal) => return Err(refusal.into()),
                };
                self.invocation = Some((invoke, event, SystemTime::now()));
                self.companions.untold = true;
                self.carry_out(actions).await
            }
            Request::Start(_) => Err(ControlError::OutOfTurn("a second Start").into()),
            // It crossed the message that said so.
            Request::Freeze if self.lifecycle.is_ended() => Ok(()),
            Request::Freeze => self.happened(Event::Freeze).await,
            Request::MakeUnique(unique) => self.make_unique(*unique).await,
            Request::Shutdown(_) => Ok(()),
        }
    }

    async fn call(&mut self, call: Call) -> Result<(), SandboxError> {
        match call {
            Call::Next(reply) => self.next(reply).await,
            Call::AdmitAnswer(request_id, reply) => {
                let _ = reply.send(self.admits_answer(&request_id));
                Ok(())
            }
            Call::Begin { request_id, content_type, reply } => {
                self.begin_response(request_id, content_type, reply).await
            }
            Call::Piece { request_id, piece, reply } => self.piece(&request_id, &piece, reply).await,
            Call::AdmitInitError(reply) => {
                let _ = reply.send(self.lifecycle.admits_init_error());
                Ok(())
            }
            Call::Answer { request_id, answer, content_type, document, reply } => {
                if answer == Answer::Response {
                    self.response = Some((content_type, document));
                }
                let event = Event::Answer { request_id, answer };
                self.decide(event, reply).await
            }
            Call::InitError(error, reply) => self.decide(Event::InitError(error), reply).await,
            Call::RestoreNext(reply) => self.restore_next(reply).await,
            Call::AdmitRestoreError(reply) => {
                let _ = reply.send(self.lifecycle.admits_restore_error());
                Ok(())
            }
            Call::RestoreError(error, reply) => self.decide(Event::RestoreError(error), reply).await,
            Call::Extension(call) => self.extension_call(call).await,
        }
    }

    async fn next(&mut self, reply: Reply<Delivery>) -> Result<(), SandboxError> {
        // The newest connection is the one that lives: a runtime that gave up polling polls again.
        let older = self.waiter.replace(reply);
        if self.holds(Event::Next).await? {
            return Ok(());
        }
        match self.happened(Event::Next).await {
            Err(SandboxError::Refused(refusal)) => {
                if let Some(reply) = std::mem::replace(&mut self.waiter, older) {
                    let _ = reply.send(Err(refusal));
                }
                Ok(())
            }
            other => other,
        }
    }

    async fn exited(&mut self, exit: Exit) -> Result<(), SandboxError> {
        self.waiter = None;
        self.restore_waiter = None;
        self.companions.held = None;
        self.flush().await;
        self.runtime = None;
        self.happened(Event::Exited(exit)).await
    }

    /// Answers the runtime before acting, so that it goes on while the agent is told.
    async fn decide(&mut self, event: Event, reply: Reply<()>) -> Result<(), SandboxError> {
        let now = self.now();
        match self.lifecycle.step(now, event) {
            Ok(actions) => {
                let _ = reply.send(Ok(()));
                self.carry_out(actions).await
            }
            Err(refusal) => {
                let _ = reply.send(Err(refusal));
                Ok(())
            }
        }
    }

    async fn happened(&mut self, event: Event) -> Result<(), SandboxError> {
        let now = self.now();
        let actions = self.lifecycle.step(now, event)?;
        self.carry_out(actions).await
    }

    async fn carry_out(&mut self, actions: Vec<Action>) -> Result<(), SandboxError> {
        for action in actions {
            match action {
                Action::Launch => self.launch()?,
                Action::Kill => self.kill(),
                Action::Deliver => self.deliver(),
                Action::Begin { request_id } => {
                    self.log(platform_log::Event::Start(&request_id)).await?;
                }
                Action::InitDone { duration_us } => self.init_done(duration_us).await?,
                Action::Freeze => self.freeze().await?,
                Action::AnswerRestore => self.answer_restore(),
                Action::RestoreDone { duration_us } => self.restore_done(duration_us).await?,
                Action::RestoreFailed(failure) => self.restore_failed(failure).await?,
                Action::InitFailed(failure, status) => {
                    self.init_failed(failure, status).await?;
                }
                Action::SendResponse => self.send_response().await?,
                Action::SendError(error) => self.send_error(error).await?,
                Action::InitRuntimeDone => {
                    self.flush().await;
                    self.init_runtime_done(None).await?;
                }
                Action::RuntimeDone(finished) => {
                    self.flush().await;
                    self.runtime_done(&finished).await?;
                }
                Action::Finish(finished) => self.finish(finished).await?,
                Action::End(error) => self.end(error).await?,
            }
        }
        Ok(())
    }

    fn launch_runtime(&mut self) -> Result<(), SandboxError> {
        let (exit, output) = match self.launcher.launch(&self.environment) {
            Ok(Launched { exit, output }) => {
                let tap = self.telemetry.tap(Category::Function);
                (exit, Output::pump(output, self.connections.agent.clone(), Some(tap))?)
            }
            Err(error) => {
                // Seen as an exit by the next turn of the loop.
                (told(Exit::NotStarted(error.to_string())), Output::none())
            }
        };
        self.runtime = Some(Runtime { exit, output, output_was_open: true });
        Ok(())
    }

    /// Hands the invocation to the runtime's pending `next`; when its connection is gone, to the one that follows.
    fn deliver(&mut self) {
        self.telemetry.close();
        if let Some(runtime) = &mut self.runtime {
            runtime.output_was_open = runtime.output.is_open();
        }
        self.tell_extensions();
        let Some((invoke, event, accepted)) = &self.invocation else { return };
        let delivery = Delivery { headers: delivery::headers(invoke, *accepted), event: event.clone() };
        let delivered = self.waiter.take().is_some_and(|waiter| waiter.send(Ok(delivery)).is_ok());
        if !delivered {
            let now = self.now();
            // Never refused and never leads to an action.
            let _ = self.lifecycle.step(now, Event::Undelivered);
        }
    }

    async fn flush(&self) {
        if let Some(runtime) = &self.runtime {
            runtime.output.flush().await;
        }
        self.companions.flush().await;
    }

    async fn tell(&self, message: GuestMessage) -> Result<(), SandboxError> {
        Ok(self.connections.agent.send(message).await?)
    }

    fn now(&self) -> Micros {
        Micros::try_from(self.origin.elapsed().as_micros()).unwrap_or(Micros::MAX)
    }
}
