//! Tells the user what is being done: bars on a terminal, plain lines elsewhere (CI logs, pipes). No decisions here.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(120);
/// Without a terminal a long step says where it is this often: enough to see life, too little to flood a log.
const PLAIN_INTERVAL: Duration = Duration::from_secs(30);
/// A last line of output longer than this is cut before it is shown.
const NOTE_CHARS: usize = 100;

/// The display all steps of one run share.
pub(crate) struct Progress {
    bars: Option<MultiProgress>,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        let terminal = std::io::stderr().is_terminal();
        Progress { bars: terminal.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr())) }
    }

    /// Starts a step of unknown length, such as "building the guest kernel".
    pub(crate) fn step(&self, what: impl Into<String>) -> Step {
        let what = what.into();
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner().with_style(spinner_style()));
            bar.set_prefix(what.clone());
            bar.enable_steady_tick(TICK);
            bar
        });
        if bar.is_none() {
            eprintln!("==> {what}");
        }
        let now = Instant::now();
        Step {
            inner: Arc::new(Inner {
                what,
                bar,
                started: now,
                plain: Mutex::new(Plain { said: now, done: 0, total: 0 }),
            }),
        }
    }

    /// One line that stays on the screen, above any bar.
    pub(crate) fn say(&self, line: impl AsRef<str>) {
        match &self.bars {
            // A terminal that went away is no reason to stop a build.
            Some(bars) => drop(bars.println(line.as_ref())),
            None => eprintln!("{}", line.as_ref()),
        }
    }
}

/// One thing being done; shared by cloning. It ends with [`Step::done`]; dropped without it (an error), it disappears.
#[derive(Clone)]
pub(crate) struct Step {
    inner: Arc<Inner>,
}

struct Inner {
    what: String,
    bar: Option<ProgressBar>,
    started: Instant,
    plain: Mutex<Plain>,
}

struct Plain {
    said: Instant,
    done: u64,
    total: u64,
}

impl Step {
    /// Shows what the step is doing right now; the last call wins.
    pub(crate) fn note(&self, line: &str) {
        let line: String = line.trim().chars().take(NOTE_CHARS).collect();
        if let Some(bar) = &self.inner.bar {
            bar.set_message(line);
            return;
        }
        let mut plain = self.inner.plain.lock().unwrap_or_else(PoisonError::into_inner);
        if plain.said.elapsed() < PLAIN_INTERVAL {
            return;
        }
        plain.said = Instant::now();
        let seconds = self.inner.started.elapsed().as_secs();
        let share = if plain.total > 0 { format!(" {}/{}", plain.done, plain.total) } else { String::new() };
        eprintln!("    {} ({seconds} s{share}): {line}", self.inner.what);
    }

    /// From now on the step is a bar: `done` of about `total` units.
    pub(crate) fn at(&self, done: u64, total: u64) {
        if let Some(bar) = &self.inner.bar {
            if bar.length() != Some(total) {
                bar.set_style(bar_style());
                bar.set_length(total);
            }
            bar.set_position(done.min(total));
        }
        let mut plain = self.inner.plain.lock().unwrap_or_else(PoisonError::into_inner);
        (plain.done, plain.total) = (done, total);
    }

    /// Ends the step and leaves one line with the time it took.
    pub(crate) fn done(self) {
        let line = format!("    {}: {:.1} s", self.inner.what, self.inner.started.elapsed().as_secs_f64());
        match &self.inner.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn spinner_style() -> ProgressStyle {
    style(ProgressStyle::default_spinner(), "{spinner} {prefix} [{elapsed}] {wide_msg}")
}

fn bar_style() -> ProgressStyle {
    style(ProgressStyle::default_bar(), "{spinner} {prefix} [{elapsed}] {bar:24} {percent}% {wide_msg}")
}

/// A template is a constant; should one be wrong, the default style is still a progress display.
fn style(default: ProgressStyle, template: &str) -> ProgressStyle {
    default.clone().template(template).unwrap_or(default)
}
