//! SIGKILL at each step of a publication and of a resume, to the agent and to a VMM, on a booted test host: nothing that
//! ran then lives on, nothing half made stays, the version gets where it was going, and the next one is published.
//!
//! The steps of one course are gone through in a row: after each the next agent, or the next VMM, goes on with the same
//! publication or serves the same function, until it is killed at the next step. `tests/step-killer` knows the steps by what
//! is done to files, and holds whoever does it until the victim is dead; where a guest has come to, its function says.
//! What a fake VMM can stand still at, and runtimes' snapshots, are tested beside the agent (`invoke/tests/killed.rs`).

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Call, Client};
use crate::functions::{Deployed, Function, Invocation};
use crate::host::{self, Running};
use crate::looks::until;
use crate::sight::{STATE, Sight};

const LIB: &str = "/usr/lib/tinderbox";

/// What the agent is configured by, but for what the host was given when it booted.
pub(crate) const CONFIG: &str = "/etc/tinderbox/agent.toml";
const KEPT_CONFIG: &str = "/etc/tinderbox/agent.toml.kept";

/// A size of /tmp that no other test has, so that its template is made here.
const TMP_MIB: u32 = 513;

/// systemd ends what is left of a service politely at first; this is less than the time after which it kills.
const MAX_GONE_MS: u64 = 10_000;

/// How long the host is looked at before what is on its way must be gone.
const PATIENCE: Duration = Duration::from_secs(15);

/// The host's agent, which tests that kill share one after the other. It keeps no snapshots of runtimes meanwhile: they are made
/// beside everything else, by the same steps.
pub(crate) struct Agent {
    client: Client,
    /// Files on its disk when the test began.
    before: BTreeSet<String>,
    _alone: MutexGuard<'static, ()>,
}

/// A step: who is killed, its name, and the signs by which it is known.
struct Step(&'static str, &'static str, Vec<Value>);

fn opens(path: &str) -> Value {
    json!({ "opens": path })
}

fn runs(path: &str) -> Value {
    json!({ "runs": path })
}

fn reads(path: &str) -> Value {
    json!({ "reads": path })
}

fn writes(path: &str) -> Value {
    json!({ "writes": path })
}

fn vmm() -> Value {
    runs(&format!("{LIB}/vmm"))
}

fn kernel() -> String {
    format!("{LIB}/guest/vmlinux")
}

fn says(line: &str) -> Value {
    json!({ "says": format!("step: {line}") })
}

/// Of files that an agent has opened which was started since this killer watches.
fn copies() -> Value {
    reads(&format!("{STATE}/chunks/cache/slots-*"))
}

fn new(file: &str) -> String {
    format!("{STATE}/snapshots/new-*{file}")
}

/// A killer at work.
struct Killer {
    killer: Running,
    steps: Vec<&'static str>,
}

impl Killer {
    /// Returns when the first step is watched for.
    fn start(steps: Vec<Step>) -> Self {
        let plan: Vec<_> = steps
            .iter()
            .map(|Step(kill, name, when)| json!({ "name": name, "kill": kill, "when": when }))
            .collect();
        let killer = Running::start(&[&host::step_killer(), &json!(plan).to_string()]);
        let mut killer = Self { killer, steps: steps.iter().map(|step| step.1).collect() };
        assert_eq!(killer.line(), json!({ "armed": true }));
        killer
    }

    fn line(&mut self) -> Value {
        let line = self.killer.line().expect("the killer has not ended");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Waits until the next step's victim is dead, with all that went with it.
    fn killed(&mut self) {
        let report = loop {
            let line = self.line();
            if line.get("serving").is_none() {
                break line;
            }
        };
        eprintln!("{report}");
        let step = self.steps.remove(0);
        assert_eq!(report["killed"], step);
        assert!(report["gone_ms"].as_u64().is_some_and(|gone| gone < MAX_GONE_MS), "{report}");
        // What an earlier step left was removed before this one was come to.
        let drafts = report["snapshots"].as_array().expect("a list").iter();
        let drafts = drafts.filter(|name| name.as_str().is_some_and(|name| name.contains('-'))).count();
        assert!(drafts <= 1, "half-made snapshots: {report}");
    }

    /// Waits until the agent serves again.
    fn serving(&mut self) {
        assert_eq!(self.line(), json!({ "serving": true }));
    }

    /// Waits for all steps that are left.
    fn end(mut self) {
        while !self.steps.is_empty() {
            self.killed();
        }
        while let Some(line) = self.killer.line() {
            assert_eq!(line, json!({ "serving": true }).to_string());
        }
    }
}

impl Agent {
    pub(crate) fn alone() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let client = Client::new(&host::endpoint());
        // Its owner and mode stay as they are, and the kept one is that of before a test that was broken off.
        let setting = format!(
            "{{ [ -e {KEPT_CONFIG} ] || cp --preserve {CONFIG} {KEPT_CONFIG}; }} && \
             cp --preserve {KEPT_CONFIG} {CONFIG} && echo runtime_snapshots=false >> {CONFIG}"
        );
        let set = host::run(&["sh", "-c", &setting]);
        assert_eq!(set.code, 0, "{set:?}");
        let mut agent = Self { client, before: BTreeSet::new(), _alone: alone };
        // Of tests that were broken off: machines would be reserved for them.
        let listed = agent.client.call("list_functions", json!({})).expect("list");
        let names = listed["Functions"].as_array().expect("a list").iter();
        for name in names.filter_map(|function| function["FunctionName"].as_str()) {
            if name.starts_with("it-") {
                drop(agent.client.call("delete_function", json!({ "FunctionName": name })));
            }
        }
        host::run(&["rm", "-f", &format!("{STATE}/{}", template())]);
        idle_agent_is_killed();
        agent.before = Self::look().files;
        agent
    }

