//! The state machine as its user sees it: a few lives told in full, then properties over random ones.

use guest_protocol::{FunctionError, ShutdownNeeds};
use proptest::prelude::*;

use super::*;

mod ahead;
mod ending;

const INIT_LIMIT: Micros = 10_000_000;

fn plan(initialization_type: InitializationType) -> Plan {
    Plan { init_timeout_us: INIT_LIMIT, initialization_type }
}

/// A lifecycle with a clock and a process that obey its actions.
struct World {
    lifecycle: Lifecycle,
    now: Micros,
    log: Vec<Action>,
}

impl World {
    fn begin() -> Self {
        Self::begin_as(InitializationType::OnDemand)
    }

    fn begin_as(initialization_type: InitializationType) -> Self {
        let (lifecycle, log) = Lifecycle::begin(0, plan(initialization_type));
        Self { lifecycle, now: 0, log }
    }

    fn ready() -> Self {
        let mut world = Self::begin();
        world.now = 250_000;
        world.check(Event::Next, &[Action::InitDone { duration_us: 250_000 }]);
        world
    }

    fn busy() -> Self {
        let mut world = Self::ready();
        world.check(invoke("a"), &[begin("a"), Action::Deliver]);
        world
    }

    #[track_caller]
    fn check(&mut self, event: Event, expected: &[Action]) {
        let actions = self.lifecycle.step(self.now, event).unwrap();
        assert_eq!(actions, expected);
        self.log.extend(actions);
    }

    #[track_caller]
    fn refuses(&mut self, event: Event) -> Refusal {
        self.lifecycle.step(self.now, event).unwrap_err()
    }

    /// Steps and returns the report that must be among the actions.
    #[track_caller]
    fn finishes(&mut self, event: Event) -> Finished {
        let actions = self.lifecycle.step(self.now, event).unwrap();
        let finished = actions.into_iter().find_map(|action| match action {
            Action::Finish(finished) => Some(finished),
            _ => None,
        });
        finished.expect("the invocation ends here")
    }
}

fn invoke(id: &str) -> Event {
    Event::Invoke { request_id: id.into(), timeout_ms: 3000 }
}

fn begin(id: &str) -> Action {
    Action::Begin { request_id: id.into() }
}

fn answer(id: &str, answer: Answer) -> Event {
    Event::Answer { request_id: id.into(), answer }
}

#[track_caller]
fn check_message(outcome: &Outcome, error_type: &str, message: &str) {
    let (Outcome::Exited(error) | Outcome::Failed(error)) = outcome else { panic!("{outcome:?}") };
    let document: serde_json::Value = serde_json::from_slice(&error.payload).unwrap();
    assert_eq!((&*error.error_type, &document["errorMessage"]), (error_type, &message.into()));
}

#[test]
fn two_invocations_of_one_sandbox() {
    let mut world = World::busy();
    world.now += 5_000;
    world.check(answer("a", Answer::Response), &[Action::SendResponse]);
    world.now += 100;
    let first = world.finishes(Event::Next);
    assert_eq!((first.duration_us, first.init_us), (5_000, Some(250_000)));
    assert_eq!((first.outcome, first.fate), (Outcome::Succeeded, Fate::Reusable));
    world.check(invoke("b"), &[begin("b"), Action::Deliver]);
    world.check(answer("b", Answer::Response), &[Action::SendResponse]);
    assert_eq!(world.finishes(Event::Next).init_us, None, "init is reported once");
}

#[test]
fn answers_out_of_turn_are_refused_as_the_emulator_does() {
    let mut world = World::ready();
    let refusal = world.refuses(answer("a", Answer::Response));
    assert_eq!(refusal, Refusal::InvalidTransition { from: "Ready", to: "InvocationResponse" });
    let mut world = World::busy();
    assert_eq!(world.refuses(answer("other", Answer::Response)), Refusal::InvalidRequestId);
    world.refuses(Event::Next);
    world.refuses(Event::InitError(FunctionError::new("x", "y")));
    world.check(answer("a", Answer::Response), &[Action::SendResponse]);
    world.refuses(answer("a", Answer::Response));
}

#[test]
fn an_exit_in_an_invocation_ends_the_sandbox() {
    let mut world = World::busy();
    let finished = world.finishes(Event::Exited(Exit::Code(1)));
    assert_eq!(finished.fate, Fate::Ended);
    let message = "RequestId: a Error: Runtime exited with error: exit status 1";
    check_message(&finished.outcome, "Runtime.ExitError", message);
    assert_eq!(world.refuses(invoke("b")), Refusal::Busy);
}

