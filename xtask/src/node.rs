//! An appliance in a virtual machine: which image, which configuration, which ports, and when it is up. `run`, `dev`, the
//! tests and the benchmark all boot through here; the `node` command is how the tests, another process, do.

use crate::context::Context;
use crate::image::{self, Netboot, Profile};
use crate::lambda::Endpoint;
use crate::lost;
use crate::payload::Payload;
use crate::qemu::accel::{Accelerator, Cores};
use crate::qemu::{Boot, Credential, Forward, Lifetime, Machine, Process};
use anyhow::{Context as _, Result, bail};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where the agent listens inside the machine, and sshd in a devtools image.
const API_PORT: u16 = 9000;
const SSH_PORT: u16 = 22;
/// The host chooses.
const ANY_PORT: u16 = 0;
/// The line the agent writes when it serves.
const READY: &str = "tinderbox: serving on";
/// From power-on to the agent: 10 to 20 s under emulation on an idle machine, more on a busy one, hours for nobody.
const BOOT_LIMIT: Duration = Duration::from_secs(600);
/// The agent's own limits for a function's init and for a restore are Lambda's 10 s; an emulated processor inside an emulated processor
/// needs more for the same work.
const EMULATED_INIT_TIMEOUT_MS: u32 = 60_000;
/// As for time limits: a function of the tests has more than a processor, one with the least memory less.
const EMULATED_MIB_PER_CPU: u32 = 160;
const DEFAULT_MEMORY_MIB: u32 = 4096;
/// Most that a user's node has unless told otherwise: room for thirty small functions at once.
const USERS_MEMORY_MIB: u32 = 8192;
const CPUS: u32 = 2;

/// What loads the system.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Way {
    /// QEMU loads kernel and initrd: the fastest.
    Direct,
    /// UEFI firmware starts the disk image.
    Uefi,
}

/// Whether clients must sign.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Auth {
    Required,
    Optional,
}

/// A node to boot.
pub(crate) struct Spec {
    pub(crate) way: Way,
    pub(crate) profile: Profile,
    /// The best this machine has, unless said otherwise.
    pub(crate) accelerator: Option<Accelerator>,
    /// The API's port on the host's loopback; any free one when absent.
    pub(crate) port: Option<u16>,
    pub(crate) memory_mib: u32,
    pub(crate) cores: Cores,
    /// What the agent may give to sandboxes; what it finds free when absent.
    pub(crate) sandbox_memory_mib: Option<u32>,
    /// Whether functions may start as clones of their runtimes; tests and figures of boots want none.
    pub(crate) runtime_snapshots: bool,
    pub(crate) auth: Auth,
    pub(crate) state: PathBuf,
    /// Public key that may log in to a devtools image, reachable at a free port.
    pub(crate) ssh_key: Option<String>,
    /// A tree laid over the system of a direct boot: what a benchmark adds.
    pub(crate) extra: Option<PathBuf>,
    /// In place of the disk image that is built.
    pub(crate) disk: Option<PathBuf>,
    /// Logs and sockets of the machine.
    pub(crate) dir: PathBuf,
    pub(crate) lifetime: Lifetime,
}

impl Spec {
    /// A production node on this state disk that dies with us.
    pub(crate) fn new(state: &Path, dir: &Path) -> Spec {
        Spec {
            way: Way::Direct,
            profile: Profile::Production,
            accelerator: None,
            port: None,
            memory_mib: DEFAULT_MEMORY_MIB,
            cores: Cores::Whole,
            sandbox_memory_mib: None,
            runtime_snapshots: true,
            auth: Auth::Required,
            state: state.to_owned(),
            ssh_key: None,
            extra: None,
            disk: None,
            dir: dir.to_owned(),
            lifetime: Lifetime::Ours,
        }
    }
}

/// Memory of a node that a user runs, MiB: half of this machine's, within bounds.
pub(crate) fn users_memory_mib() -> u32 {
    let found = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    u32::try_from(total_mib(&found) / 2).unwrap_or(u32::MAX).clamp(DEFAULT_MEMORY_MIB, USERS_MEMORY_MIB)
}

/// What /proc/meminfo says there is in all, MiB; nothing when it says nothing.
fn total_mib(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.strip_suffix(" kB"));
    total.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// A node that serves.
pub(crate) struct Node {
    pub(crate) endpoint: Endpoint,
    pub(crate) ssh_port: Option<u16>,
    pub(crate) serial_log: PathBuf,
    pub(crate) accelerator: Accelerator,
    /// What the serial line said until the agent served.
    pub(crate) early: Vec<String>,
    pub(crate) process: Process,
}

