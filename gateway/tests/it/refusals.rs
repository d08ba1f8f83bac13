//! What the gateway does not do, that it goes on, and what it is when it serves.

use std::collections::BTreeMap;
use std::fs;

use gateway_api::{Answer, Egress, Request};

use crate::node::{FAST, Node, unit};

#[test]
fn another_user_gets_no_answer() {
    let node = Node::of_agent(970);
    assert!(node.connect().ask(&Request::Make { rate: FAST }.to_packet()).is_none());
}

#[test]
fn what_is_no_request_is_refused_and_the_next_one_is_served() {
    let node = Node::start();
    let agent = node.connect();
    let make = Request::Make { rate: FAST }.to_packet();
    for packet in [&make[..11], &[&make[..], b"more"].concat(), &[7; 4096], b"TBG2\x09\0\0\0\0\0\0\0"] {
        let answer = agent.ask(packet);
        assert!(matches!(answer, Some((Answer::Failed { .. }, None))), "{answer:?}");
    }
    let slot = agent.make().number;
    assert!(agent.permit(slot + 1, Egress::Internet).unwrap_err().contains("there is no slot"));
    assert!(agent.remove(slot + 1).unwrap_err().contains("there is no slot"));
    agent.permit(slot, Egress::Internet).unwrap();
    assert!(agent.permit(slot, Egress::Internet).unwrap_err().contains("has its egress"));
    agent.remove(slot).unwrap();
}

#[test]
fn it_is_a_user_with_one_capability_a_filter_and_an_empty_root() {
    let node = Node::start();
    // It answers, so it is where it wants to be.
    node.connect().make();
    let id = node.gateway.id();
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let status: BTreeMap<_, _> = status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name, value.trim()))
        .collect();
    let user = unit().user.to_string();
    assert!(user != "0" && status["Uid"].split('\t').all(|one| one == user), "{}", status["Uid"]);
    assert_eq!(status["Groups"], "");
    for (field, set) in [("CapPrm", 1 << 12), ("CapEff", 1 << 12), ("CapInh", 0), ("CapAmb", 0)] {
        assert_eq!(u64::from_str_radix(status[field], 16), Ok(set), "{field}");
    }
    assert_eq!((status["NoNewPrivs"], status["Seccomp"], status["Threads"]), ("1", "2", "1"));
    assert_eq!(fs::read_dir(format!("/proc/{id}/root")).unwrap().count(), 0);
}

#[test]
fn another_process_of_its_user_with_its_rights_gets_nothing_of_it() {
    let node = Node::start();
    // It answers when it has confined itself.
    node.connect().make();
    unit().who().gets_nothing_of(node.gateway.id());
}
