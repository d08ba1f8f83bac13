//! The life of what was initialised before anybody invoked it.

use super::*;

#[test]
fn an_init_ahead_of_its_events_is_no_invocations() {
    let mut world = World::begin_as(InitializationType::Provisioned);
    assert_eq!(world.refuses(invoke("a")), Refusal::Busy);
    assert_eq!(world.refuses(Event::RestoreNext), Refusal::NotSnapStart);
    world.now = 250_000;
    world.check(Event::Next, &[Action::InitDone { duration_us: 250_000 }]);
    world.check(invoke("a"), &[begin("a"), Action::Deliver]);
    world.check(answer("a", Answer::Response), &[Action::SendResponse]);
    assert_eq!(world.finishes(Event::Next).init_us, None);
}
