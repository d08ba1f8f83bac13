//! The gate as its user sees it: what it does in which order, and that it stops where a step fails or is late. The machine
//! is a record.

use std::cell::RefCell;

use guest_protocol::{Credentials, GateStep, StepOutcome};

use super::*;

/// Writes down what is done to it, and fails where it is told.
#[derive(Default)]
struct Record {
    done: RefCell<Vec<String>>,
    fails: Option<&'static str>,
    hooks: usize,
    hooks_hang: bool,
}

impl Record {
    fn note(&self, what: &str) -> io::Result<()> {
        if self.fails == Some(what) {
            return Err(io::Error::other("no"));
        }
        self.done.borrow_mut().push(what.to_owned());
        Ok(())
    }
}

impl Machine for Record {
    async fn freeze(&mut self) -> io::Result<()> {
        self.note("freeze")
    }

    fn sync(&mut self) -> io::Result<()> {
        self.note("sync")
    }

    fn credit_entropy(&mut self, _: &Seed) -> io::Result<()> {
        self.note("entropy")
    }

    fn reseed(&mut self) -> io::Result<()> {
        self.note("reseed")
    }

    fn set_clock(&mut self, _: u64) -> io::Result<()> {
        self.note("clock")
    }

    fn set_identity(&mut self, part: Identity<'_>) -> Result<(), IdentityError> {
        let name = match part {
            Identity::BootId(_) => "boot_id",
            Identity::MachineId(_) => "machine_id",
            Identity::Hostname(_) => "hostname",
            Identity::InstanceId(_) => "instance_id",
        };
        self.note(name).map_err(|error| IdentityError::File(name.into(), error))
    }

    fn reset_connections(&mut self) -> io::Result<()> {
        self.note("connections")
    }

    fn publish(&mut self, _: [u8; 16], _: u64, _: u64) -> io::Result<()> {
        self.note("generation")
    }

    async fn run_hooks(&mut self, _: HookPlan, _: &Agent) -> Result<usize, HookError> {
        if self.hooks_hang {
            std::future::pending::<()>().await;
        }
        self.note("hooks").map_err(|error| HookError::List("/opt", error))?;
        Ok(self.hooks)
    }

    fn thaw(&mut self) -> io::Result<()> {
        self.note("thaw")
    }

    fn generation_counter(&self) -> Option<u64> {
        None
    }
}

/// Far more than any step needs here.
const PATIENCE_MS: u32 = 60_000;

fn unique(restore_timeout_ms: u32) -> Unique {
    Unique {
        entropy: Seed::new([1; guest_protocol::SEED_LEN]),
        wall_clock_unix_ns: 0,
        generation: [2; 16],
        generation_counter: 2,
        instance_id: "i".into(),
        hostname: "h".into(),
        machine_id: [3; 16],
        boot_id: [4; 16],
        credentials: Some(Credentials {
            access_key_id: String::new(),
            secret_access_key: String::new(),
            session_token: String::new(),
            expiration: String::new(),
        }),
        elapsed_us: 0,
        hook_timeout_ms: 1_000,
        restore_timeout_ms,
    }
}

fn check(record: &mut Record, passes: bool) -> Vec<GateStep> {
    check_within(PATIENCE_MS, record, passes)
}

fn check_within(limit_ms: u32, record: &mut Record, passes: bool) -> Vec<GateStep> {
    let event_loop = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let passed = async {
        let agent = Agent::spawn(Box::new(tokio::io::sink()));
        pass(record, &unique(limit_ms), &CredentialStore::default(), &agent, Instant::now()).await
    };
    let passed = tokio::task::LocalSet::new().block_on(&event_loop, passed);
    assert_eq!(passed.is_ok(), passes);
    passed.unwrap_or_else(|report| report).steps
}

const ORDER: [&str; 12] = [
    "entropy",
    "reseed",
    "clock",
    "boot_id",
    "machine_id",
    "hostname",
    "instance_id",
    "connections",
    "credentials",
    "generation",
    "hooks",
    "thaw",
];

#[cfg(not(feature = "ungated"))]
#[test]
fn every_step_is_done_in_order_and_the_thaw_is_the_last() {
    let mut record = Record { hooks: 1, ..Record::default() };
    let steps = check(&mut record, true);
    assert_eq!(steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ORDER);
    assert!(steps.iter().all(|step| step.outcome == StepOutcome::Done), "{steps:?}");
    let expected: Vec<_> = ORDER.into_iter().filter(|step| *step != "credentials").collect();
    assert_eq!(*record.done.borrow(), expected);
}

#[cfg(not(feature = "ungated"))]
#[test]
fn whatever_fails_the_function_stays_frozen() {
    for fails in ORDER.into_iter().filter(|step| *step != "credentials") {
        let mut record = Record { fails: Some(fails), ..Record::default() };
        let steps = check(&mut record, false);
        let last = steps.last().unwrap();
        assert_eq!(last.name, fails);
        assert!(matches!(&last.outcome, StepOutcome::Failed(reason) if reason.ends_with("no")), "{last:?}");
        assert!(!record.done.borrow().iter().any(|step| step == "thaw"), "{fails}");
    }
}

#[test]
fn hooks_that_hang_are_the_end() {
    let mut record = Record { hooks_hang: true, ..Record::default() };
    let steps = check_within(20, &mut record, false);
    assert_eq!(steps.last().unwrap().outcome, StepOutcome::Failed("it took too long".into()));
    assert!(!record.done.borrow().iter().any(|step| step == "thaw"));
}

#[cfg(feature = "ungated")]
#[test]
fn an_ungated_build_leaves_out_what_makes_a_clone_another_one() {
    let mut record = Record::default();
    check(&mut record, true);
    assert_eq!(*record.done.borrow(), ["clock", "hooks", "thaw"]);
}