#[test]
fn an_exit_behind_the_answer_keeps_the_answer() {
    let mut world = World::busy();
    world.check(answer("a", Answer::Response), &[Action::SendResponse]);
    let finished = world.finishes(Event::Exited(Exit::Code(0)));
    assert_eq!((finished.outcome, finished.fate), (Outcome::Succeeded, Fate::Ended));
}

#[test]
fn a_timeout_kills_and_nothing_follows() {
    let mut world = World::busy();
    world.now = world.lifecycle.deadline().unwrap();
    let actions = world.lifecycle.step(world.now, Event::Deadline).unwrap();
    assert!(matches!(&actions[..], [Action::Kill, Action::Finish(f)]
        if f.outcome == Outcome::TimedOut && f.fate == Fate::Ended && f.duration_us == 3_000_000));
    world.check(Event::Exited(Exit::Signal(9)), &[]);
    assert!(world.lifecycle.is_ended());
}

#[test]
fn a_failed_init_is_repeated_once_by_an_invocation() {
    let mut world = World::begin();
    world.now = 1_000;
    let actions = world.lifecycle.step(world.now, Event::Exited(Exit::Code(3))).unwrap();
    assert!(matches!(&actions[..], [Action::InitFailed(_, InitStatus::Error)]));
    world.check(invoke("a"), &[begin("a"), Action::Launch]);
    let finished = world.finishes(Event::Exited(Exit::Code(3)));
    let message = "RequestId: a Error: Runtime exited with error: exit status 3";
    check_message(&finished.outcome, "Runtime.ExitError", message);
    assert_eq!((finished.fate, finished.init_us), (Fate::Ended, None));
}

#[test]
fn a_slow_init_waits_for_its_process_to_die_and_starts_anew() {
    let mut world = World::begin();
    world.now = INIT_LIMIT;
    let actions = world.lifecycle.step(world.now, Event::Deadline).unwrap();
    assert!(matches!(&actions[..], [Action::Kill, Action::InitFailed(_, InitStatus::Timeout)]));
    world.check(invoke("a"), &[begin("a")]);
    world.refuses(Event::Next);
    world.check(Event::Exited(Exit::Signal(9)), &[Action::Launch]);
    world.check(Event::Next, &[Action::Deliver]);
    world.check(answer("a", Answer::Response), &[Action::SendResponse]);
    assert_eq!(world.finishes(Event::Next).fate, Fate::Reusable);
}

#[test]
fn an_init_error_is_told_as_it_is() {
    let mut world = World::begin();
    let error = FunctionError::new("Runtime.ImportModuleError", "no module");
    let failure = InitFailure { error: error.clone(), duration_us: 0, shutdown: ShutdownNeeds::None };
    let expected = [Action::Kill, Action::InitFailed(failure, InitStatus::Error)];
    world.check(Event::InitError(error), &expected);
}

#[test]
fn an_early_invocation_waits_for_init_on_init_time() {
    let mut world = World::begin();
    world.check(invoke("a"), &[]);
    world.now = 4_000_000;
    let init = Action::InitDone { duration_us: 4_000_000 };
    world.check(Event::Next, &[init, begin("a"), Action::Deliver]);
    assert_eq!(world.lifecycle.deadline(), Some(7_000_000));
}

#[test]
fn a_broken_poll_gets_the_invocation_again() {
    let mut world = World::busy();
    world.check(Event::Undelivered, &[]);
    world.refuses(answer("a", Answer::Response));
    world.check(Event::Next, &[Action::Deliver]);
}

#[test]
fn a_death_between_invocations_is_told() {
    let mut world = World::ready();
    let error = Exit::Signal(9).error(None);
    world.check(Event::Exited(Exit::Signal(9)), &[Action::End(error)]);
}

#[test]
fn a_response_too_large_is_the_functions_failure() {
    let mut world = World::busy();
    world.check(answer("a", Answer::TooLarge), &[Action::SendError(failure::response_too_large())]);
    let message = "Response payload size exceeded maximum allowed payload size (6291556 bytes).";
    let finished = world.finishes(Event::Next);
    check_message(&finished.outcome, "Function.ResponseSizeTooLarge", message);
}