    /// A client of its.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Kills it, whatever it does; it serves again when this returns.
    pub(crate) fn kill(&self) {
        idle_agent_is_killed();
    }

    /// A function that says where it is, and whose code nobody else has.
    fn function(&self) -> Function {
        let function = Function::plain().with_restore_hook("say");
        let name = function.name();
        function
            .with_file("name", &name)
            .with("Environment", json!({ "Variables": { "STEPS": "said" } }))
            .with("SnapStart", json!({ "ApplyOn": "PublishedVersions" }))
            .with("EphemeralStorage", json!({ "Size": TMP_MIB }))
    }

    /// Nothing is on the host that the agent does not know: no process, no control group, no unfinished file. What is on
    /// its way out is given a moment.
    #[track_caller]
    pub(crate) fn look() -> Sight {
        let tidy = until(PATIENCE, || {
            let sight = Sight::of_the_host();
            let left = [sight.strangers(), sight.unfinished(), sight.empty_groups()].concat();
            if left.is_empty() { Ok(sight) } else { Err(left) }
        });
        tidy.unwrap_or_else(|left| panic!("left on the host: {left:#?}"))
    }

    /// The same, with so many snapshots more than there were when the test began.
    #[track_caller]
    fn look_for_snapshots(&self, count: usize) {
        let is_snapshot = |file: &&String| file.starts_with("snapshots/") && file.ends_with("/meta.json");
        let sight = Self::look();
        let new: Vec<_> = sight.files.difference(&self.before).filter(is_snapshot).collect();
        assert_eq!(new.len(), count, "{new:?}");
    }

