//! The jail of a sandbox on a booted node: what a running one has, and what is left of it when whoever started it is killed. What a
//! hostile one gets is in `hostile_vmm`; its steps are tested beside the launcher (`launcher/tests/it/`).

use std::collections::BTreeMap;

use serde_json::json;

use crate::functions::{Deployed, Function};
use crate::host;
use crate::kills::Agent;

/// Users of sandboxes are from here on.
const FIRST_USER: u32 = 2_000_000_000;

const SANDBOXES: &str = "/sys/fs/cgroup/system.slice/tinderbox-launcher.service/sandboxes";

/// Memory of the function, MiB: what its sandbox may have is more, and less than twice as much and a constant.
const MEMORY_MIB: u64 = 256;

const NAMESPACES: [&str; 6] = ["mnt", "pid", "net", "ipc", "uts", "cgroup"];

/// What the host says of one sandbox's process and control group, by name.
struct Sandbox(BTreeMap<String, String>);

impl Sandbox {
    /// All that there are.
    fn all() -> Vec<Self> {
        let look = format!(
            "cd {SANDBOXES}; for group in */; do read pid < $group/cgroup.procs || continue; echo slot: ${{group%/}}; \
             for file in memory.max memory.swap.max memory.oom.group cpu.max cpu.weight pids.max io.max; do echo $file: $(cat $group/$file); done; \
             for name in {}; do echo ns/$name: $(readlink /proc/$pid/ns/$name); done; \
             echo root: $(ls -A /proc/$pid/root | wc -l); echo descriptors: $(readlink /proc/$pid/fd/*); \
             echo seccomp of threads: $(grep -h ^Seccomp: /proc/$pid/task/*/status | sort -u); \
             cat /proc/$pid/status; echo --; done",
            NAMESPACES.join(" ")
        );
        let seen = host::run(&["sh", "-c", &look]).stdout;
        let fields = |text: &str| {
            let fields = text.lines().filter_map(|line| line.split_once(':'));
            fields
                .map(|(name, value)| {
                    (name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" "))
                })
                .collect()
        };
        seen.split("--\n").filter(|text| !text.trim().is_empty()).map(|text| Self(fields(text))).collect()
    }

    #[track_caller]
    fn get(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.0))
    }

    fn number(&self, name: &str) -> u64 {
        self.get(name).parse().unwrap_or_else(|_| panic!("{name}: {}", self.get(name)))
    }
}

fn deploy(agent: &Agent) -> Deployed {
    Function::python("hello").with("MemorySize", MEMORY_MIB).deploy(agent.client())
}

fn works(function: &Deployed) {
    assert_eq!(function.answer(json!({ "is": "well" }))["event"], json!({ "is": "well" }));
}

#[test]
fn a_sandbox_that_runs_is_nobody_and_sees_nothing() {
    let agent = Agent::alone();
    let function = deploy(&agent);
    works(&function);
    let sandboxes = Sandbox::all();
    let limit = |sandbox: &&Sandbox| sandbox.number("memory.max") >> 20 > MEMORY_MIB;
    assert!(sandboxes.iter().any(|sandbox| limit(&sandbox)), "the function's is not there");
    let own: Vec<_> = NAMESPACES
        .iter()
        .map(|name| host::run(&["readlink", &format!("/proc/1/ns/{name}")]).stdout)
        .collect();
    for sandbox in &sandboxes {
        let user = FIRST_USER + u32::try_from(sandbox.number("slot")).expect("a small number");
        let users = format!("{user} {user} {user} {user}");
        assert_eq!(
            (sandbox.get("Uid"), sandbox.get("Gid"), sandbox.get("Groups")),
            (users.as_str(), users.as_str(), "")
        );
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(u64::from_str_radix(sandbox.get(set), 16), Ok(0), "{set}");
        }
        assert_eq!((sandbox.get("Name"), sandbox.get("NoNewPrivs")), ("vmm", "1"));
        assert_eq!(sandbox.get("seccomp of threads"), "Seccomp: 2");
        for (name, own) in NAMESPACES.iter().zip(&own) {
            assert_ne!(sandbox.get(&format!("ns/{name}")), own.trim(), "{name}");
        }
        assert_eq!(sandbox.number("root"), 0, "there is something in its root");
        for target in sandbox.get("descriptors").split(' ') {
            assert!(
                target == "/dev/null" || !target.starts_with("/dev/") || target.starts_with("/dev/shm"),
                "{target} is open"
            );
        }
        let memory_mib = sandbox.number("memory.max") >> 20;
        assert!((192..2 * MEMORY_MIB + 256).contains(&memory_mib), "{memory_mib} MiB");
        assert_eq!((sandbox.number("memory.swap.max"), sandbox.number("memory.oom.group")), (0, 1));
        // One that has served has what its memory pays for on an emulated node (160 MiB a processor), the others what they begin with.
        let quota = if limit(&sandbox) { "160000 100000" } else { "200000 100000" };
        assert_eq!((sandbox.get("cpu.max"), sandbox.number("pids.max")), (quota, 16));
        assert!((1..100).contains(&sandbox.number("cpu.weight")));
        let disks = sandbox.get("io.max");
        assert!(disks.contains("rbps=536870912 wbps=536870912 riops=20000 wiops=20000"), "{disks}");
    }
    let mut networks: Vec<_> = sandboxes.iter().map(|sandbox| sandbox.get("ns/net")).collect();
    networks.sort_unstable();
    networks.dedup();
    assert_eq!(networks.len(), sandboxes.len(), "two are in one network");
}

