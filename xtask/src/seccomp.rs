//! `cargo xtask seccomp`: takes the rules out of the system call filters of `vmm`, `launcher`, `gateway` and the agent with its helpers, one
//! at a time, and runs the tests of that program, which need root and a /dev/kvm and no more. The agent's run in the tool chroot, which has
//! the appliance's libc and mkfs.erofs. A rule that no test misses is either one too many or one
//! that no test exercises.
//!
//! The programs are built with `--cfg without_rule`, in a target folder of its own: what else is built has no way to leave a rule
//! out.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail, ensure};

use crate::context::Context;
use crate::toolbox::Toolbox;

/// Which rule is left out: `FILTER:INDEX`.
const LEFT_OUT: &str = "TINDERBOX_WITHOUT_RULE";

/// Longer than the tests take; a test that waits for what a thread without its rule never does has missed it.
const TIMEOUT_S: &str = "90";

/// What `timeout` exits with when it was needed.
const TIMED_OUT: i32 = 124;

/// Take each rule out of our programs' system call filters and see that a test misses it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this program's.
    #[arg(long, value_enum)]
    program: Option<Program>,
    /// Only rules that have this in their filter, place or name, such as `io:` or `SYS_mremap`.
    part: Option<String>,
}

/// A program with filters, and integration tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Program {
    Vmm,
    Launcher,
    Gateway,
    Agent,
}

impl Program {
    const ALL: [Self; 4] = [Self::Vmm, Self::Launcher, Self::Gateway, Self::Agent];

    fn package(self) -> &'static str {
        match self {
            Self::Vmm => "vmm",
            Self::Launcher => "launcher",
            Self::Gateway => "gateway",
            Self::Agent => "host-agent",
        }
    }

    /// Where the test is that prints its rules.
    fn unit(self) -> &'static str {
        match self {
            Self::Vmm => "--lib",
            Self::Launcher | Self::Gateway | Self::Agent => "--bins",
        }
    }

    /// Its integration tests.
    fn tests(self) -> &'static [&'static str] {
        match self {
            Self::Vmm | Self::Launcher | Self::Gateway => &["it"],
            Self::Agent => &["life", "process", "registry"],
        }
    }
}

/// A rule, and where it is.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    /// `FILTER:INDEX`.
    place: String,
    name: String,
    reason: String,
}

/// What became of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Missed,
}

/// Fails when the tests do not pass with all rules, or pass without one of them that nobody explains.
pub(crate) fn run(args: &Args, ctx: &Context) -> Result<()> {
    let programs =
        Program::ALL.into_iter().filter(|program| args.program.is_none_or(|only| only == *program));
    let mut unexplained = 0;
    for program in programs {
        for (rule, why) in redundant(program, args, ctx)? {
            let Rule { place, name, reason } = rule;
            unexplained += usize::from(why.is_none());
            let why = why.unwrap_or("and nobody knows why");
            println!("{place:<12} {name:<20} no test misses it ({reason}): {why}");
        }
    }
    if unexplained > 0 {
        bail!("{unexplained} rules are missed by no test");
    }
    Ok(())
}

/// The rules that no test misses, and why that is so.
fn redundant(program: Program, args: &Args, ctx: &Context) -> Result<Vec<(Rule, Option<&'static str>)>> {
    let package = program.package();
    let step = ctx.progress.step(format!("building {package} and its tests so that rules can be left out"));
    let rules = printed_rules(ctx, program)?;
    ensure!(verdict(ctx, program, None)? == Verdict::Passed, "{package}'s tests do not pass with all rules");
    // A sandbox's filter is what a vmm's own allow, and what it takes to come to them.
    let beyond = if program == Program::Launcher { printed_rules(ctx, Program::Vmm)? } else { Vec::new() };
    step.done();
    let chosen = |rule: &Rule| {
        args.part.as_ref().is_none_or(|part| rule.place.contains(part) || rule.name.contains(part))
    };
    let mut redundant = Vec::new();
    for rule in rules.into_iter().filter(chosen) {
        let step = ctx.progress.step(format!("without {} {}", rule.place, rule.name));
        if verdict(ctx, program, Some(&rule.place))? == Verdict::Passed {
            let why =
                if rule.place.starts_with(SANDBOX) { of_a_vmm(&rule, &beyond) } else { unprovoked(&rule) };
            redundant.push((rule, why));
        }
        step.done();
    }
    Ok(redundant)
}

