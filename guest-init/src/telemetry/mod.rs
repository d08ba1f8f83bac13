//! What extensions are told of the sandbox and of what is printed in it, as the Telemetry API and the Logs API have it: who
//! has subscribed to what, and one delivery task each. Source: the APIs' documentation; names of errors are AWS's.
//!
//! ```text
//! platform's documents ─┐                 ┌─► buffer ─► delivery ─► 127.0.0.1:PORT
//! function's lines ─────┼─► Telemetry ────┤
//! extensions' lines ────┘                 └─► buffer ─► delivery ─► …
//! ```
//!
//! Whoever tells something never waits: a buffer that is full drops, and says so to its subscriber. All that is told is
//! made here: no bytes of the function's become anything but the text of a line, or one JSON object in its place.

mod buffer;
mod delivery;
mod event;
mod lines;
mod subscription;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use guest_protocol::{LogFormat, SystemLogLevel};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::platform_log::timestamp;
use delivery::{Mode, Subscriber};
use event::{Event, Renderings};
pub use lines::Tap;
pub use subscription::{Api, Category, Destination, Invalid, Method, Subscription};

/// What is kept of an init for who subscribes later in it, bytes: its first lines and the platform's documents.
const EARLY_LEN: usize = 64 * 1024;

/// How long what has been told may take to be delivered before the function stands still.
const SETTLING: Duration = Duration::from_millis(1000);

/// Everything that is told, to everyone who wants it. Clones are the same one.
#[derive(Clone)]
pub struct Telemetry(Rc<RefCell<Hub>>);

struct Hub {
    subscribers: Vec<Subscribed>,
    early: Vec<(String, Event)>,
    early_len: usize,
    /// Nobody subscribes any more.
    closed: bool,
    objects: bool,
}

struct Subscribed {
    name: String,
    categories: Vec<Category>,
    subscriber: Rc<Subscriber>,
    task: JoinHandle<()>,
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why a subscription is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The init is over.
    #[error("subscription is closed already")]
    Late,
    /// The extension has subscribed by the other interface.
    #[error("the extension has subscribed by the other API")]
    OtherApi,
}

impl Telemetry {
    /// Nobody has subscribed yet. Lines of a function whose log is JSON are told as what they are.
    #[must_use]
    pub fn new(format: LogFormat) -> Self {
        let objects = matches!(format, LogFormat::Json(_));
        let hub = Hub { subscribers: Vec::new(), early: Vec::new(), early_len: 0, closed: false, objects };
        Self(Rc::new(RefCell::new(hub)))
    }

    /// Has an extension be told from now on, beginning with what the init had to tell so far. A second subscription of one
    /// changes nothing.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn subscribe(&self, name: &str, subscription: &Subscription) -> Result<Subscribing, Closed> {
        let mut hub = self.0.borrow_mut();
        if hub.closed {
            return Err(Closed::Late);
        }
        if let Some(known) = hub.subscribers.iter().find(|known| known.name == name) {
            let same = known.subscriber.api() == subscription.api();
            return if same { Ok(Subscribing::Known) } else { Err(Closed::OtherApi) };
        }
        let subscriber = Rc::new(Subscriber::new(subscription));
        let categories: Vec<_> = subscription.categories().collect();
        for (at, event) in hub.early.iter().filter(|(_, event)| categories.contains(&event.category())) {
            for rendered in Renderings::of(event, at).get(subscriber.schema()) {
                subscriber.tell(rendered);
            }
        }
        let task = tokio::task::spawn_local(delivery::deliver(Rc::clone(&subscriber)));
        hub.subscribers.push(Subscribed { name: name.to_owned(), categories, subscriber, task });
        Ok(Subscribing::Begun)
    }

    /// Nobody subscribes any more.
    pub fn close(&self) {
        let mut hub = self.0.borrow_mut();
        hub.closed = true;
        (hub.early, hub.early_len) = (Vec::new(), 0);
    }

    /// The extensions are gone, and others may subscribe.
    pub fn forget(&self) {
        let mut hub = self.0.borrow_mut();
        hub.subscribers.clear();
        hub.closed = false;
    }

    /// Whether anybody will be told.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        let hub = self.0.borrow();
        !hub.closed || !hub.subscribers.is_empty()
    }

    /// Tells the platform's documents.
    pub fn platform(&self, documents: Vec<(SystemLogLevel, &'static str, Value)>) {
        for (_, kind, record) in documents {
            self.tell(Event::Platform { kind, record });
        }
    }

    /// Where what a process prints is to be written.
    #[must_use]
    pub fn tap(&self, category: Category) -> Tap {
        Tap::new(self.clone(), category)
    }

    /// Has what was told delivered, within some time, and nothing sent until [`Self::go_on`].
    pub async fn settle(&self) {
        let subscribers = self.set(Mode::Settling);
        let settled = async {
            for subscriber in &subscribers {
                subscriber.settled().await;
            }
        };
        // Who is late is in the middle of a delivery, which goes on, or is made again, when it is thawed.
        let _ = tokio::time::timeout(SETTLING, settled).await;
    }

    /// Has deliveries go on.
    pub fn go_on(&self) {
        self.set(Mode::Running);
    }

    /// Has everything delivered at once from now on: the sandbox ends.
    pub fn hurry(&self) {
        self.set(Mode::Hurrying);
    }

    fn set(&self, mode: Mode) -> Vec<Rc<Subscriber>> {
        let hub = self.0.borrow();
        let subscribers = hub.subscribers.iter().map(|subscribed| Rc::clone(&subscribed.subscriber));
        subscribers.inspect(|subscriber| subscriber.set(mode)).collect()
    }

    fn line(&self, category: Category, text: &[u8]) {
        if self.is_heard() {
            let objects = self.0.borrow().objects && category == Category::Function;
            self.tell(Event::line(category, text, objects));
        }
    }

    fn tell(&self, event: Event) {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = timestamp(since_epoch);
        let hub = &mut *self.0.borrow_mut();
        let mut renderings = Renderings::of(&event, &at);
        for subscribed in hub.subscribers.iter().filter(|known| known.categories.contains(&event.category()))
        {
            for rendered in renderings.get(subscribed.subscriber.schema()) {
                subscribed.subscriber.tell(rendered);
            }
        }
        if !hub.closed && hub.early_len + event.len() <= EARLY_LEN {
            hub.early_len += event.len();
            hub.early.push((at, event));
        }
    }
}

/// What became of a subscription that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscribing {
    /// It begins.
    Begun,
    /// There was one.
    Known,
}

#[cfg(test)]
mod tests;
