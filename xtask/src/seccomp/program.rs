//! Our programs that have filters, built so that a rule can be left out, and their tests, which run one at a time: integration tests, and
//! unit tests that make happen what no other one does.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::Rule;
use super::search::{Outcome, Trial};
use crate::built::{As, executable};
use crate::cmd::Cmd;
use crate::context::Context;
use crate::payload::{STATIC, TARGET};
use crate::progress::Step;
use crate::toolbox::Toolbox;

/// Which rule is left out, as a [`Trial`] says.
const LEFT_OUT: &str = "TINDERBOX_WITHOUT_RULE";

/// What a program is built with to have a way to leave one out.
const WITHOUT: &str = "--cfg without_rule";

/// The unit test that prints the rules.
const PRINTS: &str = "print_every_rule";

/// Where unit tests are that make libc do under a filter what it does of itself.
const PROVOKED: &str = "::provoked::";

/// What a test program exits with when a test has failed.
const FAILED: i32 = 101;

/// What `timeout` exits with when it was needed; and from where on it was a signal that ended its program.
const TIMED_OUT: i32 = 124;
const SIGNALS: i32 = 128;

/// A program with filters, and integration tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Program {
    Vmm,
    Launcher,
    Gateway,
    Agent,
}

/// One test of a program's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Test {
    /// The file that has it.
    file: PathBuf,
    /// Its integration tests' name, and its own in there.
    of: &'static str,
    name: String,
}

/// Where tests run.
pub(super) enum Bench {
    /// This host, in the package's folder.
    Host { package: PathBuf },
    /// The tool chroot, which has the appliance's libc and mkfs.erofs: with the folder that has the tests, and one for their files.
    Chroot { toolbox: Toolbox, built: PathBuf, scratch: PathBuf },
}

/// What was built of a program.
pub(super) struct Built {
    pub(super) rules: Vec<Rule>,
    pub(super) tests: Vec<Test>,
}

impl Program {
    pub(super) const ALL: [Self; 4] = [Self::Vmm, Self::Launcher, Self::Gateway, Self::Agent];

    pub(super) fn package(self) -> &'static str {
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

    /// Static where its tests start it under a sandbox's filter, as a node does: nothing can load a library there.
    fn flags(self) -> String {
        match self {
            Self::Vmm => format!("{WITHOUT} {STATIC}"),
            Self::Launcher | Self::Gateway | Self::Agent => WITHOUT.to_owned(),
        }
    }

    /// Named for a static program, so that macros, which are libraries, are built without its flags.
    fn target(self) -> &'static [&'static str] {
        match self {
            Self::Vmm => &["--target", TARGET],
            Self::Launcher | Self::Gateway | Self::Agent => &[],
        }
    }

    /// Builds it and its tests, and asks them what there is.
    pub(super) fn build(self, ctx: &Context, step: &Step) -> Result<Built> {
        let tests = self.tests().iter().flat_map(|name| ["--test", name]);
        let cargo = Cmd::new("cargo").args(["test", "--package", self.package(), self.unit()]).args(tests);
        let cargo = cargo.args(["--no-run", "--message-format=json"]).args(self.target()).dir(&ctx.root);
        let cargo = cargo.env("CARGO_TARGET_DIR", folder(ctx)).env("RUSTFLAGS", self.flags());
        step.note("compiling");
        let built = cargo.env_remove(LEFT_OUT).read()?;
        let executable = |name: &str| executable(&built, name, As::Tests);
        let unit = executable(self.package())?;
        let prints = ["--nocapture", "--test-threads=1", PRINTS];
        let printed = Cmd::new(&unit).args(prints).env_remove(LEFT_OUT).read()?;
        let rules = rules(&printed);
        ensure!(!rules.is_empty(), "the tests of {} print no rules", self.package());
        let mut tests = listed(&unit, "unit")?;
        tests.retain(|test| test.name.contains(PROVOKED));
        for of in self.tests() {
            tests.extend(listed(&executable(of)?, of)?);
        }
        Ok(Built { rules, tests })
    }
}

impl Bench {
    pub(super) fn of(program: Program, ctx: &Context) -> Result<Self> {
        Ok(match program {
            Program::Agent => Self::Chroot {
                toolbox: Toolbox::ensure(ctx)?,
                built: folder(ctx),
                scratch: ctx.cache.process_dir("seccomp")?,
            },
            Program::Vmm | Program::Launcher | Program::Gateway => {
                Self::Host { package: ctx.path(program.package()) }
            }
        })
    }

    /// # Errors
    /// The test did not run.
    pub(super) fn run(&self, test: &Test, trial: Trial<'_>) -> Result<Outcome> {
        let limit = trial.limit.map_or_else(|| "0".to_owned(), |limit| seconds(limit).to_string());
        let file = test.file.to_string_lossy();
        let arguments = ["timeout", &limit, &file, "--exact", &test.name].map(str::to_owned);
        let arguments =
            trial.left_out.map(|place| format!("{LEFT_OUT}={place}")).into_iter().chain(arguments);
        let cmd = match self {
            Self::Chroot { toolbox, built, scratch } => {
                let arguments = std::iter::once(format!("TMPDIR={}", scratch.display())).chain(arguments);
                toolbox.cmd("env", arguments, &[built, scratch])
            }
            Self::Host { package } => Cmd::new("env").args(arguments).dir(package).env_remove(LEFT_OUT),
        };
        match cmd.code()? {
            0 => Ok(Outcome::Passed),
            TIMED_OUT => Ok(Outcome::TimedOut),
            code if code == FAILED || code >= SIGNALS => Ok(Outcome::Failed),
            code => bail!("{test} did not run: exit status {code}"),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.of, self.name)
    }
}

/// What else is built has no way to leave a rule out, so this has a folder of its own.
fn folder(ctx: &Context) -> PathBuf {
    ctx.target_dir().join("seccomp")
}

/// For `timeout`, to which 0 is no limit.
fn seconds(limit: Duration) -> u64 {
    limit.as_secs().max(1)
}

/// The tests that a test program has.
fn listed(file: &Path, of: &'static str) -> Result<Vec<Test>> {
    let listed = Cmd::new(file).args(["--list", "--format", "terse"]).read()?;
    let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(names.map(|name| Test { file: file.to_owned(), of, name: name.to_owned() }).collect())
}

/// The rules in what the test prints.
fn rules(printed: &str) -> Vec<Rule> {
    let rule = |line: &str| {
        let mut fields = line.split_once("rule\t")?.1.split('\t').map(String::from);
        Some(Rule { place: fields.next()?, name: fields.next()?, reason: fields.next()? })
    };
    printed.lines().filter_map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
