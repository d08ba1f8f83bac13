//! What is kept ready, as examples.

use super::*;

/// A world with so many of function 0's ready, 200 MiB each.
fn ready(count: usize) -> World {
    let mut world = World::new(limits());
    world.provide(&demand(0, 200), count);
    while !world.preparing.is_empty() {
        world.prepared(0);
    }
    assert_eq!(world.idle.len(), count);
    world
}

#[test]
fn what_is_provisioned_is_made_one_at_a_time_and_serves_at_once() {
    let mut world = World::new(limits());
    world.provide(&demand(0, 200), 3);
    assert_eq!(world.preparing.len(), 1, "one slot is for who waits");
    world.request(&demand(1, 100)).unwrap();
    assert_eq!(world.starting.len(), 1);
    world.prepared(0);
    assert!(world.preparing.is_empty(), "the other slot is for who comes next");
    world.started(0);
    while !world.preparing.is_empty() {
        world.prepared(0);
    }
    let ready = world.idle.clone();
    assert_eq!(world.pool.provisioned(&demand(0, 200).key), Provisioned { ready: 3, lack: None });
    for _ in 0..3 {
        world.request(&demand(0, 200)).unwrap();
    }
    assert!(ready.iter().all(|id| world.busy.contains(id)));
    assert_eq!(world.pool.provisioned(&demand(0, 200).key).ready, 3, "they are there all the same");
    world.request(&demand(0, 200)).unwrap();
    assert_eq!(world.starting.len(), 1, "what is more than that is started as ever");
}

#[test]
fn it_neither_expires_nor_makes_room() {
    let mut world = ready(4);
    assert_eq!((world.pool.next_expiry(), world.pool.expire(world.now + 2 * IDLE)), (None, Vec::new()));
    assert_eq!(world.pool.evict_idle(), []);
    assert_eq!(world.request(&demand(1, 300)), Err(Throttle::NodeMemory));
    world.request(&demand(1, 200)).unwrap();
}

#[test]
fn it_takes_the_room_of_what_is_idle_and_waits_for_that_of_what_serves() {
    let mut world = World::new(limits());
    for function in 1..3 {
        world.request(&demand(function, 300)).unwrap();
        world.started(0);
    }
    world.released(0);
    world.provide(&demand(0, 200), 4);
    assert_eq!(world.stopping.len(), 1, "the idle one goes");
    assert_eq!(world.pool.provisioned(&demand(0, 200).key).lack, Some(Lack::Memory));
    world.ended(0);
    while !world.preparing.is_empty() {
        world.prepared(0);
    }
    assert_eq!(
        world.pool.provisioned(&demand(0, 200).key),
        Provisioned { ready: 3, lack: Some(Lack::Memory) }
    );
    world.released(0);
    world.ended(0);
    world.prepared(0);
    assert_eq!(world.pool.provisioned(&demand(0, 200).key), Provisioned { ready: 4, lack: None });
    world.provide(&demand(0, 200), 6);
    while !world.preparing.is_empty() {
        world.prepared(0);
    }
    let standing = Provisioned { ready: 5, lack: Some(Lack::LargerThanNode) };
    assert_eq!(world.pool.provisioned(&demand(0, 200).key), standing);
}

#[test]
fn one_that_ends_is_replaced_and_one_that_never_served_not_at_once() {
    let mut world = ready(2);
    world.request(&demand(0, 200)).unwrap();
    world.lost(world.busy[0]);
    assert_eq!(world.preparing.len(), 1);
    world.ended(0);
    world.prepared(0);
    let unused = world.idle[0];
    world.lost(unused);
    world.ended(0);
    assert!(world.preparing.is_empty());
    let failed = Provisioned { ready: 1, lack: Some(Lack::Failed(Failed::Function)) };
    assert_eq!(world.pool.provisioned(&demand(0, 200).key), failed);
    let at = world.pool.next_expiry().unwrap();
    assert_eq!(at, world.now + Duration::from_secs(1));
    for seconds in [2, 4, 8, 16, 32, 60, 60] {
        world.now = world.pool.next_expiry().unwrap();
        let actions = world.pool.expire(world.now);
        world.apply(&actions);
        world.failed(0);
        assert_eq!(world.pool.next_expiry(), Some(world.now + Duration::from_secs(seconds)));
    }
    world.provide(&demand(0, 200), 2);
    world.prepared(0);
    assert_eq!(world.pool.provisioned(&demand(0, 200).key), Provisioned { ready: 2, lack: None });
}

