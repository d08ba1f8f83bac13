//! Runs programs: output goes to a log, its last line to the progress display, and a failure shows the last lines and
//! where the rest is. Not for servers that stay (QEMU): those are managed by who starts them.

use crate::progress::Step;
use anyhow::{Context as _, Result, bail};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a shell adds to the number of the signal that ended a program.
const SIGNALS: i32 = 128;

/// Lines shown when a program fails: the error and what led to it.
const LAST_LINES: usize = 25;

/// A program to run to its end.
pub(crate) struct Cmd {
    command: Command,
    log: Option<PathBuf>,
    step: Option<Step>,
    expected_lines: u64,
    stdin: Option<Vec<u8>>,
}

impl Cmd {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Cmd {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        Cmd { command, log: None, step: None, expected_lines: 0, stdin: None }
    }

    /// A program that must run as root: through `sudo -n` unless we are.
    pub(crate) fn privileged(program: impl AsRef<OsStr>) -> Cmd {
        if is_root() {
            return Cmd::new(program);
        }
        Cmd::new("sudo").arg("-n").arg("--").arg(program)
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Cmd {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, args: I) -> Cmd {
        self.command.args(args);
        self
    }

    pub(crate) fn dir(mut self, dir: impl AsRef<Path>) -> Cmd {
        self.command.current_dir(dir);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Cmd {
        self.command.env(name, value);
        self
    }

    pub(crate) fn env_remove(mut self, name: &str) -> Cmd {
        self.command.env_remove(name);
        self
    }

    /// Bytes the program reads from its standard input; they must fit a pipe's buffer (64 KiB).
    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Cmd {
        self.command.stdin(Stdio::piped());
        self.stdin = Some(bytes.into());
        self
    }

    /// A file as the program's standard input.
    pub(crate) fn stdin_file(mut self, file: fs::File) -> Cmd {
        self.command.stdin(file);
        self
    }

    /// Appends the output to this file.
    pub(crate) fn log(mut self, path: PathBuf) -> Cmd {
        self.log = Some(path);
        self
    }

    /// Shows the last line of output on this step.
    pub(crate) fn step(mut self, step: &Step) -> Cmd {
        self.step = Some(step.clone());
        self
    }

    /// Turns the step into a bar: the program usually writes about this many lines.
    pub(crate) fn expect_lines(mut self, lines: u64) -> Cmd {
        self.expected_lines = lines;
        self
    }

    /// Runs the program; anything but exit status 0 is an error.
    pub(crate) fn run(mut self) -> Result<()> {
        let shown = self.shown();
        let (reader, writer) = std::io::pipe().context("create a pipe")?;
        self.command.stdout(writer.try_clone()?).stderr(writer);
        let mut log = self.log.as_ref().map(|path| open_log(path, &shown)).transpose()?;
        let mut child = self.command.spawn().with_context(|| format!("start {shown}"))?;
        // Our copies of the pipe's writing end are in the command: without them gone the reading below never ends.
        self.command.stdout(Stdio::null()).stderr(Stdio::null());
        feed(&mut child, self.stdin.take())?;

        let mut last: VecDeque<String> = VecDeque::with_capacity(LAST_LINES);
        let mut reader = BufReader::new(reader);
        let (mut line, mut count) = (Vec::new(), 0);
        while reader.read_until(b'\n', &mut line).context("read a program's output")? > 0 {
            if let Some(log) = &mut log {
                log.write_all(&line).context("write a log")?;
            }
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            count += 1;
            self.show(&text, count);
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(text);
        }
        let status = child.wait().with_context(|| format!("wait for {shown}"))?;
        if status.success() {
            return Ok(());
        }
        let lines: Vec<String> = last.into();
        let log = self.log.map_or(String::new(), |path| format!("\nwhole output: {}", path.display()));
        bail!("{shown}: {status}\n{}{log}", lines.join("\n"))
    }

    /// Runs the program and returns its standard output; its standard error is shown only in the error.
    pub(crate) fn read(mut self) -> Result<String> {
        let shown = self.shown();
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().with_context(|| format!("start {shown}"))?;
        feed(&mut child, self.stdin.take())?;
        let output = child.wait_with_output().with_context(|| format!("wait for {shown}"))?;
        if !output.status.success() {
            bail!("{shown}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
        }
        String::from_utf8(output.stdout).with_context(|| format!("output of {shown}"))
    }

    /// Whether the program exists, runs and ends with status 0; its output is dropped.
    pub(crate) fn succeeds(mut self) -> bool {
        let status = self.command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }

    /// Runs the program and returns its exit status, as a shell would have it; its output is dropped.
    pub(crate) fn code(mut self) -> Result<i32> {
        let shown = self.shown();
        let status = self.command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let status = status.with_context(|| format!("start {shown}"))?;
        Ok(status.code().unwrap_or(SIGNALS + status.signal().unwrap_or_default()))
    }

    fn show(&self, text: &str, count: u64) {
        if let Some(step) = &self.step {
            step.note(text);
            if self.expected_lines > 0 {
                step.at(count, self.expected_lines);
            }
        }
    }

    /// The program and its arguments, as a user would type them.
    fn shown(&self) -> String {
        let words: Vec<OsString> = std::iter::once(self.command.get_program().to_owned())
            .chain(self.command.get_args().map(OsStr::to_owned))
            .collect();
        words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }
}

/// Whether we may do what root may.
pub(crate) fn is_root() -> bool {
    // The owner of our own /proc entry is our effective user.
    std::os::unix::fs::MetadataExt::uid(&match fs::metadata("/proc/self") {
        Ok(meta) => meta,
        Err(_) => return false,
    }) == 0
}

fn feed(child: &mut std::process::Child, bytes: Option<Vec<u8>>) -> Result<()> {
    if let (Some(mut stdin), Some(bytes)) = (child.stdin.take(), bytes) {
        stdin.write_all(&bytes).context("write to a program's input")?;
    }
    Ok(())
}

fn open_log(path: &Path, title: &str) -> Result<fs::File> {
    let file = fs::OpenOptions::new().create(true).append(true).open(path);
    let mut file = file.with_context(|| format!("open the log {}", path.display()))?;
    writeln!(file, "\n### {title}").context("write a log")?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_command_the_last_lines_and_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        let cmd = Cmd::new("sh").arg("-c").arg("seq 1 100; echo gone >&2; exit 3").log(log.clone());
        let message = format!("{:#}", cmd.run().unwrap_err());
        assert!(message.contains("exit status: 3"), "{message}");
        assert!(message.contains("100\ngone"), "{message}");
        assert!(!message.contains("\n50\n"), "{message}");
        assert!(message.contains("x.log"), "{message}");
        assert!(fs::read_to_string(log).unwrap().contains("\n50\n"));
    }

    #[test]
    fn standard_input_reaches_the_program_and_its_output_comes_back() {
        assert_eq!(Cmd::new("tr").args(["a-z", "A-Z"]).stdin("abc").read().unwrap(), "ABC");
    }
}
