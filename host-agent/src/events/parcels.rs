//! Records, and dead letters, on their way to buckets and webhooks. A record waits in its destination's lane from the commit in which its event goes, so
//! that neither the event nor anybody else waits for a server that is not the node's.
//!
//! ```text
//! an event ends ──its commit──► in the lane ──given──► gone
//!                                ▲      │ not taken: it waits, and so does the lane, longer each time
//!                                └──────┤
//!                                       └─ refused for good, or too old, or too many wait: lost, and shown among the dead
//! ```

use super::{
    Shared,
    destinations::GiveError,
    outcome::{Report, shown_lost},
    policy::{MAX_AGE_S, backoff_ms},
    record::{Event, Item, Parcel},
    schedule::lane,
    store::{Op, Place},
};
use crate::{functions::model, sandbox::describe};

/// How long a destination is waited for that takes nothing: as long as AWS tries an event.
const MAX_WAIT_MS: u64 = MAX_AGE_S * 1000;

/// Whether an ARN is that of a kind of destination which the configuration names.
pub(super) fn is_for(arn: &str) -> bool {
    matches!(arn.split(':').nth(2), Some("s3" | "sns"))
}

/// What a destination is to have.
pub(super) enum Message<'a> {
    /// A record as it is.
    Record(Vec<u8>),
    /// An event that was given up, as a topic's message.
    DeadLetter(&'a Report<'a>),
}

/// A message sets out: what is to be done for it.
pub(super) fn send(shared: &Shared, event: &Event, arn: &str, message: Message<'_>) -> Option<Op> {
    let now_ms = shared.parts.clock.now_ms();
    let id = uuid::Uuid::new_v4().to_string();
    let (record, is_notification) = match message {
        Message::Record(record) => (record, false),
        Message::DeadLetter(report) => (report.notification(arn, &id), true),
    };
    let parcel = Parcel {
        destination: arn.into(),
        function: event.function.clone(),
        request_id: event.request_id.clone(),
        id,
        calls: event.calls,
        since_ms: now_ms,
        failures: 0,
        is_notification,
        record: record.into(),
    };
    let lane = lane(arn);
    if !shared.ledger.schedule().lane_has_room(&lane, parcel.record.len() as u64) {
        return lose(shared, &parcel, "as many records wait for it as may");
    }
    let seq = shared.ledger.schedule().number();
    shared.add(Place { function: lane, due_ms: now_ms, seq }, now_ms, &Item::Parcel(parcel))
}

/// Gives a record to its destination; what of that is still to be done.
pub(super) async fn deliver(shared: &Shared, place: &Place, mut parcel: Parcel) -> Option<Op> {
    let given = shared.parts.destinations.give(&parcel, &shared.parts.disk).await;
    let now_ms = shared.parts.clock.now_ms();
    let error = match given {
        Ok(()) => {
            shared.ledger.update(|schedule| schedule.freed(&place.function));
            return None;
        }
        Err(error) if error.is_final() => return lose(shared, &parcel, &describe(&error)),
        Err(error) => error,
    };
    parcel.failures = parcel.failures.saturating_add(1);
    let due_ms = now_ms + backoff_ms(parcel.failures);
    if due_ms > parcel.since_ms.saturating_add(MAX_WAIT_MS) {
        return lose(shared, &parcel, &describe(&error));
    }
    warn(&parcel, &error);
    shared.ledger.update(|schedule| schedule.held(&place.function, now_ms));
    let since_ms = parcel.since_ms;
    shared.add(Place { due_ms, ..place.clone() }, since_ms, &Item::Parcel(parcel))
}

fn warn(parcel: &Parcel, error: &GiveError) {
    let Parcel { destination, request_id: request, failures, .. } = parcel;
    tracing::warn!(destination, request, failures, "a record waits: {}", describe(error));
}

/// Gives a record up, and shows it among the dead events of its function.
fn lose(shared: &Shared, parcel: &Parcel, problem: &str) -> Option<Op> {
    let now_ms = shared.parts.clock.now_ms();
    let Parcel { destination, function, request_id: request, .. } = parcel;
    tracing::error!(destination, request, function = function.name, "a record is lost: {problem}");
    shared.parts.destinations.lost(destination);
    shared.ledger.schedule().count(function, |counts| counts.dropped += 1);
    // Nothing is shown of a function that is gone.
    shared.parts.functions.get(function)?;
    let function_arn = model::arn(function, &shared.parts.account_id);
    let seq = shared.ledger.schedule().number();
    let grave = Place { function: function.clone(), due_ms: now_ms, seq };
    Some(Op::Bury(grave, shown_lost(parcel, function_arn, problem, now_ms).to_string().into_bytes()))
}
