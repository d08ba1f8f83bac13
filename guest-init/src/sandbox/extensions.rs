//! The extensions of a sandbox: starts their processes before the runtime's, hands them events, has init and invocations last
//! until all of them are done, and gives them their time at the end.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use guest_protocol::{FunctionError, ShutdownNeeds, ShutdownReason};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::{Launched, Launcher, Runtime, Sandbox, SandboxError};
use crate::boot::seed;
use crate::extensions::{Extensions, MAX_EXTENSIONS, Notice, Topic};
use crate::gate::{self, Machine};
use crate::lifecycle::{Event, Exit};
use crate::output::Output;
use crate::platform_log;
use crate::runtime_api::{Call, ExtensionCall, Features, Registered};
use crate::telemetry::{Category, Subscribing};

/// What a runtime may take of the time at the end, in hundredths, when there is somebody to be told after it: as on Lambda.
const RUNTIME_SHARE: u32 = 30;

/// The extensions and their processes.
#[derive(Default)]
pub(super) struct Companions {
    pub(super) book: Extensions,
    processes: Vec<Process>,
    /// The runtime is started when all of them have registered.
    pub(super) precede_runtime: bool,
    /// The runtime's call that counts when all of them are done.
    pub(super) held: Option<Event>,
    /// An invocation that they have not been told of.
    pub(super) untold: bool,
    /// How the runtime's part of what lasts has ended was said.
    pub(super) told_done: bool,
}

/// An external extension's.
struct Process {
    name: String,
    exit: oneshot::Receiver<Exit>,
    output: Output,
}

