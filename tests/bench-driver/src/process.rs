//! A VMM process whose console is its standard output.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Lines kept to explain a failure.
const KEPT_LINES: usize = 20;

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

    /// Reads the console up to a line that contains `words`.
    pub(crate) fn wait_for_line(&mut self, words: &str) -> Result<()> {
        let mut kept = VecDeque::new();
        let mut line = Vec::new();
        while self.console.read_until(b'\n', &mut line).context("read the probe's console")? > 0 {
            let text = String::from_utf8_lossy(&line).into_owned();
            if text.contains(words) {
                return Ok(());
            }
            if kept.len() == KEPT_LINES {
                kept.pop_front();
            }
            kept.push_back(text);
            line.clear();
        }
        bail!("the guest ended before {words:?}; its last lines: {kept:?}")
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