/// A resume that the guest learned of at `at`, with 10 s for the rest.
fn resume(at: Micros) -> Resume {
    Resume { at, elapsed_us: 3_000, deadline: at + 10_000_000 }
}

/// A runtime that is restored at 1 s: frozen in `restore/next` at 0.5 s.
fn restoring() -> World {
    let mut world = World::begin_as(InitializationType::SnapStart);
    world.now = 500_000;
    world.check(Event::RestoreNext, &[Action::InitDone { duration_us: 500_000 }]);
    world.check(Event::Freeze, &[Action::Freeze]);
    world.now = 1_000_000;
    world.check(Event::Unique(resume(990_000)), &[Action::AnswerRestore]);
    world
}

#[test]
fn a_restored_runtime_runs_its_hooks_and_is_then_ready() {
    let mut world = restoring();
    world.now = 1_200_000;
    let done = Action::RestoreDone { duration_us: 210_000 + 3_000 };
    world.check(Event::Next, &[done]);
    world.check(invoke("a"), &[begin("a"), Action::Deliver]);
    world.check(answer("a", Answer::Response), &[Action::SendResponse]);
    let first = world.finishes(Event::Next);
    let restored = Restored { total_us: 213_000, billed_us: 200_000 };
    assert_eq!((first.init_us, first.restored), (None, Some(restored)));
    world.check(invoke("b"), &[begin("b"), Action::Deliver]);
    world.check(answer("b", Answer::Response), &[Action::SendResponse]);
    assert_eq!(world.finishes(Event::Next).restored, None, "a restore is reported once");
}

#[test]
fn a_runtime_without_the_protocol_is_snapshotted_at_its_first_next() {
    let mut world = World::begin_as(InitializationType::SnapStart);
    world.check(Event::Next, &[Action::InitDone { duration_us: 0 }]);
    world.check(Event::Freeze, &[Action::Freeze]);
    assert_eq!(world.refuses(invoke("a")), Refusal::Busy);
    world.now = 50_000;
    let done = Action::RestoreDone { duration_us: 10_000 + 3_000 };
    world.check(Event::Unique(resume(40_000)), &[done]);
    world.check(invoke("a"), &[begin("a"), Action::Deliver]);
}

#[test]
fn a_restore_that_fails_ends_the_sandbox() {
    let failure = |event, error: FunctionError, timed_out| {
        let mut world = restoring();
        if timed_out {
            world.now = world.lifecycle.deadline().unwrap();
        }
        let actions = world.lifecycle.step(world.now, event).unwrap();
        let failed = actions.last().unwrap();
        assert!(
            matches!(failed, Action::RestoreFailed(failure)
            if failure.error == error && failure.timed_out == timed_out),
            "{failed:?}"
        );
        assert!(world.lifecycle.is_ended());
        assert_eq!(world.refuses(invoke("a")), Refusal::Busy);
    };
    let error = || FunctionError::new("Runtime.AfterRestoreError", "no");
    failure(Event::RestoreError(error()), error(), false);
    failure(Event::Exited(Exit::Code(1)), Exit::Code(1).error(None), false);
    let late = FunctionError::new("Sandbox.Timedout", "Task timed out after 10.00 seconds");
    failure(Event::Deadline, late, true);
}

#[test]
fn only_what_is_to_be_snapshotted_knows_the_restore_calls() {
    let mut world = World::begin();
    assert_eq!(world.refuses(Event::RestoreNext), Refusal::NotSnapStart);
    assert_eq!(world.refuses(Event::RestoreError(FunctionError::new("x", "y"))), Refusal::NotSnapStart);
    let mut world = World::begin_as(InitializationType::SnapStart);
    let error = Event::RestoreError(FunctionError::new("x", "y"));
    assert_eq!(world.refuses(error), Refusal::InvalidTransition { from: "Started", to: "RestoreError" });
    world.refuses(Event::Freeze);
    world.refuses(Event::Unique(resume(0)));
    assert_eq!(world.refuses(invoke("a")), Refusal::Busy, "an init that ends in a snapshot takes none");
}

#[test]
fn a_broken_restore_call_is_answered_when_it_comes_again() {
    let mut world = restoring();
    world.check(Event::RestoreNext, &[Action::AnswerRestore]);
    let mut world = World::begin_as(InitializationType::SnapStart);
    world.check(Event::RestoreNext, &[Action::InitDone { duration_us: 0 }]);
    world.check(Event::RestoreNext, &[]);
}