impl Companions {
    /// Waits for the next process that ends; for ever when there is none. Cancel-safe.
    pub(super) async fn exited(&mut self) -> (String, Exit) {
        let processes = &mut self.processes;
        poll_fn(|context| {
            for index in 0..processes.len() {
                if let Poll::Ready(exit) = Pin::new(&mut processes[index].exit).poll(context) {
                    let process = processes.swap_remove(index);
                    // A launcher that forgets to tell has lost the process: as good as killed.
                    return Poll::Ready((process.name, exit.unwrap_or(Exit::Signal(libc::SIGKILL))));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Whether any has a process.
    pub(super) fn live(&self) -> bool {
        !self.processes.is_empty()
    }

    /// Returns when what they wrote before the call is queued to the agent.
    pub(super) async fn flush(&self) {
        for process in &self.processes {
            process.output.flush().await;
        }
    }
}

impl<L: Launcher + Machine> Sandbox<L> {
    /// Starts the extensions, and the runtime when none of them is to register first.
    pub(super) fn launch(&mut self) -> Result<(), SandboxError> {
        if !self.companions.book.is_empty() {
            // Of an init whose runtime exited: they outlived it.
            self.launcher.kill();
            self.forget_extensions();
        }
        for (index, name) in self.launcher.extensions().into_iter().enumerate() {
            let started = if index < MAX_EXTENSIONS {
                let started = self.launcher.launch_extension(&name, &self.environment.for_extension());
                started.map_err(|error| error.to_string())
            } else {
                Err(format!("more than {MAX_EXTENSIONS} extensions"))
            };
            let (exit, output) = match started {
                Ok(Launched { exit, output }) => {
                    let tap = self.telemetry.tap(Category::Extension);
                    (exit, Output::pump(output, self.connections.agent.clone(), Some(tap))?)
                }
                Err(reason) => (told(Exit::NotStarted(reason)), Output::none()),
            };
            self.companions.book.launched(&name);
            self.companions.processes.push(Process { name, exit, output });
        }
        self.companions.precede_runtime = !self.companions.book.have_registered();
        if self.companions.precede_runtime { Ok(()) } else { self.launch_runtime() }
    }

    /// Ends the function's processes. Those of extensions are left when they will be told that the sandbox ends.
    pub(super) fn kill(&mut self) {
        self.companions.held = None;
        if std::mem::take(&mut self.companions.precede_runtime) {
            // As of a runtime that had been started.
            let exit = told(Exit::Signal(libc::SIGKILL));
            self.runtime = Some(Runtime { exit, output: Output::none(), output_was_open: true });
        }
        if self.lifecycle.has_failed() && self.companions.live() {
            self.launcher.kill_runtime();
        } else {
            self.launcher.kill();
            self.forget_extensions();
        }
    }

    /// Their processes are gone, or will be: nothing that they do counts any more.
    fn forget_extensions(&mut self) {
        self.telemetry.forget();
        let Companions { untold, told_done, .. } = self.companions;
        self.companions = Companions { untold, told_done, ..Companions::default() };
    }

    /// Whether the runtime's call has to wait for extensions.
    pub(super) async fn holds(&mut self, event: Event) -> Result<bool, SandboxError> {
        if self.lifecycle.is_initializing() {
            self.companions.book.close();
        }
        let holds = self.lifecycle.awaits_next() && !self.companions.book.are_done();
        if holds {
            self.companions.held = Some(event);
            self.happened(Event::Held).await?;
        }
        Ok(holds)
    }

    pub(super) async fn extension_call(&mut self, call: ExtensionCall) -> Result<(), SandboxError> {
        match call {
            ExtensionCall::Register { name, events, features, reply } => {
                let id = gate::uuid(seed::random().map_err(SandboxError::Random)?);
                let taken = self.companions.book.register(&name, &events, id.clone());
                let document = self.about_function(features);
                let _ = reply.send(taken.map(|()| Registered { id, document }));
                if self.companions.precede_runtime && self.companions.book.have_registered() {
                    self.companions.precede_runtime = false;
                    self.launch_runtime()?;
                }
                Ok(())
            }
            ExtensionCall::Next(id, waiter) => {
                self.companions.book.wait(&id, waiter);
                self.release().await
            }
            ExtensionCall::Subscribe(id, subscription, reply) => {
                let (answer, begun) = match self.companions.book.name(&id).map(str::to_owned) {
                    Ok(name) => match self.telemetry.subscribe(&name, &subscription) {
                        Ok(Subscribing::Begun) => (Ok(()), Some(name)),
                        Ok(Subscribing::Known) => (Ok(()), None),
                        Err(closed) => (Err(closed.into()), None),
                    },
                    Err(refusal) => (Err(refusal.into()), None),
                };
                let _ = reply.send(answer);
                match begun {
                    Some(name) => self.log(platform_log::Event::Subscribed(&name, &subscription)).await,
                    None => Ok(()),
                }
            }
            ExtensionCall::Fail(id, error, reply) => {
                let failed = self.companions.book.fail(&id);
                let has_failed = failed.is_ok();
                let _ = reply.send(failed.map(drop));
                if has_failed { self.happened(Event::ExtensionFailed(error)).await } else { Ok(()) }
            }
        }
    }

    /// An extension's process ended, which is the function's failure unless it is over.
    pub(super) async fn extension_exited(&mut self, name: &str, exit: Exit) -> Result<(), SandboxError> {
        let (kind, how) = match exit {
            Exit::Code(code) => ("Extension.Crash", format!("exit status {code}")),
            Exit::Signal(signal) => ("Extension.Crash", format!("signal {signal}")),
            Exit::NotStarted(reason) => ("Extension.LaunchError", reason),
        };
        let message = format!("Extension {name} exited with error: {how}");
        let error = match &self.invocation {
            Some((invoke, ..)) => FunctionError::of_request(&invoke.request_id, kind, &message),
            None => FunctionError::new(kind, &message),
        };
        self.happened(Event::ExtensionFailed(error)).await
    }

    /// Hands the invocation to those that want it, once.
    pub(super) fn tell_extensions(&mut self) {
        let Some((invoke, _, accepted)) = &self.invocation else { return };
        if !std::mem::take(&mut self.companions.untold) {
            return;
        }
        let deadline = *accepted + Duration::from_millis(invoke.timeout_ms.into());
        let document = json!({
            "eventType": "INVOKE",
            "deadlineMs": unix_ms(deadline),
            "requestId": invoke.request_id,
            "invokedFunctionArn": invoke.invoked_function_arn,
            "tracing": { "type": "X-Amzn-Trace-Id", "value": invoke.trace_id },
        });
        self.tell_about(Topic::Invoke, &document);
    }

    /// Gives the runtime and the extensions the time that they have at the end.
    pub(super) async fn shut_down(&mut self, reason: ShutdownReason) -> Result<(), SandboxError> {
        self.telemetry.hurry();
        let needs = self.companions.book.shutdown_needs();
        let began = Instant::now();
        let over = began + needs.budget();
        if let Some(runtime) = self.runtime.as_mut().filter(|_| needs != ShutdownNeeds::None) {
            self.launcher.terminate_runtime();
            let share = if needs == ShutdownNeeds::External { RUNTIME_SHARE } else { 100 };
            let late = began + needs.budget() * share / 100;
            if timeout_at(late, &mut runtime.exit).await.is_err() {
                self.launcher.kill_runtime();
            }
            runtime.output.flush().await;
        }
        if self.companions.book.want(Topic::Shutdown) {
            self.farewells(reason, over).await;
        }
        Ok(())
    }

    /// Gives extensions the time that they have at the end of an init that failed; all processes are gone then.
    pub(super) async fn end_extensions(&mut self, reason: ShutdownReason) {
        if !self.companions.live() {
            return;
        }
        if self.companions.book.want(Topic::Shutdown) {
            self.telemetry.hurry();
            self.farewells(reason, Instant::now() + ShutdownNeeds::External.budget()).await;
        }
        self.launcher.kill();
        self.forget_extensions();
    }

    /// Tells extensions that they are to end, and waits until they have, until `over` at most.
    async fn farewells(&mut self, reason: ShutdownReason, over: Instant) {
        let deadline = SystemTime::now() + over.saturating_duration_since(Instant::now());
        let reason = match reason {
            ShutdownReason::Spindown => "spindown",
            ShutdownReason::Timeout => "timeout",
            ShutdownReason::Failure => "failure",
        };
        let document = json!({
            "eventType": "SHUTDOWN",
            "shutdownReason": reason,
            "deadlineMs": unix_ms(deadline),
        });
        let _ = timeout_at(over, self.farewell(&document)).await;
        self.companions.flush().await;
    }

    /// Tells every extension, those that are still at work when they ask, until none is left.
    async fn farewell(&mut self, document: &serde_json::Value) {
        self.tell_about(Topic::Shutdown, document);
        while self.companions.live() {
            tokio::select! {
                biased;
                Some(call) = self.connections.calls.recv() => {
                    if let Call::Extension(ExtensionCall::Next(id, waiter)) = call {
                        self.companions.book.wait(&id, waiter);
                        self.tell_about(Topic::Shutdown, document);
                    }
                }
                _ended = self.companions.exited() => {}
            }
        }
    }

    fn tell_about(&mut self, topic: Topic, document: &serde_json::Value) {
        // The kernel's generator does not fail once it is seeded.
        let event_id = seed::random().map(gate::uuid).unwrap_or_default();
        let notice = || Notice { event_id: event_id.clone(), document: document.to_string() };
        self.companions.book.tell(topic, notice);
    }

    /// Lets the runtime's call count that waited for extensions.
    async fn release(&mut self) -> Result<(), SandboxError> {
        if !self.companions.book.are_done() {
            return Ok(());
        }
        match self.companions.held.take() {
            Some(event) => self.happened(event).await,
            None => Ok(()),
        }
    }

    fn about_function(&self, features: Features) -> String {
        let mut document = json!({
            "functionName": self.start.function_name,
            "functionVersion": self.start.function_version,
            "handler": self.start.handler,
        });
        if features.account_id {
            document["accountId"] = self.start.account_id.as_str().into();
        }
        document.to_string()
    }
}

/// The end of a process that was none.
pub(super) fn told(exit: Exit) -> oneshot::Receiver<Exit> {
    let (tell, told) = oneshot::channel();
    let _ = tell.send(exit);
    told
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
