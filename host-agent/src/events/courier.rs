//! Deliveries: takes what is due, has the function run, and writes what follows from how that went.
//!
//! What follows is one commit: the event goes, and what it is followed by (itself at a later time, the event of a function that is
//! its destination) comes. A queue has its line before that; a crash in between delivers the event again.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::{
    Shared,
    outcome::{End, Report, Said},
    parcels::{self, Message},
    policy::{Failure, Rules},
    queues::QueueName,
    record::{Event, Item, Outcome},
    schedule::{Next, is_lane},
    store::{Brief, Op, Place},
};
use crate::{
    code::blocking,
    functions::{
        attached::EventInvoke,
        model::{self, FunctionConfig, FunctionId, LATEST, RecursiveLoop, StartKind, State},
    },
    invoke::{Invocation, InvokeError},
    sandbox::describe,
};

/// How long a queue is waited for that does not take a line: as long as AWS tries an event.
const MAX_WAIT_MS: u64 = super::policy::MAX_AGE_S * 1000;

/// How an attempt ended.
enum Attempt {
    /// The function answered.
    Answered(Said),
    /// The node could not run it.
    Failed(InvokeError),
    /// It may not run now.
    Throttled,
    /// The node is going down.
    Stopping,
    /// It may not run at all, or no more.
    Over(Failure),
    /// It is gone.
    Gone,
}

/// Delivers what is due, until it is told to stop.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut stopping = shared.stopping.subscribe();
    loop {
        let next = tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => return,
            next = next(&shared) => next,
        };
        let (place, brief, permit) = next;
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            deliver(&shared, &place, brief).await;
            drop(permit);
        });
    }
}

