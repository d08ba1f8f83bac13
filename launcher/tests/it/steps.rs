//! Whatever fails on the way to a sandbox, at whichever step, there is none, nothing of it is left, and the next one is there.

use crate::host::is_alive;
use crate::watched::{Watched, Whose};

/// What a process does, in order, up to the number of its user.
const STEPS: &[&str] = &[
    "unblock signals",
    "begin a session",
    "share no core",
    "narrow the view of control groups",
    "enter an empty root",
    "hand over 7 descriptors",
    "set RLIMIT_CORE to 0",
    "set RLIMIT_NOFILE to 1024",
    "set RLIMIT_MEMLOCK to 0",
    "set RLIMIT_FSIZE to 12884901888",
    "drop the bounding set",
    "lock the securebits",
    "become user ",
    "drop all capabilities",
    "die with the launcher",
    "set no_new_privs",
    "apply the system call filter sandbox",
    "become the program",
];

/// Has one call fail after the other until none is left; what the agent was told each time.
fn problems(whose: Whose) -> Vec<String> {
    let watched = Watched::start();
    let agent = watched.launcher.connect();
    let mut problems = Vec::new();
    loop {
        watched.fail(whose, problems.len());
        let answer = agent.start();
        let Some((pid, call)) = watched.be_done() else {
            answer.expect("nothing failed");
            return problems;
        };
        let problem =
            answer.err().unwrap_or_else(|| panic!("{whose:?}: call {call} failed and nobody was told"));
        if whose == Whose::Newborn {
            assert!(problem.contains("Operation not permitted") && !is_alive(pid as i32), "{problem}");
        }
        assert_eq!(watched.launcher.population(), (vec![], 0), "{problem}");
        let mut next = agent.start().expect("the next one");
        next.end();
        next.status().expect("its end");
        problems.push(problem);
    }
}

#[test]
fn whichever_call_of_a_room_fails_its_step_is_named_and_there_is_no_sandbox() {
    let mut steps: Vec<_> = problems(Whose::Newborn)
        .iter()
        .map(|problem| {
            *STEPS.iter().find(|step| problem.starts_with(**step)).unwrap_or_else(|| panic!("{problem}"))
        })
        .collect();
    steps.dedup();
    assert_eq!(steps, STEPS);
}

#[test]
fn whichever_call_of_the_launchers_fails_there_is_no_sandbox() {
    let problems = problems(Whose::Launcher);
    for what in
        ["make a pipe", "making of the control group", "opening of the control group", "make a process"]
    {
        assert!(problems.iter().any(|problem| problem.starts_with(what)), "{what}: {problems:#?}");
    }
}