/// Builds what is missing, boots, and returns when the agent serves.
pub(crate) fn boot(ctx: &Context, spec: &Spec) -> Result<Node> {
    spec.port.map_or(Ok(()), check_free)?;
    crate::setup::ensure_packages(ctx)?;
    let payload = Payload::ensure(ctx)?;
    let accelerator = match spec.accelerator {
        Some(accelerator) => accelerator,
        None => {
            let (accelerator, reason) = Accelerator::detect(ctx)?;
            ctx.progress.say(format!("running by {}: {reason}", accelerator.name()));
            accelerator
        }
    };
    let boot = match spec.way {
        Way::Direct => {
            let Netboot { kernel, initrd } = Netboot::ensure(ctx, spec.profile, &payload)?;
            let initrd = match &spec.extra {
                Some(tree) => image::with_tree(&initrd, tree, &spec.dir.join("initrd"))?,
                None => initrd,
            };
            Boot::Direct { kernel, initrd, command_line: image::command_line(accelerator) }
        }
        Way::Uefi => Boot::Uefi {
            disk: match &spec.disk {
                Some(disk) => disk.clone(),
                None => image::disk(ctx, &payload)?,
            },
        },
    };
    let mut forwards = vec![Forward { host: spec.port.unwrap_or(ANY_PORT), guest: API_PORT }];
    let mut credentials =
        vec![Credential { name: "tinderbox.agent", value: agent_config(spec, accelerator)?.into_bytes() }];
    if let Some(key) = &spec.ssh_key {
        forwards.push(Forward { host: ANY_PORT, guest: SSH_PORT });
        credentials.push(Credential { name: "ssh.authorized_keys.root", value: key.clone().into_bytes() });
    }
    let machine = Machine {
        boot,
        accelerator,
        cpus: CPUS,
        cores: spec.cores,
        memory_mib: spec.memory_mib,
        state: spec.state.clone(),
        forwards,
        credentials,
        dir: spec.dir.clone(),
    };
    let step = ctx.progress.step("booting the appliance");
    let mut process = machine.start(spec.lifetime)?;
    let mut early = Vec::new();
    let keep = |line: &str| {
        step.note(line);
        early.push(line.to_owned());
    };
    if let Err(error) = process.wait_for_line(READY, BOOT_LIMIT, keep) {
        process.kill()?;
        return Err(error.context("the appliance did not come up"));
    }
    let (port, ssh_port) = match process.ports() {
        [port] => (*port, None),
        [port, ssh_port] => (*port, Some(*ssh_port)),
        ports => bail!("the relay listens at {ports:?}"),
    };
    let endpoint = Endpoint::new(port, spec.auth);
    endpoint.check_health().context("the agent said it serves, but does not answer")?;
    step.done();
    Ok(Node { endpoint, ssh_port, serial_log: machine.serial_log(), accelerator, early, process })
}

/// The part of the agent's configuration that is this node's own.
fn agent_config(spec: &Spec, accelerator: Accelerator) -> Result<String> {
    let mut config = toml::Table::new();
    config.insert("listen".into(), format!("0.0.0.0:{API_PORT}").into());
    let key = toml::Table::from_iter([
        ("access_key_id".to_owned(), crate::lambda::ACCESS_KEY.into()),
        ("secret_access_key".to_owned(), crate::lambda::SECRET_KEY.into()),
    ]);
    config.insert("keys".into(), vec![key].into());
    if spec.auth == Auth::Optional {
        config.insert("auth".into(), "optional".into());
    }
    if let Some(memory) = spec.sandbox_memory_mib {
        config.insert("memory_mib".into(), i64::from(memory).into());
    }
    if let Some(port) = spec.port {
        // What clients of the node's URLs see is what is forwarded, not where the agent listens.
        let base = toml::Table::from_iter([("base".to_owned(), format!("http://localhost:{port}").into())]);
        config.insert("function_urls".into(), base.into());
    }
    if !spec.runtime_snapshots {
        config.insert("runtime_snapshots".into(), false.into());
    }
    // A counted node's clock does not run ahead of its processor: there the agent's limits are what they are elsewhere.
    if accelerator == Accelerator::Emulated {
        config.insert("init_timeout_ms".into(), i64::from(EMULATED_INIT_TIMEOUT_MS).into());
        config.insert("restore_timeout_ms".into(), i64::from(EMULATED_INIT_TIMEOUT_MS).into());
        config.insert("memory_mib_per_cpu".into(), i64::from(EMULATED_MIB_PER_CPU).into());
    }
    toml::to_string(&config).context("write the agent's configuration")
}