/// Waits for something to deliver, and for a place to do so. What goes to a lane needs none: its lane bounds it, and functions that
/// are slow do not hold it up.
async fn next(shared: &Shared) -> (Place, Brief, Option<OwnedSemaphorePermit>) {
    let mut permit = None;
    loop {
        permit = permit.or_else(|| Arc::clone(&shared.places).try_acquire_owned().ok());
        let changed = shared.ledger.changed.notified();
        let now_ms = shared.parts.clock.now_ms();
        let next = {
            let mut schedule = shared.ledger.schedule();
            if permit.is_some() { schedule.next(now_ms) } else { schedule.next_in_lanes(now_ms) }
        };
        let at_ms = match next {
            Next::Deliver(place, brief) => {
                let permit = permit.filter(|_| !is_lane(&place.function));
                return (place, brief, permit);
            }
            Next::Refill(function) => {
                shared.keeper.refill(function).await;
                continue;
            }
            Next::Idle => None,
            Next::At(at_ms) => Some(at_ms),
        };
        let due = async {
            match at_ms {
                Some(at_ms) => shared.parts.clock.sleep_towards(at_ms).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = due => {}
            Ok(free) = Arc::clone(&shared.places).acquire_owned(), if permit.is_none() => permit = Some(free),
        }
    }
}

async fn deliver(shared: &Shared, place: &Place, brief: Brief) {
    let (store, wanted) = (Arc::clone(&shared.store), place.clone());
    let ops = match blocking(move || store.read(&wanted)).await {
        Ok(Some(Ok(Item::Call(event)))) => call(shared, place, event).await,
        Ok(Some(Ok(Item::Outcome(outcome)))) => Some(hand_over(shared, place, outcome).await),
        Ok(Some(Ok(Item::Parcel(parcel)))) => {
            Some(parcels::deliver(shared, place, parcel).await.into_iter().collect())
        }
        Ok(Some(Err(error))) => {
            tracing::error!(function = place.function.name, "an event is lost: {}", describe(&error));
            shared.ledger.schedule().count(&place.function, |counts| counts.dropped += 1);
            Some(Vec::new())
        }
        Ok(None) => return shared.ledger.update(|schedule| schedule.vanished(place)),
        Err(error) => {
            tracing::error!(function = place.function.name, "an event cannot be read: {}", describe(&error));
            None
        }
    };
    let now_ms = shared.parts.clock.now_ms();
    let Some(mut ops) = ops else {
        return shared.ledger.update(|schedule| schedule.throttled(place, now_ms));
    };
    ops.insert(0, Op::Remove(place.clone(), brief));
    if let Err(error) = shared.keeper.write(ops).await {
        tracing::error!(function = place.function.name, "an event will be delivered again: {error}");
        shared.ledger.update(|schedule| schedule.throttled(place, now_ms));
    }
}

/// What comes after a call instead of its event; `None`: it stays as it is, to be tried after a while.
async fn call(shared: &Shared, place: &Place, mut event: Event) -> Option<Vec<Op>> {
    let config = shared.config_of(&event);
    let rules = Rules::of(config.as_ref());
    let ended = attempt(shared, &event, rules).await;
    let now_ms = shared.parts.clock.now_ms();
    let again = match ended {
        Attempt::Throttled | Attempt::Stopping => return None,
        Attempt::Gone => {
            tracing::info!(
                function = event.function.name,
                request = event.request_id,
                "an event was dropped"
            );
            shared.ledger.schedule().count(&event.function, |counts| counts.dropped += 1);
            return Some(Vec::new());
        }
        Attempt::Answered(said) => {
            event.calls += 1;
            event.failures = 0;
            if said.function_error.is_none() {
                shared.ledger.schedule().count(&event.function, |counts| counts.delivered += 1);
                return Some(end(shared, &event, config.as_ref(), (End::Success, Some(&said))).await);
            }
            let again = rules.after_error(event.accepted_ms, now_ms, event.calls);
            again.map_err(|failure| (failure, Some(said)))
        }
        Attempt::Failed(error) => {
            tracing::warn!(
                function = event.function.name,
                request = event.request_id,
                "{}",
                describe(&error)
            );
            event.failures = event.failures.saturating_add(1);
            let again = rules.after_failure(event.accepted_ms, now_ms, event.failures);
            again.map_err(|failure| (failure, None))
        }
        Attempt::Over(failure) => Err((failure, None)),
    };
    match again {
        Ok(at_ms) => {
            shared.ledger.schedule().count(&event.function, |counts| counts.retried += 1);
            let place = Place { due_ms: at_ms, ..place.clone() };
            Some(shared.add(place, event.accepted_ms, &Item::Call(event)).into_iter().collect())
        }
        Err((failure, said)) => {
            shared.ledger.schedule().count(&event.function, |counts| counts.dead += 1);
            Some(end(shared, &event, config.as_ref(), (End::Failed(failure), said.as_ref())).await)
        }
    }
}

/// Has the function run once.
async fn attempt(shared: &Shared, event: &Event, rules: Rules) -> Attempt {
    let view = shared.parts.functions.view();
    let latest = view.get(&event.function).map(|latest| latest.config);
    let Some(latest) = latest.filter(|latest| latest.incarnation == event.incarnation) else {
        return Attempt::Gone;
    };
    let Ok(bits) = getrandom::u32() else { return Attempt::Throttled };
    let roll = f64::from(bits) / (f64::from(u32::MAX) + 1.0);
    let qualifier = event.qualifier.as_deref().unwrap_or(LATEST);
    let Some(function) = view.serving(&event.function, qualifier, roll) else { return Attempt::Gone };
    if rules.is_over(event.accepted_ms, shared.parts.clock.now_ms()) {
        return Attempt::Over(Failure::EventAgeExceeded);
    }
    if latest.reserved_concurrency == Some(0) {
        return Attempt::Over(Failure::ZeroReservedConcurrency);
    }
    if event.lineage.is_loop(&event.function) && latest.recursive_loop == RecursiveLoop::Terminate {
        return Attempt::Over(Failure::RecursiveLoop);
    }
    if !takes_calls(&function.config) {
        return Attempt::Failed(InvokeError::Restore("the version has no snapshot, or no image".into()));
    }
    let concurrency = &shared.parts.concurrency;
    let share = concurrency.share(view, &event.function, &function.config.version);
    let Ok(slot) = concurrency.enter(&event.function, share) else { return Attempt::Throttled };
    let invocation = Invocation {
        function: function.config,
        code: function.code,
        invoked_arn: shared.arn(&event.function, event.qualifier.as_deref()),
        request_id: event.request_id.clone(),
        payload: event.payload.clone(),
        client_context: event.client_context.clone(),
        trace_id: event.trace_id.clone(),
        log_tail: false,
        slot: Some(Arc::new(slot)),
        sink: None,
        answers: shared.answers.clone(),
    };
    match shared.parts.invoker.invoke(invocation).await {
        Ok(answer) => Attempt::Answered(Said {
            payload: answer.payload,
            function_error: answer.function_error,
            executed_version: answer.executed_version,
        }),
        Err(InvokeError::Throttled(_)) => Attempt::Throttled,
        Err(InvokeError::ShuttingDown) => Attempt::Stopping,
        Err(error) => Attempt::Failed(error),
    }
}

/// Whether a version waits for no snapshot and no image, and has not failed for want of one.
fn takes_calls(config: &FunctionConfig) -> bool {
    match config.state {
        State::Active => true,
        State::Pending => config.start_kind() != StartKind::Snapshot && !config.awaits_image(),
        State::Failed(_) => false,
    }
}

/// What comes after an event that has come to its end. Queues have been given theirs when this returns.
async fn end(
    shared: &Shared,
    event: &Event,
    config: Option<&EventInvoke>,
    (end, said): (End, Option<&Said>),
) -> Vec<Op> {
    let now_ms = shared.parts.clock.now_ms();
    let qualifier = event.qualifier.as_deref().unwrap_or(LATEST);
    let function_arn = shared.arn(&event.function, Some(qualifier));
    let report = Report { event, function_arn, end, said, now_ms };
    let mut ops = Vec::new();
    let given = |arn: &Option<String>| arn.clone().filter(|arn| !arn.is_empty());
    let destination = match end {
        End::Success => config.and_then(|config| given(&config.on_success)),
        End::Failed(_) => config.and_then(|config| given(&config.on_failure)),
    };
    if let Some(arn) = destination {
        ops.extend(tell(shared, event, &arn, end, report.record()).await);
    }
    if let End::Failed(failure) = end {
        tracing::info!(
            function = event.function.name,
            request = event.request_id,
            calls = event.calls,
            "an event was given up: {}",
            failure.condition()
        );
        let function = shared.parts.functions.view().named(&event.function, qualifier);
        if let Some(arn) = function.and_then(|function| given(&function.config.dead_letter)) {
            ops.extend(if parcels::is_for(&arn) {
                parcels::send(shared, event, &arn, Message::DeadLetter(&report))
            } else {
                tell(shared, event, &arn, end, report.dead_letter()).await
            });
        }
        let seq = shared.ledger.schedule().number();
        let grave = Place { function: event.function.clone(), due_ms: now_ms, seq };
        ops.push(Op::Bury(grave, report.shown().to_string().into_bytes()));
    }
    ops
}

/// Tells a destination of an event's end; what of that is still to be done. When that was the end of a loop, a function in it is not called
/// once more.
async fn tell(shared: &Shared, event: &Event, arn: &str, end: End, line: Vec<u8>) -> Option<Op> {
    let now_ms = shared.parts.clock.now_ms();
    if let Some(queue) = QueueName::of_arn(arn, &shared.parts.account_id) {
        let outcome = Outcome {
            queue: arn.into(),
            request_id: event.request_id.clone(),
            since_ms: now_ms,
            failures: 0,
            line: line.into(),
        };
        let seq = shared.ledger.schedule().number();
        let place = Place { function: event.function.clone(), due_ms: now_ms, seq };
        return append(shared, &place, queue, outcome).await;
    }
    if parcels::is_for(arn) {
        return parcels::send(shared, event, arn, Message::Record(line));
    }
    let Some((function, qualifier, incarnation)) = shared.function_of(arn) else {
        tracing::warn!(function = event.function.name, arn, "an event's destination is gone");
        return None;
    };
    let lineage = event.lineage.and(&event.function);
    if matches!(end, End::Failed(Failure::RecursiveLoop)) && lineage.has(&function) {
        tracing::warn!(function = event.function.name, arn, "a loop of events ends");
        return None;
    }
    let next = Event {
        function: function.clone(),
        incarnation,
        qualifier,
        request_id: uuid::Uuid::new_v4().to_string(),
        client_context: None,
        trace_id: event.trace_id.clone(),
        accepted_ms: now_ms,
        calls: 0,
        failures: 0,
        lineage,
        payload: line.into(),
    };
    let seq = shared.ledger.schedule().number();
    shared.add(Place { function, due_ms: now_ms, seq }, now_ms, &Item::Call(next))
}

/// Tries again to give a queue its line; what of that is still to be done.
async fn hand_over(shared: &Shared, place: &Place, outcome: Outcome) -> Vec<Op> {
    let now_ms = shared.parts.clock.now_ms();
    let queue = QueueName::of_arn(&outcome.queue, &shared.parts.account_id);
    let Some(queue) = queue.filter(|_| now_ms <= outcome.since_ms.saturating_add(MAX_WAIT_MS)) else {
        tracing::error!(queue = outcome.queue, request = outcome.request_id, "an event's outcome is lost");
        shared.ledger.schedule().count(&place.function, |counts| counts.dropped += 1);
        return Vec::new();
    };
    append(shared, place, queue, outcome).await.into_iter().collect()
}

/// Gives a queue its line, or says when that is to be tried again.
async fn append(shared: &Shared, place: &Place, queue: QueueName, mut outcome: Outcome) -> Option<Op> {
    let (queues, line) = (Arc::clone(&shared.queues), outcome.line.clone());
    let Err(error) = blocking(move || queues.append(&queue, &line)).await else { return None };
    tracing::warn!(queue = outcome.queue, request = outcome.request_id, "{}", describe(&error));
    outcome.failures = outcome.failures.saturating_add(1);
    let due_ms = shared.parts.clock.now_ms() + super::policy::backoff_ms(outcome.failures);
    let since_ms = outcome.since_ms;
    shared.add(Place { due_ms, ..place.clone() }, since_ms, &Item::Outcome(outcome))
}

impl Shared {
    /// How events of a version or an alias are handled, if anybody has said so.
    fn config_of(&self, event: &Event) -> Option<EventInvoke> {
        let qualifier = event.qualifier.as_deref().unwrap_or(LATEST);
        let kept = self.parts.functions.view().attached(&event.function, qualifier);
        kept.and_then(|kept| kept.attached.event_invoke.clone())
    }

    fn arn(&self, function: &FunctionId, qualifier: Option<&str>) -> String {
        let arn = model::arn(function, &self.parts.account_id);
        qualifier.map_or(arn.clone(), |qualifier| format!("{arn}:{qualifier}"))
    }

    /// The function that an ARN names, with version or alias, and its incarnation, if it is there.
    fn function_of(&self, arn: &str) -> Option<(FunctionId, Option<String>, String)> {
        let mut parts = arn.split(':').skip(3);
        let (region, account, kind, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if account != self.parts.account_id || kind != "function" {
            return None;
        }
        let id = FunctionId { region: region.into(), name: name.into() };
        let incarnation = self.parts.functions.get(&id)?.config.incarnation.clone();
        Some((id, parts.next().map(String::from), incarnation))
    }

    pub(super) fn add(&self, place: Place, accepted_ms: u64, item: &Item) -> Option<Op> {
        match item.encode() {
            Ok(record) => {
                let len = u32::try_from(record.len()).unwrap_or(u32::MAX);
                Some(Op::Add(place, Brief { len, accepted_ms }, record))
            }
            Err(error) => {
                tracing::error!(function = place.function.name, "an event is lost: {}", describe(&error));
                None
            }
        }
    }
}