fn any_event() -> impl Strategy<Value = (Event, Micros)> {
    let id = prop_oneof![Just("a"), Just("b")];
    let error = || FunctionError::new("T", "m");
    let answers = prop_oneof![Just(Answer::Response), Just(Answer::TooLarge), Just(Answer::Error(error()))];
    let event = prop_oneof![
        3 => id.clone().prop_map(invoke),
        4 => Just(Event::Next),
        1 => Just(Event::Held),
        1 => Just(Event::Undelivered),
        4 => (id, answers).prop_map(|(id, a)| answer(id, a)),
        1 => Just(Event::InitError(error())),
        2 => Just(Event::Exited(Exit::Code(1))),
        2 => Just(Event::Deadline),
        2 => Just(Event::RestoreNext),
        1 => Just(Event::RestoreError(error())),
        3 => Just(Event::Freeze),
        3 => (0_u64..20_000_000).prop_map(|at| Event::Unique(resume(at))),
    ];
    (event, 0_u64..4_000_000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_life_keeps_the_promises(
        events in proptest::collection::vec(any_event(), 0..60),
        snap_start: bool,
    ) {
        let kind = if snap_start { InitializationType::SnapStart } else { InitializationType::OnDemand };
        let (mut lifecycle, mut actions) = Lifecycle::begin(0, plan(kind));
        let (mut now, mut processes, mut open, mut ended, mut inits) = (0, 0_u32, 0_u32, false, 0);
        let mut frozen = false;
        let mut events = events.into_iter();
        loop {
            let mut responses = 0;
            for action in actions {
                match action {
                    Action::Launch => {
                        processes += 1;
                        prop_assert!(!ended, "nothing starts after the end");
                    }
                    Action::InitDone { .. } | Action::InitFailed(..) => inits += 1,
                    Action::SendResponse | Action::SendError(_) => responses += 1,
                    Action::RuntimeDone(_) => prop_assert_eq!(open, 1),
                    Action::InitRuntimeDone => prop_assert_eq!(inits, 0),
                    Action::Finish(finished) => {
                        open = open.checked_sub(1).expect("only what was taken is finished");
                        ended |= finished.fate == Fate::Ended;
                    }
                    Action::End(_) => ended = true,
                    Action::Kill => prop_assert_eq!(processes, 1),
                    Action::Deliver => prop_assert!(open == 1 && processes == 1),
                    Action::Begin { .. } => prop_assert_eq!(open, 1),
                    Action::Freeze => {
                        prop_assert!(processes == 1 && open == 0 && inits == 1, "frozen between two invocations");
                        frozen = true;
                    }
                    Action::AnswerRestore => {
                        prop_assert!(snap_start && processes == 1 && !lifecycle.is_frozen());
                    }
                    Action::RestoreDone { .. } => prop_assert!(!lifecycle.is_frozen() && open == 0),
                    Action::RestoreFailed(_) => ended = true,
                }
            }
            frozen &= lifecycle.is_frozen();
            prop_assert!(!frozen || responses + open == 0, "a frozen function does nothing");
            prop_assert!(processes <= 1, "one runtime at a time");
            prop_assert!(inits <= 1, "init is told once");
            prop_assert!(responses <= open);
            prop_assert_eq!(lifecycle.is_ended(), ended);
            prop_assert!(open <= 1 && (open == 0 || lifecycle.deadline().is_some()), "all time is bounded");

            let Some((event, pause)) = events.next() else { break };
            now += pause;
            match event {
                Event::Exited(_) if processes == 0 => { actions = vec![]; continue }
                Event::Exited(_) => processes -= 1,
                _ => {}
            }
            let taken = matches!(event, Event::Invoke { .. });
            actions = match lifecycle.step(now, event) {
                Ok(actions) => { open += u32::from(taken); actions }
                Err(_) => vec![],
            };
        }
        // Whatever happened, time ends what is open.
        while let Some(deadline) = lifecycle.deadline() {
            let actions = lifecycle.step(deadline, Event::Deadline).unwrap();
            open -= u32::try_from(actions.iter().filter(|a| matches!(a, Action::Finish(_))).count()).unwrap();
        }
        prop_assert_eq!(open, 0);
    }
}
