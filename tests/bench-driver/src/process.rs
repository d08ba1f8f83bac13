//! A VMM process whose console is its standard output.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use nix::{
    poll::{PollFd, PollFlags, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long a guest may say nothing, ms: emulated ones take seconds to their first line.
const PATIENCE_MS: u16 = 30_000;
/// Guests in a row that may fall silent.
const MAX_SILENT: usize = 2;
/// Lines kept to explain a failure.
const KEPT_LINES: usize = 20;

use crate::note;

/// A running VMM; killed and reaped when dropped.
pub(crate) struct Probe {
    child: Child,
    console: BufReader<ChildStdout>,
}

impl Probe {
    /// Starts `program` with `arguments`.
    pub(crate) fn spawn(program: &Path, arguments: &[PathBuf]) -> Result<Self> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let console = child.stdout.take().context("the probe has no standard output")?;
        Ok(Self { child, console: BufReader::new(console) })
    }

    /// As [`wait_for_line`], of the process's console.
    pub(crate) fn wait_for_line(&mut self, words: &str) -> Result<Guest> {
        wait_for_line(&mut self.console, words)
    }

    /// Stops the process so that it can be looked at; its id.
    pub(crate) fn stop(&mut self) -> Result<i32> {
        let pid = i32::try_from(self.child.id()).context("process id")?;
        kill(Pid::from_raw(pid), Signal::SIGSTOP).context("stop the probe")?;
        Ok(pid)
    }

    /// Ends the process.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.child.kill().context("end the probe")?;
        self.child.wait().context("reap the probe")?;
        Ok(())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // Both fail only when the process is reaped already, which is what they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What became of a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Guest {
    /// It said what was waited for.
    Spoke,
    /// It says nothing more. Guests of other kernels than ours do that under emulation: `docs/adr/0010`.
    Silent,
}

/// Reads a guest's console up to a line that contains `words`.
pub(crate) fn wait_for_line<R: Read + AsFd>(console: &mut BufReader<R>, words: &str) -> Result<Guest> {
    let mut kept = VecDeque::new();
    let mut line = Vec::new();
    loop {
        if !console.buffer().contains(&b'\n') {
            let mut waits = [PollFd::new(console.get_ref().as_fd(), PollFlags::POLLIN)];
            if poll(&mut waits, PATIENCE_MS).context("wait for the guest's console")? == 0 {
                note(&format!("a guest fell silent before {words:?}; its last lines: {kept:?}"));
                return Ok(Guest::Silent);
            }
        }
        if console.read_until(b'\n', &mut line).context("read the guest's console")? == 0 {
            bail!("the guest ended before {words:?}; its last lines: {kept:?}");
        }
        let text = String::from_utf8_lossy(&line).into_owned();
        if text.contains(words) {
            return Ok(Guest::Spoke);
        }
        if kept.len() == KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(text);
        line.clear();
    }
}

/// Tries until a guest does not fall silent on the way, [`MAX_SILENT`] more times at most.
pub(crate) fn until_it_speaks<T>(mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    for _ in 0..=MAX_SILENT {
        if let Some(found) = attempt()? {
            return Ok(found);
        }
    }
    bail!("one guest after the other falls silent")
}
