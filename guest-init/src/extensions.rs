//! The extensions of a sandbox: who has registered, for which events, and what each does now. Pure; [`crate::sandbox`] starts
//! and ends their processes, and [`crate::runtime_api`] hears their calls.
//!
//! ```text
//!            register             event/next          an event is handed over          event/next
//! launched ───────────► Registered ───────────► Waiting ─────────────────────► Working ───────────► Waiting
//! ```
//!
//! An *external* extension is an executable in `/opt/extensions`, a process of its own. An *internal* one is anything else that
//! registers: code in the runtime's process. Source: the Extensions API's documentation; names of errors are those of AWS's
//! runtime interface emulator.

use guest_protocol::ShutdownNeeds;
use tokio::sync::oneshot;

/// Extensions of one function, of both kinds: Lambda's quota.
pub const MAX_EXTENSIONS: usize = 10;

/// Longest name of one, bytes: a file's.
const MAX_NAME_LEN: usize = 255;

/// Where an extension waits for its next event.
pub type Waiter = oneshot::Sender<Result<Notice, Refusal>>;

/// An event of an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// `Lambda-Extension-Event-Identifier`.
    pub event_id: String,
    /// JSON.
    pub document: String,
}

/// Why a call of an extension is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No name, or one that no file can have.
    #[error("Empty extension name")]
    Name,
    /// Somebody has registered under that name.
    #[error("Extension with this name already registered")]
    AlreadyRegistered,
    /// There is no such event, or not for an extension of that kind.
    #[error("Invalid event type")]
    EventType,
    /// The runtime has been initialised.
    #[error("Extension registration closed already")]
    Closed,
    /// There are as many as there may be.
    #[error("Extension limit ({MAX_EXTENSIONS}) reached")]
    TooMany,
    /// The document is not what the API says it is.
    #[error("Invalid request format")]
    Format,
    /// No extension has that identifier.
    #[error("Unknown extension")]
    Unknown,
    /// It has said that it failed.
    #[error("The extension has failed")]
    Failed,
}

impl Refusal {
    /// `errorType` of the answer.
    #[must_use]
    pub fn error_type(self) -> &'static str {
        match self {
            Self::Name => "Extension.InvalidExtensionName",
            Self::AlreadyRegistered => "Extension.AlreadyRegistered",
            Self::EventType => "Extension.InvalidEventType",
            Self::Closed => "Extension.RegistrationClosed",
            Self::TooMany => "Extension.TooManyExtensions",
            Self::Format => "InvalidRequestFormat",
            Self::Unknown => "Extension.UnknownExtensionIdentifier",
            Self::Failed => "Extension.InvalidExtensionState",
        }
    }
}

/// What an extension may be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Each invocation.
    Invoke,
    /// The sandbox's end. Not for internal ones: their process is ended first.
    Shutdown,
}

impl Topic {
    fn parse(name: &str) -> Result<Self, Refusal> {
        match name {
            "INVOKE" => Ok(Self::Invoke),
            "SHUTDOWN" => Ok(Self::Shutdown),
            _ => Err(Refusal::EventType),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Invoke => "INVOKE",
            Self::Shutdown => "SHUTDOWN",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    External,
    Internal,
}

#[derive(Debug)]
enum Stage {
    /// Launched, and not heard of yet.
    Launched,
    Registered,
    Waiting(Waiter),
    Working,
    Failed,
}

#[derive(Debug)]
struct Extension {
    name: String,
    /// What it names itself by; empty before it has registered.
    id: String,
    kind: Kind,
    topics: Vec<Topic>,
    stage: Stage,
}

impl Extension {
    /// Whether nothing need be waited for.
    fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Waiting(_))
            || (matches!(self.stage, Stage::Working) && !self.topics.contains(&Topic::Invoke))
    }
}

/// The book of them.
#[derive(Debug, Default)]
pub struct Extensions {
    members: Vec<Extension>,
    closed: bool,
}

impl Extensions {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// An external one has been started.
    pub fn launched(&mut self, name: &str) {
        self.members.push(Extension {
            name: name.to_owned(),
            id: String::new(),
            kind: Kind::External,
            topics: Vec::new(),
            stage: Stage::Launched,
        });
    }

