//! The end of an invocation of a function with extensions.

use super::*;

#[test]
fn what_extensions_take_behind_the_runtime_is_the_invocations() {
    let mut world = World::busy();
    world.now += 5_000;
    world.check(answer("a", Answer::Response), &[Action::SendResponse]);
    world.now += 1_000;
    let actions = world.lifecycle.step(world.now, Event::Held).unwrap();
    assert!(matches!(&actions[..], [Action::RuntimeDone(done)] if done.duration_us == 5_000));
    world.check(Event::Held, &[]);
    world.now += 20_000;
    let finished = world.finishes(Event::Next);
    assert_eq!((finished.runtime_us, finished.duration_us), (5_000, 25_000));
    world.check(invoke("b"), &[begin("b"), Action::Deliver]);
    world.check(answer("b", Answer::Response), &[Action::SendResponse]);
    assert_eq!(world.finishes(Event::Next).duration_us, 0);
}

#[test]
fn extensions_that_are_late_behind_an_answer_are_a_timeout() {
    let mut world = World::busy();
    world.check(answer("a", Answer::Response), &[Action::SendResponse]);
    world.lifecycle.step(world.now, Event::Held).unwrap();
    world.now = world.lifecycle.deadline().unwrap();
    let finished = world.finishes(Event::Deadline);
    assert_eq!((finished.outcome, finished.fate), (Outcome::TimedOut, Fate::Ended));
}
