//! What a node's pool is set up with, from the agent's configuration and the machine.

use std::{num::NonZeroU32, path::PathBuf, sync::Arc, thread, time::Duration};

use anyhow::{Context as _, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{
    chunks::Chunks,
    config::Config,
    disk::Disk,
    functions::runtimes::Runtimes,
    logs::LogStore,
    network::Network,
    sandbox::{machine, policy::Limits},
    snapshots::MAX_RUNTIME_SNAPSHOTS,
};

/// Starts at a time for each processor. A start is computing from the VMM's exec to the end of the runtime's imports:
/// more of them at once would end no sooner and bring all of them nearer to their time limits.
const STARTS_PER_CPU: usize = 1;

/// Starts at a time on the smallest node, so that one slow start does not hold up other versions'.
const MIN_STARTS: usize = 2;

/// Part of the init limit after which a start gives its slot back: it has had its share of computing.
const INIT_SLOT_DIVISOR: u32 = 5;

/// How long a machine may take to its guest's hello. It takes a tenth of a second on hardware, and seconds where
/// KVM is emulated and several start at once.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long running invocations may take to end at shutdown: with [`super::node`]'s time to reap, within the 15 s that
/// the unit's `TimeoutStopSec` gives the agent.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);

/// Memory that is left to the agent and the system when `memory_mib` is not configured: events and answers in flight,
/// and the page cache of the images that every sandbox reads.
const NODE_RESERVE_MIB: u64 = 384;

/// Part of the node's memory for sandboxes that blank machines may take. Their guests' memory is untouched, so it is
/// only the processes that count.
const BLANK_SHARE: u64 = 64;

/// What a node's pool is set up with.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Holds `vmm`, `guest/` and `runtimes/`.
    pub(super) lib_dir: PathBuf,
    /// Images there are of runtimes, and which serves which.
    pub(super) images: Runtimes,
    /// Where the launcher listens.
    pub(super) launcher: PathBuf,
    /// Where images of /tmp are made.
    pub(super) scratch_dir: PathBuf,
    /// Where they lie.
    pub(super) disk: Arc<Disk>,
    /// What sandboxes read.
    pub(super) chunks: Arc<Chunks>,
    /// Where their lines go.
    pub(super) logs: Arc<LogStore>,
    /// What they have of the network.
    pub(super) network: Arc<Network>,
    /// Where snapshots and their key are kept.
    pub(super) state_dir: PathBuf,
    /// Memory, starts, concurrency, idle time.
    pub(super) limits: Limits,
    /// How long a machine may take to its guest's hello.
    pub(super) boot_timeout: Duration,
    /// Limit of one init.
    pub(super) init_timeout: Duration,
    /// Limit of one restore, from the load to the runtime's next request.
    pub(super) restore_timeout: Duration,
    /// Memory for which a function that serves has one processor.
    pub(super) memory_mib_per_cpu: NonZeroU32,
    /// Most machines that wait for what they will be.
    pub(super) blank_limit: usize,
    /// Most snapshots of runtimes that are kept; none: none are made either.
    pub(super) runtime_snapshots: usize,
    /// How long running invocations may take to end when the node is shut down.
    pub(super) drain_timeout: Duration,
}

impl Settings {
    /// As the configuration says, and the machine where it says nothing.
    pub(super) fn for_node(
        config: &Config,
        (disk, chunks, logs): (Arc<Disk>, Arc<Chunks>, Arc<LogStore>),
        network: Arc<Network>,
    ) -> anyhow::Result<Self> {
        let memory_mib = match config.memory_mib {
            Some(memory_mib) => memory_mib,
            None => available_mib()?.saturating_sub(NODE_RESERVE_MIB),
        };
        ensure!(memory_mib > 0, "this machine has no memory for sandboxes beside {NODE_RESERVE_MIB} MiB");
        let blank_limit = usize::try_from(memory_mib / BLANK_SHARE / machine::VMM_MEMORY_MIB).unwrap_or(0);
        let memory_mib = memory_mib - blank_limit as u64 * machine::VMM_MEMORY_MIB;
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            lib_dir: config.lib_dir.clone(),
            images: Runtimes::find(&config.lib_dir, config.runtime_stand_ins),
            launcher: jail::launch::SOCKET.into(),
            scratch_dir: config.state_dir.join("scratch"),
            disk,
            chunks,
            logs,
            network,
            state_dir: config.state_dir.clone(),
            limits: Limits {
                memory_mib,
                max_starting: (cpus * STARTS_PER_CPU).max(MIN_STARTS),
                starts_of_version: cpus * STARTS_PER_CPU,
                account_concurrency: config.concurrency.account as usize,
                idle_timeout: config.idle_timeout,
                growth: config.concurrency.growth,
            },
            boot_timeout: BOOT_TIMEOUT,
            init_timeout: config.init_timeout,
            restore_timeout: config.restore_timeout,
            memory_mib_per_cpu: config.memory_mib_per_cpu,
            blank_limit,
            runtime_snapshots: if config.runtime_snapshots { MAX_RUNTIME_SNAPSHOTS } else { 0 },
            drain_timeout: DRAIN_TIMEOUT,
        })
    }

    /// How long an init counts against the bound on starts.
    pub(super) fn init_slot(&self) -> Duration {
        self.init_timeout / INIT_SLOT_DIVISOR
    }
}

/// Lets the agent open as many files as it may at all: a sandbox takes six, a client one, and the soft limit that
/// systemd sets (1,024) is for programs that use `select`.
pub(super) fn raise_open_files() -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit of open files")?;
    if soft == hard {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of open files")
}

/// `MemAvailable`: what the kernel can give without swapping.
fn available_mib() -> anyhow::Result<u64> {
    let path = "/proc/meminfo";
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    parse_available_mib(&text).with_context(|| format!("find MemAvailable in {path}"))
}

fn parse_available_mib(meminfo: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read() {
        let text = "MemTotal:       24685392 kB\nMemFree: 1 kB\nMemAvailable:   2048000 kB\n";
        assert_eq!(parse_available_mib(text), Some(2000));
        assert_eq!(parse_available_mib("MemTotal: 1 kB\n"), None);
    }
}
