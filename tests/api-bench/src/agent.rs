//! An agent that serves on this machine. It finds no launcher and no gateway, and needs neither until a function is called.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    Plan,
    signed::{KEY, SECRET},
};

/// What it says when it serves, with its address behind.
const READY: &str = "tinderbox: serving on ";
/// A page of `/proc/PID/statm`.
const PAGE: u64 = 4096;

/// The process; it ends with this.
pub(crate) struct Agent {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl Agent {
    /// Starts it with what it finds of an earlier one's state, and returns when it serves; `more` is of its configuration.
    pub(crate) fn start(plan: &Plan, more: &str) -> Result<Self> {
        let config = plan.state_dir.join("agent.toml");
        // Where it listens it says: any port that is free. Memory for sandboxes it would have none to give.
        let text = format!(
            "listen = '127.0.0.1:0'\nmemory_mib = 256\nruntime_snapshots = false\nlib_dir = '{}'\nstate_dir = '{}'\n\
             [[keys]]\naccess_key_id = '{KEY}'\nsecret_access_key = '{SECRET}'\n{more}",
            plan.lib_dir.display(),
            plan.state_dir.display()
        );
        fs::write(&config, text).context("write the agent's configuration")?;
        let mut process = Command::new(plan.lib_dir.join("host-agent"))
            .args(["serve", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start the agent")?;
        let output = process.stderr.take().context("the agent's output")?;
        let mut said = Vec::new();
        let mut lines = BufReader::new(output).lines();
        while let Some(Ok(line)) = lines.next() {
            if let Some((_, address)) = line.split_once(READY) {
                let address = address.trim().parse().with_context(|| format!("an address: {line}"))?;
                // What it says later is read, too: a full pipe would hold it up.
                // It notes each event that it drops, and a million of them are no help to anybody.
                let lines = lines.map_while(Result::ok).filter(|line| !line.contains(" INFO "));
                std::thread::spawn(move || lines.for_each(|line| eprintln!("{line}")));
                return Ok(Self { process, address });
            }
            said.push(line);
        }
        bail!("the agent did not come up: {}", said.join("\n"))
    }

    /// What it has of the machine's memory, shared pages included.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.process.id()))
            .context("read the agent's memory")?;
        let pages: u64 = text.split(' ').nth(1).context("statm has fields")?.parse().context("a number")?;
        Ok(pages * PAGE)
    }

    /// The most that it has had of that.
    pub(crate) fn largest_bytes(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.id()))
            .context("read the agent's status")?;
        let kib = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        Ok(kib.context("status has the line")?.parse::<u64>().context("a number")? * 1024)
    }

    /// Time that its threads had on a processor so far, seconds.
    pub(crate) fn cpu_s(&self) -> Result<f64> {
        let mut total_ns = 0;
        let threads = format!("/proc/{}/task", self.process.id());
        for thread in fs::read_dir(threads).context("list the agent's threads")? {
            let text = fs::read_to_string(thread?.path().join("schedstat")).context("read schedstat")?;
            total_ns += text.split(' ').next().unwrap_or_default().parse::<u64>().context("a number")?;
        }
        Ok(total_ns as f64 / 1e9)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Nothing of it is needed any more, however it ends.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
