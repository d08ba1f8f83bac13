//! The schedule beside a disk that is a map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const LIMITS: Limits =
    Limits { max_count: 1000, max_bytes: 100_000, max_share: 4, max_lane_count: 3, max_lane_bytes: 35 };

fn id(name: &str) -> FunctionId {
    FunctionId { region: "us-east-1".into(), name: name.into() }
}

fn place(name: &str, due_ms: u64, seq: u64) -> Place {
    Place { function: id(name), due_ms, seq }
}

const BRIEF: Brief = Brief { len: 10, accepted_ms: 1 };

fn add(schedule: &mut Schedule, place: &Place) {
    schedule.committed(&Op::Add(place.clone(), BRIEF, Vec::new()));
}

#[test]
fn the_one_that_is_due_first_comes_first_whoever_it_is_for() {
    let mut schedule = Schedule::new(LIMITS);
    let places = [place("g", 1, 5), place("f", 1, 6), place("f", 2, 1), place("h", 9, 2)];
    places.iter().rev().for_each(|place| add(&mut schedule, place));
    for expected in &places[..3] {
        assert_eq!(schedule.next(5), Next::Deliver(expected.clone(), BRIEF));
    }
    assert_eq!(schedule.next(5), Next::At(9));
    assert_eq!(schedule.next(9), Next::Deliver(places[3].clone(), BRIEF));
    assert_eq!(schedule.next(9), Next::Idle);
}

#[test]
fn what_was_throttled_waits_longer_each_time_and_until_another_one_ends() {
    let mut schedule = Schedule::new(LIMITS);
    let (first, second) = (place("f", 1, 1), place("f", 1, 2));
    add(&mut schedule, &first);
    add(&mut schedule, &second);
    let mut now = 10;
    for wait in [1000, 2000, 4000] {
        assert_eq!(schedule.next(now), Next::Deliver(first.clone(), BRIEF));
        schedule.throttled(&first, now);
        assert_eq!(schedule.next(now), Next::At(now + wait));
        now += wait;
    }
    assert_eq!(schedule.next(now), Next::Deliver(first.clone(), BRIEF));
    assert_eq!(schedule.next(now), Next::Deliver(second.clone(), BRIEF));
    schedule.throttled(&second, now);
    assert!(matches!(schedule.next(now), Next::At(_)));
    schedule.committed(&Op::Remove(first, BRIEF));
    assert_eq!(schedule.next(now), Next::Deliver(second, BRIEF), "there is room again");
    assert_eq!(schedule.standing(&id("f")).counts.throttled, 4);
}

#[test]
fn as_many_are_under_way_as_had_room_when_there_was_no_more() {
    let mut schedule = Schedule::new(LIMITS);
    (0..10).for_each(|seq| add(&mut schedule, &place("f", 1, seq)));
    let flying: Vec<_> = (0..4).map(|seq| place("f", 1, seq)).collect();
    flying.iter().for_each(|place| assert_eq!(schedule.next(5), Next::Deliver(place.clone(), BRIEF)));
    schedule.throttled(&flying[3], 5);
    schedule.throttled(&flying[1], 5);
    assert_eq!(schedule.next(5), Next::At(1005));
    schedule.committed(&Op::Remove(flying[0].clone(), BRIEF));
    assert_eq!(schedule.next(5), Next::Deliver(flying[1].clone(), BRIEF));
    assert_eq!(schedule.next(5), Next::At(1005), "two had room");
    for place in [&flying[3], &place("f", 1, 4)] {
        assert_eq!(schedule.next(1005), Next::Deliver(place.clone(), BRIEF), "there may be more again");
    }
    assert_eq!(schedule.next(1005), Next::Idle);
}

#[test]
fn one_function_leaves_room_for_others() {
    let mut schedule = Schedule::new(LIMITS);
    (0..10).for_each(|seq| add(&mut schedule, &place("f", 1, seq)));
    add(&mut schedule, &place("g", 2, 10));
    for _ in 0..4 {
        assert!(matches!(schedule.next(3), Next::Deliver(place, _) if place.function.name == "f"));
    }
    assert!(matches!(schedule.next(3), Next::Deliver(place, _) if place.function.name == "g"));
    assert_eq!(schedule.next(3), Next::Idle);
    let Standing { queued, in_flight, .. } = schedule.standing(&id("f"));
    assert_eq!((queued, in_flight), (6, 4));
}

#[test]
fn what_does_not_fit_is_not_admitted() {
    let mut schedule = Schedule::new(Limits { max_count: 2, max_bytes: 25, ..LIMITS });
    assert!(schedule.admit(10) && schedule.admit(10));
    assert!(!schedule.admit(1), "two are as many as may be");
    schedule.arrived(10);
    assert!(!schedule.admit(20), "too long");
    assert!(schedule.admit(15));
}

/// What the disk has, beside the schedule that is told of it.
#[derive(Default)]
struct Disk(BTreeMap<Rank, Brief>);

impl Disk {
    fn refill(&self, schedule: &mut Schedule, function: &FunctionId) {
        let limit = schedule.to_read(function);
        let first = self.0.keys().take(limit);
        let first: Vec<_> = first.map(|(due, seq)| (place(&function.name, *due, *seq), BRIEF)).collect();
        schedule.refilled(function, &first, first.len() < limit);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add(u64),
    Next,
    End,
    Later(u64),
    Return,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..50u64).prop_map(Step::Add),
        4 => Just(Step::Next),
        2 => Just(Step::End),
        1 => (50..99u64).prop_map(Step::Later),
        1 => Just(Step::Return),
    ]
}

