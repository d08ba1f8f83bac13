//! How a process ends, and that none outlives whoever wanted it.

use nix::libc::{SIGKILL, SIGSYS};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::{Launcher, ROOT, is_alive};
use crate::program::{ENDS, STAYS, STRAYS};

fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !is() {
        assert!(began.elapsed().as_secs() < 60, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_process_ends_when_it_is_told_and_its_group_with_it() {
    let launcher = Launcher::start(ROOT, STAYS);
    let agent = launcher.connect();
    let mut sandbox = agent.start().unwrap();
    let pid = launcher.pid(sandbox.slot);
    sandbox.end();
    assert_eq!(sandbox.status(), Some(SIGKILL));
    assert!(!is_alive(pid));
    assert_eq!(launcher.population(), (vec![], 0));
}

#[test]
fn how_a_process_ended_by_itself_is_told() {
    let launcher = Launcher::start(ROOT, ENDS);
    assert_eq!(launcher.connect().start().unwrap().status(), Some(7 << 8));
}

#[test]
fn a_call_that_no_sandbox_may_make_ends_it() {
    let launcher = Launcher::start(ROOT, STRAYS);
    let status = launcher.connect().start().unwrap().status();
    assert_eq!(status.map(|status| status & 0x7f), Some(SIGSYS));
}

#[test]
fn nothing_outlives_the_agent() {
    let launcher = Launcher::start(ROOT, STAYS);
    let agent = launcher.connect();
    let sandboxes: Vec<_> = (0..3).map(|_| agent.start().unwrap()).collect();
    let (pids, groups) = launcher.population();
    assert_eq!((pids.len(), groups), (3, 3));
    drop(agent);
    for sandbox in sandboxes {
        assert_eq!(sandbox.status(), Some(SIGKILL));
    }
    assert!(!pids.iter().any(|pid| is_alive(*pid)));
    wait_until("groups are left", || launcher.population().1 == 0);
}

#[test]
fn the_next_agent_has_no_answer_before_all_of_the_last_ones_has_ended() {
    let launcher = Launcher::start(ROOT, STAYS);
    let (first, second) = (launcher.connect(), launcher.connect());
    let sandbox = first.start().unwrap();
    let pid = launcher.pid(sandbox.slot);
    let next = std::thread::spawn(move || {
        second.start().unwrap();
        assert!(!is_alive(pid), "the last one's runs");
        second
    });
    drop(first);
    next.join().unwrap();
}

#[test]
fn nothing_outlives_the_launcher() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut launcher = Launcher::start(ROOT, STAYS);
        let agent = launcher.connect();
        let _sandboxes: Vec<_> = (0..3).map(|_| agent.start().unwrap()).collect();
        kill(Pid::from_raw(launcher.process.id() as i32), signal).unwrap();
        launcher.process.wait().unwrap();
        wait_until("processes are left", || launcher.population().0.is_empty());
    }
}
