//! A running QEMU: started, watched on its serial line until it says what is awaited, stopped. The serial line is a
//! socket pair, so waiting is reading: no polling, and a QEMU that dies is an end of file.

use super::{Machine, PROGRAM};
use crate::relay::Relay;
use anyhow::{Context as _, Result, bail};
use rustix::io::{FdFlags, fcntl_setfd};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Lines of the serial log that a failed boot shows.
const LAST_LINES: usize = 30;

/// How long QEMU's monitor may think about an answer.
const MONITOR_PATIENCE: Duration = Duration::from_secs(10);
/// Its greeting, two answers, and events between them.
const MONITOR_ANSWERS: usize = 16;

/// Who ends the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// It ends with us, whatever ends us.
    Ours,
    /// It stays when we leave, until [`quit`].
    Background,
}

/// A started machine.
pub(crate) struct Process {
    child: Child,
    relay: Relay,
    serial: BufReader<UnixStream>,
    serial_log: PathBuf,
    qemu_log: PathBuf,
    lifetime: Lifetime,
}

impl Machine {
    /// Starts QEMU.
    pub(crate) fn start(&self, lifetime: Lifetime) -> Result<Process> {
        self.prepare()?;
        let (ours, theirs) = UnixStream::pair().context("create the serial line")?;
        let mut command = match lifetime {
            // QEMU ends cleanly on this signal, and the kernel sends it however we die.
            Lifetime::Ours => wrapped("setpriv", &["--pdeathsig", "TERM"]),
            // Out of our session: Ctrl-C in the terminal is not for it.
            Lifetime::Background => wrapped("setsid", &[]),
        };
        let messages = File::create(self.qemu_log()).context("create QEMU's log")?;
        let (frames, uplink) = UnixStream::pair().context("create the machine's network")?;
        let control = Machine::control_socket(&self.dir);
        let relay = Relay::start(frames, &self.forwards, &control, messages.try_clone()?)
            .with_context(|| format!("reach the machine; {} says more", self.qemu_log().display()))?;
        // Only now: QEMU shall have this descriptor, and the relay must not, or it would never see QEMU's end.
        fcntl_setfd(&uplink, FdFlags::empty()).context("hand the network to QEMU")?;
        command.args(self.args(uplink.as_raw_fd())).stdin(OwnedFd::from(theirs));
        command.stdout(messages.try_clone()?).stderr(messages);
        let child = command.spawn().with_context(|| format!("start {PROGRAM}"))?;
        // Our copies of QEMU's ends: an end of file needs them gone.
        drop((command, uplink));
        Ok(Process {
            child,
            relay,
            serial: BufReader::new(ours),
            serial_log: self.serial_log(),
            qemu_log: self.qemu_log(),
            lifetime,
        })
    }
}

fn wrapped(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).arg(PROGRAM);
    command
}