proptest! {
    /// Whatever comes, goes, is put off or returned: each is delivered once at a time, first come first, and the window is small.
    #[test]
    fn nothing_is_forgotten_and_nothing_comes_out_of_its_turn(
        steps in prop::collection::vec(step(), 1..600), found in 0..200u64,
    ) {
        let mut schedule = Schedule::new(LIMITS);
        let (mut disk, mut flying) = (Disk::default(), Vec::new());
        for seq in 0..found {
            disk.0.insert((seq, seq), BRIEF);
            schedule.found(&place("f", seq, seq), BRIEF);
        }
        schedule.last_seq = schedule.last_seq.max(found);
        for step in steps {
            match step {
                Step::Add(due) => {
                    let seq = schedule.number();
                    disk.0.insert((due, seq), BRIEF);
                    add(&mut schedule, &place("f", due, seq));
                }
                Step::Next => loop {
                    match schedule.next(1000) {
                        Next::Refill(function) => disk.refill(&mut schedule, &function),
                        Next::Deliver(place, _) => {
                            let waiting = disk.0.keys().find(|rank| !flying.contains(*rank));
                            prop_assert_eq!(waiting, Some(&rank(&place)));
                            flying.push(rank(&place));
                            break;
                        }
                        Next::At(_) | Next::Idle => {
                            prop_assert!(disk.0.len() == flying.len() || flying.len() == LIMITS.max_share);
                            break;
                        }
                    }
                },
                Step::End => if let Some(rank) = flying.pop() {
                    disk.0.remove(&rank);
                    schedule.committed(&Op::Remove(place("f", rank.0, rank.1), BRIEF));
                },
                Step::Later(due) => if let Some(rank) = flying.pop() {
                    disk.0.remove(&rank);
                    disk.0.insert((due, rank.1), BRIEF);
                    schedule.committed(&Op::Remove(place("f", rank.0, rank.1), BRIEF));
                    add(&mut schedule, &place("f", due, rank.1));
                },
                Step::Return => if let Some(rank) = flying.pop() {
                    schedule.returned(&place("f", rank.0, rank.1));
                },
            }
            let queue = schedule.queue(&id("f"));
            prop_assert!(queue.window.len() <= WINDOW + LIMITS.max_share);
            prop_assert_eq!(queue.len, disk.0.len() as u64);
        }
        prop_assert_eq!(schedule.totals.count, disk.0.len() as u64);
        prop_assert_eq!(schedule.totals.bytes, 10 * disk.0.len() as u64);
    }
}

#[test]
fn a_destination_that_takes_nothing_rests_and_no_other_waits_for_it() {
    let mut schedule = Schedule::new(LIMITS);
    let at = |arn: &str, seq| Place { function: lane(arn), due_ms: 1, seq };
    let (first, second, other) = (at("away", 1), at("away", 2), at("well", 3));
    [&first, &second].into_iter().for_each(|place| add(&mut schedule, place));
    let mut now = 10;
    for wait in [1000, 2000, 4000] {
        assert_eq!(schedule.next(now), Next::Deliver(first.clone(), BRIEF));
        assert_eq!(schedule.next(now), Next::Deliver(second.clone(), BRIEF));
        for place in [&first, &second] {
            schedule.held(&place.function, now);
            schedule.returned(place);
        }
        assert_eq!(schedule.next_in_lanes(now), Next::At(now + wait), "one wait for both");
        now += wait;
    }
    schedule.held(&first.function, now);
    [&other, &place("f", 1, 4)].into_iter().for_each(|place| add(&mut schedule, place));
    assert_eq!(schedule.next_in_lanes(now), Next::Deliver(other, BRIEF));
    schedule.freed(&first.function);
    for expected in [&first, &second] {
        assert_eq!(schedule.next_in_lanes(now), Next::Deliver(expected.clone(), BRIEF));
    }
    assert_eq!(schedule.next_in_lanes(now), Next::Idle, "no function is run without a place");
    assert_eq!(schedule.next(now), Next::Deliver(place("f", 1, 4), BRIEF));
}

#[test]
fn a_lane_has_a_share_of_deliveries_and_a_bound() {
    let mut schedule =
        Schedule::new(Limits { max_share: 1, max_lane_count: 100, max_lane_bytes: 95, ..LIMITS });
    for seq in 0..8 {
        assert!(schedule.lane_has_room(&lane("a"), 10), "{seq}");
        add(&mut schedule, &Place { function: lane("a"), due_ms: 1, seq });
    }
    assert!(schedule.lane_has_room(&lane("a"), 15) && !schedule.lane_has_room(&lane("a"), 16));
    assert!(schedule.lane_has_room(&lane("b"), 95) && !schedule.lane_has_room(&lane("b"), 96));
    for seq in 0..LANE_SHARE as u64 {
        let expected = Place { function: lane("a"), due_ms: 1, seq };
        assert_eq!(schedule.next(1), Next::Deliver(expected.clone(), BRIEF));
    }
    assert_eq!(schedule.next(1), Next::Idle);
    schedule.committed(&Op::Remove(Place { function: lane("a"), due_ms: 1, seq: 0 }, BRIEF));
    assert!(schedule.lane_has_room(&lane("a"), 25));
    assert!(matches!(schedule.next(1), Next::Deliver(..)));
    let full = Schedule::new(Limits { max_lane_count: 0, ..LIMITS });
    assert!(!full.lane_has_room(&lane("a"), 1));
}
