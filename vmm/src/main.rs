//! The `vmm` program: arguments, the end of the process, its exit code and its one line of log. Everything else is the
//! library's.

use std::ffi::CStr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::ExitCode;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl::{set_name, set_pdeathsig};
use nix::sys::signal::Signal;
use vmm::{Control, HostFiles, Outcome};
use vmm_api::{Exit, MachineConfig};

const USAGE: &str = "usage: vmm --control-fd N [--kvm-fd N --userfaultfd-fd N --process-fd N] | vmm --config FILE | vmm --resident";

/// What the kernel calls the process: started from a descriptor it would have that one's number.
const NAME: &CStr = c"vmm";

/// Longest configuration file: what a packet holds.
const MAX_CONFIG_LEN: usize = vmm_api::MAX_PACKET_LEN;

/// Exit code of a guest that crashed; 1 is every failure of the VMM, 0 a guest that ended by itself.
const CODE_CRASHED: u8 = 2;

enum Command {
    /// A control socket; what stands for paths, if there are none.
    Serve(RawFd, Option<HandedFds>),
    Run(PathBuf),
    Stay,
}

/// Descriptors by number.
struct HandedFds {
    kvm: RawFd,
    userfaultfd: RawFd,
    process: RawFd,
}

fn main() -> ExitCode {
    let (code, line) = match run() {
        Ok(Outcome::Stopped | Outcome::GuestEnded { exit: Exit::Reset, .. }) => (ExitCode::SUCCESS, None),
        Ok(Outcome::GuestEnded { exit: Exit::Crashed, detail }) => {
            (ExitCode::from(CODE_CRASHED), Some(format!("the guest crashed: {detail}")))
        }
        Ok(Outcome::GuestEnded { exit: Exit::Failed, detail }) => (ExitCode::FAILURE, Some(detail)),
        Err(message) => (ExitCode::FAILURE, Some(message)),
    };
    if let Some(line) = line {
        eprintln!("vmm: {line}");
    }
    code
}

fn run() -> Result<Outcome, String> {
    let command = parse(std::env::args().skip(1).collect())?;
    // A parent that dies without closing its socket (a descriptor kept open elsewhere) still ends the guest.
    set_pdeathsig(Signal::SIGKILL).map_err(|error| format!("ask to end with the parent: {error}"))?;
    set_name(NAME).map_err(|error| format!("name the process: {error}"))?;
    let outcome = match command {
        Command::Serve(fd, handed) => {
            let control = Control::new(inherit(fd)?).map_err(|error| vmm::describe(&error))?;
            vmm::serve(control, host_files(handed)?)
        }
        Command::Run(path) => vmm::run_config(read_config(&path)?),
        Command::Stay => vmm::stay().map(|never| match never {}),
    };
    outcome.map_err(|error| vmm::describe(&error))
}

fn parse(arguments: Vec<String>) -> Result<Command, String> {
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--control-fd", control] => Ok(Command::Serve(number(control)?, None)),
        [
            "--control-fd",
            control,
            "--kvm-fd",
            kvm,
            "--userfaultfd-fd",
            userfaultfd,
            "--process-fd",
            process,
        ] => {
            let handed =
                HandedFds { kvm: number(kvm)?, userfaultfd: number(userfaultfd)?, process: number(process)? };
            Ok(Command::Serve(number(control)?, Some(handed)))
        }
        ["--resident"] => Ok(Command::Stay),
        ["--config", path] => Ok(Command::Run(path.into())),
        _ => Err(USAGE.to_owned()),
    }
}

fn number(word: &str) -> Result<RawFd, String> {
    let fd = word.parse().ok().filter(|fd: &RawFd| *fd == 0 || *fd > 2);
    fd.ok_or_else(|| format!("{word} is no descriptor other than 1 and 2; {USAGE}"))
}

fn host_files(handed: Option<HandedFds>) -> Result<HostFiles, String> {
    let Some(HandedFds { kvm, userfaultfd, process }) = handed else { return Ok(HostFiles::Paths) };
    Ok(HostFiles::Handed {
        kvm: inherit(kvm)?,
        userfaultfd: inherit(userfaultfd)?,
        process: inherit(process)?,
    })
}

#[expect(unsafe_code, reason = "a descriptor inherited from the parent is known by its number only")]
fn inherit(fd: RawFd) -> Result<OwnedFd, String> {
    // SAFETY: nothing in this process owns the descriptor: no file has been opened since it began, and nothing
    // here reads the standard input, should it be that.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
        .map_err(|error| format!("use descriptor {fd}: {error}"))?;
    Ok(owned)
}

fn read_config(path: &PathBuf) -> Result<MachineConfig, String> {
    let text = std::fs::read(path).map_err(|error| format!("read {}: {error}", path.display()))?;
    if text.len() > MAX_CONFIG_LEN {
        return Err(format!("{}: {} bytes, at most {MAX_CONFIG_LEN}", path.display(), text.len()));
    }
    vmm_api::decode(&text).map_err(|error| {
        let field = error.field.map(|field| format!("{field}: ")).unwrap_or_default();
        format!("{}: {field}{}", path.display(), error.message)
    })
}