impl Process {
    /// Reads the serial line until a line contains `text`. `seen` gets every line.
    pub(crate) fn wait_for_line(
        &mut self,
        text: &str,
        limit: Duration,
        mut seen: impl FnMut(&str),
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut line = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("nothing said \"{text}\" within {} s\n{}", limit.as_secs(), self.last_words());
            }
            self.serial.get_ref().set_read_timeout(Some(left)).context("limit a read")?;
            match self.serial.read_until(b'\n', &mut line) {
                Ok(0) => bail!("the machine ended\n{}", self.last_words()),
                Ok(_) => {
                    let shown = String::from_utf8_lossy(&line);
                    seen(shown.trim());
                    if shown.contains(text) {
                        return Ok(());
                    }
                    line.clear();
                }
                // The deadline above tells the two apart.
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error).context("read the serial line"),
            }
        }
    }

    /// The host's ports, in the order of the machine's forwards.
    pub(crate) fn ports(&self) -> &[u16] {
        self.relay.ports()
    }

    /// Keeps the serial line empty from now on: a full one would hold up the machine that writes to it. `ended` is called
    /// when the machine is gone.
    pub(crate) fn drain_serial(&self, ended: impl FnOnce() + Send + 'static) -> Result<()> {
        let mut serial = self.serial.get_ref().try_clone().context("share the serial line")?;
        serial.set_read_timeout(None).context("unlimit reads")?;
        std::thread::spawn(move || {
            // Ends with the machine, which closes its end.
            let _ = std::io::copy(&mut serial, &mut std::io::sink());
            ended();
        });
        Ok(())
    }

    /// Keeps the serial line empty until the machine ends by itself.
    pub(crate) fn wait(mut self) -> Result<()> {
        self.serial.get_ref().set_read_timeout(None).context("unlimit reads")?;
        let drained = std::io::copy(&mut self.serial, &mut std::io::sink());
        let status = self.child.wait().context("wait for QEMU")?;
        self.relay.reap()?;
        drained.context("read the serial line")?;
        if status.success() {
            return Ok(());
        }
        bail!("QEMU ended: {status}\n{}", self.last_words())
    }

    /// Cuts the power.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill().context("kill QEMU")?;
        self.child.wait().context("wait for QEMU")?;
        self.relay.reap()
    }

    /// The process, for messages.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The end of the serial log and of QEMU's messages, and where the rest is.
    pub(crate) fn last_words(&self) -> String {
        let mut text = String::new();
        for log in [&self.qemu_log, &self.serial_log] {
            let content = fs::read(log).unwrap_or_default();
            let content = String::from_utf8_lossy(&content);
            let lines: Vec<&str> = content.lines().filter(|line| is_telling(line)).collect();
            let from = lines.len().saturating_sub(LAST_LINES);
            text += &format!("--- {}\n{}\n", log.display(), lines[from..].join("\n"));
        }
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Ours {
            // Already dead is as good.
            let _ = self.child.kill();
            let _ = self.child.wait();
            let _ = self.relay.reap();
        }
    }
}

/// Emulation lacks a few features of the EPYC model and says so for each processor: noise in an error message.
fn is_telling(line: &str) -> bool {
    !line.trim().is_empty() && !line.contains("TCG doesn't support requested feature")
}

/// Whether a machine answers on the control socket of `dir`.
pub(crate) fn is_running(dir: &Path) -> bool {
    UnixStream::connect(Machine::control_socket(dir)).is_ok()
}

/// Ends the machine whose control socket is in `dir`, and waits until it is gone.
pub(crate) fn quit(dir: &Path, limit: Duration) -> Result<()> {
    let socket = Machine::control_socket(dir);
    let mut stream =
        UnixStream::connect(&socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(limit)).context("limit a read")?;
    let orders = "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n";
    stream.write_all(orders.as_bytes()).context("order QEMU to quit")?;
    // QEMU closes its end when it is done, with a reset when it has not read all that was said.
    match stream.read_to_end(&mut Vec::new()) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => {
            Err(error).context("wait for QEMU to quit")
        }
        _ => Ok(()),
    }
}

/// Kills the QEMU that listens at `control`; what it says of its processors before, as far as it still answers.
pub(crate) fn put_down(control: &Path) -> Result<String> {
    let stream = UnixStream::connect(control).with_context(|| format!("connect to {}", control.display()))?;
    let owner = rustix::net::sockopt::socket_peercred(&stream).context("ask whose socket it is")?.pid;
    let said = processors(&stream).unwrap_or_else(|error| format!("its QEMU does not say why: {error}"));
    // The connection keeps the number from being another process's, as far as it was QEMU's until now.
    rustix::process::kill_process(owner, rustix::process::Signal::KILL).context("kill QEMU")?;
    Ok(said)
}

/// The registers of all processors, in the words of QEMU's monitor.
fn processors(mut stream: &UnixStream) -> std::io::Result<String> {
    stream.set_read_timeout(Some(MONITOR_PATIENCE))?;
    stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
    let question = br#"{"execute":"human-monitor-command","arguments":{"command-line":"info registers -a"}}"#;
    stream.write_all(question)?;
    stream.write_all(b"\n")?;
    let answers = BufReader::new(stream).lines();
    for answer in answers.take(MONITOR_ANSWERS) {
        let answer: serde_json::Value = serde_json::from_str(&answer?)?;
        if let Some(text) = answer["return"].as_str() {
            return Ok(text.replace("\r\n", "\n"));
        }
    }
    Err(std::io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_left_out_of_error_messages() {
        assert!(!is_telling(
            "qemu: warning: TCG doesn't support requested feature: CPUID.0DH:EAX.xsavec [bit 1]"
        ));
        assert!(!is_telling("  "));
        assert!(is_telling("qemu: could not open disk"));
    }
}
