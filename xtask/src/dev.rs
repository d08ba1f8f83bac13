//! `cargo xtask dev`: a devtools appliance that keeps running in the background, and programs changed inside it in
//! seconds. Its system lives in memory, so what is swapped in is gone with it; nothing here touches a shipped image.

use crate::cmd::Cmd;
use crate::context::Context;
use crate::hash;
use crate::image::Profile;
use crate::node::{self, Auth, Spec};
use crate::payload::Payload;
use crate::qemu::accel::Cores;
use crate::qemu::{self, Lifetime};
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// Folder of the cache with everything about the host: key, sockets, logs, state disk, record.
const DIR: &str = "dev";
/// Names another host than the usual one, so that two checkouts can have one each.
const NAME_VARIABLE: &str = "TINDERBOX_DEV_HOST";
const RECORD: &str = "host.json";
const STATE: &str = "state.img";
const LIB: &str = "usr/lib/tinderbox";
/// QEMU ends in milliseconds unless its disk is stuck.
const QUIT_LIMIT: Duration = Duration::from_secs(20);

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Boot the host unless it runs.
    Up {
        /// With a processor of one core that has two threads.
        #[arg(long)]
        two_threads: bool,
    },
    /// End it.
    Down,
    /// Say whether it runs, and where.
    Status,
    /// Run a command in it; its exit status becomes ours.
    Exec {
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Copy a file or folder into it.
    Push { local: PathBuf, remote: String },
    /// Build, copy in what changed, restart gateway, launcher and agent.
    Swap {
        /// Only this part.
        #[arg(value_enum)]
        part: Option<Part>,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Part {
    Vmm,
    Launcher,
    Gateway,
    HostAgent,
    GuestInit,
    Kernel,
}

impl Part {
    /// The file of the payload it is in.
    fn file(self) -> &'static str {
        match self {
            Part::Vmm => "vmm",
            Part::Launcher => "launcher",
            Part::Gateway => "gateway",
            Part::HostAgent => "host-agent",
            Part::GuestInit => "guest/initrd.cpio",
            Part::Kernel => "guest/vmlinux",
        }
    }
}

pub(crate) fn run(args: &Args, ctx: &Context) -> Result<()> {
    match &args.command {
        Action::Up { two_threads } => {
            let cores = if *two_threads { Cores::Shared } else { Cores::Whole };
            Host::ensure(ctx, cores).map(|host| ctx.progress.say(host.describe()))
        }
        Action::Down => down(ctx),
        Action::Status => {
            let host = Host::running(ctx)?;
            println!("{}", host.map_or("not running: cargo xtask dev up".to_owned(), |host| host.describe()));
            Ok(())
        }
        Action::Exec { command } => match Host::required(ctx)?.exec_here(command)? {
            0 => Ok(()),
            status => std::process::exit(status),
        },
        Action::Push { local, remote } => Host::required(ctx)?.push(local, remote),
        Action::Swap { part } => swap(ctx, *part),
    }
}

/// The folder of the host that this process is about, relative to the cache.
fn folder() -> String {
    match std::env::var(NAME_VARIABLE) {
        Ok(name) if !name.is_empty() => format!("{DIR}-{name}"),
        _ => DIR.to_owned(),
    }
}

/// The running host.
#[derive(Serialize, Deserialize)]
pub(crate) struct Host {
    pid: u32,
    endpoint: String,
    ssh_port: u16,
    key: PathBuf,
    serial_log: PathBuf,
    /// SHA-256 of each file under [`LIB`] in the host.
    files: BTreeMap<String, String>,
}

impl Host {
    /// The host that runs, if one does.
    pub(crate) fn running(ctx: &Context) -> Result<Option<Host>> {
        let dir = ctx.cache.dir(&folder())?;
        if !qemu::is_running(&dir) {
            return Ok(None);
        }
        let record = dir.join(RECORD);
        let text = match fs::read(&record) {
            // One that is coming up, or whose boot was broken off.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("read {}", record.display()))?,
        };
        serde_json::from_slice(&text).with_context(|| format!("understand {}", record.display())).map(Some)
    }

    /// When a host that came up after `since` ended without being told to, and what to say of it.
    pub(crate) fn lost(ctx: &Context, since: SystemTime) -> Result<Option<(SystemTime, String)>> {
        let dir = ctx.cache.dir(&folder())?;
        let Ok(record) = fs::metadata(dir.join(RECORD)) else { return Ok(None) };
        if record.modified()? < since || qemu::is_running(&dir) {
            return Ok(None);
        }
        // Its sockets went with it: the last change of the folder.
        let ended = fs::metadata(&dir)?.modified()?;
        Ok(Some((ended, format!("the test host in {} ended by itself", dir.display()))))
    }

    fn required(ctx: &Context) -> Result<Host> {
        Host::running(ctx)?.context("the test host does not run: start it with `cargo xtask dev up`")
    }

    /// The host, booted unless it runs.
    pub(crate) fn ensure(ctx: &Context, cores: Cores) -> Result<Host> {
        let step = ctx.progress.step("looking for the test host");
        let _lock = ctx.cache.lock(&folder(), &step)?;
        if let Some(host) = Host::running(ctx)? {
            return Ok(host);
        }
        let dir = ctx.cache.dir(&folder())?;
        remove(&dir.join(RECORD))?;
        if qemu::is_running(&dir) {
            qemu::quit(&dir, QUIT_LIMIT).context("end a test host whose boot was broken off")?;
        }
        let key = dir.join("key");
        if !key.exists() {
            Cmd::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "tinderbox-dev", "-f"])
                .arg(&key)
                .run()?;
        }
        let public = fs::read_to_string(key.with_extension("pub")).context("read the public key")?;
        let spec = Spec {
            profile: Profile::Devtools,
            cores,
            auth: Auth::Optional,
            ssh_key: Some(public),
            lifetime: Lifetime::Background,
            ..Spec::new(&dir.join(STATE), &dir)
        };
        let files = hashes(Payload::ensure(ctx)?.root())?;
        let node = node::boot(ctx, &spec)?;
        let host = Host {
            pid: node.process.id(),
            endpoint: node.endpoint.url(),
            ssh_port: node.ssh_port.context("a devtools node has an ssh port")?,
            key,
            serial_log: node.serial_log,
            files,
        };
        host.save(&dir)?;
        Ok(host)
    }

    fn save(&self, dir: &Path) -> Result<()> {
        let record = dir.join(RECORD);
        fs::write(&record, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("write {}", record.display()))
    }

    fn describe(&self) -> String {
        format!(
            "test host: {}, ssh port {}, QEMU {}, serial log {}\n  cargo xtask dev exec -- journalctl -u tinderbox-agent",
            self.endpoint,
            self.ssh_port,
            self.pid,
            self.serial_log.display()
        )
    }

    /// What ssh and scp need to reach the host: its key is new on every boot and the way to it never leaves loopback.
    fn ssh_options(&self) -> Vec<String> {
        // One connection for all that follow closely: agreeing on keys takes an emulated host ten times what a command does.
        let shared = self.key.with_file_name("ssh-%p");
        let shared = format!("ControlPath={}", shared.display());
        let options = [
            "ControlMaster=auto",
            &shared,
            "ControlPersist=60",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "IdentitiesOnly=yes",
        ];
        let mut args: Vec<String> =
            options.iter().flat_map(|option| ["-o".to_owned(), (*option).to_owned()]).collect();
        args.extend([
            "-o".into(),
            format!("Port={}", self.ssh_port),
            "-i".into(),
            self.key.display().to_string(),
        ]);
        args
    }

    /// Runs a shell command in the host and returns what it printed.
    pub(crate) fn exec(&self, command: &str) -> Result<String> {
        Cmd::new("ssh").args(self.ssh_options()).args(["root@127.0.0.1", "--", command]).read()
    }

    /// Runs a command in the host on our own standard streams.
    fn exec_here(&self, command: &[String]) -> Result<i32> {
        let quoted: Vec<String> = command.iter().map(|word| quote(word)).collect();
        let mut ssh = Command::new("ssh");
        ssh.args(self.ssh_options()).args(["root@127.0.0.1", "--"]).arg(quoted.join(" "));
        let status = ssh.status().context("start ssh")?;
        Ok(status.code().unwrap_or(255))
    }

    /// Copies a file or folder into the host.
    pub(crate) fn push(&self, local: &Path, remote: &str) -> Result<()> {
        // -O: the copy runs through scp itself, the image has no sftp server to spare.
        let target = format!("root@127.0.0.1:{remote}");
        Cmd::new("scp")
            .args(self.ssh_options())
            .args(["-q", "-r", "-p"])
            .arg(local)
            .arg(target)
            .read()
            .map(drop)
    }

    /// Replaces one file under [`LIB`]; a running program keeps the old one.
    fn replace(&self, local: &Path, name: &str) -> Result<()> {
        let target = format!("/{LIB}/{name}");
        let fresh = format!("{target}.new");
        self.push(local, &fresh)?;
        self.exec(&format!("mv {} {}", quote(&fresh), quote(&target))).map(drop)
    }
}

