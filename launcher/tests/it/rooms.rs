//! What a process that was started has, as seen from outside.

use std::collections::BTreeMap;
use std::fs;

use crate::host::{Launcher, ROOT, Started, unit};
use crate::program::STAYS;
use crate::unit::Unit;

/// Number of the first user.
const FIRST_USER: u32 = 2_000_000_000;

fn status(pid: i32) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let fields = text.lines().filter_map(|line| line.split_once(":"));
    fields
        .map(|(name, value)| (name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
        .collect()
}

fn link(pid: impl std::fmt::Display, name: &str) -> String {
    fs::read_link(format!("/proc/{pid}/{name}")).expect("a link").display().to_string()
}

#[test]
fn a_process_is_a_user_that_nobody_else_is_and_has_no_right() {
    let launcher = Launcher::start(ROOT, STAYS);
    let agent = launcher.connect();
    let sandboxes = [agent.start().unwrap(), agent.start().unwrap()];
    assert_ne!(sandboxes[0].slot, sandboxes[1].slot);
    for sandbox in &sandboxes {
        let status = status(launcher.pid(sandbox.slot));
        let user = FIRST_USER + sandbox.slot;
        for field in ["Uid", "Gid"] {
            assert_eq!(status[field], format!("{user} {user} {user} {user}"));
        }
        assert_eq!(status["Groups"], "");
        assert_eq!(capabilities(&status), [0; 5]);
        assert_eq!((status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()), ("1", "2"));
        assert_eq!(status["SigBlk"].trim_start_matches('0'), "");
    }
}

/// A bit for each, in every set that `/proc` tells of.
fn capabilities(status: &BTreeMap<String, String>) -> [u64; 5] {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .map(|field| u64::from_str_radix(&status[field], 16).expect("a number"))
}

#[test]
fn the_launcher_is_a_user_with_its_units_capabilities_and_nothing_that_it_executes_has_them() {
    let launcher = Launcher::start(ROOT, STAYS);
    // It answers when it has confined itself.
    launcher.connect().start().unwrap();
    let status = status(launcher.process.id() as i32);
    let Unit { user, capabilities: units } = unit();
    assert!(user != ROOT && user < FIRST_USER);
    for field in ["Uid", "Gid"] {
        assert_eq!(status[field], format!("{user} {user} {user} {user}"));
    }
    assert_eq!(status["Groups"], "");
    let [inheritable, permitted, effective, bounding, ambient] = capabilities(&status);
    assert_eq!([permitted, effective, inheritable & !units], [units, units, 0]);
    assert_eq!([bounding, ambient], [0, 0]);
    assert_eq!((status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()), ("1", "2"));
}

#[test]
fn another_process_of_the_launchers_user_with_its_rights_gets_nothing_of_it() {
    let launcher = Launcher::start(ROOT, STAYS);
    // It answers when it has confined itself.
    launcher.connect().start().unwrap();
    unit().who().gets_nothing_of(launcher.process.id());
}

#[test]
fn a_process_is_in_namespaces_that_nobody_else_is_in() {
    let launcher = Launcher::start(ROOT, STAYS);
    let agent = launcher.connect();
    let sandboxes = [agent.start().unwrap(), agent.start().unwrap()];
    let [one, other] = sandboxes.each_ref().map(|sandbox| launcher.pid(sandbox.slot));
    for name in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let name = format!("ns/{name}");
        let seen =
            [link(one, &name), link(other, &name), link(launcher.process.id(), &name), link("self", &name)];
        assert_ne!(seen[0], seen[1], "{name}");
        // The launcher leaves a network when it has answered.
        let launchers = (name != "ns/net").then_some(&seen[2]);
        assert!(!seen[..2].iter().any(|one| Some(one) == launchers || *one == seen[3]), "{name}: {seen:?}");
    }
    // It is the first one of its own, so that nobody else is in there.
    assert_eq!(status(one)["NSpid"].split(' ').next_back(), Some("1"));
    let devices = fs::read_to_string(format!("/proc/{one}/net/dev")).unwrap();
    assert_eq!(
        devices.lines().skip(2).map(|line| line.trim().split(':').next().unwrap()).collect::<Vec<_>>(),
        ["lo"]
    );
    assert_eq!(
        fs::read_to_string(format!("/proc/{one}/net/route")).unwrap().lines().skip(1).count(),
        0,
        "no route"
    );
}

#[test]
fn a_network_is_the_next_ones_when_its_process_is_gone_and_never_two_processes() {
    let launcher = Launcher::start(ROOT, STAYS);
    let agent = launcher.connect();
    let network = |sandbox: &Started| link(launcher.pid(sandbox.slot), "ns/net");
    let mut gone = agent.start().unwrap();
    let of_gone = network(&gone);
    gone.end();
    gone.status().expect("its end");
    // One is made ahead of time, before it is known that another one will be left.
    let sandboxes = [agent.start().unwrap(), agent.start().unwrap(), agent.start().unwrap()];
    let networks = sandboxes.each_ref().map(network);
    assert_eq!(networks.iter().filter(|network| **network == of_gone).count(), 1, "{of_gone}: {networks:?}");
    assert!(
        networks[0] != networks[1] && networks[1] != networks[2] && networks[0] != networks[2],
        "{networks:?}"
    );
}

#[test]
fn a_process_has_an_empty_root_to_which_not_even_root_can_write() {
    let launcher = Launcher::start(ROOT, STAYS);
    let agent = launcher.connect();
    let sandbox = agent.start().unwrap();
    // The launcher has no more itself.
    for pid in [launcher.pid(sandbox.slot), launcher.process.id() as i32] {
        let root = format!("/proc/{pid}/root");
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        let written = fs::write(format!("{root}/file"), "").map_err(|error| error.raw_os_error());
        assert_eq!(written, Err(Some(nix::libc::EROFS)));
        assert_eq!(fs::read_dir(format!("/proc/{pid}/cwd")).unwrap().count(), 0);
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        let [mount] = mounts.lines().collect::<Vec<_>>()[..] else { panic!("{mounts}") };
        assert!(mount.contains(" / / ro,nosuid,nodev,noexec"), "{mount}");
    }
}

#[test]
fn a_process_has_its_descriptors_and_no_other() {
    let launcher = Launcher::start(ROOT, STAYS);
    let agent = launcher.connect();
    let sandbox = agent.start().unwrap();
    let pid = launcher.pid(sandbox.slot);
    let mut names: Vec<u32> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, [0, 1, 2, 3, 4, 5, 6]);
    let open: Vec<_> = names.iter().map(|fd| link(pid, &format!("fd/{fd}"))).collect();
    let begin = ["/dev/null", "/dev/null", "pipe:", "socket:", "/dev/kvm", "/dev/userfaultfd", "/1"];
    for (target, begin) in open.iter().zip(begin) {
        assert!(target.starts_with(begin) || target.ends_with(begin.trim_start_matches("/dev")), "{open:?}");
    }
    assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    for (name, value) in [
        ("Max core file size", "0"),
        ("Max open files", "1024"),
        ("Max locked memory", "0"),
        ("Max file size", "12884901888"),
    ] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert_eq!(line.split_whitespace().take(2).collect::<Vec<_>>(), [value, value], "{name}");
    }
}

#[test]
fn a_user_is_not_used_again_soon() {
    let launcher = Launcher::start(ROOT, STAYS);
    let agent = launcher.connect();
    let mut first = agent.start().unwrap();
    let slot = first.slot;
    first.end();
    first.status().unwrap();
    assert_ne!(agent.start().unwrap().slot, slot);
}