fn printed_rules(ctx: &Context, program: Program) -> Result<Vec<Rule>> {
    let arguments = [program.unit(), "--", "--nocapture", "--test-threads=1", "print_every_rule"];
    let rules = rules(&text(&tests(ctx, program, &arguments, None)?)?);
    ensure!(!rules.is_empty(), "the tests of {} print no rules", program.package());
    Ok(rules)
}

/// Runs tests of a program, built with the filters' way to leave a rule out.
fn tests(ctx: &Context, program: Program, arguments: &[&str], left_out: Option<&str>) -> Result<Output> {
    let mut command = Command::new("timeout");
    let limit = if left_out.is_some() { TIMEOUT_S } else { "0" };
    command.args([limit, "cargo", "test", "--quiet", "--package", program.package()]).args(arguments);
    command.env("CARGO_TARGET_DIR", folder(&ctx.target_dir())).env("RUSTFLAGS", "--cfg without_rule");
    command.env_remove(LEFT_OUT).current_dir(&ctx.root);
    if let Some(place) = left_out {
        command.env(LEFT_OUT, place);
    }
    command.output().with_context(|| format!("run the tests of {}", program.package()))
}

fn folder(target_dir: &Path) -> std::path::PathBuf {
    target_dir.join("seccomp")
}

fn text(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn verdict(ctx: &Context, program: Program, left_out: Option<&str>) -> Result<Verdict> {
    let mut arguments: Vec<&str> = program.tests().iter().flat_map(|name| ["--test", name]).collect();
    if program == Program::Agent {
        arguments.extend(["--no-run", "--message-format=json"]);
        let built = text(&tests(ctx, program, &arguments, None)?)?;
        return in_chroot(ctx, &executables(&built, program.tests()), left_out);
    }
    let output = tests(ctx, program, &arguments, left_out)?;
    match output.status.code() {
        Some(0) => Ok(Verdict::Passed),
        // A test that fails makes cargo exit with 101.
        Some(101 | TIMED_OUT) => Ok(Verdict::Missed),
        _ => bail!("the tests did not run: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// Runs tests in the tool chroot, one after the other until one fails.
fn in_chroot(ctx: &Context, programs: &[String], left_out: Option<&str>) -> Result<Verdict> {
    let toolbox = Toolbox::ensure(ctx)?;
    let (target, scratch) = (ctx.target_dir(), ctx.cache.process_dir("seccomp")?);
    let limit = if left_out.is_some() { TIMEOUT_S } else { "0" };
    for program in programs {
        let mut arguments = vec![format!("TMPDIR={}", scratch.display())];
        arguments.extend(left_out.map(|place| format!("{LEFT_OUT}={place}")));
        arguments.extend(["timeout", limit, program].map(str::to_owned));
        if !toolbox.cmd("env", arguments, &[&target, &scratch]).succeeds() {
            return Ok(Verdict::Missed);
        }
    }
    Ok(Verdict::Passed)
}

/// Where cargo says that it has put these tests.
fn executables(built: &str, names: &[&str]) -> Vec<String> {
    let messages = built.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let of = |message: serde_json::Value| {
        let is_one = names.iter().any(|name| message["target"]["name"] == *name);
        is_one.then(|| message["executable"].as_str().map(str::to_owned)).flatten()
    };
    messages.filter_map(of).collect()
}

/// The rules in what the test prints.
fn rules(printed: &str) -> Vec<Rule> {
    let rule = |line: &str| {
        let mut fields = line.split_once("rule\t")?.1.split('\t').map(String::from);
        Some(Rule { place: fields.next()?, name: fields.next()?, reason: fields.next()? })
    };
    printed.lines().filter_map(rule).collect()
}

/// How the places of a sandbox's rules begin.
const SANDBOX: &str = "sandbox:";

/// What a `vmm` calls before it has its own filters. The launcher's tests start programs without a libc; on a node every sandbox
/// misses these.
const BEGINNING: &[&str] = &[
    "SYS_arch_prctl",
    "SYS_clone",
    "SYS_clone3",
    "SYS_landlock_create_ruleset",
    "SYS_landlock_restrict_self",
    "SYS_openat",
    "SYS_prctl",
    "SYS_prlimit64",
    "SYS_readlink",
    "SYS_rseq",
    "SYS_rt_sigaction",
    "SYS_sched_getaffinity",
    "SYS_seccomp",
    "SYS_set_robust_list",
    "SYS_set_tid_address",
];

/// Rules that are there for what no test provokes at will, by the beginning of their reasons, and why. The command names those that
/// no test has missed.
const UNPROVOKED: &[(&str, &str)] = &[
    (
        "the allocator",
        "how a thread's heap grows is its libc's matter, and differs with what was freed before",
    ),
    ("abort", "a confined thread aborts when an invariant is broken, and none is known to break"),
    ("contended channels", "two threads have to meet within a few instructions"),
    (
        "where the clock cannot be read without the kernel",
        "whether the vDSO reads the clock is the host's matter",
    ),
    ("a second vCPU that waited", "two vCPUs have to meet within the read of a chunk"),
    ("the end of a thread", "the pager's thread may end with its process"),
    ("the gateway's end", "nothing but a signal ends it, or an error of the kernel's"),
    ("contended locks", "two threads have to meet within a few instructions"),
    ("a wait goes on after a stop", "nobody stops a daemon, or its helpers, and lets it go on"),
    ("the same, where the file system cannot copy ranges", "the tests' file system can"),
    ("a helper that takes too long", "helpers have minutes"),
    ("libc's allocator", "which way a heap grows is its libc's matter"),
    ("growing large buffers", "which way a block grows is its libc's matter"),
    ("the same in the agent's unit", "these tests are in no unit of systemd's"),
    (
        "a thread waits for a moment",
        "it is the logs', when a guest has said something, and these tests boot none",
    ),
    ("the resolver reads what a cache of names says", "where these tests run is no nscd"),
    ("a backtrace names files from there", "a backtrace is of a panic, and no way to one is known"),
    ("libc asks how much memory there is before it sorts", "a newer libc, as the tests', does not ask"),
    (
        "data from the tar to the image",
        "mkfs.erofs copies so in short images alone, of more than eight thousand files",
    ),
    (
        "blocks of zeros in the image",
        "mkfs.erofs leaves them so in short images alone, of more than eight thousand files",
    ),
    ("an older libc asks for lengths by it", "the tests' libc has fstat for that"),
    ("load: features that this host has more of", "the tests load on the host that saved"),
    ("load: the guest's TSC rate", "the tests load on the host that saved"),
];

/// Why the launcher's tests, which start no `vmm`, do not miss a rule for one.
fn of_a_vmm(rule: &Rule, vmms: &[Rule]) -> Option<&'static str> {
    if vmms.iter().any(|own| own.name == rule.name) {
        return Some("the launcher's tests start no vmm, whose own filters have this call");
    }
    BEGINNING.contains(&rule.name.as_str()).then_some("the launcher's tests start nothing that has a libc")
}

/// Why no test provokes a rule's call.
fn unprovoked(rule: &Rule) -> Option<&'static str> {
    UNPROVOKED.iter().find(|(reason, _)| rule.reason.starts_with(reason)).map(|(_, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandboxs_rule_is_a_vmms_or_one_of_its_beginning() {
        let rule =
            |name: &str| Rule { place: "sandbox:1".into(), name: name.into(), reason: "some reason".into() };
        let vmms = [rule("SYS_read")];
        let explained = ["SYS_read", "SYS_rseq", "SYS_mount"];
        let explained = explained.map(|name| of_a_vmm(&rule(name), &vmms).is_some());
        assert_eq!(explained, [true, true, false]);
    }

    #[test]
    fn rules_are_read_from_what_is_printed_around_them() {
        let printed =
            "running 1 test\nrule\tvcpu:0\tSYS_read\teventfds; files\n.rule\tio:3\tSYS_close\tdrop\nok\n";
        let found: Vec<_> =
            rules(printed).into_iter().map(|rule| (rule.place, rule.name, rule.reason)).collect();
        let expected = [("vcpu:0", "SYS_read", "eventfds; files"), ("io:3", "SYS_close", "drop")];
        assert_eq!(found, expected.map(|(place, name, reason)| (place.into(), name.into(), reason.into())));
    }
}
