//! Kills the agent of a booted test host, or a `vmm` of it, at steps of its work, and says what was there then.
//!
//! `step-killer JSON`: JSON is a list of steps (`plan`), which are gone through one after the other. Who gives a step's last
//! sign by asking for a file stands still until the victim is dead, so that the step is that one and no later one.
//! Writes a line of JSON for each of these:
//!
//! ```text
//!  {"armed": true}                             the first step is watched for
//!  {"killed": STEP, "gone_ms": …, "processes": […], "snapshots": […]}   and nothing that ran then runs any more
//!  {"serving": true}                           the agent serves, after a restart
//! ```
//!
//! Ends after the last step, when the agent serves again; with an error when a sign does not come; and when its input does,
//! so that nothing stays behind of a test that is broken off. Called by `tests/it`.

mod plan;
mod service;
mod watch;

use std::collections::VecDeque;
use std::fs;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use plan::{STATE_DIR, Sign, Step, Victim};
use service::{End, Process};
use watch::{Deed, Files, Journal};

/// A sign comes within a publication, which takes 12 s under emulation and several times that on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the agent says when it serves.
const SERVING: &str = "tinderbox: serving on";

fn main() -> Result<()> {
    let plan = std::env::args().nth(1).context("usage: step-killer JSON")?;
    let steps: VecDeque<Step> = serde_json::from_str(&plan).context("understand the plan")?;
    let files = Files::new()?;
    let mut killer =
        Killer { steps, seen: 0, files: &files, dying: None, restarts: false, since: Instant::now() };
    let mut journal = Journal::follow()?;
    killer.begin()?;
    println!("{}", json!({ "armed": true }));
    while !killer.has_done() {
        killer.wait(&mut journal)?;
    }
    Ok(())
}

struct Killer<'a> {
    /// The present one first.
    steps: VecDeque<Step>,
    /// How many of its signs were seen.
    seen: usize,
    files: &'a Files,
    dying: Option<Dying<'a>>,
    /// The agent was killed and does not serve yet.
    restarts: bool,
    /// When something was seen that was waited for.
    since: Instant,
}

/// An agent that was killed, with all that is to go with it.
struct Dying<'a> {
    report: Value,
    killed: Instant,
    end: End,
    /// Who gave the sign gets no further.
    _held: Option<Deed<'a>>,
}

impl<'a> Killer<'a> {
    fn has_done(&self) -> bool {
        self.steps.is_empty() && self.dying.is_none() && !self.restarts
    }

    fn expected(&self) -> Option<&Sign> {
        self.steps.front()?.when.get(self.seen).filter(|_| self.dying.is_none())
    }

    /// Begins the present step.
    fn begin(&mut self) -> Result<()> {
        match self.steps.front() {
            Some(step) if step.when.is_empty() => self.strike(None, service::agent),
            _ => self.watch(),
        }
    }

    fn watch(&self) -> Result<()> {
        self.expected().map_or(Ok(()), |sign| self.files.watch_for(sign))
    }

    /// Waits for something to happen, and acts on it.
    fn wait(&mut self, journal: &mut Journal) -> Result<()> {
        if let Some(dying) = self.dying.take() {
            if dying.end.has_come().context("look for processes that are left")? {
                tell(dying.report, dying.killed.elapsed());
                self.since = Instant::now();
                return self.begin();
            }
            self.dying = Some(dying);
        }
        let files = self.files;
        let stdin = std::io::stdin();
        let mut fds = vec![
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
            PollFd::new(files.as_fd(), PollFlags::POLLIN),
            PollFd::new(journal.as_fd(), PollFlags::POLLIN),
        ];
        let events = self.dying.iter().flat_map(|dying| &dying.end.events);
        fds.extend(events.map(|events| PollFd::new(events.as_fd(), PollFlags::POLLPRI)));
        let left = PATIENCE.saturating_sub(self.since.elapsed());
        if poll(&mut fds, PollTimeout::try_from(left)?).context("poll")? == 0 {
            let running = service::processes();
            let (step, sign) = (self.steps.front().map(|step| &step.name), self.expected());
            bail!("{step:?}, {sign:?}: it does not come, and {running:?} run");
        }
        let [input, done, said] = [0, 1, 2].map(|place| fds[place].any().unwrap_or(false));
        drop(fds);
        if input && stdin.lock().read(&mut [0]).context("read the input")? == 0 {
            bail!("broken off");
        }
        if done {
            for deed in files.deeds()? {
                self.consider(deed)?;
            }
        }
        if said {
            for line in journal.lines()? {
                self.hear(&line)?;
            }
        }
        Ok(())
    }

    fn consider(&mut self, deed: Deed<'a>) -> Result<()> {
        let Some(sign) = self.expected().filter(|sign| deed.is(sign)).cloned() else { return Ok(()) };
        let doer = Pid::from_raw(deed.pid());
        // What a vmm is known by, the agent may do beside it for another one.
        let strikes = |step: &Step| step.kill == Victim::Vmm && self.seen + 1 == step.when.len();
        if self.steps.front().is_some_and(strikes) && service::agent()? == doer {
            return Ok(());
        }
        self.advance(&sign, Some(deed), || Ok(doer))
    }

    fn hear(&mut self, line: &str) -> Result<()> {
        if line.contains(SERVING) && self.restarts {
            self.restarts = false;
            self.since = Instant::now();
            println!("{}", json!({ "serving": true }));
        }
        match self.expected() {
            // What a dead agent's functions said may come late: while none runs, it is theirs.
            Some(Sign::Says(_)) if self.restarts && service::agent().is_err() => Ok(()),
            Some(sign @ Sign::Says(words)) if line.contains(words.as_str()) => {
                let sign = sign.clone();
                self.advance(&sign, None, service::vmm_with_code)
            }
            _ => Ok(()),
        }
    }

    /// A sign was seen: another one is next, or somebody's death.
    fn advance(
        &mut self,
        sign: &Sign,
        deed: Option<Deed<'a>>,
        vmm: impl FnOnce() -> Result<Pid>,
    ) -> Result<()> {
        self.files.forget(sign)?;
        self.seen += 1;
        self.since = Instant::now();
        if self.expected().is_some() { self.watch() } else { self.strike(deed, vmm) }
    }

    /// The present step has come.
    fn strike(&mut self, deed: Option<Deed<'a>>, vmm: impl FnOnce() -> Result<Pid>) -> Result<()> {
        let Some(step) = self.steps.pop_front() else { return Ok(()) };
        self.seen = 0;
        let processes = service::processes();
        let report = report(&step.name, &processes);
        let killed = Instant::now();
        match step.kill {
            Victim::Vmm => {
                kill(vmm()?, Signal::SIGKILL).with_context(|| step.name.clone())?;
                tell(report, killed.elapsed());
                self.begin()
            }
            Victim::Agent => {
                let end = End::of(&processes)?;
                kill(service::agent()?, Signal::SIGKILL).with_context(|| step.name.clone())?;
                self.restarts = true;
                self.dying = Some(Dying { report, killed, end, _held: deed });
                Ok(())
            }
        }
    }
}

fn tell(mut report: Value, gone: Duration) {
    report["gone_ms"] = json!(gone.as_millis());
    println!("{report}");
}

/// What there is when a step has come.
fn report(name: &str, processes: &[Process]) -> Value {
    let programs: Vec<_> = processes.iter().map(|process| process.program.as_str()).collect();
    let snapshots = fs::read_dir(format!("{STATE_DIR}/snapshots")).into_iter().flatten();
    let snapshots: Vec<_> =
        snapshots.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
    json!({ "killed": name, "processes": programs, "snapshots": snapshots })
}
