//! What the launcher does not do, and that it goes on.

use std::fs::File;
use std::os::fd::AsFd as _;

use jail::launch::{Allotment, Answer};

use crate::host::{Agent, Launcher, ROOT, SOME, pair};
use crate::program::STAYS;

#[track_caller]
fn refused(agent: &Agent, packet: &[u8], fds: &[std::os::fd::BorrowedFd<'_>]) -> String {
    match agent.ask(packet, fds) {
        Some((Answer::Failed { text }, fds)) if fds.is_empty() => text,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn another_user_gets_no_answer() {
    let launcher = Launcher::start(970, STAYS);
    let (_ours, theirs) = pair();
    let (_reader, writer) = std::io::pipe().unwrap();
    let answer = launcher.connect().ask(&SOME.to_request(), &[theirs.as_fd(), writer.as_fd()]);
    assert!(answer.is_none(), "{answer:?}");
    assert_eq!(launcher.population(), (vec![], 0));
}

#[test]
fn what_is_no_request_is_refused_and_the_next_one_is_served() {
    let launcher = Launcher::start(ROOT, STAYS);
    let agent = launcher.connect();
    let (_ours, control) = pair();
    let (_reader, stderr) = std::io::pipe().unwrap();
    let null = File::open("/dev/null").unwrap();
    let (control, stderr, null) = (control.as_fd(), stderr.as_fd(), null.as_fd());
    let good = SOME.to_request();
    let excess = Allotment { memory_mib: u32::MAX, ..SOME }.to_request();
    for (packet, fds, problem) in [
        (&good[..15], &[control, stderr][..], "a request of 15 bytes, not of 16"),
        (&[&good[..], b"x"].concat(), &[control, stderr], "a request that is too long"),
        (&[7; 4096], &[control, stderr], "a request that is too long"),
        (&[0; 16], &[control, stderr], "a request that does not begin with TBL1"),
        (&excess, &[control, stderr], "memory of 4294967295, not of 32 to 12288"),
        (&good, &[], "a request with 0 descriptors, not 2"),
        (&good, &[control], "a request with 1 descriptors, not 2"),
        (&good, &[control, stderr, null], "a request that is too long"),
        (&good, &[null, stderr], "a control socket that is no SOCK_SEQPACKET socket"),
        (&good, &[control, null], "a standard error that is no pipe"),
    ] {
        assert_eq!(refused(&agent, packet, fds), problem);
    }
    assert_eq!(launcher.population(), (vec![], 0));
    agent.start().unwrap();
}

#[test]
fn a_step_that_fails_is_named_and_leaves_nothing() {
    let launcher = Launcher::of_file(ROOT, b"no program");
    let agent = launcher.connect();
    for _ in 0..2 {
        let problem = agent.start().err().unwrap();
        assert!(problem.starts_with("become the program: ENOEXEC"), "{problem}");
    }
    drop(agent);
    // A next agent is served when all that was is gone.
    launcher.connect().start().err().unwrap();
    assert_eq!(launcher.population().0, [0; 0]);
}