#[test]
fn one_that_is_lost_as_it_comes_up_is_not_made_again_at_once() {
    let mut world = World::new(limits());
    world.provide(&demand(0, 200), 1);
    let sandbox = world.preparing[0];
    assert_eq!(world.pool.stopping(sandbox, world.now), []);
    // Whoever brought it up did not know.
    assert_eq!(world.pool.prepared(sandbox, world.now), [Action::Stop { sandbox }]);
    assert_eq!(world.pool.ended(sandbox), []);
    let failed = Provisioned { ready: 0, lack: Some(Lack::Failed(Failed::Function)) };
    assert_eq!(world.pool.provisioned(&demand(0, 200).key), failed);
    assert_eq!(world.pool.expire(world.now + Duration::from_secs(1)).len(), 1);
}

#[test]
fn fewer_are_fewer_at_once_but_for_those_that_serve() {
    let mut world = ready(4);
    for _ in 0..2 {
        world.request(&demand(0, 200)).unwrap();
    }
    world.provide(&demand(0, 200), 1);
    assert_eq!((world.idle.len(), world.busy.len(), world.stopping.len()), (0, 2, 2));
    world.released(0);
    assert_eq!((world.idle.len(), world.stopping.len()), (0, 3));
    world.released(0);
    assert_eq!((world.idle.len(), world.stopping.len()), (1, 3));
    world.provide(&demand(0, 200), 0);
    assert_eq!(world.idle.len(), 0);
}

#[test]
fn who_waits_for_a_start_is_given_one_that_was_made_ahead() {
    let mut world = World::new(limits());
    world.provide(&demand(0, 200), 1);
    world.request(&demand(1, 100)).unwrap();
    world.request(&demand(0, 200)).unwrap();
    assert_eq!(world.waiting.len(), 1);
    world.prepared(0);
    assert_eq!((world.waiting.len(), world.busy.len()), (0, 1));
}

#[test]
fn what_sandboxes_may_do_has_changed_and_others_take_their_place() {
    let mut world = ready(2);
    let actions = world.pool.retire(&id(0), Retired::Sandboxes);
    world.apply(&actions);
    assert_eq!((world.idle.len(), world.stopping.len()), (0, 2));
    while !world.stopping.is_empty() || !world.preparing.is_empty() {
        while !world.stopping.is_empty() {
            world.ended(0);
        }
        while !world.preparing.is_empty() {
            world.prepared(0);
        }
    }
    assert_eq!(world.idle.len(), 2);
    let actions = world.pool.retire(&id(0), Retired::Function);
    world.apply(&actions);
    while !world.stopping.is_empty() {
        world.ended(0);
    }
    assert!(world.preparing.is_empty() && world.idle.is_empty());
}

#[test]
fn a_function_grows_no_faster_than_it_may() {
    let growth = Rate { count: 3, per: Duration::from_secs(10) };
    let mut pool = Pool::new(Limits { growth, ..limits() });
    let now = Instant::now();
    let mut ask = |function, now| pool.request(Ticket(0), demand(function, 10), now).map(drop);
    for _ in 0..3 {
        ask(0, now).unwrap();
    }
    assert_eq!(ask(0, now), Err(Throttle::Growth));
    ask(1, now).unwrap();
    ask(0, now + Duration::from_secs(4)).unwrap();
    assert_eq!(ask(0, now + Duration::from_secs(4)), Err(Throttle::Growth));
}
