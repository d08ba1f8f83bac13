//! What a sandbox says of itself: to its log, to who has subscribed, and to the agent.

use std::time::{SystemTime, UNIX_EPOCH};

use guest_protocol::{
    Fate, FunctionError, GuestMessage, InitFailure, InitReport, InvocationReport, LogChunk, LogFormat,
    LogSource, Outcome, ShutdownReason,
};

use serde_json::json;

use super::{Launcher, Machine, Sandbox, SandboxError};
use crate::lifecycle::{Finished, InitStatus, Micros};
use crate::platform_log::{Document, Event, Memory};

/// An invocation's documents.
const TRACED: &[&str] = &["platform.start", "platform.runtimeDone", "platform.report"];

impl<L: Launcher + Machine> Sandbox<L> {
    pub(super) async fn init_done(&mut self, duration_us: Micros) -> Result<(), SandboxError> {
        self.flush().await;
        self.init_runtime_done(None).await?;
        self.companions.told_done = false;
        self.log(Event::Extensions(&self.companions.book)).await?;
        self.log(Event::InitDone(duration_us)).await?;
        self.telemetry.close();
        let shutdown = self.companions.book.shutdown_needs();
        self.tell(GuestMessage::InitDone(InitReport { duration_us, shutdown })).await
    }

    /// Tells the agent, which has somebody wait, before extensions have their time to end.
    pub(super) async fn init_failed(
        &mut self,
        mut failure: InitFailure,
        status: InitStatus,
    ) -> Result<(), SandboxError> {
        self.flush().await;
        self.init_runtime_done(Some((&failure, status))).await?;
        self.companions.told_done = false;
        self.log(Event::InitFailed(&failure, status)).await?;
        failure.shutdown = self.companions.book.shutdown_needs();
        self.tell(GuestMessage::InitFailed(failure)).await?;
        let reason = match status {
            InitStatus::Timeout => ShutdownReason::Timeout,
            InitStatus::Error => ShutdownReason::Failure,
        };
        self.end_extensions(reason).await;
        Ok(())
    }

    /// Says once how the runtime's part of an init ended.
    pub(super) async fn init_runtime_done(
        &mut self,
        failed: Option<(&InitFailure, InitStatus)>,
    ) -> Result<(), SandboxError> {
        if std::mem::replace(&mut self.companions.told_done, true) {
            return Ok(());
        }
        self.log(Event::InitRuntimeDone(failed)).await
    }

    /// Says once how the runtime's part of an invocation ended.
    pub(super) async fn runtime_done(&mut self, finished: &Finished) -> Result<(), SandboxError> {
        if std::mem::replace(&mut self.companions.told_done, true) {
            return Ok(());
        }
        // What it takes to know about memory is read twice for those alone who want it.
        let is_wanted = self.telemetry.is_heard() || self.start.log_format != LogFormat::Text;
        if is_wanted { self.log(Event::RuntimeDone(finished, self.memory())).await } else { Ok(()) }
    }

    pub(super) async fn finish(&mut self, mut finished: Finished) -> Result<(), SandboxError> {
        self.flush().await;
        // A function that closed its output closed more than that: what its runtime opens next takes the numbers of the
        // standard streams, and the next thing that is printed goes there. It has answered, and is given nothing more.
        if self.runtime.as_ref().is_some_and(|runtime| runtime.output_was_open && !runtime.output.is_open()) {
            finished.fate = Fate::Ended;
        }
        self.runtime_done(&finished).await?;
        self.companions.told_done = false;
        let memory = self.memory();
        self.log(Event::Finished(&finished, memory)).await?;
        self.invocation = None;
        self.response = None;
        self.is_streaming = false;
        if std::mem::take(&mut self.answered)
            && let Outcome::Failed(error) = &mut finished.outcome
        {
            error.payload = Vec::new();
        }
        let report = InvocationReport {
            request_id: finished.request_id,
            outcome: finished.outcome,
            fate: finished.fate,
            duration_us: finished.duration_us,
            max_memory_used_mib: memory.used_mib,
            shutdown: self.companions.book.shutdown_needs(),
        };
        self.tell(GuestMessage::Done(report)).await
    }

    /// Says of an invocation's documents which trace they are part of.
    fn trace(&self, documents: &mut [Document]) {
        let Some((invoke, ..)) = self.invocation.as_ref().filter(|(invoke, ..)| !invoke.trace_id.is_empty())
        else {
            return;
        };
        for (.., kind, record) in documents {
            if TRACED.contains(kind) {
                record["tracing"] = json!({ "type": "X-Amzn-Trace-Id", "value": invoke.trace_id });
            }
        }
    }

    fn memory(&self) -> Memory {
        Memory { size_mib: self.start.memory_mib, ..self.launcher.memory() }
    }

    pub(super) async fn end(&mut self, error: FunctionError) -> Result<(), SandboxError> {
        self.flush().await;
        self.tell(GuestMessage::Ended(error)).await
    }

    /// Says something in the function's log, if its settings let it, and to who has subscribed.
    pub(super) async fn log(&self, event: Event<'_>) -> Result<(), SandboxError> {
        if self.telemetry.is_heard() {
            let mut documents = event.documents(&self.start);
            self.trace(&mut documents);
            self.telemetry.platform(documents);
        }
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let Some(lines) = event.lines(&self.start, since_epoch) else { return Ok(()) };
        let chunk = LogChunk { source: LogSource::Platform, bytes: lines.into_bytes() };
        self.tell(GuestMessage::Log(chunk)).await
    }
}