#[test]
fn a_killed_launcher_takes_its_sandboxes_along_and_the_next_one_serves() {
    let agent = Agent::alone();
    let function = deploy(&agent);
    works(&function);
    let slots = |sandboxes: Vec<Sandbox>| {
        sandboxes.iter().map(|sandbox| sandbox.get("Pid").to_owned()).collect::<Vec<_>>()
    };
    let before = slots(Sandbox::all());
    assert!(!before.is_empty());
    let killed =
        host::run(&["systemctl", "kill", "--kill-whom=main", "--signal=KILL", "tinderbox-launcher.service"]);
    assert_eq!(killed.code, 0, "{killed:?}");
    // What was about to end could still be given an event.
    Agent::look();
    works(&function);
    let after = slots(Sandbox::all());
    assert!(!before.iter().any(|pid| after.contains(pid)), "{before:?} and {after:?}");
}

/// How long a function writes, and what it is then let write in a second: less than any disk does.
const WRITING_S: u64 = 4;
const BOUND_MIB_PER_S: u64 = 1;

/// `a_sandbox_that_runs_is_nobody_and_sees_nothing` has seen the bound that every sandbox gets; this one is seen to work.
#[test]
fn a_sandbox_writes_no_faster_than_its_control_group_lets_it() {
    let agent = Agent::alone();
    let function = Function::python("noisy").with("MemorySize", MEMORY_MIB).deploy(agent.client());
    let written_mib = || {
        let answer = function.answer(json!({ "kind": "disk", "seconds": WRITING_S }));
        answer["rounds"].as_u64().expect("a MiB each")
    };
    let freely = written_mib();
    let limit = |sandbox: &Sandbox| sandbox.number("memory.max") >> 20 > MEMORY_MIB;
    let sandbox = Sandbox::all().into_iter().find(limit).expect("the function's");
    let (disk, _) = sandbox.get("io.max").split_once(' ').expect("a disk and its bounds");
    let group = format!("{SANDBOXES}/{}", sandbox.number("slot"));
    let bound =
        host::run(&["sh", "-c", &format!("echo {disk} wbps={} > {group}/io.max", BOUND_MIB_PER_S << 20)]);
    assert_eq!(bound.code, 0, "{bound:?}");
    let bounded = written_mib();
    // The kernel counts in slices, and the last MiB may be on its way.
    let most = BOUND_MIB_PER_S * WRITING_S + 2;
    assert!(bounded <= most && freely > most, "{freely} MiB freely, {bounded} MiB bounded");
}

/// What the host's kernel reads the time from.
const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// Another clock than the processor's own, until this is dropped.
struct OtherClock(String);

impl OtherClock {
    fn set() -> Self {
        let before = host::run(&["cat", CLOCK]).stdout.trim().to_owned();
        let set = host::run(&["sh", "-c", &format!("echo hpet > {CLOCK}")]);
        assert_eq!(set.code, 0, "{set:?}");
        Self(before)
    }
}

impl Drop for OtherClock {
    fn drop(&mut self) {
        // A kernel that has given the clock up by now keeps the other.
        host::run(&["sh", "-c", &format!("echo {} > {CLOCK}", self.0)]);
    }
}

#[test]
fn sandboxes_live_on_when_the_kernel_gives_the_processors_clock_up() {
    let agent = Agent::alone();
    let function = deploy(&agent);
    works(&function);
    let before = function.answer(json!({}))["sandbox"].clone();
    let clock = OtherClock::set();
    assert_eq!(host::run(&["cat", CLOCK]).stdout.trim(), "hpet");
    assert_eq!(function.answer(json!({}))["sandbox"], before, "it ended");
    let another = deploy(&agent);
    works(&another);
    drop(clock);
    works(&function);
}