fn swap(ctx: &Context, part: Option<Part>) -> Result<()> {
    let mut host = Host::required(ctx)?;
    let payload = Payload::ensure(ctx)?;
    let wanted = hashes(payload.root())?;
    let chosen = |name: &str| part.is_none_or(|part| part.file() == name);
    let changed: Vec<(String, String)> = wanted
        .into_iter()
        .filter(|(name, hash)| chosen(name) && host.files.get(name) != Some(hash))
        .collect();
    if changed.is_empty() {
        ctx.progress.say("nothing changed");
        return Ok(());
    }
    let step = ctx.progress.step("swapping");
    for (name, hash) in changed {
        step.note(&name);
        host.replace(&payload.root().join(LIB).join(&name), &name)?;
        ctx.progress.say(format!("swapped {name}"));
        host.files.insert(name, hash);
    }
    // The launcher has the vmm open that it found when it started.
    host.exec(
        "systemctl restart tinderbox-gateway.service tinderbox-launcher.service tinderbox-agent.service",
    )?;
    host.save(&ctx.cache.dir(&folder())?)?;
    step.done();
    Ok(())
}

pub(crate) fn down(ctx: &Context) -> Result<()> {
    let dir = ctx.cache.dir(&folder())?;
    if !qemu::is_running(&dir) {
        ctx.progress.say("the test host does not run");
        return Ok(());
    }
    qemu::quit(&dir, QUIT_LIMIT)?;
    ctx.progress.say("the test host ended");
    Ok(())
}

/// Ends the host, if it runs, and has the next one begin with an empty state disk.
pub(crate) fn forget(ctx: &Context) -> Result<()> {
    let dir = ctx.cache.dir(&folder())?;
    if qemu::is_running(&dir) {
        qemu::quit(&dir, QUIT_LIMIT)?;
    }
    remove(&dir.join(STATE))
}

/// Removes a file that may be there.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The files of a payload with their hashes.
fn hashes(payload: &Path) -> Result<BTreeMap<String, String>> {
    let mut hashes = BTreeMap::new();
    let lib = payload.join(LIB);
    let mut folders = vec![lib.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(&lib).unwrap_or(&path).display().to_string();
                hashes.insert(name, hash::file_sha256(&path)?);
            }
        }
    }
    if hashes.is_empty() {
        bail!("the payload {} is empty", payload.display());
    }
    Ok(hashes)
}

/// One word for the shell in the host.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_reaches_the_shell_as_it_is() {
        let word = "it's $HOME; `x` \"y\"";
        let output = Cmd::new("sh").args(["-c", &format!("printf %s {}", quote(word))]).read().unwrap();
        assert_eq!(output, word);
    }
}