    /// The same when a function is deleted: no file of it is left either.
    #[track_caller]
    fn look_after(&self, function: Deployed) {
        drop(function);
        let gone = until(PATIENCE, || {
            let mut left: Vec<_> = Self::look().files.difference(&self.before).cloned().collect();
            // The image of its runtime is kept until the agent starts without a snapshot of it, and with it chunks; what this node
            // has at hand of chunks is bounded. What a function has printed outlives it, as on Lambda.
            let kept = ["chunks/cache/", "chunks/origin/chunks/", "chunks/origin/roots/runtime-", "logs/"];
            left.retain(|file| *file != template() && !kept.iter().any(|kept| file.starts_with(kept)));
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
        gone.unwrap_or_else(|left| panic!("left of a function that is deleted: {left:#?}"));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        host::run(&["mv", KEPT_CONFIG, CONFIG]);
        if !std::thread::panicking() {
            idle_agent_is_killed();
        }
    }
}

/// The agent is killed when it does nothing, and serves with its present configuration afterwards.
fn idle_agent_is_killed() {
    Killer::start(vec![Step("agent", "nothing is done", vec![])]).end();
}

/// In the agent's state directory.
fn template() -> String {
    format!("scratch/ext4-1-{TMP_MIB}.img")
}

/// A cold start of a version, which must be a clone.
#[track_caller]
fn assert_cloned(function: &Deployed, version: &str) {
    let answer = function.invoke_as(version, &json!({})).expect("invoke");
    assert_eq!(answer.function_error, None, "{answer:?}");
    let said = answer.json();
    assert_eq!((&said["version"], &said["type"]), (&json!(version), &json!("snap-start")), "{said}");
    let log = answer.log.as_deref().expect("the tail was asked for");
    assert!(log.contains("RESTORE_REPORT"), "it is no clone:\n{log}");
}

#[track_caller]
fn assert_unanswered(call: Call) {
    let error = call.end().expect_err("its agent is dead");
    assert_eq!(error.status, 0, "{error:?}");
}

/// Up to the moment when the next agent has nothing more to do than to write that the version is active.
fn publication() -> Vec<Step> {
    let kill = |name, when| Step("agent", name, when);
    // A starting agent looks at what an earlier one left: only what comes behind a new machine is of a new publication.
    let publishing = || [vmm(), opens(&new("/meta.json"))];
    vec![
        // Between fork and exec it would handle SIGTERM as the agent does.
        kill(
            "a template of /tmp is made",
            vec![runs("/usr/sbin/mke2fs"), writes(&format!("{STATE}/scratch/*.new"))],
        ),
        kill("a draft is begun", vec![opens(&format!("{STATE}/scratch/*.img"))]),
        kill("a process is started", vec![vmm()]),
        kill("a machine is made", vec![vmm(), reads(&kernel())]),
        kill("the function is initialised", vec![says("init")]),
        kill("the guest stands still", vec![opens(&new("/state"))]),
        kill("memory is written", vec![writes(&new("/memory"))]),
        kill("/tmp is saved", vec![opens(&new("/scratch"))]),
        kill(
            "chunks are written",
            vec![opens(&new("/scratch")), writes(&format!("{STATE}/chunks/origin/chunks/*"))],
        ),
        kill(
            "a content has its root",
            vec![opens(&new("/scratch")), writes(&format!("{STATE}/chunks/origin/roots/snapshot-*"))],
        ),
        kill("the snapshot is described", publishing().to_vec()),
        kill("the snapshot is complete", [&publishing()[..], &[opens(&new("/meta.json"))]].concat()),
        kill(
            "the snapshot has its name",
            [&publishing()[..], &[opens(&format!("{STATE}/snapshots"))]].concat(),
        ),
    ]
}

#[test]
fn an_agent_killed_at_any_step_of_a_publication_or_a_resume_leaves_nothing_and_the_next_one_goes_on() {
    let agent = Agent::alone();
    let killer = Killer::start(vec![Step("agent", "the code is packed", vec![runs("/usr/bin/mkfs.erofs")])]);
    let function = agent.function();
    function.create(&agent.client).expect_err("its agent is killed meanwhile");
    killer.end();
    Agent::look();
    let function = function.deploy(&agent.client);

    let killer = Killer::start(publication());
    // Answered before the first kill, or not: the record is written.
    drop(function.call("publish_version", json!({})));
    killer.end();
    assert_eq!(function.publish_active(), "1", "it was published once");
    agent.look_for_snapshots(1);
    assert_cloned(&function, "1");

    let second = json!({ "Description": "second" });
    function.call("update_function_configuration", second).expect("update");
    function.wait("function_updated_v2");
    let signs = vec![opens(&new("/meta.json")), writes(&format!("{STATE}/store.redb"))];
    let killer = Killer::start(vec![Step("agent", "the version becomes active", signs)]);
    assert_eq!(function.publish(), "2");
    killer.end();
    assert_eq!(function.publish_active(), "2", "it was published once");
    agent.look_for_snapshots(2);

    let kill = |name, signs| Step("agent", name, signs);
    let resume = vec![
        kill("a process is started", vec![vmm()]),
        kill("memory is filled", vec![vmm(), copies()]),
        kill("a hook runs", vec![says("hook")]),
        kill("the function runs", vec![says("event")]),
    ];
    let steps = resume.len();
    let mut killer = Killer::start(resume);
    for _ in 0..steps {
        let call = function.begin_as("2", &json!({}));
        killer.killed();
        assert_unanswered(call);
        killer.serving();
    }
    killer.end();
    Agent::look();
    assert_cloned(&function, "2");
    assert_cloned(&function, "1");
    agent.look_for_snapshots(2);
    agent.look_after(function);
}

#[test]
fn a_vmm_killed_at_any_step_of_a_publication_or_a_resume_is_replaced_or_told_of() {
    let agent = Agent::alone();
    let kill = |name, when| Step("vmm", name, when);
    let function = agent.function().deploy(&agent.client);
    let mut killer = Killer::start(vec![
        kill("a machine is made", vec![vmm(), reads(&kernel())]),
        kill("the function is initialised", vec![says("init")]),
        kill("memory is written", vec![writes(&new("/memory"))]),
        kill("a machine is reserved", vec![opens(&new("/meta.json")), vmm()]),
    ]);
    // Lost twice is given up, and nothing has changed when it is tried again.
    let failed = function.publish();
    let args = json!({ "FunctionName": function.name, "Qualifier": failed });
    function.client().wait("published_version_active", args).expect_err("its machines are killed");
    let version = function.version(&failed);
    assert_eq!(
        (&version["State"], &version["StateReasonCode"]),
        (&json!("Failed"), &json!("InternalError")),
        "{version}"
    );
    killer.killed();
    killer.killed();
    Agent::look();
    let version = function.publish_active();
    assert_ne!(version, failed);
    killer.end();
    Agent::look();

    let mut killer = Killer::start(vec![
        Step("agent", "nothing is done", vec![]),
        kill("the function runs", vec![says("event")]),
        kill("its memory is read", vec![copies()]),
        kill("a hook runs", vec![says("hook")]),
    ]);
    killer.killed();
    killer.serving();
    let lost = function.invoke_as(&version, &json!({})).expect("an answer about the function");
    assert_eq!(lost.error().0, "Runtime.ExitError", "{lost:?}");
    // Two clones are lost before they have the event: a guest is booted for it.
    let answer = function.begin_as(&version, &json!({})).end().expect("invoke");
    assert!(answer["ResponseMetadata"]["HTTPHeaders"]["server-timing"].to_string().contains("boot;dur="));
    assert_eq!(Invocation::parse(&answer).function_error, None, "{answer}");
    killer.end();
    agent.look_for_snapshots(1);
    agent.look_after(function);
}
