//! Becomes a program that finds what it is handed at descriptors 3, 4 and so on, as systemd would start it.
//!
//! There is no shell in the appliance to do that. A process that was just started with the three standard streams gets the numbers
//! behind them by opening, in order.

use std::{
    env,
    fs::File,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// What makes the driver this, as its first argument: program and arguments follow.
pub(crate) const NAME: &str = "hand";

/// What a launcher is handed behind the socket, which is this process's standard input.
const DEVICES: [&str; 2] = ["/dev/kvm", "/dev/userfaultfd"];
const FIRST: i32 = 3;

/// A command that hands standard input and a launcher's devices to the program.
pub(crate) fn launcher(program: &Path) -> Result<Command> {
    let mut command = Command::new(env::current_exe().context("find this program")?);
    command.arg(NAME).arg(program);
    Ok(command)
}

/// Becomes the program; returns only if that fails.
pub(crate) fn become_it(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let program = arguments.next().context("usage: bench-driver hand PROGRAM [ARGUMENT…]")?;
    let mut handed: Vec<OwnedFd> = vec![io::stdin().as_fd().try_clone_to_owned().context("copy a socket")?];
    for device in DEVICES {
        let file = File::options().read(true).write(true).open(device);
        handed.push(file.with_context(|| format!("open {device}"))?.into());
    }
    for (fd, number) in handed.iter().zip(FIRST..) {
        ensure!(fd.as_raw_fd() == number, "{fd:?} is to be descriptor {number}: something else is open");
        keep(fd.as_fd())?;
    }
    Err(Command::new(&program).args(arguments).exec()).with_context(|| format!("become {program}"))
}

fn keep(fd: BorrowedFd<'_>) -> Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).context("keep a descriptor open")?;
    Ok(())
}
