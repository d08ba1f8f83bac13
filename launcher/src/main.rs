//! The launcher: starts `vmm` processes for the agent, each in a room of its own (`jail::RoomPlan`), and ends them when the agent is
//! gone. It is a user of its own, with the five capabilities that a room takes.
//!
//! ```text
//! launcher --program FILE --group DIR --controllers NAME,… --agent USER
//!          --disks DIR,… --disk-mib-per-s NUMBER --disk-ops-per-s NUMBER
//!          3< listening SOCK_SEQPACKET socket  4<> /dev/kvm  5<> /dev/userfaultfd
//! ```
//!
//! It reads requests of 16 bytes (`jail::launch`) from one connection at a time, of one user, and nothing else: no path, no
//! configuration, nothing that a guest or a client wrote. It has one thread. What it needs is open before it listens; then it
//! goes into an empty root and under a filter itself. What is where: `handed` is what it begins with, `packet` reads and answers,
//! `house` has the sandboxes, `birth` makes a process, `networks` has one for it, `disks` says what it may take of a disk, `filters`
//! what may be called.

mod birth;
mod disks;
mod filters;
mod handed;
mod house;
mod networks;
mod packet;

use std::ffi::CString;
use std::num::NonZeroU32;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use jail::launch::Answer;
use jail::{
    Groups, Setting, core_sharing, drop_ambient_set, drop_bounding_set, enter_empty_root, sandbox_filter,
};
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;

use crate::birth::{Program, above};
use crate::disks::DiskShare;
use crate::handed::Handed;
use crate::house::{House, Materials};
use crate::networks::{Networks, OWN_NAMESPACES};
use crate::packet::{Connection, Incoming};

const USAGE: &str = "usage: launcher --program FILE --group DIR --controllers NAME,… --agent USER \
                     --disks DIR,… --disk-mib-per-s NUMBER --disk-ops-per-s NUMBER";

/// What the program is told of where its descriptors are; see `House::plan`.
const ARGUMENTS: [&str; 9] =
    ["vmm", "--control-fd", "3", "--kvm-fd", "4", "--userfaultfd-fd", "5", "--process-fd", "6"];

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("launcher: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// What the command line says.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    program: PathBuf,
    group: PathBuf,
    controllers: Vec<String>,
    agent: u32,
    /// Directories whose disks sandboxes read and write.
    disks: Vec<PathBuf>,
    share: DiskShare,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let (mut program, mut group, mut controllers, mut agent) = (None, None, None, None);
        let (mut disks, mut mib_per_s, mut ops_per_s) = (None, None, None);
        while let Some(name) = args.next() {
            let value = args.next()?;
            match name.as_str() {
                "--program" => program = Some(PathBuf::from(value)),
                "--group" => group = Some(PathBuf::from(value)),
                "--controllers" => controllers = Some(listed(&value).map(str::to_owned).collect()),
                "--agent" => agent = Some(value.parse().ok()?),
                "--disks" => disks = Some(listed(&value).map(PathBuf::from).collect()),
                "--disk-mib-per-s" => mib_per_s = Some(value.parse::<NonZeroU32>().ok()?.get()),
                "--disk-ops-per-s" => ops_per_s = Some(value.parse::<NonZeroU32>().ok()?.get()),
                _ => return None,
            }
        }
        let share = DiskShare { mib_per_s: mib_per_s?, ops_per_s: ops_per_s? };
        let (program, group, controllers) = (program?, group?, controllers?);
        Some(Self { program, group, controllers, agent: agent?, disks: disks?, share })
    }
}

/// What is separated by commas.
fn listed(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').filter(|name| !name.is_empty())
}

fn run(args: impl Iterator<Item = String>) -> Result<(), String> {
    let options = Options::parse(args).ok_or(USAGE)?;
    let signals = block_signals().map_err(|error| format!("block signals: {error}"))?;
    let groups = Groups::open(&options.group, &options.controllers).map_err(|error| describe(&error))?;
    let disks = disks::settings(&options.disks, options.share).map_err(|error| describe(&error))?;
    let Handed { listener, kvm, userfaultfd } = Handed::take()?;
    let materials = materials(&options.program, [kvm, userfaultfd], disks)?;
    let filter = filters::launcher().compile().map_err(|error| describe(&error))?;
    eprintln!(
        "launcher: {} for user {}, cores between sandboxes: {:?}, disks: {:?}",
        options.program.display(),
        options.agent,
        materials.sharing,
        materials.disks.iter().map(|setting| &setting.value).collect::<Vec<_>>()
    );
    let networks = Networks::new().map_err(|error| format!("open {OWN_NAMESPACES}: {error}"))?;
    confine().map_err(|error| format!("enter a room: {error}"))?;
    filter.apply().map_err(|error| describe(&error))?;
    Server { signals, agent: options.agent, house: House::new(groups, materials, networks) }.serve(&listener)
}

