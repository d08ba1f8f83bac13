//! Properties of the pool over random histories, and the rules as examples.

mod provisions;
mod world;

use proptest::prelude::*;

use std::time::Duration;

use super::*;
use crate::invoke::{Retired, rate::Rate};
use world::World;

const MEMORY_MIB: u64 = 1000;
const IDLE: Duration = Duration::from_secs(60);

fn limits() -> Limits {
    Limits {
        memory_mib: MEMORY_MIB,
        max_starting: 2,
        starts_of_version: 2,
        account_concurrency: 12,
        idle_timeout: IDLE,
        growth: Rate::per_second(1000),
    }
}

fn demand(function: u8, charge_mib: u64) -> Demand {
    let key = VersionKey {
        function: id(function),
        version: "$LATEST".into(),
        deployment_id: "d".into(),
        pin: None,
    };
    Demand { key: Arc::new(key), charge_mib }
}

fn id(function: u8) -> FunctionId {
    FunctionId { region: "us-east-1".into(), name: format!("f{function}") }
}

#[derive(Clone, Debug)]
enum Step {
    Request { function: u8, charge_mib: u64 },
    Started(prop::sample::Index),
    SlotUsed(prop::sample::Index),
    Released(prop::sample::Index),
    Lost(prop::sample::Index),
    Ended(prop::sample::Index),
    Spare { charge_mib: u64 },
    Provide { function: u8, count: usize },
    Prepared(prop::sample::Index),
    Failed(prop::sample::Index),
    Retire { function: u8 },
    Pass { seconds: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<prop::sample::Index>;
    let step = prop_oneof![
        6 => (0..4u8).prop_map(|function| Step::Request { function, charge_mib: 150 + 50 * u64::from(function) }),
        3 => index().prop_map(Step::Started),
        1 => index().prop_map(Step::SlotUsed),
        4 => index().prop_map(Step::Released),
        1 => index().prop_map(Step::Lost),
        2 => index().prop_map(Step::Ended),
        1 => (100..300u64).prop_map(|charge_mib| Step::Spare { charge_mib }),
        1 => (0..4u8, 0..5usize).prop_map(|(function, count)| Step::Provide { function, count }),
        2 => index().prop_map(Step::Prepared),
        1 => index().prop_map(Step::Failed),
        1 => (0..4u8).prop_map(|function| Step::Retire { function }),
        1 => (0..90u64).prop_map(|seconds| Step::Pass { seconds }),
    ];
    prop::collection::vec(step, 0..120)
}

fn play(world: &mut World, step: &Step) {
    world.now += Duration::from_millis(1);
    match step {
        Step::Request { function, charge_mib } => {
            let _ = world.request(&demand(*function, *charge_mib));
        }
        Step::Started(at) if !world.starting.is_empty() => world.started(at.index(world.starting.len())),
        Step::SlotUsed(at) if !world.starting.is_empty() => {
            let sandbox = world.starting[at.index(world.starting.len())];
            world.slots.remove(&sandbox);
            let actions = world.pool.slot_used(sandbox);
            world.apply(&actions);
        }
        Step::Released(at) if !world.busy.is_empty() => world.released(at.index(world.busy.len())),
        Step::Lost(at) => {
            let live = world.starting.iter().chain(&world.busy).chain(&world.idle).chain(&world.spare);
            let live: Vec<_> = live.copied().collect();
            if !live.is_empty() {
                world.lost(live[at.index(live.len())]);
            }
        }
        Step::Ended(at) if !world.stopping.is_empty() => world.ended(at.index(world.stopping.len())),
        Step::Spare { charge_mib } => drop(world.spare(*charge_mib)),
        Step::Provide { function, count } => {
            let charge_mib = 150 + 50 * u64::from(*function);
            world.provide(&demand(*function, charge_mib), *count);
        }
        Step::Prepared(at) if !world.preparing.is_empty() => world.prepared(at.index(world.preparing.len())),
        Step::Failed(at) if !world.preparing.is_empty() => world.failed(at.index(world.preparing.len())),
        Step::Retire { function } => {
            let name = id(*function);
            world.wanted.retain(|key, _| key.function != name);
            let actions = world.pool.retire(&name, Retired::Function);
            world.apply(&actions);
            assert!(!world.idle.iter().any(|id| world.keys[id].function == name));
            let in_use = world.starting.iter().chain(&world.busy);
            world.retired.extend(in_use.filter(|id| world.keys[id].function == name));
        }
        Step::Pass { seconds } => {
            world.now += Duration::from_secs(*seconds);
            let actions = world.pool.expire(world.now);
            if !actions.iter().any(|action| matches!(action, Action::Prepare { .. })) {
                world.check_kept(&actions);
            }
            world.apply(&actions);
            assert!(world.pool.next_expiry().is_none_or(|at| at > world.now));
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_history_keeps_the_promises(steps in steps(), starts_of_version in 1..=2usize) {
        let mut world = World::new(Limits { starts_of_version, ..limits() });
        for step in &steps {
            play(&mut world, step);
        }
        world.settle();
        world.check_provided();
        let idle: u64 = world.idle.iter().map(|id| world.charges[id]).sum();
        let expected = Tally { live_mib: idle, ..Tally::default() };
        prop_assert_eq!(world.pool.tally, expected);
        let actions = world.pool.retire_all();
        world.apply(&actions);
        world.settle();
        prop_assert_eq!(world.pool.population(), 0);
        prop_assert!(world.pool.idle.is_empty() && world.pool.ready.is_empty());
    }
}

#[test]
fn three_hundred_requests_with_room_for_eight_start_eight_two_at_a_time() {
    let mut world = World::new(Limits { account_concurrency: 1000, ..limits() });
    let wanted = demand(0, 125);
    let admitted = (0..300).filter(|_| world.request(&wanted).is_ok()).count();
    assert_eq!(admitted, 8);
    assert_eq!(world.starting.len(), 2);
    world.started(0);
    assert_eq!(world.starting.len(), 2, "a finished start makes room for the next");
}

#[test]
fn a_warm_sandbox_serves_a_request_that_waits_for_its_start() {
    let mut world = World::new(limits());
    for _ in 0..3 {
        world.request(&demand(0, 100)).unwrap();
    }
    world.started(0);
    assert_eq!((world.starting.len(), world.waiting.len()), (2, 0));
    world.request(&demand(0, 100)).unwrap();
    assert_eq!(world.waiting.len(), 1);
    world.released(0);
    assert_eq!((world.busy.len(), world.starting.len(), world.waiting.len()), (1, 2, 0));
}

#[test]
fn a_burst_of_slow_starts_waits_for_the_first_of_them_and_holds_up_no_other_version() {
    let mut world = World::new(Limits { starts_of_version: 1, ..limits() });
    let [slow, other] = [demand(0, 100), demand(1, 100)];
    for wanted in [&slow, &slow, &slow, &other] {
        world.request(wanted).unwrap();
    }
    let versions = |world: &World| world.starting.iter().map(|id| world.keys[id].clone()).collect::<Vec<_>>();
    assert_eq!(versions(&world), [Arc::clone(&slow.key), Arc::clone(&other.key)]);
    let first = world.starting[0];
    world.slots.remove(&first);
    let actions = world.pool.slot_used(first);
    assert_eq!(actions, [], "two of it would take the processor from each other");
    world.request(&other).unwrap();
    assert_eq!(world.waiting.len(), 3);
    world.started(0);
    assert_eq!(versions(&world), [Arc::clone(&other.key), Arc::clone(&slow.key)]);
    world.released(0);
    assert_eq!(
        (world.busy.len(), world.waiting.len()),
        (1, 1),
        "the last of the burst has the first's sandbox"
    );
}

#[test]
fn the_least_recently_used_idle_sandbox_makes_room() {
    let mut world = World::new(limits());
    for function in 0..3 {
        world.request(&demand(function, 300)).unwrap();
        world.started(0);
    }
    for _ in 0..3 {
        world.now += Duration::from_secs(1);
        world.released(0);
    }
    let oldest = world.idle[0];
    world.request(&demand(3, 300)).unwrap();
    assert_eq!(world.stopping, [oldest]);
    assert!(world.starting.is_empty(), "the victim's memory is not free before it has ended");
    world.ended(0);
    assert_eq!(world.starting.len(), 1);
}

#[test]
fn a_spare_sandbox_takes_what_nobody_wants_and_is_the_first_to_go() {
    let mut world = World::new(limits());
    for function in 0..2 {
        world.request(&demand(function, 300)).unwrap();
    }
    assert_eq!(world.spare(100), None, "both slots are taken");
    world.started(0);
    world.started(0);
    assert_eq!(world.spare(100), None, "two requests are being served");
    world.released(0);
    assert_eq!(world.spare(500), None, "nothing is ended for it");
    let spare = world.spare(300).expect("there is room");
    assert_eq!(world.spare(100), None, "there is one");
    world.request(&demand(2, 200)).unwrap();
    assert_eq!((&world.stopping[..], world.idle.len()), (&[spare][..], 1));
    assert_eq!(world.starting.len(), 0, "its memory is not free before it has ended");
    assert_eq!(world.spare(100), None, "somebody waits");
    world.ended(0);
    assert_eq!(world.starting.len(), 1);
}

#[test]
fn a_spare_sandbox_does_not_expire_but_goes_with_the_node_and_with_the_disk() {
    for end in [Pool::retire_all, Pool::evict_idle] {
        let mut world = World::new(limits());
        let spare = world.spare(100).expect("there is room");
        assert_eq!((world.pool.next_expiry(), world.pool.population()), (None, 1));
        assert_eq!(world.pool.expire(world.now + 2 * IDLE), []);
        assert_eq!(end(&mut world.pool), [Action::Stop { sandbox: spare }]);
    }
}

#[test]
fn nothing_is_evicted_for_a_request_that_would_not_fit_anyway() {
    let mut world = World::new(limits());
    world.request(&demand(0, 300)).unwrap();
    world.started(0);
    world.released(0);
    assert_eq!(world.request(&demand(1, 1200)), Err(Throttle::LargerThanNode));
    assert_eq!(world.idle.len(), 1);
}

#[test]
fn an_update_stops_idle_sandboxes_at_once_and_busy_ones_after_their_invocation() {
    let mut world = World::new(limits());
    for _ in 0..2 {
        world.request(&demand(0, 100)).unwrap();
        world.started(0);
    }
    world.released(0);
    assert_eq!(world.pool.retire(&id(0), Retired::Deployment("d0")), [], "it is another one already");
    assert_eq!(world.pool.retire(&id(1), Retired::Function), [], "another function");
    assert_eq!(world.pool.retire(&id(0), Retired::Version("1")), [], "another version");
    let actions = world.pool.retire(&id(0), Retired::Deployment("d"));
    world.apply(&actions);
    assert_eq!((world.stopping.len(), world.busy.len()), (1, 1));
    world.released(0);
    assert_eq!((world.stopping.len(), world.idle.len()), (2, 0));
}

#[test]
fn idle_sandboxes_expire() {
    let mut world = World::new(limits());
    world.request(&demand(0, 100)).unwrap();
    world.started(0);
    world.released(0);
    assert_eq!(world.pool.next_expiry(), Some(world.now + IDLE));
    assert_eq!(world.pool.expire(world.now + IDLE - Duration::from_millis(1)), []);
    assert_eq!(world.pool.expire(world.now + IDLE).len(), 1);
    assert_eq!(world.pool.next_expiry(), None);
}