    /// Takes one that names itself `name` for these events; `id` is what it is known by from here on.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn register(&mut self, name: &str, events: &[String], id: String) -> Result<(), Refusal> {
        if name.is_empty() || name.len() > MAX_NAME_LEN {
            return Err(Refusal::Name);
        }
        if self.closed {
            return Err(Refusal::Closed);
        }
        let mut topics = Vec::new();
        for event in events {
            let topic = Topic::parse(event)?;
            if !topics.contains(&topic) {
                topics.push(topic);
            }
        }
        if let Some(known) = self.members.iter_mut().find(|member| member.name == name) {
            if !matches!(known.stage, Stage::Launched) {
                return Err(Refusal::AlreadyRegistered);
            }
            (known.id, known.topics, known.stage) = (id, topics, Stage::Registered);
            return Ok(());
        }
        if topics.contains(&Topic::Shutdown) {
            return Err(Refusal::EventType);
        }
        if self.members.len() >= MAX_EXTENSIONS {
            return Err(Refusal::TooMany);
        }
        let (name, kind) = (name.to_owned(), Kind::Internal);
        self.members.push(Extension { name, id, kind, topics, stage: Stage::Registered });
        Ok(())
    }

    /// Nobody registers any more: the runtime has asked for its first event.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether every external one has registered: the runtime may start.
    #[must_use]
    pub fn have_registered(&self) -> bool {
        !self.members.iter().any(|member| matches!(member.stage, Stage::Launched))
    }

    /// Whether every one waits for its next event: an init or an invocation need not be waited for.
    #[must_use]
    pub fn are_done(&self) -> bool {
        self.members.iter().all(Extension::is_done)
    }

    /// One waits for its next event. Who waited in its name before is let go.
    pub fn wait(&mut self, id: &str, waiter: Waiter) {
        match self.find(id) {
            Ok(member) => member.stage = Stage::Waiting(waiter),
            Err(refusal) => drop(waiter.send(Err(refusal))),
        }
    }

    /// Its name.
    ///
    /// # Errors
    /// [`Refusal`] when it is none.
    pub fn name(&mut self, id: &str) -> Result<&str, Refusal> {
        Ok(&self.find(id)?.name)
    }

    /// One says that it has failed; its name.
    ///
    /// # Errors
    /// [`Refusal`] when it is none.
    pub fn fail(&mut self, id: &str) -> Result<String, Refusal> {
        let member = self.find(id)?;
        member.stage = Stage::Failed;
        Ok(member.name.clone())
    }

    /// Hands an event to those that wait for its kind.
    pub fn tell(&mut self, topic: Topic, notice: impl Fn() -> Notice) {
        let wanted = self.members.iter_mut().filter(|member| member.topics.contains(&topic));
        for member in wanted.filter(|member| matches!(member.stage, Stage::Waiting(_))) {
            if let Stage::Waiting(waiter) = std::mem::replace(&mut member.stage, Stage::Working) {
                // One whose connection broke asks again, and has missed the event: it is the extension's to notice.
                let _ = waiter.send(Ok(notice()));
            }
        }
    }

    /// Whether any is to be told of that.
    #[must_use]
    pub fn want(&self, topic: Topic) -> bool {
        self.members.iter().any(|member| member.topics.contains(&topic))
    }

    /// What their end takes.
    #[must_use]
    pub fn shutdown_needs(&self) -> ShutdownNeeds {
        let kinds = |kind| self.members.iter().any(|member| member.kind == kind);
        match (kinds(Kind::External), kinds(Kind::Internal)) {
            (true, _) => ShutdownNeeds::External,
            (false, true) => ShutdownNeeds::Internal,
            (false, false) => ShutdownNeeds::None,
        }
    }

    /// Name, state and events of each, as the log has them at the end of an init.
    pub fn states(&self) -> impl Iterator<Item = (&str, &'static str, Vec<&'static str>)> {
        self.members.iter().map(|member| {
            let state = if member.is_done() { "Ready" } else { "Registered" };
            (member.name.as_str(), state, member.topics.iter().map(|topic| topic.name()).collect())
        })
    }

    fn find(&mut self, id: &str) -> Result<&mut Extension, Refusal> {
        let known = self.members.iter_mut().find(|member| !member.id.is_empty() && member.id == id);
        let member = known.ok_or(Refusal::Unknown)?;
        if matches!(member.stage, Stage::Failed) { Err(Refusal::Failed) } else { Ok(member) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn notice() -> Notice {
        Notice { event_id: "e".into(), document: "{}".into() }
    }

    fn waits(book: &mut Extensions, id: &str) -> oneshot::Receiver<Result<Notice, Refusal>> {
        let (waiter, event) = oneshot::channel();
        book.wait(id, waiter);
        event
    }

    #[test]
    fn an_external_one_goes_from_its_launch_to_its_events() {
        let mut book = Extensions::default();
        book.launched("agent");
        assert!(!book.have_registered() && !book.are_done());
        book.register("agent", &topics(&["INVOKE", "SHUTDOWN", "INVOKE"]), "1".into()).unwrap();
        assert!(book.have_registered() && !book.are_done());
        let mut event = waits(&mut book, "1");
        assert!(book.are_done());
        assert_eq!(book.states().collect::<Vec<_>>(), [("agent", "Ready", vec!["INVOKE", "SHUTDOWN"])]);
        book.tell(Topic::Invoke, notice);
        assert_eq!(event.try_recv().unwrap(), Ok(notice()));
        assert!(!book.are_done(), "it works");
        let mut event = waits(&mut book, "1");
        book.tell(Topic::Shutdown, notice);
        assert_eq!(event.try_recv().unwrap(), Ok(notice()));
        assert_eq!(book.shutdown_needs(), ShutdownNeeds::External);
    }

    #[test]
    fn who_wants_no_invocations_is_not_waited_for() {
        let mut book = Extensions::default();
        book.launched("agent");
        book.register("agent", &topics(&["SHUTDOWN"]), "1".into()).unwrap();
        let mut event = waits(&mut book, "1");
        book.tell(Topic::Invoke, notice);
        assert!(event.try_recv().is_err() && book.are_done());
        assert!(book.want(Topic::Shutdown) && !book.want(Topic::Invoke));
    }

    #[test]
    fn what_may_not_register_does_not() {
        let mut book = Extensions::default();
        book.launched("agent");
        let mut check = |name: &str, events: &[&str], refusal| {
            assert_eq!(book.register(name, &topics(events), "1".into()), Err(refusal), "{name}");
        };
        check("", &[], Refusal::Name);
        check(&"n".repeat(256), &[], Refusal::Name);
        check("agent", &["SLEEP"], Refusal::EventType);
        check("internal", &["SHUTDOWN"], Refusal::EventType);
        book.register("agent", &[], "1".into()).unwrap();
        assert_eq!(book.register("agent", &[], "2".into()), Err(Refusal::AlreadyRegistered));
        for number in 1..MAX_EXTENSIONS {
            book.register(&format!("internal-{number}"), &topics(&["INVOKE"]), number.to_string()).unwrap();
        }
        assert_eq!(book.register("one more", &[], "x".into()), Err(Refusal::TooMany));
        book.close();
        assert_eq!(book.register("late", &[], "x".into()), Err(Refusal::Closed));
    }

    #[test]
    fn who_is_unknown_or_has_failed_gets_no_event() {
        let mut book = Extensions::default();
        book.launched("agent");
        assert_eq!(
            waits(&mut book, "").try_recv().unwrap(),
            Err(Refusal::Unknown),
            "it has no identifier yet"
        );
        book.register("agent", &[], "1".into()).unwrap();
        assert_eq!(book.fail("1"), Ok("agent".into()));
        assert_eq!(waits(&mut book, "1").try_recv().unwrap(), Err(Refusal::Failed));
        assert_eq!(book.fail("2"), Err(Refusal::Unknown));
        assert!(!book.are_done());
    }
}
