//! What slots cost, and that they do not cost rules.

use std::time::{Duration, Instant};

use gateway_api::Egress;

use crate::guest::{Guest, Outcome};
use crate::node::{Node, PORT, PUBLIC, Slot, run};

/// Everything but elements of maps and sets.
const TERSE: [&str; 3] = ["--terse", "list", "ruleset"];

#[test]
fn two_hundred_slots_have_as_many_rules_as_one() {
    let node = Node::start();
    let agent = node.connect();
    let rules = || (node.inside("nft", &TERSE), run("nft", &TERSE));
    let slots =
        || node.inside("ip", &["-brief", "link"]).lines().filter(|line| line.starts_with('s')).count();
    let mut made: Vec<Slot> = vec![agent.make()];
    agent.permit(made[0].number, Egress::Internet).unwrap();
    let (with_one, one) = (rules(), slots());
    let lists =
        ["192.0.2.0/24", "198.51.100.0/24"].map(|text| Egress::only(vec![text.parse().unwrap()]).unwrap());
    for number in 1..200 {
        made.push(agent.make());
        let egress = [&Egress::Internet, &Egress::Nowhere, &lists[0], &lists[1]][number % 4].clone();
        agent.permit(made[number].number, egress).unwrap();
    }
    assert_eq!((one, slots()), (1, 200));
    assert_eq!(rules(), with_one);
    let mut last = Guest::new(made.remove(199).tap);
    assert_eq!(last.tries(PUBLIC, PORT), Outcome::Connected);
    assert_eq!(Guest::new(made.remove(1).tap).tries(PUBLIC, PORT), Outcome::Refused);
}

#[test]
fn an_assignment_takes_less_than_a_millisecond() {
    let node = Node::start();
    let agent = node.connect();
    let slots: Vec<Slot> = (0..64).map(|_| agent.make()).collect();
    let list = Egress::only(vec!["192.0.2.0/24".parse().unwrap()]).unwrap();
    let mut times: Vec<Duration> = Vec::new();
    for (number, slot) in slots.iter().enumerate() {
        let egress = if number % 2 == 0 { Egress::Internet } else { list.clone() };
        let began = Instant::now();
        agent.permit(slot.number, egress).unwrap();
        times.push(began.elapsed());
    }
    times.sort_unstable();
    // The median: whatever else this machine does is not the gateway's.
    assert!(times[32] < Duration::from_millis(1), "{times:?}");
}
