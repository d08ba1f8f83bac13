//! The relay as a process: how xtask starts one, and the hidden `relay` command that it then is. In a session of its own
//! and without a lifetime of its own: it ends when QEMU is gone, whoever started it and whether they still run.

use super::{End, Network, PATIENCE, listen};
use crate::qemu::{Forward, put_down};
use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the machine's QEMU takes orders.
    #[arg(long)]
    control: PathBuf,
    /// HOST:GUEST, ports of the host's loopback and of the machine; 0 for any free one of the host's.
    #[arg(required = true, value_parser = parse)]
    forwards: Vec<Forward>,
}

fn parse(text: &str) -> std::result::Result<Forward, String> {
    let (host, guest) = text.split_once(':').ok_or("expected HOST:GUEST")?;
    let port = |text: &str| text.parse().map_err(|error| format!("{text}: {error}"));
    Ok(Forward { host: port(host)?, guest: port(guest)? })
}

/// Serves the machine whose frames come and go on standard input, once the ports it listens at are on standard output. A
/// machine that is stuck is ended, and what its processors were doing is on standard error.
pub(crate) fn run(args: &Args) -> Result<()> {
    // Ctrl-C in a terminal is not for us. Refused to the leader of a group, which has a session of its own then.
    let _ = rustix::process::setsid();
    let ports = listen(&args.forwards)?;
    let numbers = ports.iter().map(|port| Ok(port.listener.local_addr()?.port()));
    let numbers: Vec<u16> = numbers.collect::<Result<_>>().context("look up the ports")?;
    let frames = std::io::stdin().as_fd().try_clone_to_owned().context("take standard input")?;
    let network = Network::new(UnixStream::from(frames), ports, PATIENCE)?;
    let mut output = std::io::stdout();
    serde_json::to_writer(&mut output, &numbers).context("say which ports")?;
    writeln!(output).and_then(|()| output.flush()).context("say which ports")?;
    if network.run()? == End::Stuck {
        eprintln!("the machine answered nothing for {} s: it is stuck and ends now", PATIENCE.secs());
        eprintln!("{}", put_down(&args.control)?);
    }
    Ok(())
}

/// A relay that runs.
pub(crate) struct Relay {
    child: Child,
    ports: Vec<u16>,
}

impl Relay {
    /// Starts one for the machine at the other end of `frames`, which takes orders at `control`; its complaints go to `log`.
    pub(crate) fn start(
        frames: UnixStream,
        forwards: &[Forward],
        control: &Path,
        log: File,
    ) -> Result<Relay> {
        // This program, even when cargo has put another one in its place meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg("relay").stdin(OwnedFd::from(frames)).stdout(Stdio::piped()).stderr(log);
        command.arg("--control").arg(control);
        command.args(forwards.iter().map(|Forward { host, guest }| format!("{host}:{guest}")));
        let mut child = command.spawn().context("start the relay")?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line).context("hear of the relay's ports")?;
        }
        match serde_json::from_str(&line) {
            Ok(ports) => Ok(Relay { child, ports }),
            Err(_) => bail!("the relay did not start: {}", child.wait().context("wait for the relay")?),
        }
    }

    /// The host's ports, in the order of the forwards.
    pub(crate) fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Waits for the end that follows the machine's.
    pub(crate) fn reap(&mut self) -> Result<()> {
        self.child.wait().context("wait for the relay").map(drop)
    }
}
