//! Makes a machine out of what the kernel hands over: console, mounts, settings, network, and the function's view.
//! Everything here is called once, in order, by `main`, before or around the wait for Start.

pub mod console;
pub mod drives;
pub mod loopback;
pub mod mounts;
pub mod network;
pub mod protect;
pub mod seed;
pub mod sysctls;
pub mod vmclock;

use std::fs;
use std::io;
use std::path::PathBuf;

/// What the kernel's command line asks of guest-init.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Connect to the agent and run a function.
    Sandbox,
    /// Power off at once: `tinderbox.mode=boot-probe`, for measuring a boot without an agent.
    BootProbe,
}

impl Mode {
    /// Reads a kernel command line. What is unknown means [`Mode::Sandbox`].
    #[must_use]
    pub fn of(cmdline: &str) -> Self {
        let probe = cmdline.split_ascii_whitespace().any(|word| word == "tinderbox.mode=boot-probe");
        if probe { Self::BootProbe } else { Self::Sandbox }
    }
}

/// A step of the boot that failed.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A directory for a mount could not be made.
    #[error("cannot make {0}")]
    Directory(PathBuf, #[source] io::Error),
    /// A mount failed.
    #[error("cannot mount {0}")]
    Mount(PathBuf, #[source] nix::Error),
    /// A device node or link could not be made.
    #[error("cannot make device {0}")]
    Device(PathBuf, #[source] nix::Error),
    /// The machine lacks a drive.
    #[error("no drive with serial {0:?}")]
    NoDrive(&'static str),
    /// The kernel's list of drives could not be read.
    #[error("cannot list drives")]
    Drives(#[source] io::Error),
    /// A setting was refused.
    #[error("cannot set {0}")]
    Sysctl(&'static str, #[source] io::Error),
    /// The loopback interface could not be started.
    #[error("cannot start the loopback interface")]
    Loopback(#[source] io::Error),
    /// The network's interface could not be started.
    #[error("cannot start the network's interface")]
    Network(#[source] io::Error),
    /// The kernel's random generator could not be seeded.
    #[error("cannot seed the random generator")]
    Entropy(#[source] io::Error),
    /// The clock could not be set.
    #[error("cannot set the clock")]
    Clock(#[source] nix::Error),
    /// guest-init could not be put ahead of the function's processes.
    #[error("cannot protect guest-init from the function")]
    Protect(#[source] io::Error),
    /// The command line could not be read.
    #[error("cannot read the command line")]
    Cmdline(#[source] io::Error),
}

/// Mounts what says how the machine was started, and reads it.
///
/// # Errors
/// [`BootError`].
pub fn mode() -> Result<Mode, BootError> {
    mounts::mount_all(mounts::FIRST)?;
    Ok(Mode::of(&fs::read_to_string("/proc/cmdline").map_err(BootError::Cmdline)?))
}

/// Prepares guest-init's own surroundings.
///
/// # Errors
/// [`BootError`].
pub fn prepare_machine() -> Result<(), BootError> {
    mounts::mount_all(mounts::MACHINE)?;
    sysctls::apply()?;
    loopback::start().map_err(BootError::Loopback)?;
    network::start().map_err(BootError::Network)?;
    protect::protect().map_err(BootError::Protect)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_word_asks_for_a_probe() {
        assert_eq!(Mode::of("console=ttyS0 tinderbox.mode=boot-probe quiet\n"), Mode::BootProbe);
        assert_eq!(Mode::of("tinderbox.mode=boot-probes"), Mode::Sandbox);
        assert_eq!(Mode::of(""), Mode::Sandbox);
    }
}