fn materials(
    program: &Path,
    [kvm, userfaultfd]: [OwnedFd; 2],
    disks: Vec<Setting>,
) -> Result<Materials, String> {
    let filter = sandbox_filter().compile_upon(&filters::launcher()).map_err(|error| describe(&error))?;
    let arguments = ARGUMENTS.iter().map(|word| CString::new(*word));
    Ok(Materials {
        program: Program {
            file: open_file(program, OFlag::O_RDONLY)?,
            arguments: arguments.collect::<Result<_, _>>().map_err(|error| error.to_string())?,
        },
        null: open_file("/dev/null".as_ref(), OFlag::O_RDWR)?,
        kvm,
        userfaultfd,
        filter: Arc::new(filter),
        sharing: core_sharing().map_err(|error| format!("ask for core scheduling: {error}"))?,
        disks,
    })
}

fn open_file(path: &Path, access: OFlag) -> Result<OwnedFd, String> {
    let file = open(path, access | OFlag::O_CLOEXEC, Mode::empty()).and_then(above);
    file.map_err(|error| format!("open {}: {error}", path.display()))
}

/// Signals come as what is waited for.
fn block_signals() -> Result<SignalFd, nix::errno::Errno> {
    let mut signals = SigSet::empty();
    signals.extend([Signal::SIGCHLD, Signal::SIGTERM]);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// What is open is all that there is from now on. Nothing is executed here, so the bounding set bounds what is inherited, and whoever
/// executed something all the same would have no capability there.
fn confine() -> Result<(), nix::errno::Errno> {
    prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl::set_no_new_privs()?;
    drop_bounding_set()?;
    drop_ambient_set()?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    enter_empty_root()
}

/// Why something that was waited for came to its end.
enum Wake {
    /// The descriptor has something.
    Ready,
    /// SIGTERM.
    Told,
}

struct Server {
    signals: SignalFd,
    agent: u32,
    house: House,
}

impl Server {
    /// Serves one agent after the other until it is told to end.
    fn serve(mut self, listener: &OwnedFd) -> Result<(), String> {
        loop {
            self.prepare();
            if let Wake::Told = self.wait(listener)? {
                return Ok(());
            }
            let connection = Connection::accept(listener, self.agent);
            match connection.map_err(|error| format!("accept a connection: {error}"))? {
                None => continue,
                Some(connection) => {
                    let wake = self.serve_agent(&connection);
                    // Before another agent has an answer, all that was this one's is gone.
                    self.house.clear().map_err(|error| describe(&error))?;
                    if let Wake::Told = wake? {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn serve_agent(&mut self, connection: &Connection) -> Result<Wake, String> {
        loop {
            if let Wake::Told = self.wait(&connection.0)? {
                return Ok(Wake::Told);
            }
            let received = connection.receive().map_err(|error| format!("read a request: {error}"))?;
            let started = match received {
                Incoming::End => return Ok(Wake::Ready),
                Incoming::Malformed(malformed) => Err(malformed.to_string()),
                Incoming::Order(order) => {
                    self.house.start(&order, connection.0.as_fd()).map_err(|error| describe(&error))
                }
            };
            let sent = match &started {
                Ok(key) => {
                    let fds = [Some(&key.end), Some(&key.status), key.quota.as_ref()];
                    let fds: Vec<_> = fds.into_iter().flatten().map(|fd| fd.as_raw_fd()).collect();
                    connection.send(&Answer::Started { slot: key.slot }, &fds)
                }
                Err(text) => {
                    eprintln!("launcher: no sandbox: {text}");
                    connection.send(&Answer::Failed { text: text.clone() }, &[])
                }
            };
            sent.map_err(|error| format!("send an answer: {error}"))?;
            self.prepare();
        }
    }

    /// What the next sandbox can have ahead of time. It is tried again when that one comes.
    fn prepare(&mut self) {
        if let Err(error) = self.house.prepare() {
            eprintln!("launcher: {}", describe(&error));
        }
    }

    /// Waits until there is something to read, and sees to processes that end meanwhile.
    fn wait(&mut self, readable: &OwnedFd) -> Result<Wake, String> {
        loop {
            let mut fds = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(readable.as_fd(), PollFlags::POLLIN),
            ];
            poll(&mut fds, PollTimeout::NONE).map_err(|error| format!("wait: {error}"))?;
            let is_ready = fds[1].any().unwrap_or(true);
            while let Some(signal) = self.signals.read_signal().map_err(|error| error.to_string())? {
                if signal.ssi_signo == Signal::SIGTERM as u32 {
                    return Ok(Wake::Told);
                }
            }
            self.house.reap();
            if is_ready {
                return Ok(Wake::Ready);
            }
        }
    }
}

/// An error and its causes on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_says_everything_and_nothing_else() {
        let parse = |line: &str| Options::parse(line.split_whitespace().map(str::to_owned));
        let who = "--program /p --group /g --controllers cpu,memory --agent 970";
        let whole = format!("{who} --disks /a,/b --disk-mib-per-s 512 --disk-ops-per-s 20000");
        let options = Options {
            program: "/p".into(),
            group: "/g".into(),
            controllers: vec!["cpu".into(), "memory".into()],
            agent: 970,
            disks: vec!["/a".into(), "/b".into()],
            share: DiskShare { mib_per_s: 512, ops_per_s: 20_000 },
        };
        assert_eq!(parse(&whole), Some(options));
        for wrong in [
            "",
            "--program /p",
            who,
            &whole.replace("970", "root"),
            &whole.replace("512", "0"),
            &format!("{whole} --more 1"),
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