/// Fails, saying what to do, when something listens on the port.
pub(crate) fn check_free(port: u16) -> Result<()> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("port {port} of 127.0.0.1 is in use: choose another with --port, or stop what uses it")
        }
        Err(error) => Err(error).with_context(|| format!("port {port} of 127.0.0.1 cannot be used")),
    }
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What loads the system.
    #[arg(long, value_enum, default_value = "direct")]
    boot: Way,
    /// The state disk, made when absent.
    #[arg(long)]
    state: PathBuf,
    /// Memory the agent may give to sandboxes, MiB.
    #[arg(long)]
    sandbox_memory_mib: Option<u32>,
    /// As much memory as a node of `run` has.
    #[arg(long)]
    users_memory: bool,
    /// In place of the disk image that is built.
    #[arg(long, requires = "boot")]
    disk: Option<PathBuf>,
    /// Boot every function that has no snapshot of its own.
    #[arg(long)]
    no_runtime_snapshots: bool,
}

/// Boots, says where in one line of JSON, and cuts the power at the end of standard input.
pub(crate) fn run(args: &Args, ctx: &Context) -> Result<()> {
    let state = std::path::absolute(&args.state).context("resolve the state disk's path")?;
    let dir = ctx.cache.process_dir("node")?;
    let spec = Spec {
        way: args.boot,
        memory_mib: if args.users_memory { users_memory_mib() } else { DEFAULT_MEMORY_MIB },
        sandbox_memory_mib: args.sandbox_memory_mib,
        runtime_snapshots: !args.no_runtime_snapshots,
        disk: args.disk.clone(),
        ..Spec::new(&state, &dir)
    };
    let node = boot(ctx, &spec)?;
    let ready = serde_json::json!({
        "endpoint": node.endpoint.url(),
        "serial_log": node.serial_log,
        "emulated": node.accelerator.is_slow(),
    });
    let mut output = std::io::stdout();
    writeln!(output, "{ready}").and_then(|()| output.flush()).context("say where the node is")?;
    let note = lost::note(&state);
    let words =
        format!("the machine of {} ended by itself, see {}", state.display(), node.serial_log.display());
    let cut = Arc::new(AtomicBool::new(false));
    let is_cut = Arc::clone(&cut);
    node.process.drain_serial(move || {
        if !is_cut.load(Ordering::SeqCst) {
            eprintln!("{words}");
            // Without the note its tests fail, and nothing worse.
            let _ = std::fs::write(note, words);
        }
    })?;
    std::io::stdin().read_to_end(&mut Vec::new()).context("wait for the end of standard input")?;
    cut.store(true, Ordering::SeqCst);
    node.process.kill()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_node_has_half_of_the_machine_within_bounds() {
        assert_eq!(total_mib("MemTotal:       25165824 kB\nMemFree: 1 kB\n"), 24_576);
        assert_eq!(total_mib("MemFree: 1 kB\n"), 0);
        assert!((DEFAULT_MEMORY_MIB..=USERS_MEMORY_MIB).contains(&users_memory_mib()));
    }

    #[test]
    fn the_agent_learns_its_keys_and_longer_limits_when_emulated() {
        let spec = Spec { sandbox_memory_mib: Some(2048), ..Spec::new(Path::new("/s"), Path::new("/d")) };
        let config = agent_config(&spec, Accelerator::Emulated).unwrap();
        let config: toml::Table = config.parse().unwrap();
        assert_eq!(config["listen"].as_str(), Some("0.0.0.0:9000"));
        assert_eq!(config["keys"][0]["access_key_id"].as_str(), Some("test"));
        assert_eq!(config["memory_mib"].as_integer(), Some(2048));
        assert_eq!(config["init_timeout_ms"].as_integer(), Some(60_000));
        assert!(!config.contains_key("auth") && !config.contains_key("runtime_snapshots"));
        let spec = Spec { runtime_snapshots: false, port: Some(9321), ..spec };
        let config: toml::Table = agent_config(&spec, Accelerator::Counted).unwrap().parse().unwrap();
        assert!(!config.contains_key("init_timeout_ms"));
        assert_eq!(config["runtime_snapshots"].as_bool(), Some(false));
        assert_eq!(config["function_urls"]["base"].as_str(), Some("http://localhost:9321"));
    }

    #[test]
    fn a_port_in_use_is_refused_with_advice() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let message = format!("{:#}", check_free(listener.local_addr().unwrap().port()).unwrap_err());
        assert!(message.contains("in use") && message.contains("--port"), "{message}");
    }
}
